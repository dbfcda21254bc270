"""A number changed in one run changes the cells and verdicts that depend on it, in every table, and nothing else.

The rows of a metric tell each other's spread, and the comparisons of a report are corrected together, so a number may
move p values and words elsewhere. Numbers and differences of other cells stay as they were.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.frame.source import Source, read
from analysis.tables import effects
from analysis.tables.fill import fill
from analysis.tables.filled import Entry, FilledTable
from analysis.tables.text import to_csv
from experiments.axes import Axis
from experiments.grid.request import Trial
from tests.helpers.report_axes import write_axes
from tests.helpers.report_source import write_source

TABLES = ("1a", "1b", "2a", "2b", "2c", "2d", "2e", "5", "heads")
Place = tuple[str, str, str]
"""table, row, column"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("whole") / "report", seeds=3, tables=TABLES, examples=False)


def _filled(source: Source) -> list[FilledTable]:
    return [fill(table, source) for table in source.tables] + effects.filled(source)


def _entries(filled: list[FilledTable]) -> dict[Place, Entry]:
    return {
        (table.table.id, row.label, column.key): entry
        for table in filled
        for row in table.rows
        for column, entry in zip((*table.measured, *table.further), (*row.measured, *row.further), strict=True)
    }


def _own(entry: Entry) -> tuple[object, ...]:
    """What an entry says by itself: all but what the spread of other rows, the correction and a rival's number move."""
    found = entry.comparison
    alone = (found.difference.effect, found.difference.gap.values) if found else ()
    return (entry.text, entry.reason, entry.estimate, entry.half, *alone)


def _changed(folder: Path, cell: str, column: str, value: float, to: Path) -> tuple[set[Place], set[Place], set[str]]:
    """Places whose own numbers changed, places whose test or bold type did, and tables whose CSV did."""
    shutil.copytree(folder / "source", to / "source")
    path = to / "source" / "frame.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[frame["cell"] == cell, column] = str(value)
    frame.to_csv(path, index=False)
    before, after = _filled(read(folder / "source")), _filled(read(to / "source"))
    old, new = _entries(before), _entries(after)
    assert old.keys() == new.keys()
    own = {place for place in old if _own(old[place]) != _own(new[place])}
    other = {place for place in old if old[place] != new[place]} - own
    pairs = zip(before, after, strict=True)
    return own, other, {a.table.id for a, b in pairs if to_csv(a) != to_csv(b)}


def _rows_of(source: Source, cell: str) -> set[tuple[str, str]]:
    return {(row["table"], row["label"]) for row in source.plan["rows"] if row["cell"] == cell}


def test_a_number_of_an_ordinary_row_changes_its_own_cells_alone(whole: Path, tmp_path: Path) -> None:
    source = read(whole / "source")
    cell = source.cells("2b", "frequency")[1]
    own, other, files = _changed(whole, cell, "score/recall_digits", 0.5, tmp_path)
    assert own == {("2b", "frequency", "score/recall_digits")}
    assert "2b" in files
    assert {table for table, _, _ in other} <= set(TABLES) - {"1a", "1b", "5"}


def test_a_number_of_the_base_changes_the_differences_of_its_column(whole: Path, tmp_path: Path) -> None:
    source = read(whole / "source")
    cell = source.cells("2a", "autoregressive")[0]
    rows = _rows_of(source, cell)
    assert rows == {("2a", "autoregressive"), ("2b", "as stored"), ("2c", "B=16"), ("2d", "1 channel")} | {
        ("heads", "B=16, autoregressive")
    }
    own, _, files = _changed(whole, cell, "score/agreement", 0.9, tmp_path)
    tables = {table for table, _ in rows}
    filled = {table.table.id: table for table in _filled(source)}
    expected = {(id, row.label, "score/agreement") for id in tables for row in filled[id].rows}
    assert own == expected
    assert files >= tables


def test_a_second_number_of_images_changes_only_what_is_extrapolated_from_it(whole: Path, tmp_path: Path) -> None:
    cell = read(whole / "source").cells("2e", "512×4")[2]
    own, other, files = _changed(whole, cell, "score/fd_digits_at_floor_images", 99.0, tmp_path)
    assert own == {("2e", "512×4", "score/fd_digits_extrapolated")}
    assert not other
    assert files == {"2e"}


def test_an_error_over_images_changes_the_interval_and_the_difference(whole: Path, tmp_path: Path) -> None:
    source = read(whole / "source")
    cell = source.cells("1a", "B=8")[0]
    own, other, files = _changed(whole, cell, "reconstruct/fd_digits_se", 0.3, tmp_path)
    assert own == {("1a", "B=8", "reconstruct/fd_digits")}
    assert {table for table, _, _ in other} <= {"1a"}
    assert files == {"1a"}
    # with several seeds the interval over seeds holds the error of images already
    own, other, files = _changed(whole, source.cells("2a", "parallel")[0], "score/fd_digits_se", 3.0, tmp_path / "2")
    assert (own, other, files) == (set(), set(), set())


