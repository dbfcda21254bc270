"""What the numbers say, in sentences computed from them: the summary at the top of a report."""

from __future__ import annotations

from collections.abc import Callable

from analysis.frame.source import Source
from analysis.verdicts import axes, generation, heads, reconstruction, speed
from analysis.verdicts.form import Status, Verdict

MAKERS: dict[str, Callable[[Source], list[Verdict | None]]] = {
    "2a": generation.prediction,
    "heads": heads.heads,
    "2b": generation.order,
    "2c": generation.levels,
    "2d": generation.groups,
    "2e": generation.size,
    "5": speed.speed,
    "1a": reconstruction.levels,
    "1b": reconstruction.ranges,
    "axes": axes.effects,
}


def verdicts(source: Source) -> list[Verdict]:
    """About two sentences a table that the report has; what lacks its numbers is left out."""
    used = {table.id for table in source.tables}
    found = [verdict for id, make in MAKERS.items() if id in used for verdict in make(source)]
    return [verdict for verdict in found if verdict is not None]


__all__ = ["Status", "Verdict", "verdicts"]
