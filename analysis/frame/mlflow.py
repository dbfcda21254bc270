"""The runs of cells as MLflow has them, each as flat values; the only module that reads MLflow.

Through MLflow's client 1,000 runs take about 4 s of processor time, nearly all of it for a million objects of
SQLAlchemy, so a SQLite file is read with four plain queries where its schema is one whose tables are known to mean what
the client says (a test compares the two); any other file or address goes through the client.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tokenbridge.config import UserError
from tokenbridge.store.runs import EXPERIMENT

SCHEMAS = ("dc11669786a5",)
"""revisions of MLflow's tables that are read without its client"""
INFINITY = 1.7976931348623157e308
"""what MLflow stores for it"""
WAIT = 20.0
"""seconds for a writer to finish"""
_OURS = """
    SELECT run_uuid, start_time FROM runs JOIN experiments USING (experiment_id)
    JOIN tags USING (run_uuid)
    WHERE experiments.name = ? AND experiments.workspace = 'default' AND runs.lifecycle_stage = 'active'
    AND tags.key = 'kind' AND tags.value = 'cell' ORDER BY start_time DESC, run_uuid DESC"""
_VALUES = {
    "tags": "SELECT run_uuid, key, value FROM tags",
    "params": "SELECT run_uuid, key, value FROM params",
    "metrics": "SELECT run_uuid, key, CASE WHEN is_nan THEN NULL ELSE value END FROM latest_metrics",
}


def rows(uri: str) -> dict[str, dict[str, Any]]:
    """Cell id -> its values, in the form of load._values; of two runs, the first that was made, as the
    writer does. UserError where MLflow cannot be read.
    """
    path = database(uri)
    if path is not None and not path.exists():
        raise UserError(f"{path} is not there, so nothing has been tracked yet; run `tokenbridge sync` first")
    found = None if path is None else _from_file(path)
    if found is None:
        found = _from_client(uri)
    return {row["cell"]: row for row in found}


def database(uri: str) -> Path | None:
    """The SQLite file of a tracking URI; None for a server or another database."""
    match = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    return Path(match[1]) if match else None


def shown(text: str) -> str:
    """Without the credentials of a URI."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _from_file(path: Path) -> list[dict[str, Any]] | None:
    """None where the file is for MLflow's client to read."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=WAIT)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
                raise UserError(f"{path} is no store of MLflow; delete it and run `tokenbridge sync`, which makes it")
            versions = [version for (version,) in connection.execute("SELECT version_num FROM alembic_version")]
            return _query(connection) if versions and set(versions) <= set(SCHEMAS) else None
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):  # locked, no permission, ...
            raise UserError(f"{path} cannot be read ({error}); try again, or see who may read it") from error
        raise UserError(
            f"{path} is damaged ({error}); delete it and run `tokenbridge sync`, which makes it again from the stages"
        ) from error


def _query(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    connection.execute("BEGIN")  # one state of the file for all queries
    ours = [run for run, _ in connection.execute(_OURS, (EXPERIMENT,))]
    parts: dict[str, dict[str, dict[str, Any]]] = {word: {run: {} for run in ours} for word in _VALUES}
    for word, query in _VALUES.items():
        values = parts[word]
        for run, key, value in connection.execute(query):
            if run in values:
                values[run][key] = value
    seen: dict[str, Any] = {}
    return [
        _row(run, parts["tags"][run], parts["params"][run], parts["metrics"][run], seen)
        for run in ours
        if "cell" in parts["tags"][run]
    ]


def _row(
    run: str, tags: dict[str, str], params: dict[str, str], metrics: dict[str, float | None], seen: dict[str, Any]
) -> dict[str, Any]:
    """seen: values of parameters that were read before, by their text; most runs share most of them."""
    stages = {key.removeprefix("stage.") for key in tags if key.startswith("stage.")}
    row: dict[str, Any] = {"cell": tags["cell"], "name": tags.get("name"), "experiment": tags.get("experiment")}
    row["run_id"] = run
    for key, text in params.items():
        if text not in seen:
            seen[text] = _typed(text)
        row[key] = seen[text]
    row |= {key: _number(value) for key, value in metrics.items() if key.partition("/")[0] in stages}
    return row | {key: text for key, text in tags.items() if key.startswith(("stage.", "protocol."))}


def _typed(text: str) -> Any:
    """A parameter as it was in the config: JSON, or a word as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _number(value: float | None) -> float:
    if value is None:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) == INFINITY else float(value)


def _from_client(uri: str) -> list[dict[str, Any]]:
    with _reading(uri) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found, token = [], None if experiment else ""
        while token != "":
            page = client.search_runs([experiment.experiment_id], "tags.kind = 'cell'", page_token=token)
            found += page
            token = page.token or ""
    found.sort(key=lambda run: (run.info.start_time, run.info.run_id), reverse=True)
    seen: dict[str, Any] = {}
    data = [(run.info.run_id, run.data) for run in found]
    return [_row(id, each.tags, each.params, each.metrics, seen) for id, each in data if "cell" in each.tags]


@contextmanager
def _reading(uri: str) -> Iterator[Any]:
    """A quiet client that does not wait for minutes; what MLflow raises becomes one line."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from alembic.util import CommandError
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
    except (MlflowException, RequestException, SQLAlchemyError, CommandError) as error:
        reason = shown(" ".join(str(error).split()))[:160]
        remedy = "start the server or correct MLFLOW_TRACKING_URI"
        if database(uri):
            remedy = "use the MLflow that wrote it, or delete it and run `tokenbridge sync`, which makes it again"
        raise UserError(f"MLflow at {shown(uri)} cannot be read ({reason}); {remedy}") from error
