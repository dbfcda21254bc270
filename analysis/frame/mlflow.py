"""The runs of cells as MLflow has them, each as flat values; the only module that reads MLflow.

Reading 10,000 runs takes 59 s of processor time through MLflow's client, nearly all of it for ten million objects of
SQLAlchemy, and 3 s with four plain queries. So a SQLite file is read with these where its schema is one whose tables
are known to mean what the client says (a test compares the two); any other file or address goes through the client.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tokenbridge.config import UserError
from tokenbridge.store.runs import EXPERIMENT, STORED_INFINITY, database, quiet_mlflow, unspell, without_credentials

SCHEMAS = ("dc11669786a5",)
"""revisions of MLflow's tables that are read without its client"""
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
    """Cell id -> its values, in the form of load._values; of two runs of a cell the first that was made, which the
    writer keeps too. UserError where MLflow cannot be read.
    """
    path = database(uri)
    if path is not None and not path.exists():
        raise UserError(f"{path} is not there, so nothing has been tracked yet; run `tokenbridge sync` first")
    latest_first = None if path is None else _from_file(path)
    if latest_first is None:
        latest_first = _from_client(uri)
    return {row["cell"]: row for row in latest_first}


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
            seen[text] = unspell(text)
        row[key] = seen[text]
    row |= {key: _number(value) for key, value in metrics.items() if key.partition("/")[0] in stages}
    return row | {key: text for key, text in tags.items() if key.startswith(("stage.", "protocol."))}


def _number(value: float | None) -> float:
    if value is None:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) == STORED_INFINITY else float(value)


def _from_client(uri: str) -> list[dict[str, Any]]:
    with _reading(uri) as client:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs, token = [], None if experiment else ""
        while token != "":
            page = client.search_runs([experiment.experiment_id], "tags.kind = 'cell'", page_token=token)
            runs += page
            token = page.token or ""
    runs.sort(key=lambda run: (run.info.start_time, run.info.run_id), reverse=True)
    seen: dict[str, Any] = {}
    return [
        _row(run.info.run_id, run.data.tags, run.data.params, run.data.metrics, seen)
        for run in runs
        if "cell" in run.data.tags
    ]


@contextmanager
def _reading(uri: str) -> Iterator[Any]:
    """A client of MLflow, whose errors become one line."""
    with quiet_mlflow():
        from alembic.util import CommandError
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError
    try:
        with quiet_mlflow():
            client = MlflowClient(uri)
        yield client
    except (MlflowException, RequestException, SQLAlchemyError, CommandError) as error:
        reason = without_credentials(" ".join(str(error).split()))[:160]
        remedy = "start the server or correct MLFLOW_TRACKING_URI"
        if database(uri):
            remedy = "use the MLflow that wrote it, or delete it and run `tokenbridge sync`, which makes it again"
        raise UserError(f"MLflow at {without_credentials(uri)} cannot be read ({reason}); {remedy}") from error
