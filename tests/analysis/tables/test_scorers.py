"""A report by published scorers: its columns, names and verdicts, in place of those of the shipped classifier."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis.frame.source import Source, read
from analysis.tables.fill import fill
from analysis.tables.text import to_markdown
from analysis.verdicts import verdicts
from tests.helpers.report_source import write_source
from tokenbridge.metrics.catalogue import FD, cautions
from tokenbridge.metrics.scorers import SCORERS, conditions_in

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


def test_each_of_several_networks_has_its_own_cautions() -> None:
    few = {"features": "inception", "images": 120, "reference_images": 5000, "features_weights": "ab" * 32}
    enough = {"features": "dinov2", "images": 5000, "reference_images": 5000, "features_weights": "cd" * 32}
    together = {f"tf.{key}": value for key, value in few.items()} | {f"dinov2.{key}": v for key, v in enough.items()}
    assert cautions(FD, "inception", together) == cautions(FD, "inception", few)
    assert "120 samples are too few" in cautions(FD, "inception", together)[0]
    assert not any("too few" in line for line in cautions(FD, "dinov2", together))
    common = {"images": 120, "clean.images": 5000}  # whatever their order in the file
    for protocol in (common, dict(sorted(common.items()))):
        assert conditions_in(protocol, SCORERS["clean"])["images"] == 5000
