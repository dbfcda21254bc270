"""A report by published scorers: their columns, names and verdicts in place of those of the shipped classifier."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.frame.source import Source, read
from analysis.tables.fill import fill
from analysis.tables.text import to_markdown
from analysis.verdicts import verdicts
from experiments.grid.search import metric_of
from experiments.paper import AGREEMENT, EXTRAPOLATED, FD, PSNR, RECONSTRUCTION_FD, TABLES
from experiments.paper.columns import IS, PRECISION
from experiments.paper.scored import by_scorers, distance, every, scored
from experiments.presets import DIGITS
from experiments.tracking.views import direction, main_metrics
from tests.helpers.report_source import write_source
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.overrides import override

RENAMED = {"score": "fid_tf", "reconstruct": "rfid_tf"}


@pytest.fixture
def by_inception(tmp_path: Path) -> Source:
    """The same numbers as if Inception had measured them."""
    folder = write_source(tmp_path / "x", seeds=3, tables=("1a", "2a"), examples=False) / "source"
    frame = pd.read_csv(folder / "frame.csv", dtype=str, keep_default_na=False)
    names = {}
    for key in frame:
        stage, _, metric = key.partition("/")
        if metric.startswith("fd_digits"):
            names[key] = f"{stage}/{metric.replace('fd_digits', RENAMED[stage])}"
        elif "_digits" in metric:
            names[key] = key.replace("_digits", "_tf")
    frame = frame.rename(columns=names).drop(columns=["score/agreement"])
    frame.assign(**{"score.features": "inception"}).to_csv(folder / "frame.csv", index=False)
    plan = json.loads((folder / "plan.json").read_text())
    plan["base"]["score"]["features"] = "inception"
    (folder / "plan.json").write_text(json.dumps(plan))
    return read(folder)


def test_columns_of_each_scorer() -> None:
    assert [scored(column, "digits") for column in (FD, IS, AGREEMENT)] == [FD, IS, AGREEMENT]
    found = [scored(column, "inception") for column in (FD, RECONSTRUCTION_FD, IS, PRECISION, EXTRAPOLATED)]
    assert [column.key for column in found if column] == [
        "score/fid_tf", "reconstruct/rfid_tf", "score/is_tf", "score/precision_tf", "score/fid_tf_infinity",
    ]  # fmt: skip
    assert [column.title for column in found if column] == [
        "fid_tf", "rfid_tf", "is_tf", "precision", "fid_tf, extrapolated",
    ]  # fmt: skip
    assert not [column for column in found if column and ("digit" in column.meaning or "not FID" in column.meaning)]
    assert [scored(column, "dinov2") for column in (IS, AGREEMENT)] == [None, None]
    assert scored(PSNR, "clean") == PSNR
    several = by_scorers((FD, PRECISION, PSNR), ("inception", "clean", "dinov2"))
    assert [column.title for column in several] == [
        "fid_tf", "fid_clean", "fd_dinov2", "precision_tf", "precision_clean", "precision_dinov2", "PSNR",
    ]  # fmt: skip
    assert [distance(name) for name in SCORERS] == ["fd_digits", "fid_tf", "fid_clean", "fd_dinov2"]


def test_the_tables_and_verdicts_are_of_the_report_s_scorer(by_inception: Source) -> None:
    for table in by_inception.tables:
        if table.id in ("1a", "2a"):
            text = to_markdown(fill(table, by_inception))
            assert RENAMED["score" if table.id == "2a" else "reconstruct"] in text
            assert "digits" not in text.replace("measured, digits 16×16", "")
            assert "not reported" not in text
    told = " ".join(verdict.text for verdict in verdicts(by_inception))
    assert "fid_tf" in told
    assert "fd_digits" not in told


def test_a_distance_that_compares_with_few_others_says_so(by_inception: Source) -> None:
    protocol = {"features": "inception", "images": 120, "reference_images": 5000, "features_weights": "ab" * 32}
    published = {"images": 5000, "features_weights": SCORERS["inception"].sha256 + "0" * 56}
    for changes, told in (({}, True), (published, False)):
        frame = pd.read_csv(by_inception.folder / "frame.csv", dtype=str, keep_default_na=False)
        frame.assign(**{"protocol.score": json.dumps(protocol | changes)}).to_csv(
            by_inception.folder / "frame.csv", index=False
        )
        source = read(by_inception.folder)
        (text,) = (to_markdown(fill(table, source)) for table in source.tables if table.id == "2a")
        few = "120 samples are too few for the 2048 features of inception: their covariance is singular and fid"
        assert (few in text, "weights abababab are not the published" in text) == (told, told)
        assert "reference images are too few" not in text


def test_searches_and_views_go_by_the_first_scorer() -> None:
    config = override(DIGITS, {"score.features": "inception,clean"})
    assert metric_of(config) == "fid_tf"
    assert metric_of(DIGITS) == "fd_digits"
    assert main_metrics(["train/loss", "score/is_tf", "score/fid_tf"]) == ["score/fid_tf", "score/is_tf"]
    assert (direction("score/fd_dinov2"), direction("score/is_tf"), direction("train/loss")) == (1, -1, 0)
    known = {column.key for table in TABLES.values() for column in every(table.measured)}
    assert {"score/fid_clean", "reconstruct/rfid_tf_held_out"} <= known
