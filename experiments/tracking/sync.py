"""Bring MLflow up to date: all of it, without waiting, the curves of a job, or a report.

There is one MLflow run per sweep, under it one per row of several seeds and under that one per cell; one per training
stage and one per report. They are found again by their tags, so sending twice gives nothing twice. One process at a
time writes, under the lock `mlflow` of the runs folder.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.paper import plan as plan_file
from experiments.tracking import store as mlflow_store
from experiments.tracking.content import Record
from experiments.tracking.memory import Memory
from experiments.tracking.records import ReportRecord, find_records, find_trainings
from experiments.tracking.sender import Sender
from experiments.tracking.store import (
    PATIENCE,
    client,
    ensure_store,
    experiment_id,
    reaching,
    ui_command,
    within,
)
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, writable
from tokenbridge.store.runs import RecordedCell, StageFiles, tracking_uri

__all__ = [
    "catch_up",
    "ensure_store",
    "log_report",
    "raise_first",
    "send_curves",
    "sync",
    "tracking_uri",
    "ui",
    "ui_command",
]

Counts = dict[str, int]


def sync(
    store: Store,
    cells: Iterable[str] | None = None,
    patience: float | None = PATIENCE,
    unreadable: list[UserError] | None = None,
) -> Counts:
    """Send what MLflow lacks of these cells, their sweeps and trainings; return how much of what.

    A folder that cannot be read does not keep the others back.

    Args:
        store: the runs folder.
        cells: ids of the cells; without them all.
        patience: seconds that a server or another sender may take, and one more for each run; None: however long.
        unreadable: gets the errors of what cannot be read; without it, the first is raised at the end.

    Raises:
        UserError: what cannot be read, or MLflow away or too slow (send again later).
    """
    errors = list[UserError]()
    with writable(store.root), _alone(store, patience):
        counts = _send(store, find_records(store, cells, errors), errors, whole=cells is None, patience=patience)
    if unreadable is None:
        raise_first(errors)
    else:
        unreadable += errors
    return counts


def catch_up(store: Store, cells: Iterable[str] | None = None, seconds: float | None = None) -> Counts | None:
    """Send as sync does, unless another process is sending, which has the rest then: None.

    A server is not asked whether it still has what it got before.

    Args:
        store: the runs folder.
        cells: ids of the cells; without them all.
        seconds: no record is begun after that many.
    """
    errors = list[UserError]()
    sent = _unless_busy(store, lambda: find_records(store, cells, errors), errors, seconds, whole=cells is None)
    raise_first(errors)
    return sent


def ui(store: Store, port: int = 5000) -> int:
    """Serve MLflow's page on what the stages have left by now, until Ctrl+C; returns the exit status."""
    try:
        catch_up(store)
    except UserError as error:  # what is there can be looked at all the same
        print(f"tokenbridge: {error}", flush=True)
    return mlflow_store.ui(store, port)


def send_curves(
    store: Store, cells: dict[str, RecordedCell], trainings: Collection[str], seconds: float
) -> Counts | None:
    """Send as catch_up does, but the curves of some trainings alone.

    Args:
        store: the runs folder.
        cells: recorded cells by id, among them those of the trainings.
        trainings: ids of the training stages.
        seconds: no record is begun after that many.
    """
    errors = list[UserError]()
    sent = _unless_busy(store, lambda: find_trainings(store, cells, trainings, StageFiles(store)), errors, seconds)
    raise_first(errors)
    return sent


def log_report(store: Store, name: str, folder: Path) -> Counts:
    """Send a report's pages, tables and figures as artifacts of a run of its own."""
    with writable(store.root), _alone(store, PATIENCE):
        counts = _send(store, [ReportRecord(name, folder)], errors := [])
    raise_first(errors)
    return counts


@contextmanager
def _alone(store: Store, patience: float | None) -> Iterator[None]:
    """While nobody else sends. UserError where another process does for longer than that."""
    with store.lock("mlflow", wait=True if patience is None else patience) as mine:
        if not mine:
            raise UserError(
                f"another process has been sending to MLflow for {patience:.0f} s; nothing is lost: it, or"
                " `tokenbridge sync` after it, sends the rest"
            )
        yield


def _unless_busy(
    store: Store,
    find: Callable[[], Sequence[Record]],
    errors: list[UserError],
    seconds: float | None,
    whole: bool = False,
) -> Counts | None:
    with writable(store.root), store.lock("mlflow", wait=False) as mine:
        return _send(store, find(), errors, whole, trusting=True, seconds=seconds) if mine else None


def raise_first(errors: Sequence[UserError]) -> None:
    """Raise the first of errors, where there is one, with the number of the others."""
    if errors:
        raise UserError(f"{errors[0]}" + (f" (and {len(errors) - 1} more)" if errors[1:] else ""))


def _send(
    store: Store,
    records: Sequence[Record],
    errors: list[UserError],
    whole: bool = False,
    trusting: bool = False,
    seconds: float | None = None,
    patience: float | None = PATIENCE,
) -> Counts:
    """Send records; what cannot be read is added to errors.

    whole: whether the records are of all that the folder has, so that a row that is not among them is gone.
    """
    whole = whole and not errors
    counts: Counter[str] = Counter(runs=0, params=0, metrics=0, points=0, artifacts=0)
    uri = tracking_uri(store)
    memory = Memory(store, uri)
    vanished = whole and memory.vanished(records)
    if not records or (memory.up_to_date(records, trusting) and not vanished):
        return dict(counts)
    from tqdm import tqdm

    ensure_store(store)
    late = time.monotonic() + seconds if seconds is not None else float("inf")
    mlflow = client(uri)
    with within(uri, patience and patience + len(records)), reaching(uri):
        sender = Sender(mlflow, experiment_id(mlflow, store, uri), memory, counts, plan_file.names(store.root))
        behind = sender.find(records, trusting and not vanished)
        if whole:
            sender.retire(records)
        for record in tqdm(behind, "to MLflow", unit="run", disable=None, leave=False):
            if time.monotonic() > late:
                break
            try:
                sender.bring_up_to_date(record)
            except UserError as error:
                errors.append(error)
    memory.save_all_sent()
    return dict(counts)
