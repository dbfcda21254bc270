"""The list of metrics: one declaration each, by every scorer, and all that stages write is in it."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.frame import load
from analysis.frame.source import of_frame, read, renamed
from analysis.report.build import render
from analysis.tables.pivot import Query, pivot
from experiments.grid.search import metric_of
from experiments.grid.tune import directions
from experiments.paper import TABLES
from experiments.presets import DIGITS
from experiments.runner import run_cells
from experiments.tracking.views import direction, of_sweep
from tests.helpers.machine import REPORTS
from tests.helpers.report_source import edit_frame, write_source
from tokenbridge import config
from tokenbridge.config import Runtime
from tokenbridge.metrics import catalogue
from tokenbridge.metrics.catalogue import (
    AGREEMENT,
    FD,
    INFINITY,
    IS,
    METRICS,
    PRECISION,
    PSNR,
    RECONSTRUCTION_FD,
    Metric,
    by_scorers,
    every,
    find,
    metric,
    telling,
)
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.overrides import override
from tokenbridge.stages import score
from tokenbridge.store.artifacts import Store


def test_no_two_metrics_share_a_key_and_none_is_left_with_a_placeholder():
    keys = Counter(m.key for declared in METRICS for m in by_scorers((declared,), tuple(SCORERS)))
    assert [key for key, count in keys.items() if count > 1] == []
    assert not [m for m in every().values() if {*"{}"} & {*m.key, *m.title, *m.meaning}]
    assert all(m.meaning and not m.meaning.endswith(".") for m in every().values())


@pytest.mark.parametrize("scorers", [(name,) for name in SCORERS] + [tuple(SCORERS)], ids=str)
def test_no_two_columns_of_a_table_share_a_title(scorers):
    for table in TABLES.values():
        titles = Counter(column.title for column in table.by(scorers).measured)
        assert [title for title, count in titles.items() if count > 1] == [], table.id


def test_every_table_holds_metrics_of_the_catalogue():
    assert {m for table in TABLES.values() for m in table.measured} <= {*METRICS}


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=lambda scorer: scorer.name)
def test_every_scorer_has_its_metrics(scorer):
    names = [f"score/{scorer.fd}", f"reconstruct/{scorer.rfd}", f"score/precision_{scorer.suffix}"]
    names += [f"score/is_{scorer.suffix}"] if scorer.classifies else []
    names += [f"score/s{scorer.fd}"] if scorer.spatial else []
    names += [] if scorer.in_domain else [f"score/density_{scorer.suffix}", f"score/{scorer.fd}_infinity"]
    assert {*names} <= {*every()}
    assert (f"score/is_{scorer.suffix}" in every()) == scorer.classifies


def test_all_that_stages_write_is_in_the_catalogue(finished):
    store, cell = finished
    measured = {
        f"{stage.kind.name}/{name}"
        for stage in cell.stages()
        if (path := store.folder(stage.id) / "metrics.json").exists()
        for name in json.loads(path.read_text())["metrics"]
    }
    assert len(measured) > 30
    assert [key for key in sorted(measured) if find(key) is None] == []


@pytest.mark.parametrize("name", ["digits", "ablation"])
def test_all_that_committed_reports_hold_is_in_the_catalogue(name):
    columns = pd.read_csv(REPORTS / name / "source" / "frame.csv", nrows=0).columns
    assert [key for key in map(renamed, columns) if "/" in key and find(key) is None] == []


@pytest.fixture
def contrast(monkeypatch):
    """A metric that is declared and measured for the time of a test."""
    declared = Metric("score/contrast_{suffix}", "contrast", "higher", 1, meaning="spread of the pixels, before {by}")
    measure = lambda scored: {f"contrast_{scored.name}": float(np.std(scored.images))}  # noqa: E731
    monkeypatch.setattr(catalogue, "METRICS", (*METRICS, declared))
    monkeypatch.setattr(score, "MEASURES", (*score.MEASURES, measure))
    for cached in (every, find):
        cached.cache_clear()
    yield declared
    monkeypatch.undo()
    for cached in (every, find):
        cached.cache_clear()


def test_a_metric_takes_one_declaration(finished, tmp_path, contrast, monkeypatch, no_figures):
    """Declared and measured, it is in tables, MLflow's views, what tune can search, pivot tables and reports."""
    done, cell = finished
    store, key = Store(shutil.copytree(done.root, tmp_path / "runs")), "score/contrast_digits"
    shutil.rmtree(store.folder(cell.stages()[-1].id))
    run_cells(store, [cell], Runtime(threads=1, bars=False), "tests")
    frame = load.frame_from_stages(store.root, [cell.id])
    measured = [str(column) for column in frame.columns if "/" in str(column)]
    about, meaning = load.describe(frame).loc[key], "spread of the pixels, before the shipped digit classifier"
    assert (about["better"], about["meaning"]) == ("higher", meaning)
    assert f"tags.`{key}`" in of_sweep("x", {}, measured)["selectedColumns"]
    assert directions()["contrast_digits"] == "higher"

    source = of_frame(frame, {"base": DIGITS.model_dump(mode="json"), "title": "x", "rows": []})
    table = pivot(Query("quantizer.levels", "", "contrast_digits"), source)
    assert table.rows[0].measured[0].text == f"{frame[key][0]:.1f}"

    monkeypatch.setitem(TABLES, "2a", replace(TABLES["2a"], measured=(FD, contrast)))
    folder = write_source(tmp_path / "report", tables=("2a",), examples=False)
    for number, label in enumerate(("parallel", "autoregressive")):
        edit_frame(folder, label, {key: 40 + number})
    page = render(read(folder / "source"))
    assert "contrast" in page["tables/table-2a.csv"].decode()
    assert meaning in page["index.html"].decode()


