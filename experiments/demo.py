"""`tokenbridge demo`: tables 1a, 1b and 2a and their figures on the shipped digits, from images to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import paper
from experiments.pipeline import GENERATION, RECONSTRUCTION, Cell
from experiments.presets import preset
from experiments.runner import run_cells
from tokenbridge.artifacts import Store, read_json, write_json
from tokenbridge.config import RunConfig, Runtime, override

NAME = "demo"
EXPERIMENT = "tokenbridge"
TABLES = ("1a", "1b", "2a")
SEARCH = {"sample.guidance": (1.5, 2.5, 3.5, 5.0), "sample.temperature": (0.8, 0.9, 1.0)}
SEARCH_SAMPLES = {"sample.images": 500, "sample.seed": 1}
METRIC = "fd_digits"


def run(store: Store, reports: Path, runtime: Runtime, jobs: int, assignments: Sequence[str] = ()) -> Path:
    """Run what is missing and write the report; returns the path of its page."""
    base = override(preset("digits"), assignments)
    rows = [row for id in TABLES for row in table_rows(id, base)]
    search = [point for table, label, cell in rows if table == "2a" for point in search_points(label, cell.config)]
    print(
        f"demo: {len(TABLES)} tables on the shipped digits, {jobs} stages at a time; results in {store.root}",
        flush=True,
    )
    direct = [cell for table, _, cell in rows if table != "2a"]
    run_cells(store, [*direct, *(cell for _, cell in search)], runtime, EXPERIMENT, jobs)
    chosen = {
        label: best(store, [cell for at, cell in search if at == label])
        for label in dict.fromkeys(at for at, _ in search)
    }
    rows = [(t, label, _at(cell, chosen[label]) if t == "2a" else cell) for t, label, cell in rows]
    run_cells(store, [cell for table, _, cell in rows if table == "2a"], runtime, EXPERIMENT, jobs)
    write_plan(store, base, rows, search, chosen)
    return publish(store, NAME, reports)


def table_rows(id: str, base: RunConfig) -> list[tuple[str, str, Cell]]:
    """(table, row label, cell) of each row of a paper's table that the configuration supports."""
    table = paper.table(id)
    wanted = RECONSTRUCTION if table.kind == "reconstruction" else GENERATION
    return [
        (id, row.label, Cell(f"{id}-{_slug(row.label)}", override(base, row.overrides), wanted))
        for row in table.cells
        if row.overrides is not None
    ]


def search_points(label: str, config: RunConfig) -> list[tuple[str, Cell]]:
    """The same small search for every row: guidance × temperature, on images that no final number uses."""
    return [
        (
            label,
            Cell(
                f"search-{_slug(label)}-g{guidance:g}-t{temperature:g}",
                override(config, values | SEARCH_SAMPLES),
                ("score",),
            ),
        )
        for guidance in SEARCH["sample.guidance"]
        for temperature in SEARCH["sample.temperature"]
        for values in [{"sample.guidance": guidance, "sample.temperature": temperature}]
    ]


def best(store: Store, points: Sequence[Cell]) -> dict[str, float]:
    """Guidance and temperature of the point with the lowest Fréchet distance; the first of equals."""
    winner = min(points, key=lambda cell: score_of(store, cell))
    return {"sample.guidance": winner.config.sample.guidance, "sample.temperature": winner.config.sample.temperature}


def score_of(store: Store, cell: Cell) -> float:
    score = cell.stages()[-1]
    return read_json(store.folder(score.id) / "metrics.json")["metrics"][METRIC]


def write_plan(
    store: Store,
    base: RunConfig,
    rows: Sequence[tuple[str, str, Cell]],
    search: Sequence[tuple[str, Cell]],
    chosen: Mapping[str, Mapping[str, float]],
) -> None:
    """runs/plans/demo.json: which cell fills which row, and how guidance and temperature were chosen."""
    points = [
        {
            "row": label,
            "guidance": cell.config.sample.guidance,
            "temperature": cell.config.sample.temperature,
            METRIC: score_of(store, cell),
        }
        for label, cell in search
    ]
    plan: dict[str, Any] = {
        "name": NAME,
        "title": "TokenBridge on handwritten digits",
        "preset": "digits",
        "base": base.model_dump(),
        "rows": [{"table": table, "label": label, "cell": cell.id} for table, label, cell in rows],
        "search": {
            "keys": list(SEARCH),
            "guidance": list(SEARCH["sample.guidance"]),
            "temperature": list(SEARCH["sample.temperature"]),
            "images": SEARCH_SAMPLES["sample.images"],
            "seed": SEARCH_SAMPLES["sample.seed"],
            "metric": METRIC,
            "chosen": {label: dict(values) for label, values in chosen.items()},
            "points": points,
        },
        "notes": [],
    }
    folder = store.root / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{NAME}.json", plan)


def publish(store: Store, name: str, reports: Path) -> Path:
    """Bring MLflow up to date, gather the report's source from it, build the report and log it to MLflow."""
    from analysis import load, report  # pandas and matplotlib take seconds to import
    from experiments import tracking

    plan = read_json(store.root / "plans" / f"{name}.json")
    print("tracking: MLflow is brought up to date", flush=True)
    tracking.sync(store)
    print("report: tables and figures", flush=True)
    load.collect(store.root, tracking.tracking_uri(store), plan, reports / name / "source")
    page = report.build(reports / name)
    tracking.log_report(store, name, reports / name)
    return page


def _at(cell: Cell, values: Mapping[str, float]) -> Cell:
    return Cell(cell.name, override(cell.config, values), cell.wanted)


def _slug(label: str) -> str:
    """A row's label as a part of a name, numbers padded so that names sort: B=8 -> b08, ±3 -> r3."""
    if label.startswith("B="):
        return f"b{int(label[2:]):02d}"
    return label.replace("±", "r").replace(" ", "-").lower()
