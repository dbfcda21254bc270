"""Intervals, verdicts and filled tables, on made-up numbers."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special as scipy_special
from scipy import stats as scipy_stats

from analysis import stats
from analysis.frame.source import Source, read
from analysis.stats import Difference
from analysis.tables.fill import fill
from analysis.tables.filled import effect_text, interval_text
from analysis.tables.notes import PARTIAL
from analysis.tables.text import to_csv, to_markdown
from experiments.paper import TABLES
from experiments.presets import preset
from tests.helpers.report_source import edit_frame, write_source
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import PSNR
from tokenbridge.overrides import override, settings

LABELS = ("parallel", "autoregressive")
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
    found = [stats.estimate(values) for values in columns]
    means = [each.mean for each in found]
    assert stats.best(means, better, lambda i, k: stats.gap(found[i], found[k]).settled) == winner


def test_own_and_published_numbers_stand_apart_under_their_headings(one: Path) -> None:
    filled = fill(TABLES["1a"], _source(one))
    assert filled.measured_heading == "measured, digits 16×16"
    assert filled.published_heading == "published, ImageNet 256×256"
    rows = {row.label: row for row in filled.rows}
    assert [entry.text for entry in rows["B=8"].published] == ["3.69", "250.3"]
    assert rows["B=8"].measured[0].text == "43.79"  # 1.03 · π√3/2 / 64, times a thousand
    text = to_markdown(filled)
    assert "PSNR, dB ↑ (measured, digits 16×16)" in text
    assert "rFID ↓ (published, ImageNet 256×256)" in text


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
    entries = {c.title: e for c, e in zip(filled.measured, filled.rows[0].measured, strict=True)}
    assert {title: entry.over for title, entry in entries.items() if entry.over} == {
        "fd_digits": "images",
        "bits/dim": "images",
    }
    assert (entries["fd_digits"].half, entries["fd_digits"].word) == (stats.number(1.959964 * 0.4, 2), "")
    assert (entries["recall"].half, entries["recall"].word) == ("", "")
    assert not any(entry.best for row in filled.rows for entry in row.measured)
    notes = " ".join(filled.notes)
    assert "One seed per row: no interval over seeds, so no value is marked best." in notes
    assert "says nothing of what another training would read" in notes
    assert "**" not in to_markdown(filled)
    assert f"{entries['fd_digits'].text} ± 0.78 † |" in to_markdown(filled)


def test_notes_tell_the_error_over_images_and_what_real_images_read(one: Path) -> None:
    notes = " ".join(fill(TABLES["2a"], _source(one)).notes)
    assert "Standard error over images, at most: fd_digits 0.40, bits/dim 0.012." in notes
    assert "Floor: 360 real images read fd_digits 2.310 against the reference" in notes
    assert "as many generated ones read parallel 39.20, autoregressive 13.20" in notes
    assert "Floor: the original images read fd_digits 0.200" in " ".join(fill(TABLES["1a"], _source(one)).notes)
    edit_frame(one, "continuous", {"reconstruct/fd_digits": "0.123", "reconstruct/agreement": "0.91"}, "1a")
    alone = "Test images that the autoencoder alone reconstructs, without quantization, read fd_digits 0.123"
    assert f"{alone}, agreement 91.0 %." in fill(TABLES["2a"], _source(one)).notes


def test_the_interval_of_a_difference_that_is_shown_is_not_printed_as_zero() -> None:
    difference = Difference(stats.gap_of([-0.0909, -0.0911, -0.0907]))
    assert effect_text(PSNR, difference, shown=True) == "−0.0909"
    assert interval_text(PSNR, difference, shown=True) == "± 0.0005"


def test_three_seeds_have_an_interval_and_a_best(three: Path) -> None:
    filled = fill(TABLES["2a"], _source(three))
    parallel, ours = filled.rows
    values = _source(three).frame.loc[list(ours.cells), "score/fd_digits"].astype(float)
    half = scipy_stats.sem(values) * scipy_stats.t.ppf(0.975, 2)
    assert ours.measured[0].text == stats.number(values.mean(), 2)
    assert ours.measured[0].half == stats.number(half, 2)
    assert ours.measured[0].best
    assert not parallel.measured[0].best
    assert f"**{values.mean():.2f} ± {half:.2f}** (base)" in to_markdown(filled)
    assert [entry.over for entry in ours.measured] == ["seeds"] * 6
    assert {entry.word for entry in parallel.measured} == {"worse"}
    assert {entry.word for entry in ours.measured} == {"base"}
    assert "Base: autoregressive; 6 verdicts, 2 of them on claims." in filled.notes


def test_claims_and_all_else_are_corrected_apart(three: Path) -> None:
    """Paired by seed on each metric's scale, and corrected as SciPy's p values are by hand."""
    source = _source(three)
    table = TABLES["2a"].by(source.scorers)
    parallel, ours = ([id for id in source.cells("2a", label)] for label in ("parallel", "autoregressive"))

    def on_scale(column, id):
        value = source.number(id, column.key)
        if column.spread == "logit":
            images = source.protocol(id, "score")["reference_images" if "recall" in column.key else "images"]
            return scipy_special.logit((value * images + 0.5) / (images + 1))
        return np.log(value) if column.spread == "log" else value

    raw = [
        scipy_stats.ttest_rel(*([on_scale(column, id) for id in ids] for ids in (parallel, ours))).pvalue
        for column in table.measured
    ]
    found = [entry.comparison for entry in fill(table, source).rows[0].measured]
    for each, p, column in zip(found, raw, table.measured, strict=True):
        assert each is not None
        # shares vary at least as counting does, so their p may be larger
        assert each.p >= p * (1 - 1e-6) if column.spread == "logit" else each.p == pytest.approx(p, rel=1e-6)
    claims = [each for each in found if each and each.family == "claim"]
    others = [each for each in found if each and each.family == "exploratory"]
    assert [each.adjusted for each in claims] == pytest.approx(stats.holm([each.p for each in claims])[0])
    assert [e.adjusted for e in others] == pytest.approx(scipy_stats.false_discovery_control([e.p for e in others]))
    assert [c.key for c, each in zip(table.measured, found, strict=True) if each in claims] == [
        "score/fd_digits",
        "likelihood/bits_per_dim",
    ]


def test_seeds_that_do_not_pair_are_compared_by_welch_s_test(three: Path) -> None:
    for seed in range(3):
        edit_frame(three, "parallel", {"train.seed": seed + 10}, "2a", seed)
    source = _source(three)
    numbers = [[math.log(source.number(id, "score/fd_digits")) for id in source.cells("2a", label)] for label in LABELS]
    found = fill(TABLES["2a"], source).rows[0].measured[0].comparison
    assert found is not None
    assert found.p == pytest.approx(scipy_stats.ttest_ind(*numbers, equal_var=False).pvalue)


def test_a_base_that_has_not_run_is_said(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("2c",), examples=False)
    path = folder / "source" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"rows": [row for row in plan["rows"] if row["label"] != "B=16"]}))
    filled = fill(TABLES["2c"], _source(folder))
    assert not filled.compared
    assert "No verdicts: the base row, B=16, has not run." in filled.notes
    assert PARTIAL not in " ".join(filled.notes)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"partial": ["2c"]}))
    assert f"{PARTIAL} B=16." in fill(TABLES["2c"], _source(folder)).notes


def test_the_same_run_is_no_test(three: Path) -> None:
    stages = {"stage.score": "score-of-both", "stage.likelihood": "likelihood-of-both"}
    for label in LABELS:
        edit_frame(three, label, stages, "2a")
    entries = fill(TABLES["2a"], _source(three)).rows[0].measured
    assert {(entry.word, entry.comparison) for entry in entries} == {("same run", None)}


def test_the_distance_is_extrapolated_to_infinitely_many_images(three: Path) -> None:
    source = _source(three)
    filled = fill(TABLES["2a"], source)
    ids = source.cells("2a", "autoregressive")
    values = [(2000 * (source.number(id, "score/fd_digits") or 0) - 360 * 13.2) / 1640 for id in ids]
    (entry,) = filled.rows[1].further
    assert entry.text == stats.number(float(np.mean(values)), 2)
    assert entry.half == stats.number(scipy_stats.sem(values) * scipy_stats.t.ppf(0.975, 2), 2)
    assert f"autoregressive {entry.text} ± {entry.half}." in filled.notes[-1]
    line = list(csv.DictReader(io.StringIO(to_csv(filled))))[1]
    assert float(line["measured score/fd_digits_extrapolated"]) == pytest.approx(np.mean(values), rel=1e-9)


def test_systems_and_settings_stand_beside_results_of_the_paper_s_tables(one: Path) -> None:
    source = _source(one)
    assert [table.id for table in source.tables] == ["1a", "1b", "2a", "3", "4"]
    systems, settings = (fill(TABLES[id], source) for id in ("3", "4"))
    rows = {row.label: row for row in systems.rows}
    assert rows["VAR"].measured[0].reason == "another system: published numbers only"
    assert rows["TokenBridge-H"].measured[0].reason == "needs ImageNet 256×256 and GPUs: not run"
    assert [entry.text for entry in rows["TokenBridge-H"].published] == ["910", "1.55", "313.3", "0.80", "0.65"]
    own = {row.label: row.chosen[0].text for row in settings.rows}
    assert settings.chosen[0].title == "preset digits"
    assert own["optimizer"] == "betas 0.9, 0.95, weight decay 0.02"
    assert own["learning rate"] == "learning rate 0.004, batch 32"
    assert own["EMA"] == "0.998"
    assert "backbone dropout 0" in own["dropout / attention dropout / label dropout"]
    assert "preset digits (base of this report)" in to_markdown(settings)
    assert (
        to_csv(settings).splitlines()[0]
        == "label,seeds,cells,chosen base,published paper,published released,empty because"
    )


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


def test_reconstructions_of_the_same_images_are_compared_image_by_image(one: Path) -> None:
    """64 levels cost each image nearly the same, which shows; the errors of both means alone would not show it."""
    source, draw = _source(one), np.random.default_rng(0)
    images = draw.normal(35, 2, size=359)
    (one / "source" / "images").mkdir()
    values = {}
    for label, cost in (("continuous", 0.0), ("B=64", 0.18), ("B=32", 0.0)):
        cell = source.cells("1a", label)[0]
        values[label] = images - cost + draw.normal(0, 0.2, size=359) * (label != "continuous")
        path = one / "source" / "images" / f"{source.stage(cell, 'reconstruct')}.npz"
        np.savez(path, psnr=values[label])
        edit_frame(one, label, {"reconstruct/psnr": values[label].mean(), "reconstruct/psnr_se": 0.1}, "1a")
    rows = {row.label: row.measured[2] for row in fill(TABLES["1a"], _source(one)).rows}
    for label in ("B=64", "B=32"):
        expected, comparison = scipy_stats.ttest_rel(values[label], values["continuous"]), rows[label].comparison
        assert comparison is not None
        assert comparison.p == pytest.approx(expected.pvalue, rel=1e-6)
        low, high = expected.confidence_interval(0.95)
        assert comparison.difference.interval() == pytest.approx((low, high))
    assert (rows["B=64"].word, rows["B=32"].word) == ("worse", "no difference shown")
    assert rows["continuous"].word == "base"
    # a stage of an older version kept no values of its images
    assert (rows["B=16"].comparison, rows["B=16"].word) == (None, "not paired over images")


def test_a_damaged_file_of_images_is_one_line(one: Path) -> None:
    (one / "source" / "images").mkdir()
    source = _source(one)
    stage = source.stage(source.cells("1a", "B=64")[0], "reconstruct")
    (one / "source" / "images" / f"{stage}.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match=rf"{stage}.npz is not readable .*write the report's source again"):
        fill(TABLES["1a"], _source(one))


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
    program, run, name, *assignments, only, kind = shlex.split(source.command(cell))
    assert (program, run, name, only, kind) == ("tokenbridge", "run", "digits", "--only", "reconstruct")
    assert override(preset(name), assignments) == config
    assert {word.split("=")[0] for word in assignments} == set(odd)


def test_every_cell_s_command_repeats_it(one: Path) -> None:
    source = _source(one)
    for cell in source.frame.index:
        words, _, only = source.command(cell).partition(" --only ")
        assert only == ("" if source.stage(cell, "score") else "reconstruct")
        assignments = shlex.split(words)[3:]
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
