"""Where MLflow keeps its runs: the address, a store that is made once and whole, and the page that shows it.

Measured (MLflow 3.17): eight processes that make the same SQLite file at once all fail and leave it broken, so it is
made under a lock, beside its final name, and renamed. A refused connection blocks a call for 246 s unless the retries
are lowered, and a server that takes 20 s for each call would hold a command for an hour; a failed send loses nothing
here, so there is no reason to wait.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from experiments.tracking import guard, views
from tokenbridge.config import UserError
from tokenbridge.packages import environment_of_ours
from tokenbridge.store.artifacts import Store, locked, writable
from tokenbridge.store.runs import EXPERIMENT, database, quiet_mlflow, tracking_uri, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 60.0
"""seconds that a command waits for a server, and one more for each run that it sends"""
SWEEPS_TOLD = 10
"""sweeps whose addresses `tokenbridge ui` prints"""


def ensure_store(store: Store) -> str:
    """Make the local MLflow store if there is none (about 6 s, once); return its tracking URI.

    Any number of processes may call this at once. A store that a kill interrupts is made anew.
    """
    uri = tracking_uri(store)
    path = database(uri)
    if path is None or path.exists():
        return uri
    with writable(path.parent), locked(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            with reaching(uri):
                _create(path)
    return uri


def _create(path: Path) -> None:
    unfinished = path.with_name(f"{path.name}.partial")
    for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        left.unlink(missing_ok=True)
    client(f"sqlite:///{unfinished}").search_experiments(max_results=1)  # the first call makes the tables
    unfinished.replace(path)


def client(uri: str) -> MlflowClient:
    """A quiet client that does not wait long for a server which is away."""
    with quiet_mlflow():
        from mlflow import MlflowClient

        with reaching(uri):
            return MlflowClient(uri)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line. What was to be sent stays in the stages' folders."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        reason = " ".join(str(error).split())
        if refused := re.search(r"failed with exception .*?([^:'(]*(?:refused|timed out|resolve)[^:')]*)", reason):
            reason = refused[1].strip()
        reason = without_credentials(reason.split(". Take a backup")[0])[:160]
        raise UserError(
            f"MLflow at {without_credentials(uri)} takes no data ({reason}); nothing is lost: {_remedy(uri, reason)}"
        ) from error


class _Late(BaseException):
    """No Exception: nobody between a call to MLflow and us may take it for one and go on."""


@contextmanager
def within(uri: str, seconds: float | None) -> Iterator[None]:
    """Leave a server that has not done what the block asks for; whatever is interrupted, sending again completes it.

    A local file is never left, nor anything in another thread than the first, which takes no signals.

    Args:
        uri: where MLflow keeps its runs.
        seconds: how long the block may take, None for ever.

    Raises:
        UserError: the time is up.
    """
    if seconds is None or database(uri) is not None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    except _Late:
        raise UserError(
            f"MLflow at {without_credentials(uri)} answers too slowly, {seconds:.0f} s were not enough; nothing is"
            " lost: `tokenbridge sync`, which waits longer, sends the rest"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _remedy(uri: str, reason: str) -> str:
    """What mends a store that takes no data: a server is started, a broken file is made again from the stages."""
    path = database(uri)
    if path is None:
        return "start the server or correct MLFLOW_TRACKING_URI, then run `tokenbridge sync`"
    if "is full" in reason:
        return "free space, then run `tokenbridge sync`"
    if "locked" in reason:
        return f"another process writes {path}; run `tokenbridge sync` when it has ended"
    if "readonly" in reason or ("unable to open" in reason and not path.is_dir()):
        return f"make {path} and its folder writable, then run `tokenbridge sync`"
    return f"delete {path} and run `tokenbridge sync`, which makes it again from the stages"


def experiment_id(mlflow: MlflowClient, store: Store, uri: str) -> str:
    """The id of the project's experiment in MLflow, which is made if there is none.

    Args:
        mlflow: the client of `uri`.
        store: the runs folder, in which artifacts lie without a server.
        uri: where MLflow keeps its runs.

    Raises:
        UserError: the experiment is deleted, or its artifacts lie in another folder.
    """
    folder = (store.root.resolve() / "mlflow-artifacts").as_uri()
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return mlflow.create_experiment(EXPERIMENT, artifact_location=None if uri.startswith("http") else folder)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {EXPERIMENT!r} is deleted in MLflow at {without_credentials(uri)} and cannot take runs;"
            f" restore it with `mlflow experiments restore -x {experiment.experiment_id}`"
        )
    path = database(uri)
    if path == store.root.resolve() / "mlflow.db" and experiment.artifact_location != folder:
        raise UserError(
            f"{path} keeps its artifacts in {experiment.artifact_location}, not in {folder} (moved or copied?);"
            " delete that file and run `tokenbridge sync`, which makes it again"
        )
    return experiment.experiment_id


def file_of(uri: str) -> Path | None:
    """The path that an address file:// names; None for any other address."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def ui_command(store: Store, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command that serves MLflow's page on the local store, and the addresses that open our runs in it.

    Args:
        store: the runs folder.
        port: the first to try; a taken one is left for the next free one.

    Returns:
        The command, empty where MLFLOW_TRACKING_URI names a server, which has a page already; and the address of all
        under "", that of a sweep under its name.
    """
    uri = ensure_store(store)
    mlflow = client(uri)
    with within(uri, PATIENCE), reaching(uri):
        pages = _save_overview(mlflow, experiment_id(mlflow, store, uri))
    if uri.startswith("http"):
        return [], {name: f"{without_credentials(uri).rstrip('/')}/{page}" for name, page in pages.items()}
    port = _free_port(port)
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    artifacts = str(store.root.resolve() / "mlflow-artifacts")
    argv = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--artifacts-destination", artifacts]
    return argv + where, {name: f"http://127.0.0.1:{port}/{page}" for name, page in pages.items()}


def save_view(mlflow: MlflowClient, experiment: str, key: str, title: str, view: views.View) -> None:
    """Keep a view in the experiment, unless it is there as it is.

    Args:
        mlflow: the client.
        experiment: the experiment's id.
        key: of the view, as its address has it.
        title: what MLflow's page calls it.
        view: what it shows.
    """
    tag = f"mlflow.sharedViewState.{key}"
    old = json.loads(mlflow.get_experiment(experiment).tags.get(tag, "{}"))
    if old.get("state") != (state := json.dumps(view)):
        now = round(1000 * time.time())
        entry = {"name": title, "createdAt": old.get("createdAt", now), "updatedAt": now, "state": state}
        mlflow.set_experiment_tag(experiment, tag, json.dumps(entry))


def _save_overview(mlflow: MlflowClient, experiment: str) -> dict[str, str]:
    """Keep the view of all; returns the addresses of the views: of all, then of each sweep, the latest first."""
    cells = mlflow.search_runs([experiment], "tags.kind = 'cell'")  # the first thousand tell what varies
    rows = mlflow.search_runs([experiment], "tags.kind = 'row'")
    sweeps = mlflow.search_runs([experiment], "tags.kind = 'sweep'")  # the latest first
    measured = {key for run in [*cells, *rows, *sweeps] for key in run.data.metrics}
    varying = list(views.varying([run.data.params for run in cells]))
    names = [run.info.run_name or "" for run in (*cells, *rows, *sweeps)]
    save_view(mlflow, experiment, views.ALL, "all", views.of_all(varying, measured, bool(sweeps or rows), names))
    pages = {"": views.page(experiment, views.ALL)}
    names = [run.data.tags["sweep"] for run in sweeps]
    return pages | {name: views.page(experiment, views.view_key(name)) for name in names}


def ui(store: Store, port: int = 5000) -> int:
    """Serve MLflow's page until Ctrl+C. However this process ends, by SIGKILL even, the server ends with it.

    Args:
        store: the runs folder.
        port: the first to try.

    Returns:
        The exit status: 0 after Ctrl+C, and where a server has a page already; 128 + the number of another signal.
    """
    argv, urls = ui_command(store, port)
    print("\n".join(_addresses(urls)), flush=True)
    if not argv:
        return 0
    print("Ctrl+C ends it", flush=True)
    # the job runner of MLflow would start 12 more processes (2.4 GB) that nothing here uses
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return guard.run(argv, environment_of_ours(os.environ) | quiet)


def _addresses(urls: dict[str, str]) -> list[str]:
    """Where to look: all runs, and the latest sweeps, whose cells their own pages list from the best to the worst."""
    (_, whole), *sweeps = urls.items()
    lines = [f"MLflow: {whole}"] + [f"sweep {name}: {url}" for name, url in sweeps[:SWEEPS_TOLD]]
    return lines + ([f"and {more} older sweeps, listed there"] if (more := len(sweeps) - SWEEPS_TOLD) > 0 else [])


def _free_port(first: int) -> int:
    for port in (*range(first, first + 20), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise UserError(f"ports {first} to {first + 19} are all taken; give another with --port")
