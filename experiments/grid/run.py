"""Run a grid: searches and trainings, the rows at their chosen points, then what measures time; write the plan.

The plan (experiments/paper/plan.py) says which cell fills which row of the report, and at which point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import speed
from experiments.grid.request import SPEED, Grid, RowCell, confidence, timed
from experiments.grid.search import BOUNDS, SEARCH, SEARCH_SEED, WIDENINGS, SearchPoint, best, metric_of, score_of
from experiments.paper import FIGURE_8, plan
from experiments.pipeline import Cell
from experiments.presets import FASHION, preset
from experiments.runner import Failure, attempt_cells
from tokenbridge.config import Runtime, UserError, holds_path
from tokenbridge.overrides import differing, plain
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import EXPERIMENT

NOTES = {
    "digits": "Generation is at 16 levels per channel where a table does not say otherwise (the paper: 64) and trains"
    " for one to two minutes on 1,198 images: rows are compared on equal terms, but none is near what longer training"
    " reaches.",
    "fashion": "Generation is at 16 levels per channel where a table does not say otherwise (the paper: 64) and trains"
    f" for {FASHION.train.epochs:g} epochs, at the learning rates that were searched on the digits: none was searched"
    " here, and longer training may change what is shown. Images are 28×28 in a black border of two pixels, which PSNR"
    " and SSIM include.",
}


@dataclass(frozen=True)
class Final:
    """What is known once the search has run: the rows at their chosen points, and the settings of figure 8."""

    rows: tuple[RowCell, ...]
    chosen: Mapping[str, Mapping[str, Any]]
    """key of a row -> guidance and temperature"""
    strengths: tuple[tuple[float, Cell], ...]

    def cells(self) -> list[Cell]:
        """The second round: what could not run before the choice."""
        return [row.cell for row in self.rows if row.key in self.chosen] + [cell for _, cell in self.strengths]


def run(store: Store, grid: Grid, runtime: Runtime, jobs: int) -> list[Failure]:
    """Run what is missing and write the plan of the report, runs/plans/<name>.json.

    Elsewhere, such as on a cluster: run the cells of grid.first(), those of grid.wider(), then those of final(),
    timed() with nothing beside it, and write_plan.

    Args:
        store: the runs folder.
        grid: what to run.
        runtime: device, threads and batch of each stage.
        jobs: stages at a time; times are measured one by one.

    Returns:
        What failed, each stage once.
    """
    require_room(store, grid)
    print(f"{grid.name}: {grid.about}, {jobs} stages at a time; results in {store.root}", flush=True)
    cells, ahead = grid.first()
    failures = attempt_cells(store, cells, runtime, EXPERIMENT, jobs, ahead, grid.name)
    for number in range(1, WIDENINGS + 1):
        if wider := grid.wider(store, number):
            print(f"{grid.name}: searches with their best point at an edge go on beyond it ({number})", flush=True)
            failures += attempt_cells(store, wider, runtime, EXPERIMENT, jobs, sweep=grid.name)
    last = final(store, grid)
    failures += attempt_cells(store, last.cells(), runtime, EXPERIMENT, jobs, sweep=grid.name)
    # time is measured with nothing beside it
    failures += attempt_cells(store, timed(last.rows), runtime, EXPERIMENT, sweep=grid.name)
    if SPEED in grid.tables:
        speed.run(store, runtime.model_copy(update={"threads": None}), speed.preset_cells())
    write_plan(store, grid, last)
    return list({failure.stage.id: failure for failure in failures}.values())


def require_room(store: Store, grid: Grid) -> None:
    """Raise UserError, before it runs, where the plan of a grid cannot be written or joined with an earlier one.

    Rows that join others of their table must have their points by the same rule, and from searches of as many images.
    """
    plan.require_room(store.root, grid.name)
    path = plan.file(store.root, grid.name)
    before = plan.read(path) if path.exists() else {}
    if before.get("base") != grid.base.model_dump(mode="json"):
        return
    now = {(row.table, row.label) for row in grid.rows}
    for id in grid.partial:
        kept = [row for row in before["rows"] if row["table"] == id and (id, row["label"]) not in now]
        first, second = (before.get("points") or {}).get(id), _points_of(grid).get(id)
        if not kept:
            continue
        if first != second:
            raise UserError(
                f"rows of table {id} that ran before as {grid.name} are at {_told_points(first)}, these at"
                f" {_told_points(second)}; give the same --points, or another --name"
            )
        theirs = (before.get("search") or {}).get("images")
        if grid.search and second is None and theirs != (ours := _search_images(grid)):
            raise UserError(
                f"searches of table {id} that ran before as {grid.name} took images {theirs}, these {ours}; give the"
                " same --seeds or --search-images, or another --name"
            )


def _told_points(point: Mapping[str, Any] | None) -> str:
    return "the points of their own searches" if point is None else plan.point_text(point)


def final(store: Store, grid: Grid) -> Final:
    """Choose each row's point by its finished search; a row whose search is not whole is left out."""
    points = {key: search.points(store) for key, search in grid.search.items()}
    whole = {key: tried for key, tried in points.items() if all(point.scored(store) for point in tried)}
    chosen = {key: best(store, tried) for key, tried in whole.items()}
    rows = [row.at(chosen.get(row.key, {})) for row in grid.rows if row.key not in grid.search or row.key in chosen]
    return Final(tuple(rows), chosen, tuple(confidence(grid.tables, rows)))


