"""The only reader of MLflow: runs to a tidy frame, and the source folder that a report is built from.

One row a cell; columns in this order: cell, name, experiment, run_id, stage.<kind>, the settings (`quantizer.levels`,
with the types of the config; lists as JSON text), `<kind>/<metric>` as float64 (NaN where the stage has not run), and
protocol.<kind> as JSON text.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import runs_folder
from analysis.source import CURVES, planned
from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import settings

EXPERIMENT = "tokenbridge"
FIRST = ("cell", "name", "experiment", "run_id")
KINDS = ("tokenizer", "latents", "quantizer", "reconstruct", "train", "likelihood", "sample", "score", "speed")
WITH_EXAMPLES = ("latents", "quantizer", "reconstruct", "sample")
WITH_CURVES = ("2a",)
"""tables whose trainings a figure shows"""
INFINITY = 1.7976931348623157e308
"""what MLflow stores for it"""


def frame(store_root: Path | None, uri: str, cells: Sequence[str] | None = None) -> pd.DataFrame:
    """The frame of these cells, in this order, from MLflow.

    cells=None: all that the store has, or without a store all that MLflow has, by name. UserError where MLflow lacks
    one of them or cannot be read.
    """
    runs = _runs(uri)
    wanted = cells
    if wanted is None:
        wanted = runs if store_root is None else runs_folder.cell_ids(store_root)
    for id in wanted:
        if id not in runs:
            raise UserError(f"cell {id} is not in MLflow at {_shown(uri)}; run `tokenbridge sync` first")
    rows = [_record_of(runs[id]) for id in wanted]
    if cells is None:
        rows.sort(key=lambda row: (row["name"], row["cell"]))
    return _tidy(rows)


def frame_from_stages(root: Path, cells: Sequence[str] | None = None) -> pd.DataFrame:
    """The same frame from the stages' folders alone; run_id, which only MLflow knows, is empty."""
    found = [runs_folder.read_cell(root, id) for id in (runs_folder.cell_ids(root) if cells is None else cells)]
    if cells is None:
        found.sort(key=lambda cell: (cell["name"], cell["id"]))
    return _tidy([runs_folder.cell_values(root, cell) for cell in found])


def collect(root: Path, uri: str, plan: Mapping[str, Any], source: Path) -> None:
    """Write a report's source folder: frame.csv (from MLflow), plan.json, curves.csv, examples/, manifests/.

    The folder appears whole or stays as it was. What a cell has not run yet is left out; a finished stage whose files
    cannot be read is a UserError.
    """
    source.parent.mkdir(parents=True, exist_ok=True)
    work, old = (source.with_name(f".{source.name}.{word}") for word in ("partial", "old"))
    shutil.rmtree(work, ignore_errors=True)
    try:
        _write_source(root, uri, plan, work)
        shutil.rmtree(old, ignore_errors=True)
        if source.exists():
            source.rename(old)
        work.rename(source)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write_source(root: Path, uri: str, plan: Mapping[str, Any], out: Path) -> None:
    cells = list(dict.fromkeys(cell for _, cell in planned(plan)))
    own = {cell: runs_folder.read_cell(root, cell)["stages"] for cell in cells}
    stages = {id: kind for cell in cells for kind, id in own[cell].items()}
    pictured = {id for cell in _pictured(plan) for id in own[cell].values()}
    trained = dict.fromkeys(own[row["cell"]].get("train") for row in plan["rows"] if row["table"] in WITH_CURVES)
    for folder in (out / "examples", out / "manifests"):
        folder.mkdir(parents=True)
    tracked = frame(root, uri, cells)
    _require_agreement(tracked, frame_from_stages(root, cells), uri)
    tracked.to_csv(out / "frame.csv", index=False, lineterminator="\n")
    (out / "plan.json").write_text(_json(plan))
    curves = [point for id in trained if id for point in runs_folder.curve(root, id)]
    pd.DataFrame(curves, columns=CURVES).to_csv(out / "curves.csv", index=False, lineterminator="\n")
    for id, kind in stages.items():
        if not runs_folder.finished(root, id):
            continue
        manifest = {key: value for key, value in runs_folder.read_manifest(root, id).items() if key != "host"}
        (out / "manifests" / f"{id}.json").write_text(_json(manifest))
        if kind in WITH_EXAMPLES and id in pictured and runs_folder.has_examples(root, id, kind):
            runs_folder.copy_examples(root, id, out / "examples" / f"{id}.npz")


