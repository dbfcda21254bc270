"""Likelihood in parts, comparisons in equal bins, and memorization: columns, verdicts by SciPy, older runs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import sem, ttest_1samp, ttest_rel
from scipy.stats import t as student

from analysis.frame.source import Source, read
from analysis.tables.compare import comparisons
from analysis.tables.fill import fill
from analysis.tables.filled import EQUAL_BINS, Entry, FilledTable
from analysis.tables.html import to_html
from analysis.tables.latex import to_latex
from analysis.tables.text import to_csv, to_markdown
from experiments.paper import TABLE_LIKELIHOOD, TABLES
from tests.helpers.report_source import edit_frame, write_source

SEEDS = 4
WIDTHS = {8: -1.02, 16: -2.01, 32: -3.0, 64: -3.99}
"""levels -> log₂ of their bins' width, mean"""
COSTS = {8: 0.21, 16: 0.05, 32: 0.01, 64: 0.003}
"""levels -> what being constant within their bins costs a density"""
FULL = "continuous, mixture, full covariance"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory.mktemp("parts"), SEEDS)


def _written(folder: Path, seeds: int) -> Path:
    """A report's folder whose runs measured likelihoods in parts, and memorization."""
    write_source(folder, seeds=seeds, tables=("2a", "2c", "heads"), examples=False)
    path = folder / "source" / "frame.csv"
    frame = pd.read_csv(path)
    draw, added = np.random.default_rng(0), list[dict[str, float]]()
    for _, row in frame.iterrows():
        numbers = {"score/memorized_digits": draw.normal(0.01, 0.02), "score/memorized_digits_se": 0.015}
        bits = row["likelihood/bits_per_dim"] + draw.normal(0, 0.01)
        if row["quantizer.kind"] == "gaussian":
            rounding = 1e-7 * draw.normal()
            numbers["likelihood/token_bits_per_dim"] = bits - WIDTHS[int(row["quantizer.levels"])] + rounding
            numbers["likelihood/bits_per_dim_normal"] = bits - 0.04
        else:
            for levels, cost in COSTS.items():
                numbers[f"likelihood/bits_per_dim_b{levels}"] = bits + cost + draw.normal(0, 0.002)
        added.append(numbers | {"likelihood/bits_per_dim": bits})
    frame = pd.concat([frame.drop(columns="likelihood/bits_per_dim"), pd.DataFrame(added)], axis=1)
    frame.to_csv(path, index=False)
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return read(folder / "source")


def _entry(filled: FilledTable, label: str, title: str) -> Entry:
    row = next(row for row in filled.rows if row.label == label)
    return row.measured[[column.title for column in filled.measured].index(title)]


def _values(source: Source, label: str, key: str) -> list[float]:
    values = [source.number(cell, f"likelihood/{key}") for cell in source.cells("heads", label)]
    return [value for value in values if value is not None]


def test_likelihoods_stand_in_parts(source: Source) -> None:
    filled = fill(TABLE_LIKELIHOOD, source)
    assert filled.table.id in {table.id for table in source.tables}
    titles = ["bits/dim of tokens", "log₂ of bin width", "bits/dim", "base in these bins", "cost of these bins"]
    titles += ["bits/dim, normal in bins"]
    assert [column.title for column in filled.measured] == titles
    assert not filled.chosen  # no guidance and no temperature have a part in it
    assert {row.label for row in filled.rows} == {
        *(f"B={levels}, {head}" for levels in COSTS for head in ("autoregressive", "parallel")),
        "continuous, mixture",
        FULL,
    }
    bits = np.array(_values(source, "B=8, parallel", "bits_per_dim"))
    read = [_entry(filled, "B=8, parallel", title).text for title in titles]
    of_base = np.array(_values(source, FULL, "bits_per_dim_b8"))
    cost = of_base - _values(source, FULL, "bits_per_dim")
    expected = [bits.mean() + 1.02, -1.02, bits.mean(), of_base.mean(), cost.mean(), bits.mean() - 0.04]
    assert read == [f"{value:.3f}".replace("-", "−") for value in expected]
    interval = student.interval(0.95, SEEDS - 1, cost.mean(), sem(cost))
    shown = _entry(filled, "B=8, parallel", "cost of these bins").estimate
    assert shown is not None
    assert (shown.half, shown.over) == (pytest.approx((interval[1] - interval[0]) / 2), "seeds")
    assert _entry(filled, "B=8, parallel", "log₂ of bin width").interval == ""  # no seed changes it
    assert {_entry(filled, FULL, title).reason for title in titles if title != "bits/dim"} == {"no bins"}
    assert "Floor" not in " ".join(filled.notes)  # of a distance that it does not show


