"""Each table of the paper (arXiv 2503.16430): its rows as overrides onto a base config, and the published numbers.

Published numbers were measured on ImageNet 256×256; nothing here is ever copied into a measured column. A row without
overrides cannot run and says why. A row without a published number says why as well. Tables that the paper lacks are
in own.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.paper.duel import DUEL, duel_table
from experiments.paper.form import Claim, Column, Row, Table
from experiments.paper.generation import TABLE_2A, TABLE_2B, TABLE_2C, TABLE_2D, TABLE_2E
from experiments.paper.own import OWN, TABLE_HEADS, TABLE_LIKELIHOOD
from experiments.paper.reconstruction import RECONSTRUCT, TABLE_1A, TABLE_1B, reconstruct_table
from experiments.paper.systems import TABLE_3, TABLE_4, TABLE_5
from tokenbridge.config import UserError

FIGURE_8 = "figure-8"
"""confidence-guided generation by the autoregressive model of table 2a"""
PUBLISHED_ON = "ImageNet 256×256"
PAPER = (TABLE_1A, TABLE_1B, TABLE_2A, TABLE_2B, TABLE_2C, TABLE_2D, TABLE_2E, TABLE_3, TABLE_4, TABLE_5)
TABLES: Mapping[str, Table] = {table.id: table for table in (*PAPER, *OWN)}


def duel_of(keys: Sequence[str]) -> Table:
    """The duel of two rows, each named by its table and label, such as "2a parallel".

    Raises:
        UserError: other than two different rows that generate images.
    """
    if len({*keys}) != 2:
        raise UserError(f"a duel is of two different rows, not {' and '.join(keys) or 'none'}; name both as TABLE:ROW")
    rows = []
    for key in keys:
        id, _, label = key.partition(" ")
        rows.append((of := table(id), row := of.row(label)))
        if of.kind != "generation" or row.overrides is None:
            raise UserError(f"{id}:{label} generates no images here; a duel needs rows of tables that do")
    return duel_table(*rows)


def table(id: str) -> Table:
    """The table of this number, or UserError naming those that exist."""
    if id not in TABLES:
        raise UserError(f"table {id!r} is none of ours; choose one of {', '.join(TABLES)}")
    return TABLES[id]


__all__ = [
    "DUEL", "FIGURE_8", "PAPER", "PUBLISHED_ON", "RECONSTRUCT", "TABLES", "TABLE_1A", "TABLE_1B", "TABLE_2A",
    "TABLE_2B", "TABLE_2C", "TABLE_2D", "TABLE_2E", "TABLE_3", "TABLE_4", "TABLE_5", "TABLE_HEADS", "TABLE_LIKELIHOOD",
    "Claim", "Column", "Row", "Table", "duel_of", "reconstruct_table", "table",
]  # fmt: skip
