"""The duel: two rows of tables, named beforehand, on training seeds of their own, and their one difference."""

from __future__ import annotations

from experiments.paper.form import Claim, Column, Row, Table
from tokenbridge.metrics.catalogue import FD

DUEL = "duel"
"""id of its table"""


def duel_table(first: tuple[Table, Row], second: tuple[Table, Row], metric: Column = FD) -> Table:
    """The table of a duel, whose one comparison is that of the first row with the second in one metric.

    Args:
        first: a row and the table that it is of.
        second: another one, with which the first is compared.
        metric: as the catalogue declares it.
    """
    (theirs, row), (other, rival) = first, second
    same = row.label == rival.label
    labels = [f"{table.name}: {each.label}" if same else each.label for table, each in (first, second)]
    return Table(
        DUEL, f"{labels[0]} against {labels[1]}", "generation", tuple(dict.fromkeys((*theirs.varies, *other.varies))),
        tuple(Row(label, each.overrides, {}, "of a duel") for each, label in zip((row, rival), labels, strict=True)),
        (), (metric,),
        "Both rows were named before these trainings began, and their guidance and temperature chosen on images and"
        " trainings apart from these. One comparison, so no correction.",
        base=labels[1],
        claims=(Claim(labels[0], labels[1], (metric,)),),
    )  # fmt: skip
