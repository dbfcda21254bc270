from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.frame import load
from analysis.frame.source import read
from experiments.presets import DIGITS
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import flatten, settings
from tokenbridge.store.artifacts import Store, write_json
from tokenbridge.store.runs import JOURNAL, write_classes, write_images


@pytest.fixture
def empty(template) -> Path:
    return template / "mlflow.db"


@pytest.fixture
def store(tmp_path, template) -> Store:
    """Four cells; one quantizer has a NaN, one an infinite metric. Not yet sent."""
    store = Store(shutil.copytree(template, tmp_path / "runs"))
    for levels, value in ((2, float("nan")), (4, -float("inf"))):
        path = store.folder(small_runs.id_of("quantizer", levels)) / "metrics.json"
        entry = json.loads(path.read_text())
        write_json(path, entry | {"metrics": entry["metrics"] | {"sqnr_db": value}})
    return store


def tracked(store: Store, cells: list[str] | None = None) -> pd.DataFrame:
    return load.frame(store.root, tracking.tracking_uri(store), cells)


def plan_of(store: Store) -> dict[str, object]:
    names = {"1a-b002": "B=2", "1a-b004": "B=4", "2a-g1.5": "autoregressive"}
    found = load.frame_from_stages(store.root).set_index("name")["cell"]
    rows = [{"table": name[:2], "label": label, "cell": found[name]} for name, label in names.items()]
    return {"name": "small", "title": "Levels", "rows": rows, "search": {}, "notes": ["8×8"]}


def test_mlflow_and_the_stages_say_the_same(store):
    tracking.sync(store)
    frame = tracked(store)
    assert frame["run_id"].str.fullmatch("[0-9a-f]{32}").all()
    pd.testing.assert_frame_equal(frame.assign(run_id=""), load.frame_from_stages(store.root), check_exact=True)
    assert list(frame["name"]) == ["1a-b002", "1a-b004", "1a-b008", "2a-g1.5"]


def test_one_row_a_cell_with_the_types_of_the_config(store):
    tracking.sync(store)
    frame = tracked(store)
    assert list(frame.columns[:5]) == ["cell", "name", "experiment", "run_id", "stage.latents"]
    recorded = flatten(DIGITS.model_dump(mode="json"))  # some settings are in no record where they are unset
    of_others = {
        "quantizer.epochs", "quantizer.seed", "head.multiplier", "head.components", "head.covariance",
        "sample.head_steps", "sample.solver", "likelihood.bins",
    }  # fmt: skip
    keys = [key for key in settings(RunConfig) if key in recorded and key not in of_others]
    assert [column for column in frame.columns if column in settings(RunConfig)] == keys
    row = frame.iloc[1]
    assert (row["quantizer.levels"], row["quantizer.range"], row["quantizer.kind"]) == (4, 5.0, "gaussian")
    assert row["data.path"] is None
    assert list(frame["head.order"].isna()) == [True, True, True, False]  # of reconstructions nothing reads a head
    trained = frame.iloc[3]
    assert (trained["train.gradient_checkpointing"], trained["head.order"]) == (False, "[1, 0, 2, 3, 4, 5, 6, 7]")
    assert frame["quantizer.levels"].dtype == np.int64
    pixels, decoded = small_runs.images().astype(float), small_runs.quantize(small_runs.images(), 4)
    assert row["quantizer/mse"] == ((pixels - decoded) ** 2).mean()
    assert row["quantizer/sqnr_db"] == -np.inf
    assert np.isnan(frame["quantizer/sqnr_db"][0])
    assert list(frame["score/fd_pixels"].isna()) == [True, True, True, False]
    assert json.loads(row["protocol.reconstruct"]) == {"images": 10, "kind": "reconstruct"}


@pytest.mark.parametrize("value", ["64", "null", "true", "NaN", "[1]", "plain words", '"quoted"'])
def test_a_text_setting_stays_text(tmp_path, empty, value):
    """A folder of images may be called `64`."""
    store = small_runs.with_database(Store(tmp_path / "runs"), empty)
    config = small_runs.config_of(4, **{"data.source": "folder", "data.path": value})
    small_runs.add_cell(store, "odd", config, {})
    tracking.sync(store)
    assert tracked(store)["data.path"][0] == value


def test_cells_come_in_the_order_asked_for(store):
    tracking.sync(store)
    cells = list(reversed(tracked(store)["cell"]))[:3]
    assert list(tracked(store, cells)["cell"]) == cells
    assert list(load.frame_from_stages(store.root, cells)["cell"]) == cells
    assert len(tracked(store, [])) == len(load.frame_from_stages(store.root, [])) == 0
    assert list(load.frame(None, tracking.tracking_uri(store))["cell"]) == list(tracked(store)["cell"])


