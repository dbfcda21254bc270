"""What stands at the end of a report: protocols, search, environment, and where each number comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import stats
from analysis.source import Source
from analysis.tables import Filled


@dataclass(frozen=True)
class Grid:
    """What the search found for one row of a table: the metric at each guidance (across) and temperature (down)."""

    label: str
    metric: str
    across: tuple[str, ...]
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    best: tuple[int, int]
    """line and column of the lowest"""


def provenance(source: Source, filled: Iterable[Filled]) -> list[dict[str, Any]]:
    """Where each row of each table comes from, and the command that repeats it."""
    lines: list[dict[str, Any]] = []
    for table in filled:
        for row in table.rows:
            for cell in row.cells:
                # a cell may fill several rows; links go to its first line
                anchor = all(line["cell"] != cell for line in lines)
                seed = source.setting(cell, "train.seed") if table.table.kind == "generation" else None
                columns = [column for column in source.frame.columns if column.startswith("stage.")]
                stages = [id for column in columns if (id := source.text(cell, column))]
                line = {"table": table.table.id, "label": row.label, "cell": cell, "anchor": anchor, "seed": seed}
                lines.append(line | {"stages": stages, "command": source.command(cell)})
    return lines


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
    """How guidance and temperature were searched, as the plan tells it; its points are in search_grids."""
    told = (source.plan.get("search") or {}).items()
    return [(key.replace("_", " "), _shown(value)) for key, value in told if key not in ("keys", "points", "chosen")]


def search_grids(source: Source) -> list[Grid]:
    """One grid for each row that was searched; several points at one place (seeds) are averaged."""
    plan = source.plan.get("search") or {}
    metric, found = plan.get("metric", ""), dict[str, dict[tuple[float, float], list[float]]]()
    for point in plan.get("points", []):
        place = (point["temperature"], point["guidance"])
        found.setdefault(point["row"], {}).setdefault(place, []).append(point[metric])
    return [
        _grid(label, metric, {at: stats.estimate(v).mean for at, v in points.items()})
        for label, points in found.items()
    ]


def _grid(label: str, metric: str, points: Mapping[tuple[float, float], float]) -> Grid:
    down, across = (sorted({place[i] for place in points}) for i in (0, 1))
    temperature, guidance = min(points, key=lambda place: points[place])
    lines = tuple(
        (f"{t:g}", tuple(stats.number(points[t, g], 2) if (t, g) in points else "" for g in across)) for t in down
    )
    best = (down.index(temperature), across.index(guidance))
    return Grid(label, metric, tuple(f"{g:g}" for g in across), lines, best)


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
