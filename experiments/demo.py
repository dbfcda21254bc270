"""`tokenbridge demo`: tables 1a, 1b and 2a and their figures on the shipped digits, from images to a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

from experiments import paper
from experiments.pipeline import GENERATION, RECONSTRUCTION, Cell
from experiments.presets import preset
from experiments.runner import run_cells
from tokenbridge.artifacts import Store, read_json, write_json
from tokenbridge.config import RunConfig, Runtime
from tokenbridge.overrides import override

NAME = "demo"
EXPERIMENT = "tokenbridge"
TABLES = ("1a", "1b", "2a")
SEARCH = {"sample.guidance": (1.0, 1.5, 2.0), "sample.temperature": (0.7, 0.8, 0.9, 1.0)}
SEARCH_SAMPLES = {"sample.images": 500, "sample.seed": 1}
METRIC = "fd_digits"
NOTE = (
    "Table 2a is at 16 levels a channel (the paper: 64) and trains for about three minutes on 1,438 images: the two"
    " kinds of prediction are compared on equal terms, but neither is near what longer training reaches."
)


def run(
    store: Store,
    runtime: Runtime,
    jobs: int,
    assignments: Sequence[str] = (),
    seeds: int = 1,
    name: str = NAME,
) -> None:
    """Run what is missing and write the plan of the report, runs/plans/<name>.json."""
    base = preset("digits")
    rows = [row for id in TABLES for row in table_rows(id, override(base, assignments), seeds)]
    tuned = [row for row in rows if row.table == "2a"]
    search = {row.label: search_points(row) for row in reversed(tuned)}  # on the first seed
    print(f"{name}: {len(TABLES)} tables on the shipped digits, {jobs} stages at a time; results in {store.root}")
    early = [row.cell for row in rows if row.table != "2a"]
    run_cells(store, [*chain(*search.values()), *early], runtime, EXPERIMENT, jobs)
    chosen = {label: best(store, points) for label, points in search.items()}
    rows = [row.at(chosen.get(row.label, {})) for row in rows]
    run_cells(store, [row.cell for row in rows if row.table == "2a"], runtime, EXPERIMENT, jobs)
    write_plan(store, name, base, rows, search, chosen)


@dataclass(frozen=True)
class Row:
    """One cell of a table: which row it fills, with which seed."""

    table: str
    label: str
    cell: Cell

    def at(self, values: Mapping[str, float]) -> Row:
        return replace(self, cell=replace(self.cell, config=override(self.cell.config, values)))


def table_rows(id: str, base: RunConfig, seeds: int) -> list[Row]:
    """The rows of a paper's table that the configuration supports, generation with several training seeds."""
    table = paper.table(id)
    generation = table.kind == "generation"
    rows = []
    for row in table.cells:
        for seed in range(seeds if generation else 1):
            if row.overrides is not None:
                seeded = {"train.seed": seed} if seed else {}
                name = f"{id}-{_slug(row.label)}" + (f"-s{seed}" if seed else "")
                config = override(base, dict(row.overrides) | seeded)
                rows.append(Row(id, row.label, Cell(name, config, GENERATION if generation else RECONSTRUCTION)))
    return rows


def search_points(row: Row) -> list[Cell]:
    """The same small search for every row: guidance × temperature, on images that no final number uses."""
    points = []
    for guidance, temperature in product(*SEARCH.values()):
        values = dict(zip(SEARCH, (guidance, temperature), strict=True)) | SEARCH_SAMPLES
        name = f"search-{_slug(row.label)}-g{guidance:g}-t{temperature:g}"
        points.append(Cell(name, override(row.cell.config, values), ("score",)))
    return points


def best(store: Store, points: Sequence[Cell]) -> dict[str, float]:
    """Guidance and temperature of the point with the lowest Fréchet distance; the first of equals."""
    winner = min(points, key=lambda cell: score_of(store, cell))
    return {"sample.guidance": winner.config.sample.guidance, "sample.temperature": winner.config.sample.temperature}


def score_of(store: Store, cell: Cell) -> float:
    score = cell.stages()[-1]
    return read_json(store.folder(score.id) / "metrics.json")["metrics"][METRIC]


def write_plan(
    store: Store,
    name: str,
    base: RunConfig,
    rows: Sequence[Row],
    search: Mapping[str, Sequence[Cell]],
    chosen: Mapping[str, Mapping[str, float]],
) -> None:
    """runs/plans/<name>.json: which cell fills which row, and how guidance and temperature were chosen."""
    points = [
        {
            "row": label,
            "guidance": cell.config.sample.guidance,
            "temperature": cell.config.sample.temperature,
            METRIC: score_of(store, cell),
        }
        for label, cells in search.items()
        for cell in cells
    ]
    plan: dict[str, Any] = {
        "name": name,
        "title": "TokenBridge on handwritten digits",
        "preset": "digits",
        "base": base.model_dump(),
        "rows": [{"table": row.table, "label": row.label, "cell": row.cell.id} for row in rows],
        "search": {
            "keys": list(SEARCH),
            "guidance": list(SEARCH["sample.guidance"]),
            "temperature": list(SEARCH["sample.temperature"]),
            "images": SEARCH_SAMPLES["sample.images"],
            "seed": SEARCH_SAMPLES["sample.seed"],
            "model": "first training seed",
            "metric": METRIC,
            "chosen": {label: dict(values) for label, values in chosen.items()},
            "points": points,
        },
        "notes": [NOTE],
    }
    folder = store.root / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", plan)


def _slug(label: str) -> str:
    """A row's label as a part of a name, numbers padded so that names sort: B=8 -> b08, ±3 -> r3."""
    if label.startswith("B="):
        return f"b{int(label[2:]):02d}"
    return label.replace("±", "r").replace(" ", "-").lower()
