"""`tokenbridge grid`: the tables of the paper on one base configuration, several training seeds a row.

First the search for each row's guidance and temperature and all trainings, then the rows at their chosen points, then
what measures time, by itself. What a row shares with another, or what is finished, runs once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

from experiments import paper
from experiments.pipeline import KINDS, RECONSTRUCTION, Cell, graph, wanted_of
from experiments.runner import Failure, attempt_cells, seconds_of_work, time_text
from tokenbridge.artifacts import Store, read_json, write_json
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.overrides import override

EXPERIMENT = "tokenbridge"
SEARCH = {"sample.guidance": (1.0, 1.5, 2.0), "sample.temperature": (0.7, 0.8, 0.9, 1.0)}
SEARCH_SAMPLES = {"sample.images": 500, "sample.seed": 1}
METRIC = "fd_digits"
FIGURE_8 = "figure-8"
STRENGTHS = (0.0, 1.0, 4.0, 16.0)  # of confidence-guided generation
NOTES = {
    "digits": "Generation is at 16 levels a channel where a table does not say otherwise (the paper: 64) and trains for"
    " one to two minutes on 1,438 images: rows are compared on equal terms, but none is near what longer training"
    " reaches."
}


@dataclass(frozen=True)
class Row:
    """One cell of a table: which row it fills, with which seed."""

    table: str
    label: str
    cell: Cell

    @property
    def key(self) -> str:
        return f"{self.table} {self.label}"

    @property
    def searched(self) -> bool:
        return "score" in self.cell.wanted

    def at(self, values: Mapping[str, Any]) -> Row:
        return replace(self, cell=replace(self.cell, config=override(self.cell.config, values)))

    def wants(self, *kinds: str) -> Cell:
        return replace(self.cell, wanted=kinds)


@dataclass(frozen=True)
class Grid:
    """What is asked for, as rows; `search` has the points of each searched row by its key, on the first seed."""

    name: str
    preset: str
    base: RunConfig
    tables: tuple[str, ...]
    rows: tuple[Row, ...]
    search: Mapping[str, Sequence[Cell]]

    def timed(self) -> list[Cell]:
        """Cells of which the time to sample is a column; all seeds share the stage, which is the first's."""
        return [row.wants("speed") for row in self.rows if row.table == paper.TABLE_HEADS.id]

    def first(self) -> tuple[list[Cell], list[Cell]]:
        """Cells to run before anything is chosen, and those that only run ahead: trainings and likelihoods."""
        search = list(chain(*self.search.values()))
        others = [row.cell for row in self.rows if not row.searched]
        ahead = [row.wants("train", *({"likelihood"} & {*row.cell.wanted})) for row in self.rows if row.searched]
        return [*others, *search], ahead


def make(
    name: str, preset: str, base: RunConfig, tables: Sequence[str], seeds: int, assignments: Sequence[str] = ()
) -> Grid:
    """The grid of these tables; UserError for an unknown table or a row that cannot run."""
    base = override(base, assignments)
    rows = [row for id in tables if id != FIGURE_8 for row in table_rows(id, base, seeds)]
    search = {row.key: search_points(row) for row in reversed(rows) if row.searched}  # on the first seed
    grid = Grid(name, preset, base, tuple(tables), tuple(rows), dict(reversed(search.items())))
    graph(list(chain(*grid.first())))  # a row that cannot run is refused here
    return grid


def table_rows(id: str, base: RunConfig, seeds: int) -> list[Row]:
    """The rows of a table, generation with several training seeds."""
    table = paper.table(id)
    if table.kind not in ("reconstruction", "generation"):
        raise UserError(f"table {id} is no table of runs: for 5 use tokenbridge speed; 4 is what presets hold")
    rows = []
    for row in table.cells:
        if row.overrides is None:
            continue
        for seed in range(seeds if table.kind == "generation" else 1):
            seeded = {"train.seed": seed} if seed else {}
            name = f"{id}-{_slug(row.label)}" + (f"-s{seed}" if seed else "")
            config = override(base, table.overrides(row, base) | seeded)
            rows.append(Row(id, row.label, Cell(name, config, _wanted(table, config))))
    return rows


def _wanted(table: paper.Table, config: RunConfig) -> tuple[str, ...]:
    if table.kind == "reconstruction":
        return RECONSTRUCTION
    generated = tuple(kind for kind in wanted_of(config) if kind not in RECONSTRUCTION)
    # trained tokenizers stand in no table of reconstructions, and figure 5 shows them
    return (*RECONSTRUCTION, *generated) if config.quantizer.trained else generated


def search_points(row: Row) -> list[Cell]:
    """The same small search for every row: guidance × temperature, on images that no final number uses."""
    points = []
    for guidance, temperature in product(*SEARCH.values()):
        values = dict(zip(SEARCH, (guidance, temperature), strict=True)) | SEARCH_SAMPLES
        name = f"search-{row.cell.name}-g{guidance:g}-t{temperature:g}"
        points.append(Cell(name, override(row.cell.config, values), ("score",)))
    return points