def test_what_has_not_run_is_empty(tmp_path, empty):
    store = small_runs.with_database(small_runs.make_runs(tmp_path / "runs", levels=(4,)), empty)
    store.folder(small_runs.id_of("reconstruct", 4)).rename(tmp_path / "away")
    tracking.sync(store)
    frame = tracked(store)
    pd.testing.assert_frame_equal(frame.assign(run_id=""), load.frame_from_stages(store.root))
    assert "reconstruct/psnr" not in frame
    assert frame["stage.reconstruct"][0] == small_runs.id_of("reconstruct", 4)


def test_what_cannot_be_found_is_one_line(store, tmp_path, monkeypatch):
    uri = tracking.tracking_uri(store)
    with pytest.raises(UserError, match=r"cell [0-9a-f]{12} is not in MLflow at sqlite:.*run `tokenbridge sync`"):
        load.frame(store.root, uri)
    with pytest.raises(UserError, match=r"cell 0123 is not in .*cells; run it"):
        load.frame_from_stages(store.root, ["0123"])
    with pytest.raises(UserError, match=r"none/mlflow.db is not there.*`tokenbridge sync`"):
        load.frame(None, f"sqlite:///{tmp_path}/none/mlflow.db")
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"MLflow at http://127.0.0.1:9 cannot be read") as caught:
        load.frame(None, "http://user:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", '{"protocol": {}}', '{"metrics": {"mse": null}}', '{"metrics": {"mse": "a']
)
def test_unreadable_metrics_are_named(store, text):
    (store.folder(small_runs.id_of("quantizer", 2)) / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"quantizer-\w+/metrics.json.*delete its folder and run again") as caught:
        load.frame_from_stages(store.root)
    assert "\n" not in str(caught.value)


def test_an_unreadable_cell_is_named(store):
    path = store.root / "cells" / "0123456789ab.json"
    path.write_text('{"id": "0123456789ab"}')
    with pytest.raises(UserError, match=r"0123456789ab.json is no cell .*delete it and run again"):
        load.frame_from_stages(store.root)
    with pytest.raises(UserError, match=r"0123456789ab.json is no cell .*delete it and run again"):
        tracking.sync(store)


def test_a_source_folder_has_all_that_a_report_needs(store, tmp_path):
    tracking.sync(store)
    plan, source = plan_of(store), tmp_path / "reports" / "small" / "source"
    load.collect(store.root, tracking.tracking_uri(store), plan, source)
    assert json.loads((source / "plan.json").read_text()) == plan
    frame = pd.read_csv(source / "frame.csv", dtype={"cell": str})
    assert list(frame["name"]) == ["1a-b002", "1a-b004", "2a-g1.5"]
    measured = load.frame_from_stages(store.root, list(frame["cell"]))
    assert list(frame["quantizer/mse"]) == list(measured["quantizer/mse"])
    with (source / "curves.csv").open() as file:
        curves = list(csv.reader(file))
    train = small_runs.id_of("train", 8)
    assert curves[:3] == [
        ["stage", "key", "step", "value"],
        [train, "loss", "0", "1.0"],
        [train, "learning_rate", "0", "0.1"],
    ]
    assert len(curves) == 1 + 6
    stages = {id for column in measured for id in measured[column].dropna() if str(column).startswith("stage.")}
    assert {path.stem for path in (source / "manifests").iterdir()} == stages
    for path in (source / "manifests").iterdir():
        manifest = json.loads(path.read_text())
        assert manifest["id"] == path.stem
        assert "host" not in manifest
    shown = {id for id in stages if id.startswith(("latents", "quantizer", "reconstruct", "sample"))}
    assert {path.stem for path in (source / "examples").iterdir()} == shown
    for id in shown:
        assert (source / "examples" / f"{id}.npz").read_bytes() == (store.folder(id) / "examples.npz").read_bytes()


def test_a_source_holds_what_was_measured_of_each_image(store, tmp_path):
    tracking.sync(store)
    draw = np.random.default_rng(0)
    few, many = draw.normal(30, 3, size=7), draw.normal(30, 3, size=2500)
    stages = [small_runs.id_of("reconstruct", levels) for levels in (4, 8)]
    for stage, values in zip(stages, (few, many), strict=True):
        write_images(store.folder(stage), {"psnr": values})
    cells = load.frame_from_stages(store.root).set_index("name")["cell"]
    rows = [{"table": "1a", "label": f"B={n}", "cell": cells[f"1a-b{n:03d}"]} for n in (4, 8)]
    plan = plan_of(store) | {"rows": rows, "base": DIGITS.model_dump(mode="json")}
    load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    found = read(tmp_path / "source")
    assert {path.stem for path in (tmp_path / "source" / "images").iterdir()} == set(stages)
    left = found.left_out(found.cells("1a", "B=4")[0], "reconstruct/psnr")
    assert left == pytest.approx([np.delete(few, i).mean() for i in range(7)], rel=1e-6)
    # of many images, means of 1,000 blocks: their jackknife reads nearly the same error
    left = found.left_out(found.cells("1a", "B=8")[0], "reconstruct/psnr")
    assert len(left) == 1000
    assert 999 * left.std(ddof=1) / np.sqrt(1000) == pytest.approx(many.std(ddof=1) / 50, rel=0.1)
    assert not found.left_out(found.cells("1a", "B=8")[0], "reconstruct/ssim").size


