"""The folder that a report is built from: the frame, the plan, curves, example images and manifests.

Each file is read once, or refused in one line that names it; the frame's columns have their types from then on.
"""

from __future__ import annotations

import ast
import json
import math
import re
import shlex
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.axes import Axis, names
from experiments.paper import (
    DUEL,
    RECONSTRUCT,
    TABLE_1A,
    TABLE_2A,
    TABLE_HEADS,
    TABLE_LIKELIHOOD,
    TABLES,
    Row,
    Table,
    duel_of,
    reconstruct_table,
    table,
)
from experiments.paper import plan as plan_file
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import MSE, TOKEN_BITS_PER_DIM, Metric, scorers_of
from tokenbridge.overrides import flatten, plain
from tokenbridge.stages import STAGES
from tokenbridge.store.runs import CLASSES, class_names, read_json

AGAIN = "write the report's source again"
AXES = "axes"
"""id of the table of all points of the axes"""
TUNED = ("sample.guidance", "sample.temperature")
GIVEN = "sample.given"
"""the setting that cells of samples of other programs have"""
PUBLISHED_IMAGES = (1000, 256)
"""classes and pixels per side of ImageNet, as the paper has it"""
POINTS = 16
"""points of axes, at most, whose images a source holds and a figure shows"""
STANDING = ("3", "4")
"""tables that can be shown without runs: systems and settings"""
IMAGES = "images"
"""folder of what stages measured of each image"""
LEFT_OUT = "left_out "
"""before the name of a metric: its values without each group of images in turn"""
CURVES = ["stage", "key", "step", "value"]
RENAMED = {
    re.compile(r"reconstruct/(.+)_held_out"): r"reconstruct/\1_originals",
    re.compile(r"likelihood/held_out_beyond_extremes"): "likelihood/beyond_extremes",
}
"""metrics by the names that older sources have for them"""


class Arrays(dict[str, np.ndarray]):
    """The arrays of an example file; what it lacks is a UserError that names the file."""

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]):
        super().__init__(arrays)
        self.path = path

    def __missing__(self, name: str) -> np.ndarray:
        raise UserError(f"{self.path} has no array {name}; {AGAIN}")


@dataclass(frozen=True)
class Trial:
    """A cell of a grid over axes."""

    cell: str
    label: str
    """of its point, the same for all its seeds"""
    values: Mapping[str, Any]
    """setting -> value, for every axis"""
    seed: int

    def others(self, key: str) -> tuple[str, ...]:
        """What has to be equal in two cells that differ in one axis only."""
        seed = () if key == "train.seed" else (str(self.seed),)
        return (*(word for other, word in self.words.items() if other != key), *seed)

    @cached_property
    def words(self) -> dict[str, str]:
        """Setting -> value as it is printed, for every axis."""
        return {key: plain(value) for key, value in self.values.items()}