def test_a_row_of_levels_is_compared_with_one_of_values_in_the_same_bins(source: Source) -> None:
    filled = fill(TABLE_LIKELIHOOD, source)
    verdicts = set()
    for levels in COSTS:
        for head in ("autoregressive", "parallel"):
            label = f"B={levels}, {head}"
            bits, of_base = _values(source, label, "bits_per_dim"), _values(source, FULL, f"bits_per_dim_b{levels}")
            found, test = _entry(filled, label, "bits/dim").comparison, ttest_rel(bits, of_base)
            assert found is not None
            assert found.p == pytest.approx(test.pvalue)
            assert found.difference.effect == pytest.approx(np.mean(bits) - np.mean(of_base))
            assert found.adjusted >= found.p
            way = "worse" if np.mean(bits) > np.mean(of_base) else "better"
            assert found.verdict == (way if found.adjusted < 0.05 else "no difference shown")
            verdicts.add(found.verdict)
    assert len(verdicts) > 1
    # two rows of values have no bins to make equal
    values = [_values(source, label, "bits_per_dim") for label in ("continuous, mixture", FULL)]
    other = _entry(filled, "continuous, mixture", "bits/dim")
    assert (other.mark, other.binned) == ("°", "")
    assert other.comparison is not None
    assert other.comparison.difference.effect == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert other.comparison.difference.gap.moderated


def test_a_comparison_in_equal_bins_has_one_verdict_in_every_table(source: Source) -> None:
    ours = _entry(fill(TABLE_LIKELIHOOD, source), "B=16, autoregressive", "bits/dim").comparison
    heads = fill(TABLES["heads"], source)
    theirs = _entry(heads, FULL, "bits/dim")
    assert ours is not None
    assert theirs.comparison is not None
    assert (theirs.comparison.p, theirs.comparison.adjusted) == (ours.p, ours.adjusted)
    assert theirs.comparison.difference.effect == pytest.approx(-ours.difference.effect)
    assert {theirs.comparison.verdict, ours.verdict} == {"better", "worse"}
    shown = f"{np.mean(_values(source, FULL, 'bits_per_dim_b16')):.3f}"
    assert theirs.binned.startswith(f"{FULL} in the bins of B=16, autoregressive: {shown} ± ")
    assert any(note.startswith(f"{EQUAL_BINS} In equal bins") and theirs.binned in note for note in heads.notes)
    for label in ("B=8, autoregressive", "B=64, parallel"):  # both of levels: nothing makes their bins equal
        other = _entry(heads, label, "bits/dim")
        assert (other.remark, other.comparison) == ("other bins", None)
    word = f"({theirs.word}{theirs.mark}"
    assert theirs.mark == f"°{EQUAL_BINS}"
    assert word in to_markdown(heads)
    assert f">{theirs.word}°{EQUAL_BINS}<" in to_html(heads).replace("no diff. shown", "no difference shown")
    assert r"\textdaggerdbl" in to_latex(heads)


