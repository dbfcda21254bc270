"""What a store may look like on a bad day: a readable result, or one line and exit code 2."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import pandas as pd
import pytest

from analysis.frame import load
from analysis.frame.source import read
from experiments.tracking import sync as tracking
from tests.analysis.test_odd_input import one_line
from tests.helpers import runs as small_runs
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, write_json
from tokenbridge.store.runs import JOURNAL


@pytest.fixture
def store(tmp_path, template) -> Store:
    return Store(shutil.copytree(template, tmp_path / "runs"))


def planned(store: Store) -> Store:
    """With the plan of a report of the four cells."""
    names = {"1a-b002": "B=2", "1a-b004": "B=4", "2a-g1.5": "autoregressive"}
    found = load.frame_from_stages(store.root).set_index("name")["cell"]
    rows = [
        {"table": name[:2], "label": "B=8" if "1a" in name else label, "cell": found[name]}
        for name, label in names.items()
    ]
    base = json.loads(small_runs.config_of(8).model_dump_json())
    (store.root / "plans").mkdir()
    write_json(
        store.root / "plans" / "odd.json", {"name": "odd", "title": "Odd", "base": base, "rows": rows, "notes": []}
    )
    return store


def test_an_empty_store(store):
    shutil.rmtree(store.root / "cells")
    assert sum(tracking.sync(store).values()) == 0
    for frame in (load.runs(store.root), load.frame_from_stages(store.root)):
        assert frame.shape == (0, 4)
        assert len(load.describe(frame)) == 0


def test_one_run(store, tmp_path):
    for path in (store.root / "cells").glob("*.json"):
        if "1a-b004" not in path.read_text():
            path.unlink()
    tracking.sync(store)
    frame = load.runs(store.root)
    pd.testing.assert_frame_equal(frame.assign(run_id=""), load.frame_from_stages(store.root), check_exact=True)
    assert list(frame["name"]) == ["1a-b004"]
    shape = load.runs(store.root).shape
    assert shape == frame.shape


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "other"])
def test_a_damaged_database_is_one_line(store, kind):
    tracking.sync(planned(store))
    path = store.root / "mlflow.db"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"words\n" * 1000, "cut": whole[: len(whole) // 3]}.get(kind, b""))
    if kind == "other":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(UserError, match=r"mlflow.db is (damaged|no store of MLflow).*run `tokenbridge sync`") as caught:
        load.runs(store.root)
    assert "\n" not in str(caught.value)


def test_a_store_of_a_newer_mlflow_is_one_line(tmp_path, template):
    path = shutil.copyfile(template / "mlflow.db", tmp_path / "mlflow.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.commit()
    with pytest.raises(UserError, match=r"cannot be read .*use the MLflow that wrote it, or delete it") as caught:
        load.runs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["metrics.json", "examples.npz", JOURNAL, "manifest.json"])
def test_a_damaged_stage_is_one_line(call, store, tmp_path, file):
    """`sync` names it and so does the report; the other cells are sent."""
    kind = {JOURNAL: "train", "examples.npz": "reconstruct"}.get(file, "quantizer")
    stage = small_runs.id_of(kind, 8 if file == JOURNAL else 2)
    (planned(store).folder(stage) / file).write_text('["loss"\n')
    one_line(call("sync", cwd=tmp_path), stage, file)
    one_line(call("report", "odd", cwd=tmp_path), stage, file)
    assert "2a-g1.5" in list(load.runs(store.root)["name"])


def test_a_stage_that_was_deleted_is_told(store, tmp_path):
    planned(store)
    tracking.sync(store)
    plan = json.loads((store.root / "plans" / "odd.json").read_text())
    shutil.rmtree(store.folder(small_runs.id_of("quantizer", 2)))
    with pytest.raises(UserError, match=r"stage quantizer-\w+ of cell 1a-b002 is gone .* run the cell again"):
        load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    assert len(load.runs(store.root)) == 4  # MLflow keeps the numbers


def test_nan_reaches_the_source_as_such(store, tmp_path):
    path = planned(store).folder(small_runs.id_of("quantizer", 2)) / "metrics.json"
    entry = json.loads(path.read_text())
    write_json(path, entry | {"metrics": entry["metrics"] | {"mse": float("nan")}})
    tracking.sync(store)
    plan = json.loads((store.root / "plans" / "odd.json").read_text())
    load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    found, cells = read(tmp_path / "source"), [row["cell"] for row in plan["rows"]]
    assert [found.odd(cell, "quantizer/mse") for cell in cells] == ["not a number", "", ""]
    assert [found.odd(cell, "score/fd_pixels") for cell in cells] == ["", "", ""]


def test_a_sweep_with_a_running_cell(store):
    """No run of a sweep, a training or an older state counts as a cell, and both frames agree."""
    for path in (store.root / "cells").glob("*.json"):
        write_json(path, json.loads(path.read_text()) | {"sweeps": ["levels", "other"]})
    stages = {kind: small_runs.id_of(kind, 8) for kind in ("latents", "quantizer")}
    running = stages | {"train": small_runs.id_of("train", "running"), "score": small_runs.id_of("score", "running")}
    small_runs.add_cell(store, "2a-running", small_runs.config_of(8, **{"train.seed": 7}), running)
    partial = store.folder(f"{running['train']}.partial")
    partial.mkdir(parents=True)
    small_runs.journal(partial, range(4))
    tracking.sync(store)
    agree(store)
    frame = load.runs(store.root).set_index("name")
    assert len(frame) == 5
    assert pd.isna(frame.loc["2a-running", "score/fd_pixels"])
    assert frame.loc["2a-running", "stage.score"] == running["score"]
    small_runs.stage(store, "score", "running", metrics={"fd_pixels": 3.0})
    path = store.folder(small_runs.id_of("quantizer", 2)) / "metrics.json"
    write_json(path, {"metrics": {"mse": 7.0}})  # fewer metrics than MLflow has: its run steps aside
    tracking.sync(store)
    agree(store)
    assert load.runs(store.root).set_index("name").loc["2a-running", "score/fd_pixels"] == 3.0


def agree(store: Store) -> None:
    pd.testing.assert_frame_equal(
        load.runs(store.root).assign(run_id=""), load.frame_from_stages(store.root), check_exact=True
    )
