"""The summary at the top of a report: sentences that are computed from its numbers.

`verdicts(source)` gives them in order, each a `Verdict` with its `Status` and the table that it is of. `form` has the
two kinds of claims (a row beats another, a column has a trend); the other files hold the claims table by table. A table
gets its sentences by a line in `MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.frame.source import Source
from analysis.verdicts import generation, heads, reconstruction
from analysis.verdicts.form import Status, Verdict
from experiments.paper import RECONSTRUCT

MAKERS: dict[str, Callable[[Source], Sequence[Verdict | None]]] = {
    "duel": generation.duel,
    "2a": generation.prediction,
    "heads": heads.heads,
    "2b": generation.order,
    "2c": generation.levels,
    "2d": generation.groups,
    "2e": generation.size,
    "5": generation.speed,
    "1a": reconstruction.levels,
    "1b": reconstruction.ranges,
    RECONSTRUCT: reconstruction.own,
}


def verdicts(source: Source) -> list[Verdict]:
    """A sentence or two per table of the report; claims whose numbers are missing are left out."""
    tables = {table.id for table in source.tables}
    made = [verdict for id, make in MAKERS.items() if id in tables for verdict in make(source)]
    return [verdict for verdict in made if verdict is not None]


__all__ = ["Status", "Verdict", "verdicts"]
