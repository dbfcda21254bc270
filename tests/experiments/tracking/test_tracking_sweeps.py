from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.pipeline import Cell, record
from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers.runs import NOTHING, config_of, id_of, runs_of
from tokenbridge.store.artifacts import Store, write_json
from tokenbridge.store.runs import EXPERIMENT, Sweep, write_sweep

SWEEP = "levels"


@pytest.fixture
def store(tmp_path, template) -> Store:
    """Its reconstruction cells are of a sweep; 2a-g1.5 is of none."""
    store = Store(shutil.copytree(template, tmp_path / "runs"))
    for path in (store.root / "cells").glob("*.json"):
        if "1a-" in path.read_text():
            belong(path, [SWEEP])
    write_sweep(store, Sweep(SWEEP, {}, {}, "example", "sweeps/code/1", "tokenbridge grid 1a --on slurm", 1.7e9))
    return store


def belong(path: Path, sweeps: list[str]) -> None:
    write_json(path, json.loads(path.read_text()) | {"sweeps": sweeps})


def path_of(store: Store, name: str) -> Path:
    return next(path for path in (store.root / "cells").glob("*.json") if name in path.read_text())


def said(store: Store, stage: str, **event: object) -> None:
    path = store.root / "sweeps" / "events" / f"{stage}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{json.dumps(event)}\n")


def test_cells_lie_under_their_sweep(store):
    tracking.sync(store)
    parent, cells = runs_of(store, "sweep")[SWEEP], runs_of(store, "cell")
    above = {name: run.data.tags.get("mlflow.parentRunId") for name, run in cells.items()}
    assert above == dict.fromkeys(("1a-b002", "1a-b004", "1a-b008"), parent.info.run_id) | {"2a-g1.5": None}
    tags, metrics, params = parent.data.tags, parent.data.metrics, parent.data.params
    assert (tags["sweep"], tags["states"], tags["command"]) == (SWEEP, "finished 3", "tokenbridge grid 1a --on slurm")
    assert (metrics["cells"], metrics["cells_finished"]) == (3, 3)
    assert metrics["best/quantizer/mse"] == cells["1a-b008"].data.metrics["quantizer/mse"]
    assert metrics["best/reconstruct/psnr"] == max(
        run.data.metrics["reconstruct/psnr"] for name, run in cells.items() if "1a-" in name
    )
    mse = metrics["best/quantizer/mse"]
    assert tags["quantizer/mse"] == f"best {mse:.4g}: 1a-b008"
    assert cells["1a-b008"].data.tags["quantizer/mse"] == f"{mse:.4g}"
    unread = {"head.width", "train.epochs", "sample.guidance", "backbone.width"}  # of reconstructions
    assert not unread & {*cells["1a-b008"].data.params}
    assert unread <= {*cells["2a-g1.5"].data.params}
    assert "quantizer.levels" not in params
    assert params.items() <= cells["1a-b002"].data.params.items()
    assert "`quantizer.levels`: 2, 4, 8" in tags["mlflow.note.content"]
    assert {key for key in metrics if key.startswith("best/")} == {"best/quantizer/mse", "best/reconstruct/psnr"}
    assert parent.info.status == "FINISHED"
    assert parent.info.start_time == 1.7e12
    assert tracking.sync(store) == NOTHING


def test_each_sweep_has_a_page_of_its_own(store):
    """It lists the cells of this sweep, also where the name of another contains its own, from the best to the worst."""
    belong(path_of(store, "2a-g1.5"), ["levels-2"])
    belong(path_of(store, "1a-b002"), ["levels-2", SWEEP])
    tracking.sync(store)
    uri = tracking.tracking_uri(store)
    mlflow = mlflow_store.client(uri)
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    _, urls = tracking.ui_command(store)
    assert set(urls) == {"", SWEEP, "levels-2"}
    entry = json.loads(experiment.tags[f"mlflow.sharedViewState.{urls[SWEEP].rpartition('=')[2]}"])
    view = json.loads(entry["state"])
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    found = mlflow.search_runs([experiment.experiment_id], view["searchFilter"], order_by=[order])
    assert [run.info.run_name for run in found] == ["1a-b008", "1a-b004", "1a-b002", SWEEP]
    first, last = "tags.`reconstruct/psnr`", "tags.`quantizer/mse`"
    assert view["selectedColumns"] == [first, "params.`quantizer.levels`", last]
    assert [chart.get("metricKey") for chart in view["compareRunCharts"]] == ["reconstruct/psnr", "quantizer/mse", None]
    note = runs_of(store, "cell")["1a-b004"].data.tags["mlflow.note.content"]
    assert f"Cell of [{SWEEP}]({urls[SWEEP].partition('/#')[2].join(['#', ''])})" in note


