from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from experiments.tracking import records
from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers.runs import NOTHING, content, runs_of
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, write_json


@pytest.fixture
def empty(template) -> Path:
    return template / "mlflow.db"


@pytest.fixture
def store(tmp_path, template) -> Store:
    return Store(shutil.copytree(template, tmp_path / "runs"))


def test_a_cell_becomes_a_run(store):
    counts = tracking.sync(store)
    runs = runs_of(store, "cell")
    assert list(sorted(runs)) == ["1a-b002", "1a-b004", "1a-b008", "2a-g1.5"]
    words = [*runs.values(), *runs_of(store, "training").values()]
    assert counts["params"] == sum(len(run.data.params) for run in words)
    assert counts | {"params": 0} == {"runs": 5, "params": 0, "metrics": 13, "points": 6, "artifacts": 28}
    run = runs["1a-b004"]
    tags, stages = run.data.tags, store.root / "stages"
    assert tags["experiment"] == "small"
    assert tags["stage.reconstruct"].startswith("reconstruct-")
    assert json.loads(tags["protocol.quantizer"]) == {"images": 10, "kind": "quantizer"}
    manifest = json.loads((stages / tags["stage.quantizer"] / "manifest.json").read_text())
    assert tags["version.numpy"] == manifest["versions"]["numpy"] == np.__version__
    assert tags["host"] == manifest["host"]
    assert run.data.params["quantizer.levels"] == "4"
    assert run.data.params["quantizer.kind"] == "gaussian"
    assert run.data.params["data.path"] == "null"
    measured = json.loads((stages / tags["stage.reconstruct"] / "metrics.json").read_text())["metrics"]["psnr"]
    assert run.data.metrics["reconstruct/psnr"] == measured
    assert run.info.status == "FINISHED"
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, len(dataset.digest)) == ("digits-8", 12)
    assert "load_digits" in dataset.source


def test_artifacts_are_the_metrics_and_pictures_one_can_look_at(store):
    tracking.sync(store)
    folder = Path(runs_of(store, "cell")["1a-b002"].info.artifact_uri.removeprefix("file://"))
    assert folder.is_relative_to(store.root)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {f"{kind}/manifest.json" for kind in ("latents", "quantizer", "reconstruct")} | {
        "quantizer/metrics.json",
        "reconstruct/metrics.json",
        "reconstruct/strip.png",
    }
    strip = np.asarray(Image.open(folder / "reconstruct" / "strip.png"))
    step = 64 + records.GAP
    assert strip.shape == (2 * step - 2, 10 * step - 2)
    assert (strip[0 : step - 2 : 8, 3 * step : 4 * step - 2 : 8] == small_runs.images()[3, 0]).all()
    assert set(np.unique(strip[step:, :64])) <= {0, 255}  # two levels below, many above


def test_a_training_leaves_one_of_mlflow_s_models_with_its_card(store, monkeypatch):
    """However often it is sent, and where a kill came before the model had a run; its weights are not copied."""
    log_outputs = MlflowClient.log_outputs

    def killed(self, *given):
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "log_outputs", killed)
    with pytest.raises(KeyboardInterrupt):
        tracking.sync(store)
    monkeypatch.setattr(MlflowClient, "log_outputs", log_outputs)
    tracking.sync(store)
    tracking.sync(store)
    (store.root / "tracking.json").unlink()
    tracking.sync(store)
    (run,) = runs_of(store, "training").values()
    client = mlflow_store.client(tracking.tracking_uri(store))
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert (model.source_run_id, model.status) == (run.info.run_id, "READY")
    assert Path(model.tags["weights"]) == store.root.resolve() / "stages" / run.data.tags["stage"]
    assert model.params["head.kind"] == "autoregressive"
    folder = Path(model.artifact_location.removeprefix("file://"))
    assert [path.name for path in folder.rglob("*")] == ["README.md"]
    assert f'tb.load("{store.root}", "2a-g1.5")' in (folder / "README.md").read_text()