def run(store: Store, grid: Grid, runtime: Runtime, jobs: int) -> list[Failure]:
    """Run what is missing and write the plan of the report, runs/plans/<name>.json; returns what failed."""
    print(f"{grid.name}: tables {', '.join(grid.tables)}, {jobs} stages at a time; results in {store.root}", flush=True)
    cells, ahead = grid.first()
    failures = attempt_cells(store, cells, runtime, EXPERIMENT, jobs, ahead)
    chosen = {key: best(store, points) for key, points in grid.search.items() if _scored(store, points)}
    rows = [row.at(chosen.get(row.key, {})) for row in grid.rows if not row.searched or row.key in chosen]
    strengths = _strengths(grid, rows)
    final = [row.cell for row in rows if row.searched] + [cell for _, cell in strengths]
    failures += attempt_cells(store, final, runtime, EXPERIMENT, jobs)
    timed = [row.wants("speed") for row in rows if row.table == paper.TABLE_HEADS.id]
    failures += attempt_cells(store, timed, runtime, EXPERIMENT)  # time is measured with nothing beside it
    write_plan(store, grid, rows, chosen, strengths)
    return list({failure.stage.id: failure for failure in failures}.values())


def _strengths(grid: Grid, rows: Sequence[Row]) -> list[tuple[float, Cell]]:
    """Figure 8: the autoregressive model of the base, at each strength of confidence-guided generation."""
    if FIGURE_8 not in grid.tables:
        return []
    row = next((row for row in rows if row.key == "2a autoregressive"), None)
    if row is None:
        raise UserError(f"{FIGURE_8} shows the autoregressive model of table 2a; ask for 2a as well")
    cells = []
    for strength in STRENGTHS:
        config = override(row.cell.config, {"sample.confidence": strength})
        cells.append((strength, Cell(f"{FIGURE_8}-c{strength:g}", config, ("score",))))
    return cells


def best(store: Store, points: Sequence[Cell]) -> dict[str, Any]:
    """Guidance and temperature of the point with the lowest Fréchet distance; the first of equals."""
    winner = min(points, key=lambda cell: score_of(store, cell))
    return {"sample.guidance": winner.config.sample.guidance, "sample.temperature": winner.config.sample.temperature}


def _scored(store: Store, points: Sequence[Cell]) -> bool:
    return all(store.finished(cell.stages()[-1].id) for cell in points)


def score_of(store: Store, cell: Cell) -> float:
    score = cell.stages()[-1]
    return read_json(store.folder(score.id) / "metrics.json")["metrics"][METRIC]


def forecast(store: Store, grid: Grid, jobs: int) -> list[str]:
    """What a run would do, in lines: stages to run, finished and shared by kind, and how long that takes."""
    cells, ahead = grid.first()
    everything = [*cells, *ahead, *(row.cell for row in grid.rows), *grid.timed()]
    stages, rates = graph(everything), seconds_of_work(store)
    asked = Counter(stage.kind.name for cell in everything for stage in cell.stages())
    lines = [f"{len(grid.rows)} cells of tables {', '.join(grid.tables)}; stages by kind:"]
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
            "images": SEARCH_SAMPLES["sample.images"],
            "seed": SEARCH_SAMPLES["sample.seed"],
            "model": "first training seed",
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


def _points(store: Store, key: str, points: Sequence[Cell]) -> list[dict[str, Any]]:
    found = []
    for cell in points:
        how = cell.config.sample
        place = {"row": key, "guidance": how.guidance, "temperature": how.temperature}
        found.append(place | {METRIC: score_of(store, cell)})
    return found


def merged(before: Mapping[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """The plan, with those tables of an earlier one that it does not have itself."""
    if before.get("base") != plan["base"]:
        return plan
    kept = [id for id in before.get("tables", ()) if id not in plan["tables"]]
    search, old = plan["search"], before["search"]

    def mine(key: str) -> bool:
        return key.partition(" ")[0] in kept

    search = search | {
        "chosen": {key: value for key, value in old["chosen"].items() if mine(key)} | search["chosen"],
        "points": [point for point in old["points"] if mine(point["row"])] + search["points"],
    }
    return plan | {
        "tables": [id for id in paper.TABLES if id in kept or id in plan["tables"]],
        "rows": [row for row in before["rows"] if row["table"] in kept] + plan["rows"],
        "search": search,
        "confidence": plan["confidence"] or before.get("confidence", []),
    }


def _slug(label: str) -> str:
    """A row's label as a part of a name, numbers padded so that names sort: B=8 -> b08, ±3 -> r3."""
    if label.startswith("B="):
        levels, comma, rest = label[2:].partition(", ")
        return f"b{int(levels):02d}" + (f"-{rest}" if comma else "")
    return label.replace("±", "r").replace(", ", "-").replace(" ", "-").replace("×", "x").lower()
