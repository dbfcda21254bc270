"""Run a grid: search and trainings, then the rows at their chosen points, then what measures time; write the plan.

The plan, runs/plans/<name>.json, says which cell fills which row of the report and how guidance and temperature came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import paper, speed
from experiments.grid import FIGURE_8, METRIC, SEARCH, SEARCH_SEED, SPEED, Grid, Point, Row, confidence, score_of, timed
from experiments.pipeline import EXPERIMENT, Cell
from experiments.runner import Failure, attempt_cells
from tokenbridge.artifacts import Store, read_json, write_json
from tokenbridge.config import Runtime

NOTES = {
    "digits": "Generation is at 16 levels a channel where a table does not say otherwise (the paper: 64) and trains for"
    " one to two minutes on 1,438 images: rows are compared on equal terms, but none is near what longer training"
    " reaches."
}


def run(store: Store, grid: Grid, runtime: Runtime, jobs: int) -> list[Failure]:
    """Run what is missing and write the plan of the report, runs/plans/<name>.json; returns what failed."""
    print(f"{grid.name}: tables {', '.join(grid.tables)}, {jobs} stages at a time; results in {store.root}", flush=True)
    cells, ahead = grid.first()
    failures = attempt_cells(store, cells, runtime, EXPERIMENT, jobs, ahead)
    chosen = {key: best(store, points) for key, points in grid.search.items() if _scored(store, points)}
    rows = [row.at(chosen.get(row.key, {})) for row in grid.rows if not row.searched or row.key in chosen]
    strengths = confidence(grid.tables, rows)
    final = [row.cell for row in rows if row.searched] + [cell for _, cell in strengths]
    failures += attempt_cells(store, final, runtime, EXPERIMENT, jobs)
    failures += attempt_cells(store, timed(rows), runtime, EXPERIMENT)  # time is measured with nothing beside it
    if SPEED in grid.tables:
        heads = speed.preset_cells()
        speed.run(store, runtime.model_copy(update={"threads": None}), heads)
        rows += [Row(SPEED, label, cell) for label, cell in heads.items()]
    write_plan(store, grid, rows, chosen, strengths)
    return list({failure.stage.id: failure for failure in failures}.values())


def best(store: Store, points: Sequence[Point]) -> dict[str, float]:
    """Guidance and temperature of the point with the lowest Fréchet distance; the first of equals."""
    return dict(min(points, key=lambda point: point.metric(store)).values)


def _scored(store: Store, points: Sequence[Point]) -> bool:
    return all(store.finished(cell.stages()[-1].id) for point in points for cell in point.cells)


def write_plan(
    store: Store,
    grid: Grid,
    rows: Sequence[Row],
    chosen: Mapping[str, Mapping[str, float]],
    strengths: Sequence[tuple[float, Cell]],
) -> None:
    """runs/plans/<name>.json: which cell fills which row, and how guidance and temperature were chosen.

    Tables of an earlier plan of this name stay, if it had the same base.
    """
    folder = store.root / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{grid.name}.json"
    plan: dict[str, Any] = {
        "name": grid.name,
        "title": f"TokenBridge on {'handwritten digits' if grid.preset == 'digits' else grid.preset}",
        "preset": grid.preset,
        "base": grid.base.model_dump(mode="json"),
        "tables": [id for id in grid.tables if id != FIGURE_8],
        "rows": [{"table": row.table, "label": row.label, "cell": row.cell.id} for row in rows],
        "search": {
            "keys": list(SEARCH),
            "guidance": list(SEARCH["sample.guidance"]),
            "temperature": list(SEARCH["sample.temperature"]),
            "images": "a point and training seed: " + _images(grid),
            "seed": SEARCH_SEED,
            "models": "all training seeds of the row, mean over them",
            "metric": METRIC,
            "chosen": {key: dict(values) for key, values in chosen.items()},
            "points": [point for key in chosen for point in _points(store, key, grid.search[key])],
        },
        "confidence": [{"strength": strength, "cell": cell.id} for strength, cell in strengths],
        "notes": [NOTES[grid.preset]] if grid.preset in NOTES else [],
    }
    if path.exists():
        plan = merged(read_json(path), plan)
    write_json(path, plan)


def _points(store: Store, key: str, points: Sequence[Point]) -> list[dict[str, Any]]:
    found = []
    for point in points:
        place = {"row": key} | {setting.rpartition(".")[2]: value for setting, value in point.values.items()}
        found += [place | {"train_seed": cell.config.train.seed, METRIC: score_of(store, cell)} for cell in point.cells]
    return found


def _images(grid: Grid) -> str:
    counts = {cell.config.sample.images for points in grid.search.values() for point in points for cell in point.cells}
    return ", ".join(map(str, sorted(counts)))


def merged(before: Mapping[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """The plan, with those tables of an earlier one that it does not have itself."""
    if before.get("base") != plan["base"]:
        return plan
    kept = [id for id in before.get("tables", ()) if id not in plan["tables"]]
    search, old = plan["search"], before["search"]

    def mine(key: str) -> bool:
        return key.partition(" ")[0] in kept

    search = (search if search["chosen"] else old) | {  # how the latest search was done, if there was one
        "chosen": {key: value for key, value in old["chosen"].items() if mine(key)} | search["chosen"],
        "points": [point for point in old["points"] if mine(point["row"])] + search["points"],
    }
    return plan | {
        "tables": [id for id in paper.TABLES if id in kept or id in plan["tables"]],
        "rows": [row for row in before["rows"] if row["table"] in kept] + plan["rows"],
        "search": search,
        "confidence": plan["confidence"] or before.get("confidence", []),
    }
