"""The folder that a report is built from: the tidy frame, the plan, curves, example images and manifests."""

from __future__ import annotations

import ast
import io
import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.frame.source_files import AGAIN, read_arrays, read_csv, read_object, read_plan
from analysis.frame.trials import Trial, axes_of, rows_of, table_of, trials_of
from experiments.axes import Axis
from experiments.paper import TABLES, Cell, Table, table
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import Metric, scorers_of
from tokenbridge.overrides import flatten, plain
from tokenbridge.stages import STAGES

TUNED = ("sample.guidance", "sample.temperature")
STANDING = ("3", "4")
"""tables that can be shown without runs: systems and settings"""
CURVES = ["stage", "key", "step", "value"]


@dataclass(frozen=True)
class Source:
    """Read-only view of `reports/<name>/source/`. Frame values stay text until a typed reader below takes them."""

    folder: Path
    frame: pd.DataFrame
    """one row a cell, indexed by cell id; text, empty where there is nothing"""
    plan: dict[str, Any]
    curves: pd.DataFrame
    """stage, key, step, value"""
    manifests: dict[str, dict[str, Any]]

    @cached_property
    def base(self) -> dict[str, Any]:
        """Flat settings of the base config."""
        return flatten(self.plan["base"])

    @property
    def tables(self) -> list[Table]:
        """The tables that the plan fills: the paper's in its order, then ours; with results of the paper's tables also
        those that need no runs."""
        used = {table(row["table"]).id for row in self.plan["rows"]}
        used |= set(STANDING) if any(TABLES[id].published and TABLES[id].kind != "speed" for id in used) else set()
        found = [each for id, each in TABLES.items() if id in used]
        return [*found, *filter(None, [self.table_of_axes])]

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """Whose features measure images here, the first above all."""
        return scorers_of(self.base)

    def by_scorer(self, metric: Metric) -> Metric:
        """A metric as the report's first scorer measures it; one that it cannot measure as it is."""
        return metric.by(self.scorers[0]) or metric

    @cached_property
    def table_of_axes(self) -> Table | None:
        """Every point of the axes; None without axes."""
        found = table_of(self.plan)
        return None if found is None else found.by(self.scorers)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        return axes_of(self.plan)

    @cached_property
    def trials(self) -> list[Trial]:
        """The cells of the grid over axes."""
        return trials_of(self.plan)

    @property
    def seeds(self) -> int:
        """Most training seeds that a point of the axes has."""
        return max(Counter(trial.label for trial in self.trials).values(), default=0)

    @property
    def tuned(self) -> tuple[str, ...]:
        """Settings that were searched for each cell by itself, so they may differ between rows."""
        search = self.plan.get("search") or {}
        return tuple(search.get("keys", TUNED)) if search else ()

    def point(self, table: Table) -> dict[str, Any]:
        """Guidance and temperature that all rows of a table were asked to have; none where each was searched."""
        return (self.plan.get("points") or {}).get(table.id, {})

    def tuned_in(self, table: Table) -> tuple[str, ...]:
        return () if self.point(table) else self.tuned

    @property
    def measured_on(self) -> str:
        size = self.base["data.image_size"]
        name = "digits" if self.base["data.source"] == "digits" else Path(self.base["data.path"]).name
        return f"{name} {size}×{size}"

    def cells(self, table_id: str, label: str) -> list[str]:
        """Cell ids that fill one row of a table, one a seed."""
        return self._cells.get((table_id, label), [])

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {}
        for row in [*self.plan["rows"], *rows_of(self.plan)]:
            found.setdefault((row["table"], row["label"]), []).append(row["cell"])
        return found

    def rows(self, table: Table) -> list[tuple[Cell, list[str]]]:
        """The table's cells in its order, each with the cell ids that fill it (none where it did not run)."""
        return [(cell, self.cells(table.id, cell.label)) for cell in table.cells]

    @property
    def confidence(self) -> list[tuple[float, str]]:
        """Strength of confidence-guided generation and the cell that samples with it, as the plan lists them."""
        return [(float(each["strength"]), each["cell"]) for each in self.plan.get("confidence") or []]

    @cached_property
    def _texts(self) -> dict[str, dict[str, str]]:
        return {str(id): dict(zip(self.frame.columns, row, strict=True)) for id, *row in self.frame.itertuples()}

    def text(self, cell: str, column: str) -> str:
        return self._texts[cell].get(column, "")

    def number(self, cell: str, column: str) -> float | None:
        """A metric, or None where the cell has none, or none to reckon with (see odd)."""
        value = self._value(cell, column)
        return value if value is not None and math.isfinite(value) else None

    def odd(self, cell: str, column: str) -> str:
        """What was measured in place of a number: "not a number" or "infinite"; empty where it is one, or missing."""
        value = self._value(cell, column)
        if value is None or math.isfinite(value):
            return ""
        return "not a number" if math.isnan(value) else "infinite"

    def _value(self, cell: str, column: str) -> float | None:
        text = self.text(cell, column)
        try:
            return float(text) if text else None
        except ValueError:
            raise UserError(f"frame.csv: {column}={text!r} of cell {cell} must be a number; {AGAIN}") from None

    def setting(self, cell: str, key: str) -> Any:
        """A config value of a cell, with the type that the base has; None where the report knows no such setting."""
        return _typed(self.text(cell, key), self.base.get(key))

    def protocol(self, cell: str, kind: str) -> dict[str, Any]:
        text = self.text(cell, f"protocol.{kind}")
        try:
            return dict(json.loads(text)) if text else {}
        except (TypeError, ValueError):
            raise UserError(f"frame.csv: protocol.{kind} of cell {cell} must be a JSON object; {AGAIN}") from None

    def stage(self, cell: str, kind: str) -> str:
        """Id of a stage of a cell; empty where the cell has no such stage."""
        return self.text(cell, f"stage.{kind}")

    def example(self, stage: str) -> dict[str, np.ndarray]:
        """The arrays that a stage left to look at."""
        path = self.folder / "examples" / f"{stage}.npz"
        if not path.exists():
            raise UserError(f"{path} is missing; {AGAIN} from the runs folder")
        return read_arrays(path)

    def has_example(self, stage: str) -> bool:
        """Whether a stage that need not leave arrays to look at did."""
        return (self.folder / "examples" / f"{stage}.npz").exists()

    def changes(self, cell: str) -> dict[str, Any]:
        """Settings of a cell that differ from the base."""
        values = {key: self.setting(cell, key) for key in self.base if key in self.frame.columns}
        return {key: value for key, value in values.items() if value != _normal(self.base[key])}

    def command(self, cell: str) -> str:
        """The command that repeats a cell."""
        last = [name for name, kind in STAGES.items() if kind.result and self.stage(cell, name)]
        if last == ["speed"]:
            return "tokenbridge speed"  # all rows of its table together, in turn
        # a run measures no times by itself
        only = [word for kind in last for word in ("--only", kind)] if "speed" in last else []
        return " ".join(["tokenbridge", "run", self.plan.get("preset", "digits"), *self.words(cell), *only])

    def words(self, cell: str) -> list[str]:
        """Changes of a cell as they are typed."""
        return [shlex.quote(f"{key}={plain(value)}") for key, value in self.changes(cell).items()]


