"""The frame of what MLflow holds, and that both ways of reading it give the same."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from analysis.frame import load
from analysis.frame import mlflow as tracked
from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store


@pytest.fixture
def store(tmp_path, template) -> Store:
    """With settings that are a word in one cell and a number in another, a NaN and an infinite metric."""
    store = Store(shutil.copytree(template, tmp_path / "runs"))
    config = small_runs.config_of(4, **{"latents.scale": 0.5})
    small_runs.stage(store, "quantizer", "odd", metrics={"mse": float("nan"), "sqnr_db": float("inf")})
    small_runs.add_cell(store, "odd", config, {"quantizer": small_runs.id_of("quantizer", "odd")})
    tracking.sync(store)
    return store


def uri_of(store: Store) -> str:
    return tracking.tracking_uri(store)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_plain_queries_and_mlflows_client_say_the_same(store):
    assert list(tracked.SCHEMAS) == revisions(store)
    direct = tracked.rows(uri_of(store))
    through = {row["cell"]: row for row in tracked._from_client(uri_of(store))}
    assert len(direct) == 5
    assert list(direct) == list(through)
    assert list(map(repr, direct.values())) == list(map(repr, through.values()))


def revisions(store: Store) -> list[str]:
    with closing(sqlite3.connect(store.root / "mlflow.db")) as connection:
        return [version for (version,) in connection.execute("SELECT version_num FROM alembic_version")]


def test_deleted_and_superseded_runs_are_left_out(store):
    client, runs = mlflow_store.client(uri_of(store)), small_runs.runs_of(store, "cell")
    client.delete_run(runs["1a-b002"].info.run_id)
    client.set_tag(runs["1a-b004"].info.run_id, "kind", "superseded")
    client.set_tag(runs["1a-b008"].info.run_id, "tags of others", "kept")
    assert list(load.runs(store.root)["name"]) == ["1a-b008", "2a-g1.5", "odd"]


def test_settings_keep_their_types(store):
    frame = load.runs(store.root)
    same(frame, load.frame(store.root, uri_of(store)))
    assert {type(value) for value in frame["latents.scale"]} == {str, float}
    assert frame["data.path"][0] is None


def test_whatever_anybody_writes_is_seen(store):
    load.runs(store.root)
    client, runs = mlflow_store.client(uri_of(store)), small_runs.runs_of(store, "cell")
    client.log_metric(runs["odd"].info.run_id, "quantizer/mse", 0.25)
    assert load.runs(store.root)["quantizer/mse"].iloc[-1] == 0.25
    with closing(sqlite3.connect(store.root / "mlflow.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        load.runs(store.root)
        connection.execute("UPDATE latest_metrics SET value = 0.5 WHERE value = 0.25")
        connection.commit()
        assert load.runs(store.root)["quantizer/mse"].iloc[-1] == 0.5


def test_runs_takes_a_folder_or_an_address(store, tmp_path, monkeypatch):
    same(load.runs(str(store.root)), load.runs(uri_of(store)))
    with pytest.raises(UserError, match=r"none/mlflow.db is not there"):
        load.runs(tmp_path / "none")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(store))
    assert len(load.runs(tmp_path / "none")) == 5
    monkeypatch.chdir(Path(store.root).parent)
    same(load.runs(), load.runs(store.root))


def test_each_metric_is_described(store):
    frame = load.runs(store.root).assign(
        **{"score/agreement": 0.5, "score/fd_clip": 1.0, "likelihood/bits_per_dim_se": 1}
    )
    about = load.describe(frame)
    assert list(about.index) == [column for column in frame if "/" in column]
    assert "" not in [*about["title"], *about["stage"]]
    psnr = about.loc["reconstruct/psnr"]
    assert (psnr["unit"], psnr["better"], psnr["protocol"]) == ("dB", "higher", "protocol.reconstruct")
    assert about.loc["score/agreement", "scale"] == 100
    assert about.loc["score/fd_clip", "better"] == "lower"
    assert about.loc["likelihood/bits_per_dim_se", ["better", "meaning"]].tolist() == ["", "standard error of bits/dim"]
    assert about.loc["reconstruct/psnr", "meaning"].startswith("peak signal-to-noise")
