"""Intervals, verdicts and filled tables, on made-up numbers."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis import stats
from analysis.source import Source, read
from analysis.table_files import to_csv, to_markdown
from analysis.tables import fill
from experiments.paper import TABLES
from experiments.presets import preset
from tests.synthetic_source import edit_frame, write_source
from tokenbridge.config import UserError
from tokenbridge.overrides import override, settings

VALUES = (1.31, 1.28, 1.36, 1.30, 1.33)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_source(tmp_path / "one", examples=False)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write_source(tmp_path / "three", seeds=3, tables=("2a",), examples=False)


def _source(folder: Path) -> Source:
    return read(folder / "source")


def test_the_interval_is_student_s() -> None:
    found = stats.estimate(VALUES)
    low, high = scipy_stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert found.half is not None
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert stats.estimate([2.5]).half is None


def test_the_interval_of_a_difference_is_welch_s() -> None:
    a, b = VALUES, (1.41, 1.52, 1.39)
    gap = stats.difference(stats.estimate(a), stats.estimate(b))
    low, high = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert gap.half is not None
    assert (gap.mean - gap.half, gap.mean + gap.half) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("columns", "better", "winner"),
    [
        ([(1.0, 1.1, 0.9), (2.0, 2.1, 1.9), (3.0, 3.1, 2.9)], "lower", 0),
        ([(1.0, 1.1, 0.9), (2.0, 2.1, 1.9), (3.0, 3.1, 2.9)], "higher", 2),
        ([(1.0, 1.4, 0.6), (1.1, 1.5, 0.7), (3.0, 3.1, 2.9)], "lower", None),  # the two best overlap
        ([(1.0,), (2.0,)], "lower", None),
        ([(1.0, 1.1, 0.9), (2.0,)], "lower", None),
        ([(1.0, 1.1, 0.9), (2.0, 2.1, 1.9)], "", None),
        ([(1.0, 1.1, 0.9)], "lower", None),
    ],
)
def test_the_best_is_marked_only_where_it_is_settled(columns, better: str, winner: int | None) -> None:
    assert stats.best([stats.estimate(values) for values in columns], better) == winner


def test_equal_values_are_no_difference_and_certain_ones_are() -> None:
    same = stats.estimate([1.0, 1.0])
    assert not stats.settled(same, stats.estimate([1.0, 1.0]))
    assert stats.settled(same, stats.estimate([2.0, 2.0]))


def test_own_and_published_numbers_stand_apart_under_their_headings(one: Path) -> None:
    filled = fill(TABLES["1a"], _source(one))
    assert filled.measured_heading == "measured, digits 16×16"
    assert filled.published_heading == "published, ImageNet 256×256"
    rows = {row.label: row for row in filled.rows}
    assert [entry.text for entry in rows["B=8"].published] == ["3.69", "250.3"]
    assert rows["B=8"].measured[0].text == "43.79"  # 1.03 · π√3/2 / 64, times a thousand
    text = to_markdown(filled)
    assert "PSNR, dB (measured, digits 16×16)" in text
    assert "rFID (published, ImageNet 256×256)" in text


def test_an_empty_cell_says_why(one: Path) -> None:
    rows = {row.label: row for row in fill(TABLES["1a"], _source(one)).rows}
    assert rows["B=4"].published[0].reason == "not in the paper"
    assert rows["continuous"].measured[1].reason == "no levels"
    plan = one / "source" / "plan.json"
    kept = json.loads(plan.read_text())
    kept["rows"] = [row for row in kept["rows"] if row["label"] != "B=8"]
    plan.write_text(json.dumps(kept))
    edit_frame(one, "B=16", {"reconstruct/psnr": ""}, "1a")
    edit_frame(one, "B=32", {"reconstruct/psnr": "", "stage.reconstruct": ""}, "1a")
    rows = {row.label: row for row in fill(TABLES["1a"], _source(one)).rows}
    assert [rows[label].measured[2].reason for label in ("B=8", "B=16", "B=32")] == [
        "not run",
        "not reported",
        "reconstruct not run",
    ]


def test_one_seed_has_no_interval_and_no_best(one: Path) -> None:
    filled = fill(TABLES["2a"], _source(one))
    assert not any(filled.intervals)
    assert not any(entry.best for row in filled.rows for entry in row.measured)
    assert "One seed a row" in " ".join(filled.notes)
    assert "**" not in to_markdown(filled)


def test_notes_tell_the_error_over_images_and_what_real_images_read(one: Path) -> None:
    notes = " ".join(fill(TABLES["2a"], _source(one)).notes)
    assert "Standard error over images, at most: fd_digits 0.40, bits/dim 0.012." in notes
    assert "Floor: 360 real images read fd_digits 2.310 against the reference" in notes
    assert "as many generated ones read parallel 39.20, autoregressive 13.20" in notes
    assert "Floor: the original images read fd_digits 0.200" in " ".join(fill(TABLES["1a"], _source(one)).notes)


def test_three_seeds_have_an_interval_and_a_best(three: Path) -> None:
    filled = fill(TABLES["2a"], _source(three))
    parallel, ours = filled.rows
    values = _source(three).frame.loc[list(ours.cells), "score/fd_digits"].astype(float)
    half = scipy_stats.sem(values) * scipy_stats.t.ppf(0.975, 2)
    assert ours.measured[0].text == stats.number(values.mean(), 2)
    assert ours.measured[0].half == stats.number(half, 2)
    assert ours.measured[0].best
    assert not parallel.measured[0].best
    assert f"**{values.mean():.2f} ± {half:.2f}**" in to_markdown(filled)


def test_half_finished_seeds_are_refused(three: Path) -> None:
    path = three / "source" / "frame.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[0, "score/fd_digits"] = ""
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match="row 'parallel' has it for 2 of 3 seeds"):
        fill(TABLES["2a"], _source(three))


def test_csv_keeps_full_precision_and_says_where_numbers_come_from(three: Path) -> None:
    source = _source(three)
    filled = fill(TABLES["2a"], source)
    parallel, ours = csv.DictReader(io.StringIO(to_csv(filled)))
    cells = ours["cells"].split()
    mean = np.mean([source.number(cell, "score/agreement") or 0 for cell in cells])
    assert len(cells) == 3
    assert float(ours["measured score/agreement"]) == pytest.approx(mean, rel=1e-9)  # a share, not the printed percent
    assert parallel["published gfid"] == "15.7"
    assert ours["chosen sample.guidance"] == "2"


def test_numbers_are_set_with_a_minus_and_thousands_apart() -> None:
    assert stats.number(-0.126, 2) == "−0.13"
    assert stats.number(65536, 0) == "65\N{NARROW NO-BREAK SPACE}536"


def test_a_command_repeats_its_cell_whatever_it_changes(one: Path) -> None:
    odd = {
        "head.order": (7, 0, 1, 2, 3, 4, 5, 6), "latents.scale": 0.2325, "train.learning_rate": 3e-5,
        "train.gradient_checkpointing": True, "train.betas": (0.8, 0.99), "quantizer.kind": "lloyd-max",
        "data.source": "folder", "data.path": "my images/train", "sample.guidance": 2.0, "train.warmup_epochs": 0.5,
    }  # fmt: skip
    config = override(preset("digits"), odd)
    row = {k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in settings(config).items()}
    edit_frame(one, "B=8", row, "1a")
    source = _source(one)
    cell = source.cells("1a", "B=8")[0]
    program, run, name, *assignments = shlex.split(source.command(cell))
    assert (program, run, name) == ("tokenbridge", "run", "digits")
    assert override(preset(name), assignments) == config
    assert {word.split("=")[0] for word in assignments} == set(odd)


def test_every_cell_s_command_repeats_it(one: Path) -> None:
    source = _source(one)
    for cell in source.frame.index:
        assignments = shlex.split(source.command(cell))[3:]
        again = json.loads(json.dumps(settings(override(preset("digits"), assignments))))
        assert {key: source.setting(cell, key) for key in again} == again


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("curves.csv", "stage,step\n", r"has columns \['stage', 'step'\], it must have"),
        ("plan.json", None, r"plan.json is missing; a report is built from"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(one: Path, name: str, content: str | None, message: str) -> None:
    path = one / "source" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        _source(one)


def test_a_plan_with_an_unknown_cell_or_row_is_refused(one: Path) -> None:
    path = one / "source" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"rows": [{"table": "1a", "label": "B=8", "cell": "nowhere"}]}))
    with pytest.raises(UserError, match=r"cell nowhere of table 1a is not in frame.csv"):
        _source(one)
    path.write_text(json.dumps(plan | {"rows": [{"table": "1a", "label": "B=9", "cell": "cell-b008-r5"}]}))
    with pytest.raises(UserError, match="'B=9' is no row of table 1a"):
        _source(one)


def test_a_metric_that_is_no_number_is_refused(one: Path) -> None:
    edit_frame(one, "B=8", {"reconstruct/psnr": "high"}, "1a")
    with pytest.raises(UserError, match=r"reconstruct/psnr='high' of cell cell-b008-r5 must be a number"):
        fill(TABLES["1a"], _source(one))
