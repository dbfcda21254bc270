"""Whatever is interrupted between us and MLflow: each point is there once. The journal's times differ on purpose."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers import senders
from tests.helpers.runs import NOTHING, curve, runs_of
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store

STEPS = 1200


@pytest.fixture
def training(tmp_path, template) -> Store:
    """A store whose training is under way: 2,400 points, so three batches."""
    store = Store(tmp_path / "runs")
    small_runs.with_database(small_runs.make_runs(store.root, levels=(8,)), template / "mlflow.db")
    shutil.rmtree(store.folder(small_runs.id_of("train", 8)))
    partial(store).mkdir()
    small_runs.journal(partial(store), range(STEPS))
    return store


def partial(store: Store) -> Path:
    return store.folder(small_runs.id_of("train", 8) + ".partial")


def requeue(store: Store, step: int, end: int) -> None:
    """The training goes on from a checkpoint and writes its steps again, later than before."""
    time.sleep(0.002)
    small_runs.journal(partial(store), range(step, end), before=step)


def each_once(store: Store, steps: int) -> None:
    expected = [(step, 1 / (1 + step)) for step in range(steps)]
    assert curve(store) == expected
    assert [step for step, _ in curve(store, "train/learning_rate")] == list(range(steps))


def killed(store: Store, call: int, when: str) -> None:
    log = store.root.parent / "log"
    process = senders.start(log, senders.killed_at, store.root, call, when)
    process.join(300)
    assert process.exitcode in (-signal.SIGKILL, 0), log.read_text()


@pytest.mark.slow
def test_a_sender_that_is_killed_after_a_batch(training):
    killed(training, 3, "after")
    requeue(training, 300, STEPS)
    tracking.sync(training)
    each_once(training, STEPS)
    assert tracking.sync(training) == NOTHING


@pytest.mark.slow
def test_senders_that_are_killed_at_any_call(training):
    draw, end = random.Random(4), STEPS
    for _ in range(12):
        killed(training, draw.randint(1, 6), draw.choice(["before", "after"]))
        start = draw.randint(0, end)
        end = max(end, start + draw.randint(0, 700))
        requeue(training, start, end)
        if draw.random() < 0.3:
            (training.root / "tracking.json").unlink(missing_ok=True)
    tracking.sync(training)
    each_once(training, end)
    assert {kind: len(runs_of(training, kind)) for kind in ("cell", "training", "superseded")} == {
        "cell": 2,
        "training": 1,
        "superseded": 0,
    }


def test_an_error_after_a_batch_was_stored(training, monkeypatch):
    real, calls = MlflowClient.log_batch, []

    def log_batch(self: MlflowClient, *args: Any, **words: Any) -> None:
        real(self, *args, **words)
        calls.append(1)
        if len(calls) in (2, 3, 5):
            raise MlflowException("INTERNAL_ERROR: 500")

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    for start in (900, 20, 400):
        with pytest.raises(UserError, match="takes no data"):
            tracking.sync(training)
        requeue(training, start, STEPS)
    tracking.sync(training)
    each_once(training, STEPS)


def test_a_batch_that_the_server_stores_after_we_gave_up(training, monkeypatch):
    """Its answer never came; meanwhile the training was requeued and has written the same steps with other times."""
    real, late = MlflowClient.log_batch, list[tuple[Any, ...]]()

    def loses(self: MlflowClient, run: str, metrics: Any = (), *args: Any, **words: Any) -> None:
        if len(metrics) == 1000 and not late:
            late.append((run, metrics))
            raise MlflowException("timed out")
        real(self, run, metrics, *args, **words)

    monkeypatch.setattr(MlflowClient, "log_batch", loses)
    with pytest.raises(UserError, match="timed out"):
        tracking.sync(training)
    requeue(training, 100, STEPS)

    def arrives(self: MlflowClient, run: str, metrics: Any = (), *args: Any, **words: Any) -> None:
        if len(metrics) == 1000 and len(late) == 1:
            real(self, late[0][0], late[0][1])
            late.append(())
        real(self, run, metrics, *args, **words)

    monkeypatch.setattr(MlflowClient, "log_batch", arrives)
    tracking.sync(training)
    assert len(late) == 2
    each_once(training, STEPS)


def test_two_machines_send_the_same_training_to_one_place(training, tmp_path, monkeypatch):
    """Each has its own runs folder and memory; the other's points are not sent again."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{training.root}/mlflow.db")
    other = Store(shutil.copytree(training.root, tmp_path / "other"))
    for end, store in ((STEPS, training), (1300, other), (1400, training), (1350, other)):
        requeue(store, 500, end)
        tracking.sync(store)
    each_once(training, 1400)
    assert len(runs_of(training, "training")) == 1


def test_of_two_runs_of_a_cell_the_later_steps_aside(training):
    tracking.sync(training)
    run = runs_of(training, "cell")["2a-g1.5"]
    mlflow = mlflow_store.client(tracking.tracking_uri(training))
    tags = {"kind": "cell", "cell": run.data.tags["cell"]}
    mlflow.create_run(run.info.experiment_id, run_name="another machine's", tags=tags)
    os.utime(training.root / "mlflow.db")
    tracking.sync(training)
    assert runs_of(training, "cell")["2a-g1.5"].info.run_id == run.info.run_id
    assert list(runs_of(training, "superseded")) == ["another machine's"]