def _pictured(plan: Mapping[str, Any]) -> list[str]:
    """Cells whose images figures can show: the first seed of each row, and those of confidence-guided generation."""
    first: dict[tuple[str, str], str] = {}
    for row in plan["rows"]:
        first.setdefault((row["table"], row["label"]), row["cell"])
    return [*first.values(), *(each["cell"] for each in plan.get("confidence") or [])]


def _require_agreement(tracked: pd.DataFrame, measured: pd.DataFrame, uri: str) -> None:
    """MLflow has every number that the stages left; a report must not show less, or older ones."""
    for column in (column for column in measured if "/" in str(column)):
        there = tracked[column] if column in tracked else pd.Series(math.nan, measured.index)
        pairs = zip(measured["name"], there, measured[column], strict=True)
        behind = [name for name, old, new in pairs if old != new and not (math.isnan(old) and math.isnan(new))]
        if behind:
            raise UserError(
                f"{column} of cell {behind[0]} is not what its stage left (MLflow at {_shown(uri)} is behind);"
                " run `tokenbridge sync` first"
            )


def _record_of(run: Any) -> dict[str, Any]:
    """A row from an MLflow run."""
    tags = run.data.tags
    stages = {key.removeprefix("stage.") for key in tags if key.startswith("stage.")}
    metrics = {key: _number(value) for key, value in run.data.metrics.items() if key.split("/")[0] in stages}
    row = {"cell": tags["cell"], "name": tags.get("name"), "experiment": tags.get("experiment")}
    row |= {"run_id": run.info.run_id} | {key: _typed(text) for key, text in run.data.params.items()} | metrics
    return row | {key: text for key, text in tags.items() if key.startswith(("stage.", "protocol."))}


def _tidy(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with columns in one order and values that a CSV file keeps."""
    present = {key: None for row in rows for key in row}
    kinds = [kind for kind in KINDS if f"stage.{kind}" in present]
    kinds += sorted({key.removeprefix("stage.") for key in present if key.startswith("stage.")} - set(kinds))
    stages, protocols = ([f"{word}.{kind}" for kind in kinds] for word in ("stage", "protocol"))
    metrics = [key for kind in kinds for key in sorted(present) if key.startswith(f"{kind}/")]
    others = set(present) - {*FIRST, *stages, *protocols, *metrics}
    known = [key for key in settings(RunConfig) if key in others]
    columns = [*FIRST, *stages, *known, *sorted(others - set(known)), *metrics, *(p for p in protocols if p in present)]
    values = [{k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in row.items()} for row in rows]
    table = pd.DataFrame(values, columns=pd.Index(columns))
    return table.astype({key: "float64" for key in metrics})


def _typed(text: str) -> Any:
    """A parameter as it was in the config: JSON, or a word as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _number(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) == INFINITY else value


def _runs(uri: str) -> dict[str, Any]:
    """MLflow's runs of cells by cell id; of two, the first that was made, as the writer does."""
    database = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    if database and not Path(database[1]).exists():
        raise UserError(f"{database[1]} is not there, so nothing has been tracked yet; run `tokenbridge sync` first")
    with _reading(uri) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found, token = [], None if experiment else ""
        while token != "":
            page = client.search_runs([experiment.experiment_id], "tags.kind = 'cell'", page_token=token)
            found += page
            token = page.token or ""
    found.sort(key=lambda run: (run.info.start_time, run.info.run_id), reverse=True)
    return {run.data.tags["cell"]: run for run in found if "cell" in run.data.tags}


@contextmanager
def _reading(uri: str) -> Iterator[Any]:
    """A quiet client that does not wait for minutes; what MLflow raises becomes one line."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``noload`` loader strategy")  # MLflow's use of SQLAlchemy
            client = MlflowClient(uri)
        yield client
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        reason = _shown(" ".join(str(error).split()))[:160]
        raise UserError(
            f"MLflow at {_shown(uri)} cannot be read ({reason}); start the server or correct MLFLOW_TRACKING_URI"
        ) from error


def _shown(text: str) -> str:
    """Without the credentials of a URI."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=list) + "\n"