@dataclass(frozen=True, eq=False)
class Source:
    """Read-only view of `reports/<name>/source/`."""

    folder: Path
    frame: pd.DataFrame
    """one row per cell, indexed by its id: metrics as float64, settings as values of the configuration, protocols as
    dicts, all else as text"""
    plan: dict[str, Any]
    curves: pd.DataFrame
    """stage, key, step, value"""
    manifests: dict[str, dict[str, Any]]
    nan: frozenset[tuple[str, str]] = frozenset()
    """(cell, metric) where a stage measured NaN, which in the frame also stands for what was not measured"""
    images: Callable[[str], Mapping[str, np.ndarray]] | None = None
    """what a stage measured of each image, by its id, where that does not lie in the folder"""
    classes: tuple[str, ...] = ()
    """names of the classes by label; none where they have no names"""

    @cached_property
    def base(self) -> dict[str, Any]:
        """Flat settings of the base config."""
        return flatten(self.plan["base"])

    @property
    def tables(self) -> list[Table]:
        """The tables that the plan fills: the paper's in its order, then ours; with results of the paper's tables also
        those that need no runs; with that of all heads its likelihoods in parts, where they were measured."""
        used = {row["table"] for row in self.plan["rows"]}
        known = [TABLES[id] for id in used if id in TABLES]
        beside = not self.own_images and any(table.published and table.kind != "speed" for table in known)
        used |= set(STANDING) if beside else set()
        own = [_table(self.plan, id) for id in (RECONSTRUCT, DUEL) if id in used]
        parts = [TABLE_LIKELIHOOD] if TABLE_HEADS.id in used and TOKEN_BITS_PER_DIM.key in self.metrics else []
        tables = [*(t for id, t in TABLES.items() if id in used), *parts, *own, *filter(None, [self.table_of_axes])]
        return [self._with_given(table) for table in tables]

    def _with_given(self, table: Table) -> Table:
        """A table with the samples of other programs as its last rows, where it is one of samples that ran here."""
        ran = any((table.id, row.label) in self._cells for row in table.rows)
        if not (self.given and table.sampled and ran):
            return table
        if taken := next((row.label for row in table.rows if row.label in self.given), ""):
            raise UserError(
                f"{taken} is a row of {table.name} and one of samples that were added; first: tokenbridge samples"
                f' remove {self.plan["name"]} --as "{taken}"'
            )
        rows = (Row(label, {GIVEN: label}, reason="not published") for label in self.given)
        return replace(table, rows=(*table.rows, *rows))

    @cached_property
    def given(self) -> dict[str, list[str]]:
        """Label -> ids of the cells of samples that other programs drew, one for each set."""
        return {row["label"]: list(row["cells"]) for row in self.plan.get("samples") or []}

    def is_given(self, cell: str) -> bool:
        """Whether a cell is of samples that another program drew."""
        return bool(self.setting(cell, GIVEN))

    def repetition(self, cell: str) -> Any:
        """What tells a cell from the others of its row: its training seed, or its set of given samples."""
        return self.setting(cell, GIVEN) or self.setting(cell, "train.seed")

    @cached_property
    def of_reconstructions(self) -> Table:
        """The table whose rows figures of reconstructions show: that of own images, or the paper's."""
        own = any(row["table"] == RECONSTRUCT for row in self.plan["rows"])
        return _table(self.plan, RECONSTRUCT) if own else TABLE_1A

    @cached_property
    def scorers(self) -> tuple[str, ...]:
        """Whose features measure images here, the first above all."""
        return scorers_of(self.base)

    def by_scorer(self, metric: Metric) -> Metric:
        """A metric as the report's first scorer measures it; one that it cannot measure as it is."""
        return metric.by(self.scorers[0]) or metric

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(Axis(axis["key"], tuple(axis["values"])) for axis in self.plan.get("axes") or ())

    @cached_property
    def trials(self) -> list[Trial]:
        """The cells of the grid over axes."""
        cells = self.plan.get("cells") or []
        labels = names(self.axes, [cell["values"] for cell in cells])
        return [Trial(c["cell"], label, c["values"], c["seed"]) for c, label in zip(cells, labels, strict=True)]

    @cached_property
    def table_of_axes(self) -> Table | None:
        """The table of every point of the axes; None without axes."""
        keys = tuple(axis.key for axis in self.axes)
        if not keys:
            return None
        points = {trial.label: trial.values for trial in self.trials}
        rows = tuple(Row(label, values) for label, values in points.items())
        metrics = TABLE_2A.measured + ((MSE,) if any(key.startswith("quantizer.") for key in keys) else ())
        own = {key: plain(self.base[key]) for key in keys}
        base = next((label for label, v in points.items() if all(plain(v[key]) == own[key] for key in keys)), "")
        return Table(AXES, "Every point of the axes", "axes", keys, rows, (), metrics, base=base).by(self.scorers)

    @property
    def seeds(self) -> int:
        """Most training seeds that a point of the axes has."""
        return max(Counter(trial.label for trial in self.trials).values(), default=0)

    @property
    def tuned(self) -> tuple[str, ...]:
        """Settings that were searched for each cell by itself, so they may differ between rows."""
        search = self.plan.get("search") or {}
        return tuple(search.get("keys", TUNED)) if search else ()

    @property
    def looks(self) -> int:
        """How often claims were looked at, at most, with ever more seeds."""
        return max(1, len(self.plan.get("looks") or ()))

    def point(self, table: Table) -> dict[str, Any]:
        """Guidance and temperature that all rows of a table were asked to have; none where each was searched."""
        return (self.plan.get("points") or {}).get(table.id, {})

    def tuned_in(self, table: Table) -> tuple[str, ...]:
        return () if self.point(table) else self.tuned

    @property
    def own_images(self) -> bool:
        """Whether the images are the user's: neither the shipped digits nor what the paper is about."""
        images = self.base.get("data.classes"), self.base["data.image_size"]
        return self.base["data.source"] != "digits" and images != PUBLISHED_IMAGES

    @property
    def measured_on(self) -> str:
        size = self.base["data.image_size"]
        own = self.base.get("data.name") or Path(self.base["data.path"] or "").name
        name = "digits" if self.base["data.source"] == "digits" else own
        return f"{name} {size}×{size}"

    def class_name(self, label: int) -> str:
        """The name of a class; its label where it has none."""
        return self.classes[label] if label < len(self.classes) else str(label)

    def cells(self, table_id: str, label: str) -> list[str]:
        """Ids of the cells that fill one row of a table, one per seed; empty where it did not run.

        Args:
            table_id: the table's id, such as "2a"; AXES for the grid over axes.
            label: the row's label, or the point's name.
        """
        return self._cells.get((table_id, label), []) or self.given.get(label, [])

    @cached_property
    def _cells(self) -> dict[tuple[str, str], list[str]]:
        cells: dict[tuple[str, str], list[str]] = {}
        for row in self.plan["rows"]:
            cells.setdefault((row["table"], row["label"]), []).append(row["cell"])
            if row["table"] == TABLE_HEADS.id:
                cells.setdefault((TABLE_LIKELIHOOD.id, row["label"]), []).append(row["cell"])
        for trial in self.trials:
            cells.setdefault((AXES, trial.label), []).append(trial.cell)
        return cells

    def rows(self, table: Table) -> list[tuple[Row, list[str]]]:
        """The table's rows in its order, each with the ids of the cells that fill it (none where it did not run)."""
        return [(row, self.cells(table.id, row.label)) for row in table.rows]

    @property
    def confidence(self) -> list[tuple[float, str]]:
        """Strength of confidence-guided generation and the cell that samples with it, as the plan lists them."""
        return [(float(entry["strength"]), entry["cell"]) for entry in self.plan.get("confidence") or []]

    @cached_property
    def _values(self) -> dict[str, dict[str, Any]]:
        return {str(id): dict(zip(self.frame.columns, row, strict=True)) for id, *row in self.frame.itertuples()}

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics that some cell has, a NaN included."""
        measured = {key for _, key in self.nan}
        keys = [str(key) for key in self.frame.columns if "/" in str(key)]
        return [key for key in keys if key in measured or not all(map(math.isnan, self.frame[key]))]

    def text(self, cell: str, column: str) -> str:
        """A value of the frame as text; empty where there is none."""
        value = self._values[cell].get(column)
        return "" if value is None else str(value)

    def number(self, cell: str, column: str) -> float | None:
        """A metric of a cell in the unit that its stage stores, such as "score/fd_digits".

        None where it was not measured, and where it is NaN or infinite (see `odd`).
        """
        value = self._values[cell].get(column)
        return value if value is not None and math.isfinite(value) else None

    def odd(self, cell: str, column: str) -> str:
        """What was measured in place of a number: "not a number" or "infinite"; empty where it is one, or missing."""
        if (cell, column) in self.nan:
            return "not a number"
        return "infinite" if math.isinf(self._values[cell].get(column, 0.0)) else ""

    def setting(self, cell: str, key: str) -> Any:
        """A setting of a cell, with lists for tuples and whole floats as int; None where the frame has none."""
        return self._values[cell].get(key)

    def protocol(self, cell: str, kind: str) -> dict[str, Any]:
        """How a stage of a cell measured; empty where it has no such stage."""
        return self._values[cell].get(f"protocol.{kind}", {})

    def stage(self, cell: str, kind: str) -> str:
        """Id of a stage of a cell; empty where the cell has no such stage."""
        return self.text(cell, f"stage.{kind}")

    def example(self, stage: str) -> dict[str, np.ndarray]:
        """The arrays that a stage left to look at, by name.

        Args:
            stage: the stage's id.

        Raises:
            UserError: there are none, or the file is damaged.
        """
        path = self.folder / "examples" / f"{stage}.npz"
        if not path.exists():
            raise UserError(f"{path} is missing; {AGAIN} from the runs folder")
        return _read_arrays(path)

    def left_out(self, cell: str, column: str) -> NDArray[np.float64]:
        """A metric of a cell without each image, or each group of images, in turn (G); empty where that is unknown.

        Two cells that were measured on the same images, in the same order, compare by these pairs.

        Args:
            cell: the cell's id.
            column: the metric, such as "reconstruct/psnr".

        Raises:
            UserError: the file of the cell's stage is damaged.
        """
        kind, _, name = column.partition("/")
        arrays = self._images(self.stage(cell, kind))
        if f"{LEFT_OUT}{name}" in arrays:
            return np.asarray(arrays[f"{LEFT_OUT}{name}"], np.float64)
        values = np.asarray(arrays.get(name, ()), np.float64)
        return (values.sum() - values) / (len(values) - 1) if len(values) > 1 else np.empty(0)

    def _images(self, stage: str) -> Mapping[str, np.ndarray]:
        if stage not in self._images_read:
            path = self.folder / IMAGES / f"{stage}.npz"
            read = self.images or (lambda _: _read_arrays(path) if path.exists() else {})
            self._images_read[stage] = read(stage) if stage else {}
        return self._images_read[stage]

    @cached_property
    def _images_read(self) -> dict[str, Mapping[str, np.ndarray]]:
        return {}

    def has_example(self, stage: str) -> bool:
        """Whether a stage that need not leave arrays to look at did."""
        return (self.folder / "examples" / f"{stage}.npz").exists()

    def changes(self, cell: str) -> dict[str, Any]:
        """Settings of a cell that differ from the base; given samples have none of a model."""
        if self.is_given(cell):
            return {}
        values = ((key, self.setting(cell, key), base) for key, base in self._based.items())
        return {key: value for key, value, base in values if value != base}

    @cached_property
    def _based(self) -> dict[str, Any]:
        """The base's settings that the frame has."""
        return {key: _normal(value) for key, value in self.base.items() if key in self.frame.columns}

    def command(self, cell: str) -> str:
        """The command that repeats a cell."""
        if self.is_given(cell):
            row = next(row for row in self.plan["samples"] if cell in row["cells"])
            more = ["--resize"] if row.get("resize") else []
            return shlex.join(
                ["tokenbridge", "samples", "add", self.plan["name"], *row["from"], "--as", row["label"], *more]
            )
        if "command" in self.plan:
            return self.plan["command"]
        wanted = [name for name, kind in STAGES.items() if kind.result and self.stage(cell, name)]
        if wanted == ["speed"]:
            return "tokenbridge speed"  # all rows of its table together, in turn
        # a run measures no times by itself, and trains for the scores that a table of reconstructions has not
        own = "speed" in wanted or "score" not in wanted
        only = [word for kind in wanted for word in ("--only", kind)] if own else []
        base = map(shlex.quote, self.plan.get("typed") or [self.plan.get("preset", "digits")])
        return " ".join(["tokenbridge", "run", *base, *self.words(cell), *only])

    def words(self, cell: str) -> list[str]:
        """Changes of a cell as they are typed."""
        return [shlex.quote(f"{key}={plain(value)}") for key, value in self.changes(cell).items()]


