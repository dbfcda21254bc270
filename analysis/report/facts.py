"""The facts at the end of a report: protocols, search, environment, and where each number comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import stats
from analysis.frame.source import Source
from analysis.tables.filled import FilledTable
from experiments.paper.plan import point_text
from tokenbridge.overrides import plain

MIXED = (
    "these stages ran with different instruction sets, so the last bits differ between them, and what a"
    " training or a sampling makes of that can be seen in the numbers"
)


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
    """Where the numbers of one or several rows come from: the same cells, one per seed."""

    rows: tuple[str, ...]
    command: str
    seeds: tuple[Seed, ...]


def provenance(source: Source, filled: Iterable[FilledTable]) -> list[Origin]:
    """Each set of cells once, with all rows that it fills, and the commands that repeat it.

    Args:
        source: the report's source.
        filled: the report's tables, in the order in which their rows are named.
    """
    sets: dict[tuple[str, ...], list[str]] = {}
    trained: set[str] = set()
    for table in filled:
        for row in table.rows:
            if row.cells:
                sets.setdefault(row.cells, []).append(f"{table.id} {row.label}")
            trained |= set(row.cells) if table.kind in ("generation", "axes") else set()
    for strength, cell in source.confidence:
        if strength:
            sets[cell,] = [f"figure 8, confidence × {strength:g}"]
            trained.add(cell)
    origins, listed = [], set[str]()
    for cells, rows in sets.items():
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


def protocols(source: Source, filled: Sequence[FilledTable]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Kind of stage that columns come from -> the fields of its protocol, each with all its values."""
    cells = list(dict.fromkeys(cell for table in filled for row in table.rows for cell in row.cells))
    kinds = dict.fromkeys(column.key.partition("/")[0] for table in filled for column in table.measured)
    protocols = []
    for kind in kinds:
        fields: dict[str, dict[str, None]] = {}
        for cell in cells:
            for field, value in source.protocol(cell, kind).items():
                fields.setdefault(field, {})[_shown(value)] = None
        if fields:
            protocols.append((kind, [(field, ", ".join(values)) for field, values in fields.items()]))
    return protocols


def settings(source: Source) -> list[tuple[str, str]]:
    """All settings of the base, which rows have where they do not vary them; of paths elsewhere the last part."""
    told = {key: Path(value).name if _elsewhere(value) else plain(value) for key, value in source.base.items()}
    return [(key, value) for key, value in told.items() if source.base[key] is not None]


def _elsewhere(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def environment(source: Source) -> list[tuple[str, str]]:
    """What the numbers may depend on beside the config, each value once; machines are not named."""
    facts: dict[str, dict[str, None]] = {}
    seconds = 0.0
    for manifest in source.manifests.values():
        git = manifest.get("git") or {}
        changed = " with local changes" if git.get("dirty") else ""
        commit = git["commit"] + changed if git.get("commit") else "not from a git checkout"
        for name, value in {
            "commit": commit,
            "processor": manifest.get("cpu"),
            "arithmetic": _arithmetic(manifest),
            **(manifest.get("versions") or {}),
        }.items():
            if value:
                facts.setdefault(name, {})[str(value)] = None
        seconds += manifest.get("wall_seconds") or 0
    if seconds:
        work = f"{len(source.manifests)}, {stats.number(seconds / 60, 1)} minutes of work together"
        facts["stages"] = {work: None}
    if len(facts.get("arithmetic", ())) > 1:
        facts["caution"] = {MIXED: None}
    return [(name, ", ".join(values)) for name, values in facts.items()]


def _arithmetic(manifest: Mapping[str, Any]) -> str:
    """What decides the last bits of a stage's numbers, as its manifest has it; empty in older ones."""
    told = manifest.get("arithmetic") or {}
    if not told.get("capability"):
        return ""
    parts = [told["capability"], told.get("instructions"), told.get("mkldnn") and f"MKL-DNN {told['mkldnn']}"]
    return "; ".join(part for part in [*parts, *(f"{k}={v}" for k, v in (told.get("set") or {}).items())] if part)


def search(source: Source) -> list[tuple[str, str]]:
    """How guidance and temperature were searched, as the plan tells it, and the tables that have them given."""
    told = (source.plan.get("search") or {}).items()
    fields = [(key.replace("_", " "), _shown(value)) for key, value in told if key not in ("keys", "points", "chosen")]
    given = [(table.id, point) for table in source.tables if (point := source.point(table))]
    return fields + [(f"table {id}", f"no search, all rows at {point_text(point)}") for id, point in given]


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