def test_a_colour_grid_keeps_its_channels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 70, 70), np.uint8)
    np.savez(tmp_path / "examples.npz", images=images)
    (tmp_path / "grid.png").write_bytes(records.picture(tmp_path / "examples.npz", ["images"]))
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (142, 718, 3)  # no enlargement from 64 pixels up, ten a row
    assert (grid[72:, 72:142] == images[11].transpose(1, 2, 0)).all()


def test_twice_gives_nothing_twice_even_without_its_memory(store):
    tracking.sync(store)
    before = content(store)
    assert tracking.sync(store) == NOTHING
    (store.root / "tracking.json").unlink()
    again = tracking.sync(store)
    assert again == NOTHING | {"artifacts": again["artifacts"]}
    (store.root / "tracking.json").write_text("{ half a fi")
    tracking.sync(store)
    assert content(store) == before


def test_cells_can_be_chosen(store):
    cell = json.loads(next((store.root / "cells").glob("*.json")).read_text())
    assert tracking.sync(store, [cell["id"]])["runs"] >= 1
    assert list(runs_of(store, "cell")) == cell["names"]
    with pytest.raises(UserError, match=r"cell 0123 is not in .*cells; run it"):
        tracking.sync(store, ["0123"])


def test_a_store_that_was_deleted_is_filled_again(store, empty):
    tracking.sync(store)
    first = {name: run.data.metrics for name, run in runs_of(store, "cell").items()}
    small_runs.with_database(store, empty)
    assert tracking.sync(store)["runs"] == 5
    assert {name: run.data.metrics for name, run in runs_of(store, "cell").items()} == first


def test_a_run_that_was_deleted_by_hand_is_made_again(store):
    tracking.sync(store)
    mlflow_store.client(tracking.tracking_uri(store)).delete_run(runs_of(store, "cell")["1a-b004"].info.run_id)
    assert tracking.sync(store)["runs"] == 1
    assert runs_of(store, "cell")["1a-b004"].data.metrics["quantizer/mse"] > 0


def test_a_stage_made_anew_replaces_its_number(store):
    tracking.sync(store)
    path = store.folder(small_runs.id_of("quantizer", 4)) / "metrics.json"
    write_json(path, json.loads(path.read_text()) | {"metrics": {"mse": 7.0, "unused_levels": float("nan")}})
    assert tracking.sync(store)["metrics"] == 2
    (store.root / "tracking.json").unlink()
    assert tracking.sync(store)["metrics"] == 0  # NaN equals NaN here
    metrics = runs_of(store, "cell")["1a-b004"].data.metrics
    assert metrics["quantizer/mse"] == 7.0
    assert np.isnan(metrics["quantizer/unused_levels"])


def test_a_number_that_a_stage_made_anew_leaves_out_is_gone(store):
    tracking.sync(store)
    path = store.folder(small_runs.id_of("quantizer", 4)) / "metrics.json"
    write_json(path, json.loads(path.read_text()) | {"metrics": {"mse": 7.0}})
    assert tracking.sync(store)["runs"] == 1
    metrics = runs_of(store, "cell")["1a-b004"].data.metrics
    assert {key for key in metrics if key.startswith("quantizer/")} == {"quantizer/mse"}


def test_infinity_is_sent_once(store):
    path = store.folder(small_runs.id_of("quantizer", 4)) / "metrics.json"
    write_json(path, {"metrics": {"mse": float("inf"), "sqnr_db": -float("inf")}, "protocol": {}})
    tracking.sync(store)
    (store.root / "tracking.json").unlink()
    assert tracking.sync(store)["metrics"] == 0


def test_other_stages_of_a_cell_start_another_run(store):
    tracking.sync(store)
    path = next(path for path in (store.root / "cells").glob("*.json") if "1a-b004" in path.read_text())
    cell = json.loads(path.read_text())
    other = small_runs.stage(store, "quantizer", "next version", metrics={"error": 1.0})
    write_json(path, cell | {"stages": cell["stages"] | {"quantizer": other}})
    assert tracking.sync(store)["runs"] == 1
    metrics = runs_of(store, "cell")["1a-b004"].data.metrics
    assert (metrics["quantizer/error"], "quantizer/mse" in metrics) == (1.0, False)
    assert list(runs_of(store, "superseded")) == ["1a-b004"]