def write_plan(store: Store, grid: Grid, last: Final) -> None:
    """Write the plan of the grid's report, with the points that the search chose.

    Args:
        store: the runs folder, in which an earlier plan of that name keeps the tables that this grid has not.
        grid: what was run.
        last: the rows at their chosen points, as `final` gives them.
    """
    rows = [*last.rows]
    if SPEED in grid.tables:
        rows += [RowCell(SPEED, label, cell) for label, cell in speed.preset_cells().items()]
    content = {
        "name": grid.name,
        "title": _title(grid),
        "preset": grid.preset,
        **({"typed": list(grid.typed)} if grid.typed != (grid.preset,) else {}),
        "base": grid.base.model_dump(mode="json"),
        "tables": [id for id in grid.tables if id != FIGURE_8],
        **({"partial": list(grid.partial)} if grid.partial else {}),
        **({"duel": list(grid.duel)} if grid.duel else {}),
        **({"looks": list(grid.looks)} if grid.looks else {}),
        "rows": [{"table": row.table, "label": row.label, "cell": row.cell.id} for row in rows],
        "search": _search(store, grid, last.chosen) if grid.search else {},
        "points": _points_of(grid),
        "confidence": [{"strength": strength, "cell": cell.id} for strength, cell in last.strengths],
        "axes": [{"key": axis.key, "values": list(axis.values)} for axis in grid.axes],
        "each": grid.each,
        "cells": [{"cell": t.cell.id, "values": dict(t.values), "seed": t.seed} for t in grid.trials],
        "notes": _plan_notes(grid),
    }
    with store.lock(f"plan-{grid.name}"):  # samples add writes it too
        plan.write(store.root, content)


def _title(grid: Grid) -> str:
    about = f"The duel of {' and '.join(grid.duel)}" if grid.duel else "TokenBridge"
    if grid.axes and not grid.tables:
        about = f"{grid.name}: {(', ' if grid.each else ' × ').join(axis.key.rpartition('.')[2] for axis in grid.axes)}"
    return f"{about} on {_images_of(grid)}"


def _images_of(grid: Grid) -> str:
    """What the images are called: by the user, else as the preset whose own they are, else by their folder."""
    data = grid.base.data
    if data.name is not None:
        return data.name
    if data.source == "digits":
        return "handwritten digits"
    return grid.preset if grid.preset not in ("digits", "small") else Path(data.path or "").name


def _plan_notes(grid: Grid) -> list[str]:
    return _notes_on_settings(grid) + ([_looks(grid)] if grid.looks else [])


def _looks(grid: Grid) -> str:
    counts = ", ".join(map(str, grid.looks))
    return (
        f"Training seeds were added until the claims were settled, with looks at {counts} of them at most; each look"
        " has an even share of the 5 %, so looking again costs what it should. Searches use the first"
        f" {grid.looks[0]} seeds."
    )


def _notes_on_settings(grid: Grid) -> list[str]:
    by_table, changes = bool(grid.tables or not grid.axes), differing(grid.base, preset(grid.preset))
    if by_table and not changes and grid.preset in NOTES:
        return [NOTES[grid.preset]]
    own = f" with {', '.join(f'{key}={_told(key, value)}' for key, value in changes.items())}" if changes else ""
    return [f"Settings that no {'row' if by_table else 'axis'} varies are those of the preset {grid.preset}{own}."]


def _told(key: str, value: Any) -> str:
    """A setting's value for a reader; of a path elsewhere the last part, as what lies above is about one machine."""
    path = isinstance(value, str) and holds_path(*key.split(".", 1)) and Path(value).is_absolute()
    return Path(value).name if path else plain(value)


def _search(store: Store, grid: Grid, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "keys": list(SEARCH),
        "guidance": list(SEARCH["sample.guidance"]),
        "temperature": list(SEARCH["sample.temperature"]),
        "bounds": dict(BOUNDS),
        "widenings": WIDENINGS,
        "splits": "training images are the reference, validation images its floor; no test image is read",
        "images": _search_images(grid),
        "seed": SEARCH_SEED,
        "models": "all training seeds of the row, mean over them",
        "metric": metric_of(grid.base),
        "chosen": {key: dict(values) for key, values in chosen.items()},
        "points": [point for key in chosen for point in _points(store, key, grid.search[key].points(store))],
    }


def _points(store: Store, key: str, points: Sequence[SearchPoint]) -> list[dict[str, Any]]:
    scores = []
    for point in points:
        place = {"row": key} | {setting.rpartition(".")[2]: value for setting, value in point.values.items()}
        for cell in point.cells:
            score = {metric_of(cell.config): score_of(store, cell)}
            scores.append(place | {"train_seed": cell.config.train.seed} | score)
    return scores


def _search_images(grid: Grid) -> str:
    counts = sorted({search.images for search in grid.search.values()})
    return f"per point and training seed: {', '.join(map(str, counts))}"


def _points_of(grid: Grid) -> dict[str, dict[str, Any]]:
    """Table -> guidance and temperature of all its rows, where they have one point."""
    return {row.table: dict(grid.point) for row in grid.rows if grid.point and row.sampled}
