"""The rows of reports as their tables print them, in rows/NAME.json of the runs folder beside plans/NAME.json.

Means, intervals and verdicts are computed by analysis, which nothing here may import. So the command line has them
computed and leaves them here as plain values, and whoever sends, a job of Slurm too, sends the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from experiments.paper import plan as plan_file
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, read_json, write_json

HALF, ERROR, NORMAL = "_half_width", "_se", 1.96
"""behind the name of a metric: half of its 95 % interval; its standard error over images, which that is so often"""
SEEDS = "seeds"
"""the metric that counts the seeds of a row"""
_AGAIN = "delete it and run `tokenbridge sync`, which makes it again"


@dataclass(frozen=True)
class ReportRow:
    """A row of a report's tables: one configuration with its training seeds."""

    report: str
    id: str
    """the same however many seeds there are"""
    name: str
    cells: tuple[str, ...]
    """ids, one for each seed; of a row of one cell nothing else is told, which that cell says itself"""
    metrics: dict[str, float] = field(default_factory=dict)
    """means by the name that the cells' own numbers have, in their unit; with HALF behind it the half-width"""
    tags: dict[str, str] = field(default_factory=dict)
    note: str = ""
    """Markdown: the row as the tables print it"""


def read(store: Store) -> dict[str, list[ReportRow]]:
    """The rows of each report that has a plan, as they were last written."""
    return {name: _read(store, name)[1] for name in plan_file.names(store.root) if _path(store, name).exists()}


def state(store: Store, report: str) -> str:
    """Of what the rows of a report were computed; empty where they were not, or can no longer be read."""
    try:
        return _read(store, report)[0] if _path(store, report).exists() else ""
    except UserError:
        return ""


def write(store: Store, report: str, state: str, rows: Iterable[ReportRow]) -> None:
    """Write the rows of a report, in place of earlier ones.

    Args:
        store: the runs folder.
        report: its name, which is that of its plan.
        state: of what they were computed.
        rows: all of them, in the order of the tables.
    """
    path = _path(store, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"state": state, "rows": [asdict(row) for row in rows]})


def places(rows: Mapping[str, Sequence[ReportRow]]) -> dict[str, dict[str, str]]:
    """Cell -> report -> id of the first of its rows of several seeds that has the cell.

    Args:
        rows: by report.
    """
    found: dict[str, dict[str, str]] = {}
    for report, each in rows.items():
        for row in each:
            for cell in row.cells if len(row.cells) > 1 else ():
                found.setdefault(cell, {}).setdefault(report, row.id)
    return found


def _path(store: Store, report: str) -> Path:
    return store.root / "rows" / f"{report}.json"


def _read(store: Store, report: str) -> tuple[str, list[ReportRow]]:
    values = read_json(path := _path(store, report), _AGAIN)
    try:
        rows = [ReportRow(**row | {"cells": tuple(row["cells"])}) for row in values["rows"]]
        return str(values["state"]), rows
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} holds no rows of a report ({error}); {_AGAIN}") from error
