"""What a grid would do, before it does it."""

from __future__ import annotations

from collections import Counter

from experiments.grid import Grid, confidence, timed
from experiments.pipeline import KINDS, graph
from experiments.runner import seconds_of_work, time_text
from tokenbridge.artifacts import Store


def forecast(store: Store, grid: Grid, jobs: int) -> list[str]:
    """What a run would do, in lines: stages to run, finished and shared by kind, and how long that takes.

    Table 5 is no graph of stages (its heads take turns in one process) and is not counted.
    """
    cells, ahead = grid.first()
    strengths = [cell for _, cell in confidence(grid.tables, grid.rows)]
    everything = [*cells, *ahead, *(row.cell for row in grid.rows), *strengths, *timed(grid.rows)]
    stages, rates = graph(everything), seconds_of_work(store)
    asked = Counter(stage.kind.name for cell in everything for stage in cell.stages())
    lines = [f"{len(grid.rows) + len(grid.trials)} cells of {grid.about}; stages by kind:"]
    total = 0.0
    for kind in KINDS.values():
        own = [stage for stage in stages.values() if stage.kind is kind]
        todo = [stage for stage in own if not store.finished(stage.id)]
        seconds = sum(rates[kind.name] * kind.work(stage.config) for stage in todo)
        total += seconds
        if own:
            lines.append(
                f"  {kind.name:<12} {len(todo):>4} to run, {len(own) - len(todo):>4} finished,"
                f" {asked[kind.name] - len(own):>4} shared, about {time_text(seconds)}"
            )
    lines.append(
        f"about {time_text(total)} of work, {time_text(total / jobs)} with {jobs} stages at a time"
        " (by the times of earlier stages here; the search may choose points that are counted twice)"
    )
    return lines
