"""What stands at the end of a report: protocols, search, environment, and where each number comes from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Place, edges
from analysis.tables.fill import Filled
from analysis.tables.notes import point_text
from tokenbridge.config import UserError


@dataclass(frozen=True)
class Seed:
    """One cell of a row: how its command differs from that of the row's first seed."""

    cell: str
    anchor: bool
    """whether links to the cell lead here: to the first of its lines"""
    seed: int | None
    """None where nothing is trained"""
    more: str
    """settings to add to the first seed's command, or the whole command where adding is not enough; empty for it"""
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one or several rows come from: the same cells, one a seed."""

    rows: tuple[str, ...]
    command: str
    seeds: tuple[Seed, ...]


def provenance(source: Source, filled: Iterable[Filled]) -> list[Origin]:
    """Each set of cells once, with all rows that it fills, and the commands that repeat it."""
    found: dict[tuple[str, ...], list[str]] = {}
    trained: set[str] = set()
    for table in filled:
        for row in table.rows:
            if row.cells:
                found.setdefault(row.cells, []).append(f"{table.table.id} {row.label}")
            trained |= set(row.cells) if table.table.kind in ("generation", "axes") else set()
    origins, listed = [], set[str]()
    for cells, rows in found.items():
        seeds = tuple(_seed(source, cell, cells[0], cell not in listed, cell in trained) for cell in cells)
        origins.append(Origin(tuple(rows), source.command(cells[0]), seeds))
        listed |= set(cells)
    return origins


def _seed(source: Source, cell: str, first: str, anchor: bool, trained: bool) -> Seed:
    before, now = source.words(first), source.words(cell)
    # what the first command has otherwise cannot be added away
    whole = any(word not in now for word in before)
    more = source.command(cell) if whole else " ".join(word for word in now if word not in before)
    columns = [column for column in source.frame.columns if column.startswith("stage.")]
    stages = tuple(id for column in columns if (id := source.text(cell, column)))
    return Seed(cell, anchor, source.setting(cell, "train.seed") if trained else None, more, stages)


def protocols(source: Source, filled: Sequence[Filled]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Kind of stage that columns come from -> the fields of its protocol, each with all its values."""
    cells = list(dict.fromkeys(cell for table in filled for row in table.rows for cell in row.cells))
    kinds = dict.fromkeys(column.key.partition("/")[0] for table in filled for column in table.measured)
    found = []
    for kind in kinds:
        fields: dict[str, dict[str, None]] = {}
        for cell in cells:
            for field, value in source.protocol(cell, kind).items():
                fields.setdefault(field, {})[_shown(value)] = None
        if fields:
            found.append((kind, [(field, ", ".join(values)) for field, values in fields.items()]))
    return found


def environment(source: Source) -> list[tuple[str, str]]:
    """What the numbers may depend on beside the config, each value once; machines are not named."""
    found: dict[str, dict[str, None]] = {}
    seconds = 0.0
    for manifest in source.manifests.values():
        git = manifest.get("git") or {}
        commit = git.get("commit")
        text = (
            "not from a git checkout"
            if commit is None
            else commit + (" with local changes" if git.get("dirty") else "")
        )
        found.setdefault("commit", {})[text] = None
        if manifest.get("cpu"):
            found.setdefault("processor", {})[str(manifest["cpu"])] = None
        for name, version in (manifest.get("versions") or {}).items():
            if version is not None:
                found.setdefault(name, {})[str(version)] = None
        seconds += manifest.get("wall_seconds") or 0
    if seconds:
        minutes = seconds / 60
        found["stages"] = {f"{len(source.manifests)}, {stats.number(minutes, 1)} minutes of work together": None}
    return [(name, ", ".join(values)) for name, values in found.items()]


def search(source: Source) -> list[tuple[str, str]]:
    """How guidance and temperature were searched, as the plan tells it, or given; chosen has the search's points."""
    told = (source.plan.get("search") or {}).items()
    found = [(key.replace("_", " "), _shown(value)) for key, value in told if key not in ("keys", "points", "chosen")]
    points = [
        (f"table {table.id}", f"no search, all rows at {point_text(p)}")
        for table in source.tables
        if (p := source.point(table))
    ]
    return found + points


@dataclass(frozen=True)
class Chosen:
    """The point of the search that one or several rows use (the same cells: one model)."""

    rows: tuple[str, ...]
    guidance: float
    temperature: float
    value: float
    """the metric at that point"""
    edges: tuple[str, ...]
    """where the point ends the grid: "lowest guidance"; empty inside it"""


def chosen(source: Source) -> list[Chosen]:
    """One line for rows with the same cells and points, in the plan's order; values at one place are averaged."""
    plan = source.plan.get("search") or {}
    metric, found = plan.get("metric", ""), dict[str, dict[Place, list[float]]]()
    for point in _points(source):
        place = (point["guidance"], point["temperature"])
        found.setdefault(point["row"], {}).setdefault(place, []).append(point[metric])
    sets: dict[tuple[Place, tuple[tuple[Place, float], ...], tuple[str, ...]], list[str]] = {}
    for row, values in found.items():
        means = {place: stats.estimate(v).mean for place, v in values.items()}
        told = plan.get("chosen", {}).get(row, {})
        lowest = min(means, key=lambda place: means[place])
        place = (told.get("sample.guidance", lowest[0]), told.get("sample.temperature", lowest[1]))
        if place not in means:
            raise UserError(
                f"plan.json: guidance {place[0]:g} and temperature {place[1]:g} chosen for {row} are no point of its"
                " search; write the source again"
            )
        cells = source.cells(*row.split(" ", 1))
        sets.setdefault((place, tuple(means.items()), tuple(cells)), []).append(row)
    return [
        Chosen(tuple(rows), *place, dict(means)[place], edges(place, dict(means)))
        for (place, means, _), rows in sets.items()
    ]


def _points(source: Source) -> list[dict[str, Any]]:
    """The points of the search for rows of the report: each names its row as `<table> <label>`."""
    used = {table.id for table in source.tables}
    points = (source.plan.get("search") or {}).get("points", [])
    return [point for point in points if point["row"].partition(" ")[0] in used]


def search_csv(source: Source) -> str:
    """Every point of the search: row, guidance, temperature, training seed, the metric, whether the row uses it."""
    points = _points(source)
    if not points:
        return ""
    out, metric = io.StringIO(), source.plan["search"]["metric"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "guidance", "temperature", "train_seed", metric, "chosen"])
    uses = {(row, c.guidance, c.temperature) for c in chosen(source) for row in c.rows}
    for point in points:
        place = (point["row"], point["guidance"], point["temperature"])
        values = [point["row"], *(f"{value:.10g}" for value in place[1:]), point.get("train_seed", "")]
        writer.writerow([*values, f"{point[metric]:.10g}", "yes" if place in uses else ""])
    return out.getvalue()


def _shown(value: Any) -> str:
    """A JSON value for a reader."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
