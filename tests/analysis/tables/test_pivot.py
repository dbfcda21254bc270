"""Any cells as a table: a setting down, another across, one metric, seeds averaged; what would mislead is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest

from analysis.frame.source import Source, of_frame, read
from analysis.tables.pivot import Query, metric, pivot, written
from experiments.axes import Axis
from experiments.grid.request import Trial
from tests.helpers.report_axes import write_axes
from tests.helpers.report_source import write_source
from tokenbridge.config import UserError

LEVELS, DEPTH = Axis("quantizer.levels", (8, 64)), Axis("head.depth", (1, 3))
KIND = Axis("head.kind", ("parallel", "autoregressive"))
ASKED_PARTS = ("quantizer.levels", "head.depth", "fd_digits")
ASKED = Query(*ASKED_PARTS)
T_TWO = 4.302653
"""97.5 % point of Student's t with two degrees of freedom"""


def distance(trial: Trial) -> dict[str, float]:
    levels, depth = trial.values["quantizer.levels"], trial.values.get("head.depth", 1)
    return {"score/fd_digits": levels / 8 + depth + levels / 8 * depth * 0.1 * trial.seed**2}


def source(folder: Path, *axes: Axis, numbers=distance, **more: Any) -> Source:
    return read(write_axes(folder / "grid", axes or (LEVELS, DEPTH), numbers, **more) / "source")


def edited(found: Source, cell: int, key: str, value: Any) -> Source:
    values = found.frame[key].tolist()
    values[cell] = value
    frame = found.frame.assign(**{key: values})
    return Source(found.folder, frame, found.plan, found.curves, found.manifests)


def test_an_entry_is_the_mean_over_its_seeds_with_their_interval(tmp_path: Path) -> None:
    filled = pivot(ASKED, source(tmp_path, seeds=3))
    assert [row.label for row in filled.rows] == ["quantizer.levels = 8", "quantizer.levels = 64"]
    assert [column.title for column in filled.measured] == ["head.depth = 1", "head.depth = 3"]
    seeds = [2.0, 2.1, 2.4]
    entry = filled.rows[0].measured[0]
    assert entry.estimate is not None
    assert entry.text == f"{fmean(seeds):.2f}"
    assert entry.half == f"{T_TWO * stdev(seeds) / math.sqrt(3):.2f}"
    best = [[each.best for each in row.measured] for row in filled.rows]
    assert best == [[True, False], [False, False]]
    assert "over seeds, 3 per entry." in " ".join(filled.notes)


def test_one_seed_has_no_interval_and_no_best(tmp_path: Path) -> None:
    filled = pivot(ASKED, source(tmp_path))
    entries = [entry for row in filled.rows for entry in row.measured]
    assert [entry.text for entry in entries] == ["2.00", "4.00", "9.00", "11.00"]
    assert not any(entry.half or entry.best for entry in entries)
    assert "One seed or measurement per entry: no interval." in filled.notes


def test_what_no_seed_changes_is_one_measurement(tmp_path: Path) -> None:
    """The quantizer's error is one number for all depths and seeds that share the quantizer, so nothing is refused."""
    filled = pivot(Query("quantizer.levels", "", "mse"), source(tmp_path, seeds=3))
    assert [entry.estimate.seeds for row in filled.rows for entry in row.measured if entry.estimate] == [1, 1]
    assert [column.title for column in filled.measured] == ["MSE ×10³"]


def test_several_values_of_another_setting_are_refused_and_where_chooses(tmp_path: Path) -> None:
    found = source(tmp_path, LEVELS, DEPTH, KIND)
    with pytest.raises(UserError) as refused:
        pivot(ASKED, found)
    assert str(refused.value) == (
        "score/fd_digits at quantizer.levels=8, head.depth=1 has cells that differ in head.kind (parallel,"
        " autoregressive); choose, for example --where head.kind=autoregressive"
    )
    filled = pivot(Query(*ASKED_PARTS, ("head.kind=parallel",)), found)
    assert all(entry.text for row in filled.rows for entry in row.measured)
    assert "Only cells with head.kind=parallel." in filled.notes


def test_two_protocols_are_refused_unless_rows_or_columns_explain_them(tmp_path: Path) -> None:
    found = source(tmp_path)
    column = "protocol.score"
    other = found.frame[column].iloc[0] | {"images": 7}
    with pytest.raises(UserError, match=r"images=7 in row '8, 1' but 2000 in row '8, 3'.*--where KEY=VALUE"):
        pivot(ASKED, edited(found, 0, column, other))
    temperatures = Axis("sample.temperature", (0.9, 1.0))  # it is in the protocol, and it is what the columns are
    assert len(pivot(Query("quantizer.levels", "sample.temperature", "fd_digits"),
                     source(tmp_path / "t", LEVELS, temperatures)).measured) == 2  # fmt: skip