def read(folder: Path) -> Source:
    """Read a source folder, or UserError naming what is missing, damaged or does not fit."""
    for name in ("frame.csv", "plan.json", "curves.csv"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing; a report is built from frame.csv, plan.json and curves.csv")
    frame = read_csv(folder / "frame.csv", dtype=str, keep_default_na=False)
    if "cell" not in frame or frame["cell"].duplicated().any():
        raise UserError(f"{folder / 'frame.csv'} must have a column cell, each once; {AGAIN}")
    curves = read_csv(folder / "curves.csv", dtype={"stage": str, "key": str, "step": "int64", "value": "float64"})
    if list(curves.columns) != CURVES:
        raise UserError(f"{folder / 'curves.csv'} has columns {list(curves.columns)}, it must have {CURVES}; {AGAIN}")
    plan, frame = read_plan(folder / "plan.json"), frame.set_index("cell")
    for row in plan["rows"]:
        table(row["table"]).cell(row["label"])
    for where, cell in planned(plan):
        if cell not in frame.index:
            raise UserError(f"plan.json: cell {cell} of {where} is not in frame.csv; {AGAIN}")
    manifests = {path.stem: read_object(path) for path in sorted((folder / "manifests").glob("*.json"))}
    return Source(folder, frame, plan, curves, manifests)


def of_frame(frame: pd.DataFrame, plan: Mapping[str, Any]) -> Source:
    """A source of numbers alone, for a table that is looked at: as if the frame had been written and read."""
    written = io.StringIO(frame.to_csv(index=False))
    texts = pd.read_csv(written, dtype=str, keep_default_na=False).set_index("cell")
    return Source(Path(), texts, dict(plan), pd.DataFrame(columns=pd.Index(CURVES)), {})


def planned(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every cell that a plan names, with where it does."""
    rows = [(f"table {row['table']}", row["cell"]) for row in plan["rows"]]
    rows += [("the axes", each["cell"]) for each in plan.get("cells") or []]
    return rows + [("confidence", each["cell"]) for each in plan.get("confidence") or []]


def _typed(text: str, like: Any) -> Any:
    """A CSV field as what it was, in the form of _normal."""
    if text in ("", "None"):
        return None
    if isinstance(like, str) and not text.startswith(("[", "(")):
        try:  # latents.scale is "auto" or a number
            return _normal(float(text))
        except ValueError:
            return text
    try:
        return _normal(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def _normal(value: Any) -> Any:
    """One form for values that CSV and JSON write differently: 5.0 and 5, (1, 0) and [1, 0]."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_normal(each) for each in value] if isinstance(value, list | tuple) else value
