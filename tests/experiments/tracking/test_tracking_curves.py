from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers.runs import NOTHING, curve, runs_of
from tokenbridge.store.artifacts import Store, write_json
from tokenbridge.store.runs import JOURNAL, SYSTEM, Journal, read_journal


@pytest.fixture
def empty(template) -> Path:
    return template / "mlflow.db"


@pytest.fixture
def store(tmp_path, template) -> Store:
    return Store(shutil.copytree(template, tmp_path / "runs"))


@pytest.fixture
def training(tmp_path, empty) -> Store:
    """A store whose training has not finished: 1,200 steps are in the journal of its partial folder."""
    store = small_runs.with_database(small_runs.make_runs(tmp_path / "runs", levels=(8,)), empty)
    id = small_runs.id_of("train", 8)
    shutil.rmtree(store.folder(id))
    partial = store.folder(f"{id}.partial")
    partial.mkdir()
    small_runs.journal(partial, range(1200))
    return store


def test_curves_are_kept_once_for_all_cells_that_share_a_training(store):
    small_runs.add_generation(store, 8, 3, guidance=3.0)
    tracking.sync(store)
    runs = runs_of(store, "training")
    assert list(runs) == ["train 2a-g1.5"]
    run = runs["train 2a-g1.5"]
    assert run.data.tags["cells"] == "2a-g1.5, 2a-g3"
    assert "train.epochs" in run.data.params
    assert "sample.guidance" not in run.data.params
    history = mlflow_store.client(tracking.tracking_uri(store)).get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    cells = runs_of(store, "cell")
    assert tracking.sync(store, [cells["2a-g3"].data.tags["cell"]]) == NOTHING
    assert all(run.info.run_id in cells[name].data.tags["mlflow.note.content"] for name in ("2a-g1.5", "2a-g3"))


def test_a_training_shows_while_it_runs(training):
    expected = [(step, 1 / (1 + step)) for step in range(1205)]
    assert tracking.sync(training)["points"] == 2400
    assert curve(training) == expected[:1200]
    assert runs_of(training, "training")["train 2a-g1.5"].info.status == "RUNNING"
    assert runs_of(training, "cell")["2a-g1.5"].info.status == "RUNNING"
    partial = training.folder(small_runs.id_of("train", 8) + ".partial")
    small_runs.journal(partial, range(1200, 1205))
    with (partial / JOURNAL).open("a") as file:
        file.write('["loss", 0.5, 17')  # a kill cuts the last line
    assert tracking.sync(training)["points"] == 10
    assert curve(training) == expected


def test_what_the_machine_did_stands_where_mlflow_looks_for_it(training):
    """And not among the curves of a report."""
    path = training.folder(small_runs.id_of("train", 8) + ".partial") / JOURNAL
    Journal(path).write(1200, loss=0.5, **{f"{SYSTEM}process_cpu_percent": 99.0})
    assert tracking.sync(training)["points"] == 2402
    run = runs_of(training, "training")["train 2a-g1.5"]
    assert run.data.metrics["system/process_cpu_percent"] == 99.0
    assert "train/system/process_cpu_percent" not in run.data.metrics
    assert {key for key, *_ in read_journal(path)} == {"loss", "learning_rate"}


def test_steps_written_again_by_a_resumed_training_are_not_sent_again(training):
    tracking.sync(training)
    partial = training.folder(small_runs.id_of("train", 8) + ".partial")
    small_runs.journal(partial, range(1000, 1300), before=1000)
    assert tracking.sync(training)["points"] == 200
    (training.root / "tracking.json").unlink()
    small_runs.journal(partial, range(1250, 1310), before=1250)
    assert tracking.sync(training)["points"] == 20
    assert curve(training) == [(step, 1 / (1 + step)) for step in range(1310)]


def test_a_training_that_ends_is_closed(training):
    tracking.sync(training)
    id = small_runs.id_of("train", 8)
    write_json(training.folder(f"{id}.partial") / "manifest.json", {"id": id, "wall_seconds": 12.5})
    training.folder(f"{id}.partial").rename(training.folder(id))
    assert tracking.sync(training) == NOTHING | {"artifacts": 10}
    run = runs_of(training, "training")["train 2a-g1.5"]
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 12500
    assert runs_of(training, "cell")["2a-g1.5"].info.status == "FINISHED"