def test_an_empty_entry_says_why(tmp_path: Path) -> None:
    folder = write_axes(tmp_path / "grid", (LEVELS, DEPTH), distance, each=True)
    reasons = {entry.reason for row in pivot(ASKED, read(folder / "source")).rows for entry in row.measured}
    assert "no such cell" in reasons
    heads = (Axis("quantizer.kind", ("identity",)), Axis("head.kind", ("flow", "mixture")))
    found = source(tmp_path / "heads", *heads, numbers=lambda trial: {"score/fd_digits": 1.0})
    row = pivot(Query("quantizer.kind", "head.kind", "bits_per_dim"), found).rows[0]
    assert [entry.reason for entry in row.measured] == ["density not computed", ""]


def test_an_unfinished_seed_is_told(tmp_path: Path) -> None:
    found = edited(source(tmp_path, seeds=3), 0, "score/fd_digits", math.nan)
    filled = pivot(ASKED, found)
    assert "Not finished: 8, 1 has 2 of 3 seeds." in filled.notes
    assert "3 per entry, but 8, 1: 2." in " ".join(filled.notes)


def test_a_seed_that_diverged_leaves_no_mean_of_the_others(tmp_path: Path) -> None:
    found = edited(source(tmp_path, seeds=3), 0, "score/fd_digits", math.inf)
    filled = pivot(ASKED, found)
    assert [entry.reason for row in filled.rows for entry in row.measured if entry.reason] == ["infinite"]
    assert "Not finished" not in " ".join(filled.notes)


def test_what_differs_beside_rows_and_columns_is_told(tmp_path: Path) -> None:
    found = source(tmp_path)
    cells = [i for i, cell in enumerate(found.frame.index) if found.setting(str(cell), "head.depth") == 3]
    for i in cells:
        found = edited(found, i, "train.epochs", 40)
    assert "Beside rows and columns, entries differ in train.epochs (20, 40)." in pivot(ASKED, found).notes


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query("quantizer.level", "", "fd_digits"), "did you mean quantizer.levels?"),
        (Query("quantizer.levels", "quantizer.levels", "fd_digits"), "give two settings"),
        (Query("quantizer.levels", "head.depth", "fd_digit"), "did you mean score/fd_digits"),
        (Query("quantizer.levels", "head.depth", "zzz"), "there are quantizer/mse, "),
        (Query("quantizer.levels", "head.depth", "fd_digits", ("head.depth",)), "must have the form KEY=VALUE"),
        (Query("quantizer.levels", "head.depth", "fd_digits", ("head.dept=1",)), "did you mean head.depth?"),
        (Query("quantizer.levels", "head.depth", "fd_digits", ("head.depth=9",)), "head.depth is 1, 3"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, query: Query, message: str) -> None:
    with pytest.raises(UserError, match=r".") as refused:
        pivot(query, source(tmp_path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_short_name_means_the_generated_images_first(tmp_path: Path) -> None:
    found = read(write_source(tmp_path / "report", examples=False) / "source")
    assert metric("fd_digits", found).key == "score/fd_digits"
    assert metric("reconstruct/fd_digits", found).key == "reconstruct/fd_digits"
    assert metric(
        "fd_digits_se", read(write_source(tmp_path / "r", tables=("1a",), examples=False) / "source")
    ).key == ("reconstruct/fd_digits_se")
    with pytest.raises(UserError, match="no cell of this report has a number yet"):
        metric("fd_digits", of_frame(pd.DataFrame({"cell": ["a"], "name": ["b"]}), {}))


def test_each_form_has_the_numbers(tmp_path: Path) -> None:
    filled = pivot(ASKED, source(tmp_path, seeds=3))
    number, half = filled.rows[0].measured[0].text, filled.rows[0].measured[0].half
    assert f"**{number} ± {half}**" in written(filled)
    assert rf"\textbf{{{number}}} & \textbf{{$\pm$\,{half}}}" in written(filled, ".tex")
    assert f'<td class="number measured first best">{number}</td>' in written(filled, ".html")
    assert "href" not in written(filled, ".html")
    lines = list(csv.DictReader(written(filled, ".csv").splitlines()))
    assert len(lines) == 4
    assert (lines[0]["quantizer.levels"], lines[0]["head.depth"], lines[0]["seeds"]) == ("8", "1", "3")
    assert float(lines[0]["score/fd_digits"]) == pytest.approx(fmean([2.0, 2.1, 2.4]))
