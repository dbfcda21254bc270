"""What a grid would do, before it does it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from experiments.grid.request import Grid, confidence, timed
from experiments.grid.search import SEARCH, WIDENINGS, most_points
from experiments.pipeline import graph
from experiments.progress import seconds_of_work, time_text
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import Store


def forecast(store: Store, grid: Grid, jobs: int) -> list[str]:
    """What a run would do, in lines: stages to run, finished and shared by kind, and how long that takes.

    Table 5 is no graph of stages (its heads take turns in one process) and is not counted.

    Args:
        store: the runs folder, whose finished stages tell how long others take.
        grid: what would run.
        jobs: stages at a time.
    """
    cells, ahead = grid.first()
    strengths = [cell for _, cell in confidence(grid.tables, grid.rows)]
    everything = [*cells, *ahead, *(row.cell for row in grid.rows), *strengths, *timed(grid.rows)]
    stages, rates = graph(everything), seconds_of_work(store)
    asked = Counter(stage.kind.name for cell in everything for stage in cell.stages())
    lines, total, count = [f"{len(grid.rows) + len(grid.trials)} cells of {grid.about}; stages by kind:"], 0.0, 0
    for kind in STAGES.values():
        own = [stage for stage in stages.values() if stage.kind is kind]
        todo = [stage for stage in own if not store.finished(stage.id)]
        seconds = sum(rates[kind.name] * kind.work(stage.config) for stage in todo)
        total, count = total + seconds, count + len(todo)
        if own:
            shared = asked[kind.name] - len(own)
            lines.append(f"  {kind.name:<12} {_counts(len(todo), len(own) - len(todo), shared, seconds)}")
    lines.append(f"  {'together':<12} {_counts(count, len(stages) - count, asked.total() - len(stages), total)}")
    lines += _widening(grid, rates, jobs)
    search = "; the search may choose points that are counted twice" if grid.search else ""
    lines.append(
        f"about {time_text(total)} of work, {time_text(total / jobs)} with {jobs} stages at a time"
        f" (by the times of earlier stages here, else a guess{search})"
    )
    return lines


def _widening(grid: Grid, rates: Mapping[str, float], jobs: int) -> list[str]:
    """What searches cost more where their best points lie at edges."""
    if not grid.search:
        return []
    more = most_points(SEARCH.values()) - math.prod(map(len, SEARCH.values()))
    cells = [cell for search in grid.search.values() for cell in search.cells]
    sampling = sum(rates["sample"] * search.images * len(search.cells) for search in grid.search.values())
    seconds = more * (sampling + rates["score"] * len(cells))
    return [
        f"and a search goes on beyond an edge that its best point lies at: at most {WIDENINGS} times, {more} points"
        f" more per row, {2 * more * len(cells)} stages of {time_text(seconds)} together, {time_text(seconds / jobs)}"
        f" with {jobs} at a time"
    ]


def _counts(todo: int, finished: int, shared: int, seconds: float) -> str:
    hours = f"{seconds / 3600:.2f} device-hours"
    return f"{todo:>5} to run, {finished:>4} finished, {shared:>4} shared, about {time_text(seconds)} ({hours})"
