"""The frame of all runs, what its metrics are, and the source folder that a report is built from.

In a notebook: frame = load.runs("runs"), and load.describe(frame) says what its metrics are.

One row per cell, which is one configuration with its seeds and its scorer; empty are settings that nothing of the cell
reads, such as the levels of continuous tokens. Columns in this order: cell, name, experiment, run_id, stage.<kind>, the
settings (`quantizer.levels`, with the types of the config, whole numbers as floats where some are empty; lists as JSON
text), `<kind>/<metric>` as float64 (NaN where the stage has not run), and protocol.<kind> as JSON text.
"""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.frame import mlflow as tracked
from analysis.frame.source import CURVES, IMAGES, LEFT_OUT, Source, of_frame, planned
from tokenbridge.config import RunConfig, UserError
from tokenbridge.metrics.catalogue import metric
from tokenbridge.overrides import flatten, settings, unread
from tokenbridge.stages import STAGES, kind_of, unmeasured
from tokenbridge.store.runs import (
    CLASSES,
    RecordedCell,
    Store,
    cell_ids,
    has_metrics,
    journal_of,
    measured,
    read_cell,
    read_classes,
    read_images,
    read_journal,
    read_metrics,
    tracking_uri,
    without_credentials,
)

__all__ = ["collect", "describe", "frame", "frame_from_stages", "runs", "source_from_stages"]

FIRST = ("cell", "name", "experiment", "run_id")
DESCRIBED = ("title", "unit", "scale", "better", "meaning", "stage", "protocol")
MOST = 1000
"""values of images that a source holds for one number of a stage"""
WITH_CURVES = ("2a",)
"""tables whose trainings a figure shows"""


def runs(place: str | Path = "runs") -> pd.DataFrame:
    """The frame of all cells that MLflow has, by name: their settings, metrics and protocols as columns.

        from analysis.frame import load
        frame = load.runs("runs")
        frame.groupby("quantizer.levels")["score/fd_digits"].mean()
        load.describe(frame).loc["score/fd_digits"]        # title, unit, which way is better, meaning, protocol

    Args:
        place: a runs folder (then MLFLOW_TRACKING_URI, or its own mlflow.db) or the address of an MLflow server.

    Raises:
        UserError: nothing has been tracked, or MLflow cannot be read.
    """
    return frame(None, str(place) if "://" in str(place) else tracking_uri(Store(Path(place))))


def frame(store_root: Path | None, uri: str, cells: Sequence[str] | None = None) -> pd.DataFrame:
    """The frame of chosen cells from MLflow.

    Args:
        store_root: the runs folder whose cells are meant where none are given; without one, all that MLflow has.
        uri: where MLflow keeps its runs.
        cells: ids, in the order of the rows; all cells stand by name.

    Raises:
        UserError: MLflow lacks one of the cells or cannot be read.
    """
    rows = {id: _read(row) for id, row in tracked.rows(uri).items()}
    if cells is not None:
        return _tidy(_chosen(rows, cells, uri))
    return _by_name(list(rows.values()) if store_root is None else _chosen(rows, cell_ids(Store(store_root)), uri))


