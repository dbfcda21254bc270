"""Tables that the paper does not have or that need more than its columns: all heads, times, sizes that scale."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from analysis.frame.source import Source, read
from analysis.report import facts, html
from analysis.report.contents import contents
from analysis.tables.fill import fill
from analysis.tables.filled import FilledRow, FilledTable
from analysis.tables.text import tables_text, to_csv, to_markdown
from experiments.paper import TABLES
from tests.helpers.report_source import edit_frame, write_source
from tokenbridge.config import UserError

ALL = ("2a", "2b", "2c", "2d", "2e", "5", "heads")


@pytest.fixture
def three(tmp_path: Path) -> Path:
    return write_source(tmp_path / "three", seeds=3, tables=ALL, examples=False)


def _source(folder: Path) -> Source:
    return read(folder / "source")


def _rows(filled: FilledTable) -> dict[str, FilledRow]:
    return {row.label: row for row in filled.rows}


def _entry(filled: FilledTable, label: str, title: str):
    return _rows(filled)[label].measured[[column.title for column in filled.measured].index(title)]


def _page(folder: Path) -> str:
    source = _source(folder)
    return html.page(contents(source, [fill(table, source) for table in source.tables], []), [])


def _without(folder: Path, table: str, label: str) -> None:
    """Take a row out of the plan, as if it had not run."""
    path = folder / "source" / "plan.json"
    plan = json.loads(path.read_text())
    rows = [row for row in plan["rows"] if (row["table"], row["label"]) != (table, label)]
    path.write_text(json.dumps(plan | {"rows": rows}))


def test_a_table_of_our_own_has_no_published_column_and_no_number(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("heads",), examples=False)
    filled = fill(TABLES["heads"], _source(folder))
    assert "published" not in to_markdown(filled)
    assert "published" not in to_csv(filled).splitlines()[0]
    assert to_markdown(filled).startswith("# Every head on every token\n")
    assert filled.begins[:4] == [False, False, True, False]  # B=8 has two heads
    text = _page(folder)
    assert ">published" not in text
    assert "Table heads" not in text
    assert '<a href="#table-heads">Every head on every token</a>' in text
    assert "Tables of the paper that this report does not hold: 1a, 1b, 2a, 2b, 2c, 2d, 2e, 3, 4, 5." in text


@pytest.mark.parametrize(
    ("label", "column", "reason"),
    [
        ("continuous, diffusion", "bits/token", "continuous"),
        ("continuous, diffusion", "bits/dim", "density not computed"),
        ("continuous, flow", "bits/dim", "density not computed"),
        ("VQ, autoregressive", "bits/dim", "another latent space"),
        ("LFQ, parallel", "bits/dim", "another latent space"),
        ("B=8, parallel", "time per image", "not run"),
        ("B=16, parallel", "time per image", "not reported"),
        ("B=32, parallel", "fd_digits", "score not run"),
        ("B=64, parallel", "fd_digits", "not run"),
    ],
)
def test_an_empty_cell_says_why(three: Path, label: str, column: str, reason: str) -> None:
    edit_frame(three, "B=8, parallel", {"stage.speed": "", "speed/image_ms": ""}, "heads")
    edit_frame(three, "B=16, parallel", {"speed/image_ms": ""}, "heads")
    edit_frame(three, "B=32, parallel", {"stage.score": "", "score/fd_digits": ""}, "heads")
    _without(three, "heads", "B=64, parallel")
    assert _entry(fill(TABLES["heads"], _source(three)), label, column).reason == reason


def test_a_mixture_and_continuous_tokens_have_bits(three: Path) -> None:
    assert _entry(fill(TABLES["heads"], _source(three)), "continuous, mixture", "bits/dim").text == "1.374"


def test_what_no_seed_changes_has_no_interval_and_a_time_is_measured_once(three: Path) -> None:
    filled = fill(TABLES["heads"], _source(three))
    shown = {column.title for column, interval in zip(filled.measured, filled.intervals, strict=True) if interval}
    assert shown == {"fd_digits", "bits/dim", "agreement", "recall"}
    time = _entry(filled, "B=8, parallel", "time per image")
    assert time.estimate is not None
    assert (time.text, time.estimate.seeds, time.best) == ("2.4", 1, False)


def test_one_seed_without_its_score_is_refused_and_one_without_a_time_is_not(three: Path) -> None:
    edit_frame(three, "B=8, parallel", {"stage.speed": "", "speed/image_ms": ""}, "heads", seed=1)
    assert _entry(fill(TABLES["heads"], _source(three)), "B=8, parallel", "time per image").text == "2.4"
    edit_frame(three, "B=8, parallel", {"score/fd_digits": ""}, "heads", seed=1)
    with pytest.raises(UserError, match="score/fd_digits: row 'B=8, parallel' has it for 2 of 3 seeds"):
        fill(TABLES["heads"], _source(three))


def test_a_scaled_row_says_what_was_run_here(three: Path) -> None:
    filled = fill(TABLES["2e"], _source(three))
    assert [row.here for row in filled.rows] == ["16×3", "32×3", "32×4", "64×4", "64×6"]
    assert "| 256×3 (here 16×3) " in to_markdown(filled)
    lines = csv.DictReader(to_csv(filled).splitlines())
    assert [line["here"] for line in lines] == ["16×3", "32×3", "32×4", "64×4", "64×6"]
    assert ">here 16×3</span>" in _page(three)
    assert {row.here for row in fill(TABLES["2d"], _source(three)).rows} == {""}


def test_a_scaled_row_of_the_paper_s_size_says_nothing(three: Path) -> None:
    edit_frame(three, "256×3", {"head.width": 256}, "2e")
    assert _rows(fill(TABLES["2e"], _source(three)))["256×3"].here == ""


def test_times_of_one_token(three: Path) -> None:
    _without(three, "5", "flow 1280×8")
    filled = fill(TABLES["5"], _source(three))
    assert (filled.measured_heading, filled.published_heading) == ("measured here", "published, A100")
    assert not filled.shows_seeds
    assert _entry(filled, "diffusion 1280×8", "batch 1, no cache").reason == "no cache to leave out"
    assert _entry(filled, "autoregressive 1024×4", "batch 1, no cache").text == "17.85"
    assert _entry(filled, "flow 1280×8", "batch 1").reason == "not run"
    assert [entry.text for entry in _rows(filled)["diffusion 1280×8"].published] == ["311.25", "1.85"]
    assert _entry(filled, "diffusion 1280×8", "batch 1, step by step").text == "222.82"
    assert _entry(filled, "parallel 1024×4", "batch 1, step by step").reason == "no such network"
    assert (
        "Times: Synthetic CPU, 1 thread, torch 2.9.0. Half the interquartile range of the rounds, at most: batch 1 2.62"
        " ms, batch 256 65.5 ms." in filled.notes
    )


def test_times_are_repeated_by_the_command_that_takes_them(three: Path) -> None:
    source = _source(three)
    assert source.command(source.cells("5", "mixture 1024×3")[0]) == "tokenbridge speed"
    timed = source.command(source.cells("heads", "B=8, parallel")[0])
    assert timed.endswith("--only likelihood --only score --only speed")
    assert "--only" not in source.command(source.cells("2b", "frequency")[0])


def test_a_report_of_times_alone_is_measured_on_no_images(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("5",), examples=False)
    assert "Measured on this machine with random weights." in _page(folder)


def test_notes_of_many_rows_name_the_lowest_and_the_highest(three: Path) -> None:
    notes = " ".join(fill(TABLES["heads"], _source(three)).notes)
    assert (
        "as many generated ones read from 13.20 ± 0.00 (B=16, autoregressive) to 48.30 ± 0.00 (LFQ, parallel)" in notes
    )
    assert "Times: Synthetic CPU, 1 thread, torch 2.9.0." in notes


def test_tables_as_text_are_aligned_and_only_those_that_are_there(three: Path) -> None:
    text = tables_text(_source(three), ["2b", "heads"])
    assert text.index("# Table 2b. Channel order") < text.index("# Every head on every token")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 2  # one width a table
    assert "11.42 ± 0.20" in text
    with pytest.raises(UserError, match="table 1a is not in this report; it holds 2a, 2b, 2c, 2d, 2e, 3, 4, 5, heads"):
        tables_text(_source(three), ["2a", "1a"])
    with pytest.raises(UserError, match="table 9z is not in this report"):
        tables_text(_source(three), ["9z"])


def test_a_cell_of_several_rows_has_one_place_and_all_rows_lead_to_it(three: Path) -> None:
    source = _source(three)
    filled = [fill(table, source) for table in source.tables]
    origins = facts.provenance(source, filled)
    anchors = [seed.cell for origin in origins for seed in origin.seeds if seed.anchor]
    assert len(anchors) == len(set(anchors)) == len(source.frame)
    ours = next(origin for origin in origins if "2a autoregressive" in origin.rows)
    assert ours.rows == ("2a autoregressive", "2b as stored", "2c B=16", "2d 1 channel", "heads B=16, autoregressive")
    assert [seed.more for seed in ours.seeds] == ["", "train.seed=1 sample.seed=1", "train.seed=2 sample.seed=2"]


def test_every_link_of_the_page_leads_to_one_place(three: Path) -> None:
    text = _page(three)
    ids, links = re.findall(r' id="([^"]+)"', text), re.findall(r'href="#([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    # in five tables, each with a second part for a narrow page
    assert text.count('<th scope="row"><a href="#source-cell-b016-r5-autoregressive-s0') == 5 * 2


def test_a_row_with_fewer_seeds_than_another_of_its_cells_keeps_its_own_line(three: Path) -> None:
    path = three / "source" / "plan.json"
    plan = json.loads(path.read_text())
    rows = [row for row in plan["rows"] if row["table"] != "2b" or row["cell"].endswith("s0")]
    path.write_text(json.dumps(plan | {"rows": rows}))
    source = _source(three)
    origins = facts.provenance(source, [fill(TABLES[id], source) for id in ("2a", "2b")])
    stored = next(origin for origin in origins if origin.rows == ("2b as stored",))
    assert [(seed.cell, seed.anchor) for seed in stored.seeds] == [("cell-b016-r5-autoregressive-s0", False)]


def test_the_page_says_what_holds_for_all_tables_once(three: Path) -> None:
    text = _page(three)
    for once in (
        "half-width of the 95 %",
        "were searched for each row by itself, on",
        "<dt>bits/dim</dt>",
        "<dt>corrected</dt>",
    ):
        assert text.count(once) == 1, once
    assert text.count("Floor: 360 real images") == 6
    assert text.count("<dt>head parameters</dt>") == text.count("<dt>bits/token</dt>") == 1