def test_one_seed_has_its_base_in_the_same_bins_and_no_verdict(tmp_path: Path) -> None:
    filled = fill(TABLE_LIKELIHOOD, read(_written(tmp_path, 1) / "source"))
    bits = _entry(filled, "B=8, parallel", "bits/dim")
    assert (bits.comparison, bits.word) == (None, "")
    assert _entry(filled, "B=8, parallel", "base in these bins").estimate is not None
    assert not any(note.startswith(EQUAL_BINS) for note in filled.notes)


@pytest.mark.parametrize(
    ("label", "changes"),
    [
        (FULL, {"quantizer.range": 4}),
        (FULL, {"stage.latents": "others"}),
        (FULL, {"likelihood/bits_per_dim_b16": ""}),
        ("B=16, autoregressive", {"quantizer.kind": "uniform"}),
        ("B=16, autoregressive", {"quantizer.per": "channel"}),
    ],
)
def test_bins_that_are_not_the_same_are_not_called_equal(
    folder: Path, tmp_path: Path, label: str, changes: dict[str, object]
) -> None:
    (tmp_path / "source").mkdir()
    for name in ("frame.csv", "plan.json", "curves.csv"):
        (tmp_path / "source" / name).write_bytes((folder / "source" / name).read_bytes())
    edit_frame(tmp_path, label, changes, "heads")
    source = read(tmp_path / "source")
    known = comparisons(source)
    heads = TABLES["heads"].by(source.scorers)
    bits = next(column for column in heads.measured if column.title == "bits/dim")
    ours, theirs = (source.cells("heads", row) for row in ("B=16, autoregressive", FULL))
    assert known.of(bits, ours, theirs) is None
    assert not known.beats(bits, ours, theirs)


def test_memorization_is_told_of_every_row_in_one_line(source: Source) -> None:
    column = [source.number(cell, "score/memorized_digits") for cell in source.cells("heads", "VQ, autoregressive")]
    heads = fill(TABLES["heads"], source)
    assert _entry(heads, "VQ, autoregressive", "memorized").text == f"{100 * np.mean(column):.1f}".replace("-", "−")
    (line,) = [note for note in heads.notes if note.startswith("Memorized, in %: from ")]
    away = sum(
        ttest_1samp([source.number(cell, "score/memorized_digits") for cell in row.cells], 0).pvalue < 0.05
        for row in heads.rows
    )
    assert line.endswith(f"The interval leaves out 0 in {away} of {len(heads.rows)} rows.")
    small = fill(TABLES["2a"], source)  # whose page has no room for a column
    (line,) = [note for note in small.notes if note.startswith("Memorized, in % (share of generated images, in excess")]
    assert ": parallel " in line
    assert ", autoregressive " in line
    lines = list(csv.DictReader(to_csv(small).splitlines()))
    numbers = [source.number(cell, "score/memorized_digits") for cell in source.cells("2a", "parallel")]
    assert float(lines[0]["measured score/memorized_digits"]) == pytest.approx(np.mean(numbers))
    token = [source.number(cell, "likelihood/token_bits_per_dim") for cell in source.cells("2a", "parallel")]
    assert float(lines[0]["measured likelihood/token_bits_per_dim"]) == pytest.approx(np.mean(token))


def test_levels_have_bits_of_tokens_and_the_normal_beside_the_density(source: Source) -> None:
    titles = [column.title for column in fill(TABLES["2c"], source).measured]
    assert titles[:4] == ["fd_digits", "bits/dim of tokens", "bits/dim", "bits/dim, normal in bins"]


def test_runs_of_an_older_version_have_neither_the_table_nor_the_columns(tmp_path: Path) -> None:
    source = read(write_source(tmp_path, seeds=3, tables=("2c", "heads"), examples=False) / "source")
    assert [table.id for table in source.tables] == ["2c", "3", "4", "heads"]
    for id in ("2c", "heads"):
        filled = fill(TABLES[id], source)
        text = to_csv(filled) + to_markdown(filled)
        assert "not reported" not in text
        assert not any(word in text for word in ("token_bits_per_dim", "normal", "memorized", "Memorized"))