def _read(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the settings that nothing of its cell reads; an MLflow of an older version has them."""
    left_out = unread(row, [key.removeprefix("stage.") for key in row if key.startswith("stage.")])
    return {key: value for key, value in row.items() if key not in left_out}


def _chosen(rows: Mapping[str, dict[str, Any]], cells: Sequence[str], uri: str) -> list[dict[str, Any]]:
    for id in cells:
        if id not in rows:
            raise UserError(f"cell {id} is not in MLflow at {without_credentials(uri)}; run `tokenbridge sync` first")
    return [rows[id] for id in cells]


def _by_name(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return _tidy(sorted(rows, key=lambda row: (row["name"] or "", row["cell"])))


def describe(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per metric column of the frame, indexed by its name, all as text but scale.

    Columns: title; unit, of value × scale; better ("lower", "higher" or empty); meaning, one sentence; stage, the kind
    of stage that measured it; protocol, the column of the frame that says how (JSON), or empty.

        frame = load.runs("runs")
        about = load.describe(frame)
        about.loc["score/agreement", ["title", "unit", "scale", "better"]]   # agreement, %, 100.0, higher
        frame["score/agreement"] * about.loc["score/agreement", "scale"]     # in that unit
        frame[about.loc["score/agreement", "protocol"]]                      # how each was measured
    """
    keys = [str(key) for key in frame.columns if "/" in str(key)]
    rows = []
    for key in keys:
        stage, of = key.partition("/")[0], metric(key)
        protocol = f"protocol.{stage}" if f"protocol.{stage}" in frame else ""
        rows.append((of.title, of.unit, of.scale, of.better, of.meaning, stage, protocol))
    return pd.DataFrame(rows, index=pd.Index(keys, name="metric", dtype="str"), columns=pd.Index(DESCRIBED)).astype(
        {"scale": "float64"} | {field: "str" for field in DESCRIBED if field != "scale"}
    )


def frame_from_stages(root: Path, cells: Sequence[str] | None = None) -> pd.DataFrame:
    """The frame of chosen cells from the stages' folders alone, where run_id is empty.

    Args:
        root: the runs folder.
        cells: ids of the cells; without them, all that the folder has.

    Raises:
        UserError: a cell is not in the folder, or its file is damaged.
    """
    store = Store(root)
    rows = [_read(_values(store, read_cell(store, id))) for id in (cell_ids(store) if cells is None else cells)]
    return _by_name(rows) if cells is None else _tidy(rows)


def source_from_stages(root: Path, plan: Mapping[str, Any]) -> Source:
    """The numbers of a plan as its stages left them: what its report would say now, without anything to look at.

    Args:
        root: the runs folder.
        plan: which cells fill which rows; see experiments.grid.run.

    Raises:
        UserError: a cell of the plan is not in the folder, or a file is damaged.
    """
    store = Store(root)
    rows = [_values(store, read_cell(store, id)) for id in dict.fromkeys(cell for _, cell in planned(plan))]
    return of_frame(_with_nan(_tidy(rows), rows), plan, lambda stage: _images(store, stage))


def _values(store: Store, cell: RecordedCell) -> dict[str, Any]:
    """A cell as flat values: what it is, its settings, and the metrics and protocols of its finished stages."""
    row = {"cell": cell.id, "name": cell.name, "experiment": cell.experiment, "run_id": ""}
    row |= flatten(cell.config) | {f"stage.{kind}": id for kind, id in cell.stages.items()}
    for kind, result in measured(store, cell.stages, unmeasured()).items():
        row |= {f"{kind}/{name}": value for name, value in result.metrics.items()}
        row[f"protocol.{kind}"] = json.dumps(result.protocol, sort_keys=True)
    return row


def collect(root: Path, uri: str, plan: Mapping[str, Any], source: Path) -> None:
    """Write a report's source folder: frame.csv (from MLflow), plan.json, curves.csv, examples/, images/, manifests/,
    and classes.json where the classes have names.

    The folder appears whole or stays as it was. What a cell has not run yet is left out.

    Args:
        root: the runs folder.
        uri: where MLflow keeps its runs.
        plan: which cells fill which rows; see experiments.grid.run.
        source: the folder to write, which replaces one of that name.

    Raises:
        UserError: the files of a finished stage cannot be read.
    """
    source.parent.mkdir(parents=True, exist_ok=True)
    work, old = (source.with_name(f".{source.name}.{word}") for word in ("partial", "old"))
    shutil.rmtree(work, ignore_errors=True)
    try:
        _write_source(root, uri, plan, work)
        if source.exists():
            shutil.rmtree(old, ignore_errors=True)  # else it is all that a kill between the renames left
            source.rename(old)
        work.rename(source)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write_source(root: Path, uri: str, plan: Mapping[str, Any], out: Path) -> None:
    store = Store(root)
    cells = {id: read_cell(store, id) for id in dict.fromkeys(cell for _, cell in planned(plan))}
    stages = {id: kind for cell in cells.values() for kind, id in cell.stages.items()}
    pictured = {id for cell in _pictured(plan) for id in cells[cell].stages.values()}
    shown = [cells[row["cell"]].stages for row in plan["rows"] if row["table"] in WITH_CURVES]
    trained = dict.fromkeys(id for stages in shown for kind, id in stages.items() if kind_of(kind).curves)
    for folder in (out / "examples", out / "manifests", out / IMAGES):
        folder.mkdir(parents=True)
    there, rows = _chosen(tracked.rows(uri), list(cells), uri), [_values(store, cell) for cell in cells.values()]
    # settings that nothing of a cell reads are not in MLflow
    tracked_frame = _tidy([flatten(cell.config) | row for cell, row in zip(cells.values(), there, strict=True)])
    _require_agreement(store, tracked_frame, _tidy(rows), uri)
    _with_nan(tracked_frame, rows).to_csv(out / "frame.csv", index=False, lineterminator="\n")
    (out / "plan.json").write_text(_json(plan))
    curves = [(id, key, step, value) for id in trained for key, value, _, step in read_journal(journal_of(store, id))]
    pd.DataFrame(curves, columns=CURVES).to_csv(out / "curves.csv", index=False, lineterminator="\n")
    if names := _class_names(store, [id for id, kind in stages.items() if kind == "latents"]):
        (out / CLASSES).write_text(_json(names))
    for id, kind in stages.items():
        if not store.finished(id):
            continue
        manifest = {key: value for key, value in store.manifest(id).items() if key not in ("host", "checksums")}
        (out / "manifests" / f"{id}.json").write_text(_json(manifest))
        if images := _images(store, id):
            np.savez_compressed(out / IMAGES / f"{id}.npz", **images)  # pyright: ignore[reportArgumentType]
        left, examples = kind_of(kind).examples, store.folder(id) / "examples.npz"
        if id in pictured and (left == "always" or (left == "perhaps" and examples.exists())):
            _copy_examples(examples, out / "examples" / f"{id}.npz")


def _class_names(store: Store, latents: Iterable[str]) -> list[str]:
    """The names of the classes by label, where all of these stages have the same."""
    names = [read_classes(store.folder(id)) for id in latents if store.finished(id)]
    return names[0] if names and all(each == names[0] for each in names) else []


def _images(store: Store, stage: str) -> dict[str, NDArray[Any]]:
    """What a finished stage measured of each image, for differences on the same images; empty where it has no such."""
    folder = store.folder(stage)
    if not store.finished(stage):
        return {}
    left_out = read_metrics(folder).left_out if has_metrics(folder) else {}
    return {name: _blocks(x) for name, x in read_images(folder).items()} | {
        f"{LEFT_OUT}{name}": np.asarray(each) for name, each in left_out.items()
    }


def _blocks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of images (N), or where there are many the means of MOST blocks of as many neighbours."""
    if len(values) <= MOST:
        return values
    return np.array([block.mean(dtype=np.float64) for block in np.array_split(values, MOST)], np.float32)


def _copy_examples(source: Path, target: Path) -> None:
    """Copy a stage's example images; a damaged file is a UserError."""
    try:
        shutil.copyfile(source, target)
        with zipfile.ZipFile(target) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} is not readable ({error}); delete its folder and run again") from error
    if damaged:
        raise UserError(f"{source}: {damaged} is damaged; delete its folder and run again")