def test_a_cell_may_get_more_stages_and_another_name(store):
    tracking.sync(store)
    path = next(path for path in (store.root / "cells").glob("*.json") if "1a-b004" in path.read_text())
    cell = json.loads(path.read_text())
    score = small_runs.stage(store, "score", "more", metrics={"fd_pixels": 2.0})
    write_json(path, cell | {"names": ["2c-b004"], "stages": cell["stages"] | {"score": score}})
    assert tracking.sync(store) == NOTHING | {"metrics": 1, "artifacts": 8}
    assert "1a-b004" not in runs_of(store, "cell")
    assert runs_of(store, "cell")["2c-b004"].data.metrics["score/fd_pixels"] == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not readable JSON"),
        ('{"metrics": {"mse": 1', "is not readable JSON"),
        ("[]", "must hold"),
        ('{"metrics": {"mse": null}}', "mse=None must be a number"),
    ],
)
def test_an_unreadable_stage_is_named_and_keeps_no_other_back(store, text, message):
    path = store.folder(small_runs.id_of("quantizer", 2)) / "metrics.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"quantizer-\w+/metrics.json {message}|metrics.json: {message}") as caught:
        tracking.sync(store)
    assert "\n" not in str(caught.value)
    assert {"1a-b004", "1a-b008", "2a-g1.5"} == set(runs_of(store, "cell"))
    path.unlink()
    with pytest.raises(UserError, match="delete its folder and run again"):
        tracking.sync(store)


def test_a_half_written_record_keeps_no_other_cell_back(store):
    path = store.root / "cells" / "0123456789ab.json"
    path.write_text('{"id": "01234')
    with pytest.raises(UserError, match=r"0123456789ab\.json is not readable JSON .*; delete it and run again"):
        tracking.sync(store)
    assert set(runs_of(store, "cell")) == {"1a-b002", "1a-b004", "1a-b008", "2a-g1.5"}
    left = list[UserError]()
    assert tracking.sync(store, unreadable=left) == NOTHING
    assert len(left) == 1
    assert "\n" not in str(left[0])


@pytest.mark.parametrize("damage", ["truncated", "missing", "wrong"])
def test_damaged_examples_are_named(store, damage):
    path = store.folder(small_runs.id_of("reconstruct", 2)) / "examples.npz"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "wrong":
        np.savez(path, original=np.zeros((2, 1, 8, 8)), reconstructed=np.zeros((2, 1, 8, 8)))
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"reconstruct-\w+/examples.npz.*delete its folder and run again"):
        tracking.sync(store)


def test_a_report_is_kept_in_all_its_forms_with_its_tables(store, tmp_path):
    report = tmp_path / "report"
    (report / "tables").mkdir(parents=True)
    (report / "source").mkdir()
    (report / "index.html").write_text("<h1>Levels</h1>")
    (report / "report.md").write_text("# Levels")
    (report / "paper.tex").write_text(r"\title{Levels}")
    (report / "tables" / "1a.md").write_text("| B | PSNR |")
    (report / "source" / "frame.csv").write_text("cell")
    assert tracking.log_report(store, "small", report) == NOTHING | {"runs": 1, "artifacts": 4}
    assert tracking.log_report(store, "small", report) == NOTHING
    (report / "index.html").write_text("<h1>More levels</h1>")
    assert tracking.log_report(store, "small", report) == NOTHING | {"artifacts": 4}
    folder = Path(runs_of(store, "report")["report small"].info.artifact_uri.removeprefix("file://"))
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert held == {"index.html", "report.md", "paper.tex", "tables/1a.md"}
    assert (folder / "index.html").read_text() == "<h1>More levels</h1>"
    (report / "tables" / "1a.md").unlink()  # MLflow forgets no file: another run takes the place of that one
    assert tracking.log_report(store, "small", report) == NOTHING | {"runs": 1, "artifacts": 3}
    folder = Path(runs_of(store, "report")["report small"].info.artifact_uri.removeprefix("file://"))
    assert not (folder / "tables").exists()


def test_an_empty_folder_needs_no_store(tmp_path):
    assert tracking.sync(Store(tmp_path / "runs")) == NOTHING
    assert not (tmp_path / "runs" / "mlflow.db").exists()