def test_a_source_holds_the_names_of_classes_where_all_latents_have_the_same(store, tmp_path):
    tracking.sync(store)
    plan = plan_of(store) | {"base": DIGITS.model_dump(mode="json")}
    plan["rows"] = [row for row in plan["rows"] if row["label"] == "B=4"]
    (folder,) = {path.parent for path in store.root.glob("stages/latents-*/manifest.json")}
    load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "older")
    assert read(tmp_path / "older").class_name(1) == "1"
    write_classes(folder, ["bag", "sandal"])
    load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    source = read(tmp_path / "source")
    assert (source.classes, source.class_name(1), source.class_name(2)) == (("bag", "sandal"), "sandal", "2")
    (folder / "classes.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"classes\.json must be a list of names of classes; delete its folder"):
        load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")


def test_values_of_images_that_are_damaged_are_named(store, tmp_path):
    tracking.sync(store)
    (store.folder(small_runs.id_of("reconstruct", 2)) / "images.npz").write_bytes(b"PK")
    with pytest.raises(
        UserError, match=r"reconstruct-\w+/images.npz is not readable .*delete its folder and run again"
    ):
        load.collect(store.root, tracking.tracking_uri(store), plan_of(store), tmp_path / "source")
    assert not (tmp_path / "source").exists()


def test_latents_of_older_runs_need_not_have_spectra(store, tmp_path):
    tracking.sync(store)
    (latents,) = store.root.glob("stages/latents-*/examples.npz")
    latents.unlink()
    load.collect(store.root, tracking.tracking_uri(store), plan_of(store), tmp_path / "source")
    kinds = {path.stem.partition("-")[0] for path in (tmp_path / "source" / "examples").iterdir()}
    assert kinds == {"quantizer", "reconstruct", "sample"}


def test_a_source_holds_the_images_and_curves_that_figures_show_and_no_more(store, tmp_path):
    tracking.sync(store)
    found = load.frame_from_stages(store.root).set_index("name")["cell"]
    rows = [{"table": "1a", "label": "B=4", "cell": found[name]} for name in ("1a-b004", "1a-b008")]
    plan = plan_of(store) | {"rows": rows, "confidence": [{"strength": 1.0, "cell": found["2a-g1.5"]}]}
    load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    frame = pd.read_csv(tmp_path / "source" / "frame.csv")
    assert list(frame["name"]) == ["1a-b004", "1a-b008", "2a-g1.5"]
    shown = {path.stem for path in (tmp_path / "source" / "examples").iterdir()}
    sampled, second = frame["stage.sample"][2], frame["stage.reconstruct"][1]
    assert frame["stage.reconstruct"][0] in shown
    assert sampled in shown
    assert second not in shown  # a second seed of its row
    assert (tmp_path / "source" / "manifests" / f"{second}.json").exists()
    assert (tmp_path / "source" / "curves.csv").read_text().splitlines() == ["stage,key,step,value"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_collecting_twice_gives_the_same_bytes(store, tmp_path):
    tracking.sync(store)
    for name in ("one", "two", "one"):
        load.collect(store.root, tracking.tracking_uri(store), plan_of(store), tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "runs"}


@pytest.mark.parametrize("damage", ["examples", "manifest", "journal"])
def test_a_source_folder_changes_whole_or_not_at_all(store, tmp_path, damage):
    tracking.sync(store)
    source = tmp_path / "source"
    load.collect(store.root, tracking.tracking_uri(store), plan_of(store), source)
    before = contents(source)
    quantizer = store.folder(small_runs.id_of("quantizer", 2))
    if damage == "examples":
        data = (quantizer / "examples.npz").read_bytes()
        (quantizer / "examples.npz").write_bytes(data[:100] + b"?" + data[101:-1])
    elif damage == "manifest":
        (quantizer / "manifest.json").write_text("{")
    else:
        (store.folder(small_runs.id_of("train", 8)) / JOURNAL).write_text('["loss", 1.0]\n')
    with pytest.raises(UserError, match="delete its folder and run again"):
        load.collect(store.root, tracking.tracking_uri(store), plan_of(store), source)
    assert contents(source) == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "runs"}


def test_a_report_never_shows_older_numbers_than_the_stages(store, tmp_path):
    tracking.sync(store)
    path = store.folder(small_runs.id_of("quantizer", 4)) / "metrics.json"
    write_json(path, json.loads(path.read_text()) | {"metrics": {"mse": 7.0}})
    with pytest.raises(
        UserError, match=r"quantizer/mse of cell 1a-b004 is not what its stage left .*`tokenbridge sync`"
    ):
        load.collect(store.root, tracking.tracking_uri(store), plan_of(store), tmp_path / "source")
    assert not (tmp_path / "source").exists()
    tracking.sync(store)
    load.collect(store.root, tracking.tracking_uri(store), plan_of(store), tmp_path / "source")