def _pictured(plan: Mapping[str, Any]) -> list[str]:
    """Cells whose images figures can show: the first seed of each row, and those of confidence-guided generation."""
    first: dict[tuple[str, str], str] = {}
    for row in plan["rows"]:
        first.setdefault((row["table"], row["label"]), row["cell"])
    return [*first.values(), *(each["cell"] for each in plan.get("confidence") or [])]


def _with_nan(frame: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Write the word nan where a stage measured that, so that a CSV file tells it from nothing measured."""
    with_nan = {key for row in rows for key, value in row.items() if "/" in key and math.isnan(value)}
    words = {}
    for key in with_nan:
        nan = [math.isnan(row.get(key, 0.0)) for row in rows]
        words[key] = frame[key].astype(object).mask(pd.Series(nan, index=frame.index), "nan")
    return frame.assign(**words)


def _require_agreement(store: Store, sent: pd.DataFrame, left: pd.DataFrame, uri: str) -> None:
    """MLflow has every number that the stages left; a report must not show less, or older ones."""
    columns = list(dict.fromkeys(str(column) for column in (*sent, *left) if "/" in str(column)))
    there, here = sent.reindex(columns=columns), left.reindex(columns=columns)
    for column in columns:
        pairs = zip(there[column], here[column], strict=True)
        behind = [at for at, (old, new) in enumerate(pairs) if old != new and not (math.isnan(old) and math.isnan(new))]
        if not behind:
            continue
        name, stage = left["name"].iloc[behind[0]], left[f"stage.{column.partition('/')[0]}"].iloc[behind[0]]
        if not store.finished(stage):
            raise UserError(
                f"stage {stage} of cell {name} is gone from {store.root / 'stages'}, though MLflow has its numbers;"
                " run the cell again"
            )
        raise UserError(
            f"{column} of cell {name} is not what its stage left (MLflow at {without_credentials(uri)} is behind);"
            " run `tokenbridge sync` first"
        )


def _tidy(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with columns in one order and values that a CSV file keeps."""
    present = {key: None for row in rows for key in row}
    kinds = [kind for kind in STAGES if f"stage.{kind}" in present]
    kinds += sorted({key.removeprefix("stage.") for key in present if key.startswith("stage.")} - set(kinds))
    stages, protocols = ([f"{word}.{kind}" for kind in kinds] for word in ("stage", "protocol"))
    metrics = [key for kind in kinds for key in sorted(present) if key.startswith(f"{kind}/")]
    others = set(present) - {*FIRST, *stages, *protocols, *metrics}
    configured = [key for key in settings(RunConfig) if key in others]
    columns = [
        *FIRST,
        *stages,
        *configured,
        *sorted(others - set(configured)),
        *metrics,
        *(p for p in protocols if p in present),
    ]
    values = [{k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in row.items()} for row in rows]
    table = pd.DataFrame(values, columns=pd.Index(columns))
    return table.astype({key: "float64" for key in metrics})


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=list) + "\n"