def test_a_sweep_that_grows_shares_less(store):
    """MLflow never forgets a parameter, so the sweep gets a new run, and its cells move below it."""
    tracking.sync(store)
    first = runs_of(store, "sweep")[SWEEP].info.run_id
    belong(
        next(path for path in (store.root / "cells").glob("*.json") if "2a-g1" in path.read_text()), [SWEEP, "other"]
    )
    path = next(path for path in (store.root / "cells").glob("*.json") if "1a-b002" in path.read_text())
    belong(path, ["first", SWEEP])
    small_runs.add_generation(store, 8, 3, guidance=3.0)
    belong(path := path_of(store, "2a-g3"), [SWEEP])
    cell = json.loads(path.read_text())
    cell["config"]["quantizer"]["range"] = 3.0
    write_json(path, cell)
    assert tracking.sync(store)["runs"] == 4
    sweeps, cells = runs_of(store, "sweep"), runs_of(store, "cell")
    assert set(sweeps) == {SWEEP, "first", "other"}
    assert sweeps[SWEEP].info.run_id != first
    assert "quantizer.range" not in sweeps[SWEEP].data.params
    above = {name: run.data.tags["mlflow.parentRunId"] for name, run in cells.items()}
    ours = dict.fromkeys(("1a-b004", "1a-b008", "2a-g1.5", "2a-g3"), sweeps[SWEEP].info.run_id)
    assert above == ours | {"1a-b002": sweeps["first"].info.run_id}
    assert cells["1a-b002"].data.tags["sweep"] == f"first, {SWEEP}"
    assert list(runs_of(store, "superseded")) == [SWEEP]


@pytest.mark.slow
def test_a_failed_stage_shows_until_its_retry(store):
    id = id_of("reconstruct", 4)
    shutil.move(store.folder(id), store.root / "aside")
    tracking.sync(store)
    assert runs_of(store, "cell")["1a-b004"].info.status == "RUNNING"
    said(store, id, event="started", job="7")
    said(store, id, event="failed", job="7", error="Traceback\n  line 3\nUserError: no such images")
    tracking.sync(store)
    run, parent = runs_of(store, "cell")["1a-b004"], runs_of(store, "sweep")[SWEEP]
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "UserError: no such images")
    assert (parent.info.status, parent.data.tags["states"]) == ("FAILED", "failed 1, finished 2")
    said(store, id, event="started", job="8")
    tracking.sync(store)
    run = runs_of(store, "cell")["1a-b004"]
    assert (run.info.status, "error" in run.data.tags) == ("RUNNING", False)
    shutil.move(store.root / "aside", store.folder(id))
    tracking.sync(store)
    assert {runs_of(store, "cell")["1a-b004"].info.status, runs_of(store, "sweep")[SWEEP].info.status} == {"FINISHED"}


def test_a_stage_names_its_job(store, monkeypatch):
    for name, value in {"JOB_ID": "12", "ARRAY_JOB_ID": "10", "ARRAY_TASK_ID": "4", "RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    small_runs.add_reconstruction(store, 16)
    assert store.manifest(id_of("reconstruct", 16))["job"] == {"id": "10_4", "restarts": 2}
    tracking.sync(store)
    tags = runs_of(store, "cell")["1a-b016"].data.tags
    assert (tags["slurm.job_id.reconstruct"], tags["slurm.restarts.reconstruct"]) == ("10_4", "2")
    assert "slurm.job_id.latents" not in tags


def test_recording_adds_sweeps(tmp_path):
    store, cell = Store(tmp_path), Cell("b004", config_of(4, **{"data.image_size": 32}), ("reconstruct",))
    for sweep in ("", "a", "b", "a"):
        record(store, [cell], "small", sweep)
    assert json.loads((tmp_path / "cells" / f"{cell.id}.json").read_text())["sweeps"] == ["a", "b"]


def test_who_cannot_have_the_lock_leaves_it_to_its_holder(store):
    with store.lock("mlflow"):
        code = "import sys; from pathlib import Path; from tokenbridge.store.artifacts import Store\n"
        code += "from experiments.tracking import sync as tracking; print(tracking.catch_up(Store(Path(sys.argv[1]))))"
        done = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    sent = tracking.catch_up(store)
    assert sent is not None
    assert sent["runs"] == 6


def test_nothing_new_costs_no_import(store):
    tracking.sync(store)
    code = "import sys; from pathlib import Path; from tokenbridge.store.artifacts import Store\n"
    code += "from experiments.tracking.sync import sync; print(sum(sync(Store(Path(sys.argv[1]))).values()))\n"
    code += "sys.exit('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(store.root)], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout) == (0, "0\n")


def test_a_run_has_the_shortest_name_of_its_cell(store):
    """Also where an older version gave it all of them, which the page cuts."""
    path = path_of(store, "1a-b004")
    names = ["digits-levels4-all-that-was-typed", "1a-b004"]
    write_json(path, json.loads(path.read_text()) | {"names": names})
    tracking.sync(store)
    run = runs_of(store, "cell")["1a-b004"]
    assert run.data.tags["name"] == " · ".join(names)
    mlflow = mlflow_store.client(tracking.tracking_uri(store))
    mlflow.update_run(run.info.run_id, name=" · ".join(names))
    (store.root / "tracking.json").unlink()
    tracking.sync(store)
    assert runs_of(store, "cell")["1a-b004"].info.run_id == run.info.run_id
