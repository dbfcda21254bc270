"""The duel: two rows, fresh training seeds, one comparison, its own report."""

import json
import re

import pytest

from experiments.grid import duel, search
from experiments.grid.request import DUEL_SEEDS, FRESH_SEED, Request
from experiments.paper import DUEL, duel_of, plan
from experiments.presets import DIGITS
from tests.conftest import SHORT
from tests.helpers.runs import with_database
from tokenbridge.store.artifacts import Store

ROWS = ("heads B=16, autoregressive", "heads continuous, flow")


def test_a_duel_trains_on_seeds_that_no_search_used_at_the_points_of_the_tables_searches():
    grid, table = Request(name="x", duel=ROWS).grid(), Request(name="y", tables=("heads",)).grid()
    seeds = {row.cell.config.train.seed for row in grid.rows}
    assert seeds == {*range(FRESH_SEED, FRESH_SEED + DUEL_SEEDS)}
    searched = [cell for row in grid.search.values() for point in row.first() for cell in point.cells]
    assert {cell.config.train.seed for cell in searched} == {0, 1, 2}
    of_table = {cell.id for row in table.search.values() for point in row.first() for cell in point.cells}
    assert {cell.id for cell in searched} < of_table  # what a grid searched is not searched again
    assert [row.label for row in grid.rows[::DUEL_SEEDS]] == ["B=16, autoregressive", "continuous, flow"]
    first, *_, last = (row.cell.config for row in grid.rows)
    assert (first.head.kind, first.quantizer.levels) == ("autoregressive", 16)
    assert (last.head.kind, last.head.width) == ("flow", 88)
    assert all(row.cell.config.score.split == "test" for row in grid.rows)


def test_rows_of_one_label_are_told_apart_by_their_tables():
    table = duel_of(("2a autoregressive", "2d 1 channel"))
    assert [row.label for row in table.rows] == ["autoregressive", "1 channel"]
    twins = duel_of(("2c B=16", "heads B=16, parallel"))
    assert twins.base_label == "B=16, parallel"
    assert {"head.kind", "quantizer.levels"} <= {*twins.varies}
    assert [column.key for column in twins.by(("digits",)).measured] == ["score/fd_digits"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("2a:parallel",), "a duel is of two different rows, not 2a parallel; name both as TABLE:ROW"),
        (("2a:parallel", "2a:parallel"), "a duel is of two different rows"),
        (("2a:parallel", "1a:B=8"), "1a:B=8 generates no images here"),
        (("2a:parallel", "2a:serial"), "'serial' is no row of table 2a; its rows are parallel, autoregressive"),
        (("2a:parallel", "9z:x"), "table '9z' is none of ours"),
        (("2a", "parallel"), "'2a' must be TABLE:ROW"),
        (("2a:parallel", "2a:continuous"), "table 2a has no row of continuous tokens; name a row of it"),
        (
            ("heads:trained", "heads:continuous"),
            "heads:trained is the best of 5 rows by their searches, and that of VQ",
        ),
        (("2a:parallel", "2a:autoregressive", "--seeds", "1"), "--seeds"),
        (("2a:parallel", "2a:autoregressive", "--set", "train.epoch=1"), "did you mean train.epochs?"),
    ],
)
def test_wrong_duels_are_refused_and_leave_nothing(call, tmp_path, words, part):
    done = call("duel", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_best_row_of_some_tokens_is_that_of_the_lowest_search(tmp_path, monkeypatch):
    monkeypatch.setattr(search.SearchPoint, "scored", lambda point, store: True)
    monkeypatch.setattr(
        search.SearchPoint,
        "metric",
        lambda point, store: abs(point.cells[0].config.quantizer.levels - 30) + point.values["sample.guidance"],
    )
    assert duel.row_key(Store(tmp_path), DIGITS, "heads:post-training", 3) == "heads B=32, autoregressive"


def test_a_duel_s_plan_joins_no_other(tmp_path):
    first = {
        "name": "x",
        "title": "x",
        "base": DIGITS.model_dump(mode="json"),
        "tables": ["2a"],
        "rows": [{"table": "2a", "label": "parallel", "cell": "1"}],
    }
    plan.write(tmp_path, first)
    plan.write(tmp_path, first | {"tables": [DUEL], "duel": [*ROWS], "rows": []})
    assert json.loads((tmp_path / "plans" / "x.json").read_text())["rows"] == []


@pytest.mark.slow
def test_a_duel_from_its_search_to_its_report(call, tmp_path, with_latents, template, monkeypatch):
    monkeypatch.setattr(search, "SEARCH", {"sample.guidance": (1.0, 2.0), "sample.temperature": (0.9,)})
    monkeypatch.setattr(search, "SEARCH_IMAGES", 80)
    with_database(with_latents(tmp_path / "runs"), template / "mlflow.db")
    words = [word for setting in SHORT for word in ("--set", setting)]
    words += ["--seeds", "2", "--search-seeds", "1", "--jobs", "1"]
    done = call("duel", "2a:autoregressive", "2a:parallel", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 training seeds of each, from 100 on" in done.stdout
    found = json.loads((tmp_path / "runs" / "plans" / "duel.json").read_text())
    assert {entry["train_seed"] for entry in found["search"]["points"]} == {0}
    told = call("report", "duel", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    report = (tmp_path / "reports" / "duel" / "report.md").read_text()
    assert "### autoregressive against parallel" in report
    assert re.search(r"^\| autoregressive +\| +2 \| +[0-9.]+ ± ", report, re.M)
    assert "published" not in report.lower()
    (tables,) = [sorted(path.name for path in (tmp_path / "reports" / "duel" / "tables").glob("table-*.csv"))]
    assert "table-duel.csv" in tables
