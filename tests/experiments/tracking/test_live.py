from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.tracking import live
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers.runs import curve, runs_of
from tests.helpers.server import free_port, serving
from tokenbridge.store.artifacts import Store, write_json

ID = small_runs.id_of("train", 8)


@pytest.fixture
def store(tmp_path, template) -> Store:
    """A training is under way; the next stages of its cell are not there yet."""
    store = small_runs.make_runs(tmp_path / "runs", levels=(8,))
    for kind in ("train", "sample", "score"):
        for folder in (store.root / "stages").glob(f"{kind}-*"):
            shutil.rmtree(folder)
    partial(store).mkdir()
    small_runs.journal(partial(store), range(10))
    return store


@pytest.fixture
def server(tmp_path, template, monkeypatch) -> tuple[list[str], str]:
    """The command that serves it, and its address."""
    argv, urls = tracking.ui_command(
        small_runs.with_database(Store(tmp_path / "server"), template / "mlflow.db"), free_port()
    )
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address := urls[""].split("/#")[0])
    return argv, address


def partial(store: Store) -> Path:
    return store.folder(f"{ID}.partial")


def finish(store: Store) -> None:
    write_json(partial(store) / "manifest.json", {"id": ID, "wall_seconds": 1})
    partial(store).rename(store.folder(ID))


def until(true: Callable[[], bool], seconds: float = 600) -> None:
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, "it did not happen"
        time.sleep(0.1)


def shown(store: Store) -> int:
    return len(curve(store)) if runs_of(store, "training") else 0


def test_without_a_server_nothing_starts(store, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with live.beside(store, [ID]):
        pass


@pytest.mark.slow
def test_curves_show_while_the_job_runs_and_its_end_too(store, server):
    with serving(*server):
        with live.beside(store, [ID], every=0.3):
            until(lambda: shown(store) == 10)
            assert runs_of(store, "cell") == {}
            small_runs.journal(partial(store), range(8, 15), before=8)  # requeued
            until(lambda: shown(store) == 15)
            small_runs.journal(partial(store), range(15, 20))
            finish(store)
        assert curve(store) == [(step, 1 / (1 + step)) for step in range(20)]
        assert runs_of(store, "training")["train 2a-g1.5"].info.status == "FINISHED"
        assert runs_of(store, "cell")["2a-g1.5"].info.status == "RUNNING"  # it has not been sampled yet


JOB = """
import sys, time
from pathlib import Path
from experiments.tracking import live
from tokenbridge.store.artifacts import Store

with live.beside(Store(Path(sys.argv[1])), [sys.argv[2]], every=0.3):
    print("runs", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_server_that_goes_away_and_a_job_that_is_killed(store, server):
    with serving(*server), live.beside(store, [ID], every=0.3):
        until(lambda: shown(store) == 10)
        job = subprocess.Popen([sys.executable, "-c", JOB, str(store.root), ID], stdout=subprocess.PIPE, text=True)
        assert job.stdout is not None
        assert job.stdout.readline() == "runs\n"
        children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        assert len(children) == 1
    with live.beside(store, [ID], every=0.3):
        small_runs.journal(partial(store), range(5, 30), before=5)
        time.sleep(8)  # it tries in vain
        start = time.monotonic()
    assert time.monotonic() - start < live.LAST_SECONDS + 6
    job.kill()
    job.wait()
    job.stdout.close()
    until(lambda: not Path(f"/proc/{children[0]}").exists())
    with serving(*server):
        with live.beside(store, [ID], every=0.3):
            until(lambda: shown(store) == 30)
        assert curve(store) == [(step, 1 / (1 + step)) for step in range(30)]