def read(folder: Path) -> Source:
    """Read a source folder whole, and check that its parts fit together.

    Raises:
        UserError: what is missing, damaged, or does not fit: a file, a column, a row, or a cell that the plan names.
    """
    for name in ("frame.csv", "plan.json", "curves.csv"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing; a report is built from frame.csv, plan.json and curves.csv")
    frame = _read_csv(folder / "frame.csv", dtype=str, keep_default_na=False)
    frame = frame.rename(columns=renamed)
    if "cell" not in frame or frame["cell"].duplicated().any():
        raise UserError(f"{folder / 'frame.csv'} must have a column cell, each once; {AGAIN}")
    curves = _read_csv(folder / "curves.csv", dtype={"stage": str, "key": str, "step": "int64", "value": "float64"})
    if list(curves.columns) != CURVES:
        raise UserError(f"{folder / 'curves.csv'} has columns {list(curves.columns)}, it must have {CURVES}; {AGAIN}")
    plan = plan_file.read(folder / "plan.json", AGAIN)
    _require_rows(plan)
    cells = set(frame["cell"])
    for where, cell in plan_file.entries(plan):
        if cell not in cells:
            raise UserError(f"plan.json: cell {cell} of {where} is not in frame.csv; {AGAIN}")
    manifests = {path.stem: _read_object(path) for path in sorted((folder / "manifests").glob("*.json"))}
    frame, nan = _typed(frame, plan)
    named = folder / CLASSES
    classes = tuple(class_names(named, AGAIN)) if named.exists() else ()
    return Source(folder, frame, plan, curves, manifests, nan, classes=classes)


def _table(plan: Mapping[str, Any], id: str) -> Table:
    """A table of a plan by its id: one that is the same everywhere, or one that the plan makes."""
    if id == DUEL:
        return duel_of(plan.get("duel") or ())
    if id == RECONSTRUCT:
        return reconstruct_table([row["label"] for row in plan["rows"] if row["table"] == id])
    return table(id)


def renamed(column: str) -> str:
    """The name that a column of an older source has now."""
    return next((old.sub(new, column) for old, new in RENAMED.items() if old.fullmatch(column)), column)


def _require_rows(plan: Mapping[str, Any]) -> None:
    """Raise UserError unless each row of a plan is one of its table."""
    for row in plan.get("rows") or ():
        _table(plan, row["table"]).row(row["label"])


def of_frame(
    frame: pd.DataFrame, plan: Mapping[str, Any], images: Callable[[str], Mapping[str, np.ndarray]] | None = None
) -> Source:
    """A source of numbers alone, for a table that is looked at.

    Args:
        frame: as analysis.frame.load makes it.
        plan: which cells fill which rows; see experiments.grid.run.
        images: what a stage measured of each image, by its id.

    Raises:
        UserError: the plan names a row that no table has.
    """
    _require_rows(plan)
    frame, nan = _typed(frame, plan)
    return Source(Path(), frame, dict(plan), pd.DataFrame(columns=pd.Index(CURVES)), {}, nan, images)


def _typed(frame: pd.DataFrame, plan: Mapping[str, Any]) -> tuple[pd.DataFrame, frozenset[tuple[str, str]]]:
    """The frame by cell with the types of Source.frame, and where NaN was measured.

    frame: texts of a CSV file, empty where there is nothing, or values as MLflow gives them.
    """
    frame, base = frame.set_index("cell"), flatten(plan.get("base") or {})
    columns, nan = {}, set()
    for name, values in frame.items():
        key = str(name)
        if "/" in key:
            columns[key] = pd.Series(_numbers(key, values.items()), frame.index, dtype="float64")
            nan |= {(str(cell), key) for cell, text in values.items() if isinstance(text, str) and _is_nan(text)}
        elif key.startswith("protocol."):
            columns[key] = pd.Series(_protocols(key, values.items()), frame.index, dtype=object)
        elif "." in key and not key.startswith("stage."):
            word = isinstance(base.get(key), str)
            columns[key] = pd.Series([_setting(value, word) for value in values], frame.index, dtype=object)
        else:
            columns[key] = pd.Series([t if isinstance(t, str) else "" for t in values], frame.index, dtype="str")
    return pd.DataFrame(columns, frame.index), frozenset(nan)


def _is_nan(text: str) -> bool:
    return text != "" and math.isnan(float(text))


def _numbers(key: str, values: Iterable[tuple[Any, Any]]) -> list[float]:
    numbers = []
    for cell, value in values:
        try:
            numbers.append(math.nan if value == "" else float(value))
        except ValueError:
            raise UserError(f"frame.csv: {key}={value!r} of cell {cell} must be a number; {AGAIN}") from None
    return numbers


def _protocols(key: str, values: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    protocols, parsed = [], {"": {}}
    for cell, text in values:
        text = text if isinstance(text, str) else ""
        try:
            if text not in parsed:
                parsed[text] = dict(json.loads(text))
            protocols.append(parsed[text])
        except (TypeError, ValueError):
            raise UserError(f"frame.csv: {key} of cell {cell} must be a JSON object; {AGAIN}") from None
    return protocols


def _setting(value: Any, word: bool) -> Any:
    """A setting as the configuration has it, in the form of _normal; word: the base has text there."""
    if isinstance(value, str):
        return _parsed(value, word)
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return None if missing else _normal(value)


@cache
def _parsed(text: str, word: bool) -> Any:
    if text in ("", "None"):
        return None
    try:  # latents.scale is "auto" or a number
        return _normal(float(text) if word and not text.startswith(("[", "(")) else ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def _normal(value: Any) -> Any:
    """One form for values that CSV and JSON write differently: 5.0 and 5, (1, 0) and [1, 0]."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [_normal(item) for item in value] if isinstance(value, list | tuple) else value


def _read_arrays(path: Path) -> Arrays:
    try:
        # a file that is none keeps the one that np.load opens by itself open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Arrays(path, arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not readable ({_line(error)}); {AGAIN}") from error


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except ValueError as error:  # also what cannot be parsed, and bytes that are no text
        raise UserError(f"{path} is not readable ({_line(error)}); {AGAIN}") from error


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path, AGAIN)
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object; {AGAIN}")
    return value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