def test_a_changed_number_turns_the_verdict_of_its_cell(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "source", tmp_path / "source")
    path = tmp_path / "source" / "frame.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    cells = read(whole / "source").cells("2a", "parallel")
    for cell, value in zip(cells, (5.0, 5.1, 4.9), strict=True):
        frame.loc[frame["cell"] == cell, "score/fd_digits"] = str(value)
    frame.to_csv(path, index=False)
    place = ("2a", "parallel", "score/fd_digits")
    before, after = (_entries(_filled(read(folder / "source")))[place] for folder in (whole, tmp_path))
    assert (before.word, before.best) == ("worse", False)
    assert (after.word, after.best) == ("better", True)


def test_a_test_that_becomes_certain_moves_the_words_of_others_but_not_their_differences(whole, tmp_path) -> None:
    source = read(whole / "source")
    cell = source.cells("2d", "4 channels")[0]
    own, other, files = _changed(whole, cell, "score/precision_digits", 0.1, tmp_path)
    assert own == {("2d", "4 channels", "score/precision_digits")}
    old, new = (_entries(_filled(read(folder / "source"))) for folder in (whole, tmp_path))
    assert other
    for place in other:
        before, after = old[place].comparison, new[place].comparison
        assert before is not None
        assert after is not None
        assert after.difference.effect == before.difference.effect
        if place[2] != "score/precision_digits":  # whose spread tells nothing of other metrics
            assert after.p == before.p
    assert "2d" in files


def test_one_comparison_has_one_verdict_in_all_tables(whole: Path) -> None:
    """Parallel against autoregressive stands in 2a and among all heads: the same rows, the same seeds."""
    entries = _entries(_filled(read(whole / "source")))
    keys = {column for table, _, column in entries if table == "heads"}
    compared = 0
    for key in keys & {column for table, _, column in entries if table == "2a"}:
        one, other = entries["2a", "parallel", key], entries["heads", "B=16, parallel", key]
        assert (one.word, one.mark, one.change, one.comparison) == (
            other.word,
            other.mark,
            other.change,
            other.comparison,
        )
        compared += one.comparison is not None
    assert compared == 4


def test_a_point_of_the_axes_changes_its_row_and_the_effects_on_its_metric(tmp_path: Path) -> None:
    def numbers(trial: Trial) -> dict[str, float]:
        depth, levels = trial.values["head.depth"], trial.values["quantizer.levels"]
        return {"score/recall_digits": 0.3 + 0.01 * depth + levels / 1e4}

    axes = (Axis("quantizer.levels", (8, 16, 64)), Axis("head.depth", (1, 2, 3)))
    folder = write_axes(tmp_path / "axes", axes, numbers, seeds=2)
    source = read(folder / "source")
    trial = next(trial for trial in source.trials if trial.label == "b64-d3")
    own, other, files = _changed(folder, trial.cell, "score/recall_digits", 0.9, tmp_path / "after")
    assert {place for place in own if place[0] == "axes"} == {("axes", "b64-d3", "score/recall_digits")}
    changed = {row for table, row, _ in own if table == "effects-recall_digits"}
    # its means, and the differences to the first value; for a first value itself nothing
    assert changed == {"quantizer.levels = 64", "head.depth = 3"}
    assert {table for table, _, _ in own} == {"axes", "effects-recall_digits"} <= files
    assert {table for table, _, _ in other} <= {table.id for table in _filled(source)}


def test_the_file_names_every_part_of_a_comparison(whole: Path) -> None:
    source = read(whole / "source")
    table = next(table for table in source.tables if table.id == "2a")
    parallel, base = csv.DictReader(io.StringIO(to_csv(fill(table, source))))
    key = "measured score/fd_digits"
    assert (parallel[f"{key} over"], parallel[f"{key} verdict"], base[f"{key} verdict"]) == ("seeds", "worse", "base")
    low, high, first, last, gap = (
        float(parallel[f"{key} difference{part}"])
        for part in (" low", " high", " corrected low", " corrected high", "")
    )
    assert parallel[f"{key} difference is"] == "per cent of the base"
    assert 0 < first < low < gap < high < last
    assert parallel[f"{key} family"] == "claim"
    assert 0 < float(parallel[f"{key} p"]) <= float(parallel[f"{key} adjusted p"]) < 0.05
    assert json.loads((whole / "source" / "plan.json").read_text())["tables"] == list(TABLES)