def test_a_metric_by_each_scorer():
    measured = [m for each in (FD, RECONSTRUCTION_FD, IS, PRECISION, INFINITY) if (m := each.by("inception"))]
    assert [m.key for m in measured] == [
        "score/fid_tf", "reconstruct/rfid_tf", "score/is_tf", "score/precision_tf", "score/fid_tf_infinity",
    ]  # fmt: skip
    assert [m.title for m in measured] == ["fid_tf", "rfid_tf", "is_tf", "precision", "fid_tf, extrapolated"]
    assert not [m for m in measured if "digit" in m.meaning or "not FID" in m.meaning]
    assert "it is not FID" in every()["score/fd_digits"].meaning
    assert [each.by("dinov2") for each in (IS, AGREEMENT)] == [None, None]
    assert (AGREEMENT.by("digits"), PSNR.by("clean")) == (every()["score/agreement"], PSNR)
    several = by_scorers((FD, PRECISION, PSNR), ("inception", "clean", "dinov2"))
    assert [m.title for m in several] == [
        "fid_tf", "fid_clean", "fd_dinov2", "precision_tf", "precision_clean", "precision_dinov2", "PSNR",
    ]  # fmt: skip
    assert by_scorers(several, ("inception", "clean", "dinov2")) == several


def test_metrics_that_go_with_others_take_their_words():
    error, images = metric("score/fid_tf_se"), metric("score/fid_tf_floor_images")
    assert (error.meaning, error.better, error.decimals) == ("standard error of fid_tf", "", 2)
    assert images.meaning == "images behind the floor of fid_tf"
    assert metric("quantizer/calibration_mse").scale == metric("quantizer/mse").scale == 1000
    assert metric("quantizer/calibration_mse").better == ""
    assert metric("speed/token_ms_7_spread").unit == "ms"
    unknown = metric("score/loudness")
    assert (find("score/loudness"), unknown.title, unknown.meaning, unknown.better) == (None, "loudness", "", "")
    other = metric("score/fd_pixels")  # features of a network that is no scorer here
    assert (other.title, other.better, other.meaning) == ("fd_pixels", "lower", "")


def test_searches_and_views_go_by_the_first_scorer():
    config = override(DIGITS, {"score.features": "inception,clean"})
    assert metric_of(config) == "fid_tf"
    assert metric_of(DIGITS) == "fd_digits"
    assert telling(["train/loss", "score/is_tf", "score/fid_tf"]) == ["score/fid_tf", "score/is_tf"]
    assert (direction("score/fd_dinov2"), direction("score/is_tf"), direction("train/loss")) == (1, -1, 0)
    assert {"fid_clean", "kid_digits_x1e3", "agreement"} <= {*directions()}
    assert "fd_digits_extrapolated" not in directions()


def test_the_configuration_takes_the_scorers_that_there_are():
    assert set(config.SCORERS) == set(SCORERS)


def test_a_share_says_of_how_many_images_by_its_own_scorer() -> None:
    protocol = {"images": 2000, "digits.prc_reference_images": 700, "dinov2.reference_images": 90}
    metrics = catalogue.every()
    assert catalogue.share_of(metrics["score/agreement"], protocol) == 2000
    assert catalogue.share_of(metrics["score/recall_digits"], protocol) == 700
    assert catalogue.share_of(metrics["score/coverage_dinov2"], protocol) == 90
    assert catalogue.share_of(metrics["score/recall_tf"], protocol) is None
    assert catalogue.share_of(metrics["score/fd_digits"], protocol) is None
