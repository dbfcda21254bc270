"""The grid: rows from tables, one search a row, each stage once, a plan that later tables join."""

import json
import math
from itertools import chain
from typing import Any

import pandas as pd
import pytest

from analysis.frame.source import of_frame
from experiments import paper, speed
from experiments.grid import run as run_grid
from experiments.grid import search
from experiments.grid.request import STRENGTHS, Grid, Request
from experiments.paper import FIGURE_8, plan
from experiments.pipeline import Cell, graph
from experiments.presets import DIGITS
from experiments.runner import attempt_cells
from tests.conftest import SHORT
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import flatten, override, settings
from tokenbridge.store.artifacts import Store

RUNTIME = Runtime(threads=1, bars=False)


@pytest.fixture
def small_search(monkeypatch):
    monkeypatch.setattr(search, "SEARCH", {"sample.guidance": (1.0, 2.0), "sample.temperature": (0.9,)})
    monkeypatch.setattr(search, "SEARCH_IMAGES", 80)


def asked(*tables: str, seeds: int = 1, assignments=(), **more) -> Grid:
    request = Request(name="mine", tables=tables, seeds=seeds, assignments=tuple(assignments), **more)
    return request.grid()


def stages_of(store, kind):
    return sorted(path.name for path in store.root.glob(f"stages/{kind}-*"))


def test_rows_that_two_tables_share_are_one_cell_and_train_once():
    grid = asked("2a", "2b", "2c", "2d", seeds=2)
    rows = {(row.key, row.cell.config.train.seed): row.cell.id for row in grid.rows}
    assert len(rows) == (2 + 2 + 3 + 3) * 2
    shared = [rows[key, 1] for key in ("2a autoregressive", "2b as stored", "2c B=16", "2d 1 channel")]
    assert len(set(shared)) == 1
    stages = graph([*grid.first()[0], *grid.first()[1]])
    assert sum(stage.kind.name == "train" for stage in stages.values()) == 7 * 2
    assert sum(stage.kind.name == "latents" for stage in stages.values()) == 1
    assert sum(stage.kind.name == "sample" for stage in stages.values()) == 7 * 9 * 2


def test_a_table_runs_the_rows_that_are_asked_for_and_others_whole():
    grid = asked("2a", "2c", "heads", rows=("heads:continuous, mixture*", "2c:B=16", "2c:B=32"))
    mixtures = [f"heads continuous, mixture{end}" for end in ("", ", full covariance")]
    assert [row.key for row in grid.rows] == ["2a parallel", "2a autoregressive", "2c B=16", "2c B=32", *mixtures]
    assert grid.partial == ("2c", "heads")
    assert {*grid.search} == {row.key for row in grid.rows}
    assert asked("2a", "2c", rows=("*:*",)).partial == ()
    assert asked("2a", rows=("*:parallel",), points="base").partial == ("2a",)


@pytest.mark.parametrize(
    ("tables", "only", "words"),
    [
        (
            ("2a",),
            "2a:paralel",
            r"--row=2a:paralel must fit a row of .*, as TABLE:ROW; give one of 2a:parallel; 2a:auto",
        ),
        (("2a", "1a"), "2c:B=16", r"--row=2c:B=16 must fit .*; give one of 2a:…, 1a:…"),
        (("2a",), "parallel", r"--row=parallel must fit a row of .*, as TABLE:ROW; give one of 2a:…"),
        (("ablation",), "2a:parallel", r"ask for a table that trains or reconstructs as well"),
        (("2a", FIGURE_8), "2a:parallel", r"figure-8 shows the row 2a autoregressive; ask for it as well"),
    ],
)
def test_rows_that_do_not_exist_are_named(tables, only, words):
    with pytest.raises(UserError, match=words):
        asked(*tables, rows=(only,))


def test_rows_join_those_that_ran_before():
    def planned(*rows: str, partial: bool = True):
        entries = [{"table": "2a", "label": row, "cell": row} for row in rows]
        found = {"chosen": {f"2a {row}": {} for row in rows}, "points": [{"row": f"2a {row}"} for row in rows]}
        return {"base": 1, "tables": ["2a"], "rows": entries, "search": found} | (
            {"partial": ["2a"]} if partial else {}
        )

    one, both = planned("parallel"), planned("parallel", "autoregressive", partial=False)
    joined = plan.merged(one, planned("autoregressive"))
    assert joined["rows"] == both["rows"]
    assert joined["search"] == both["search"]
    assert plan.merged(both, one)["rows"] == [both["rows"][1], both["rows"][0]]
    assert plan.merged(one, both)["rows"] == both["rows"]
    assert "partial" not in plan.merged(one, both)


def test_rows_of_one_table_join_where_their_points_were_found_alike_and_are_refused_before_they_run(tmp_path):
    store = Store(tmp_path)

    def rule(row: str, **more: Any) -> Grid:
        return Request(name="x", tables=("2a",), rows=(f"2a:{row}",), **more).grid()

    before = rule("parallel")
    content = {"name": "x", "title": "", "base": before.base.model_dump(mode="json"), "tables": ["2a"]}
    rows = [{"table": "2a", "label": "parallel", "cell": "c"}]
    search = {"images": "per point and training seed: 300", "chosen": {"2a parallel": {}}, "points": []}
    plan.write(tmp_path, content | {"rows": rows, "search": search, "partial": ["2a"]})
    run_grid.require_room(store, rule("autoregressive"))
    run_grid.require_room(store, rule("parallel", points="base"))  # in the place of what was there
    run_grid.require_room(store, rule("autoregressive", points="base", assignments=("train.epochs=9",)))  # another base
    with pytest.raises(UserError, match=r"ran before as x are at the points of their own searches, these at guidance"):
        run_grid.require_room(store, rule("autoregressive", points="base"))
    for more in ({"seeds": 1}, {"images": 500}):
        with pytest.raises(UserError, match=r"as x took images per point and training seed: 300, these .*: 500; give"):
            run_grid.require_room(store, rule("autoregressive", **more))
    points = {"points": {"2a": {"sample.guidance": 1.5, "sample.temperature": 0.8}}, "search": {}}
    plan.replace(tmp_path, content | {"rows": rows, "partial": ["2a"]} | points)
    with pytest.raises(UserError, match=r"are at guidance 1.5, temperature 0.8, these at the points of their own"):
        run_grid.require_room(store, rule("autoregressive"))
    run_grid.require_room(store, rule("autoregressive", points="1.5,0.8"))


def test_every_row_of_every_table_can_run_on_the_digits():
    grid = asked("1a", "1b", "2a", "2b", "2c", "2d", "2e", "heads")
    assert {row.table for row in grid.rows} == {"1a", "1b", "2a", "2b", "2c", "2d", "2e", "heads"}
    for row in grid.rows:
        row.cell.stages()
        if row.sampled:
            density = row.cell.config.head.kind not in ("diffusion", "flow") and not row.cell.config.quantizer.trained
            assert ("likelihood" in row.cell.wanted) == density, row.key


def test_the_heads_of_table_2e_keep_the_paper_s_ratios():
    table = paper.TABLE_2E
    widths = [override(DIGITS, table.overrides(cell, DIGITS)).head.width for cell in table.rows]
    assert widths == [16, 32, 32, 64, 64]
    with pytest.raises(
        UserError, match=r"row 256×3: head\.width=90 of the base scales 256 to 22\.5, which must be a whole number"
    ):
        table.overrides(table.rows[0], override(DIGITS, {"head.width": 90, "head.heads": 2}))


@pytest.mark.parametrize(
    ("tables", "message"),
    [(("9z",), "table '9z' is none of ours"), (("4",), "table 4 is no table of runs")],
)
def test_what_is_no_table_of_runs_is_refused(tables, message):
    with pytest.raises(UserError, match=message):
        asked(*tables)


@pytest.mark.parametrize(
    ("settings", "axes", "note"),
    [
        ([], (), "Generation is at 16 levels per channel where a table does not say otherwise"),
        (["train.epochs=9"], (), "Settings that no row varies are those of the preset digits with train.epochs=9."),
        ([], ("quantizer.levels=8,16",), "Settings that no axis varies are those of the preset digits."),
        (
            ["score.lpips=/far/away/vgg16.pth"],
            ("quantizer.levels=8,16",),
            "Settings that no axis varies are those of the preset digits with score.lpips=vgg16.pth.",
        ),
    ],
)
def test_a_plan_notes_what_its_settings_are(tmp_path, settings, axes, note):
    grid = Request(name="x", tables=() if axes else ("1a",), axes=axes, assignments=tuple(settings)).grid()
    run_grid.write_plan(Store(tmp_path), grid, run_grid.Final(grid.rows, {}, ()))
    plan = json.loads((tmp_path / "plans" / "x.json").read_text())
    (found,) = plan["notes"]
    assert found.startswith(note)
    assert plan.get("typed") == (["digits", *settings] if settings else None)  # what repeats a number


def test_the_base_of_a_grid_is_repeated_as_it_was_typed(tmp_path):
    axes, of_file = ("quantizer.levels=8,64",), ("train.epochs=9", "train.warmup_epochs=1")
    request = Request(
        name="x", axes=axes, assignments=(*of_file, "sample.top_k=3"), typed=("my own.toml", "sample.top_k=3")
    )
    run_grid.write_plan(Store(tmp_path), request.grid(), run_grid.Final((), {}, ()))
    plan = json.loads((tmp_path / "plans" / "x.json").read_text())
    frame = pd.DataFrame([{"cell": each["cell"], **flatten(plan["base"]), **each["values"]} for each in plan["cells"]])
    commands = [of_frame(frame, plan).command(each["cell"]) for each in plan["cells"]]
    first = "tokenbridge run 'my own.toml' sample.top_k=3 quantizer.levels"
    assert commands == [f"{first}=8", f"{first}=64"]


@pytest.mark.slow
def test_a_grid_from_images_to_its_plan(tmp_path, with_latents, small_search, capfd):
    store = with_latents(tmp_path)
    grid = asked("2a", FIGURE_8, seeds=2, assignments=SHORT)
    assert run_grid.run(store, grid, RUNTIME, jobs=1) == []
    assert len(stages_of(store, "train")) == 2 * 2
    plan = json.loads((tmp_path / "plans" / "mine.json").read_text())
    rows = [(row["table"], row["label"]) for row in plan["rows"]][::2]
    assert rows == [("2a", "parallel"), ("2a", "autoregressive")]
    assert set(plan["search"]["chosen"]) == {"2a parallel", "2a autoregressive"}
    assert len(plan["search"]["points"]) == 2 * 2 * 2
    assert [entry["strength"] for entry in plan["confidence"]] == list(STRENGTHS)
    cells = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "cells").iterdir()}
    for row in plan["rows"]:
        chosen = plan["search"]["chosen"][f"{row['table']} {row['label']}"]
        config = cells[row["cell"]]["config"]
        assert config["sample"]["guidance"] == chosen["sample.guidance"]
        points = [p for p in plan["search"]["points"] if p["row"] == f"{row['table']} {row['label']}"]
        mean = {g: sum(p["fd_digits"] for p in points if p["guidance"] == g) for g in (1.0, 2.0)}
        assert min(mean, key=lambda g: mean[g]) == chosen["sample.guidance"]
        assert all(store.finished(id) for id in cells[row["cell"]]["stages"].values())

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*/manifest.json")}
    capfd.readouterr()
    run_grid.run(store, grid, RUNTIME, jobs=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*/manifest.json")} == before
    assert "stages done" not in capfd.readouterr().out
    assert json.loads((tmp_path / "plans" / "mine.json").read_text()) == plan

    later = asked("1b", assignments=SHORT)
    run_grid.run(store, later, RUNTIME, jobs=1)
    joined = json.loads((tmp_path / "plans" / "mine.json").read_text())
    assert joined["tables"] == ["1b", "2a"]
    assert joined["rows"][: len(plan["rows"])] == plan["rows"]
    assert joined["search"] == plan["search"]
    assert joined["confidence"] == plan["confidence"]
    other = asked("1b", assignments=[*SHORT, "quantizer.range=4"])
    run_grid.run(store, other, RUNTIME, jobs=1)
    assert json.loads((tmp_path / "plans" / "mine.json").read_text())["tables"] == ["1b"]  # another base: a new plan


def test_one_point_for_all_rows_needs_no_search_and_trains_the_same_models():
    own, base, one = (
        Request(name="x", tables=("2c", "1b"), seeds=2, points=points).grid() for points in ("own", "base", "2,1")
    )
    trainings = [
        {id for id in graph(list(chain(*grid.first()))) if id.startswith("train-")} for grid in (own, base, one)
    ]
    assert trainings[0] == trainings[1] == trainings[2]
    assert len(trainings[0]) == 3 * 2
    assert (own.rounds, base.rounds, one.rounds) == (2 + search.WIDENINGS, 1, 1)
    for grid, place in ((base, (1.5, 0.8)), (one, (2.0, 1.0))):
        assert grid.search == {}
        assert grid.first()[0] == [row.cell for row in grid.rows]  # all in the first round
        samples = [row.cell.config.sample for row in grid.rows if row.sampled]
        assert {(how.guidance, how.temperature) for how in samples} == {place}
    assert one.rows[0].cell.name == "2c-b16-g2-t1"


@pytest.mark.slow
def test_a_table_at_one_point_says_so_in_its_plan(tmp_path, with_latents, small_search):
    store, plan = with_latents(tmp_path), tmp_path / "plans" / "mine.json"
    grid = asked("2a", assignments=SHORT, points="1.2,0.9")
    assert run_grid.run(store, grid, RUNTIME, jobs=1) == []
    written = json.loads(plan.read_text())
    assert (written["search"], len(written["rows"])) == ({}, 2)
    assert written["points"] == {"2a": {"sample.guidance": 1.2, "sample.temperature": 0.9}}
    for row in written["rows"]:
        sample = json.loads((tmp_path / "cells" / f"{row['cell']}.json").read_text())["config"]["sample"]
        assert (sample["guidance"], sample["temperature"]) == (1.2, 0.9)
    trained = stages_of(store, "train")
    run_grid.run(store, asked("2a", assignments=SHORT), RUNTIME, jobs=1)
    assert stages_of(store, "train") == trained
    searched = json.loads(plan.read_text())
    assert searched["points"] == {}
    assert set(searched["search"]["chosen"]) == {"2a parallel", "2a autoregressive"}


def test_a_dry_run_says_what_is_to_run_and_leaves_nothing(call, tmp_path):
    done = call("grid", "2a", "2b", "--seeds", "2", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "8 cells of tables 2a, 2b" in done.stdout
    assert " 6 to run" in lines["train"]
    assert " 1 to run,    0 finished" in lines["latents"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["2f"], "table '2f' is none of ours; choose one of 1a"),
        (["2a", "--on", "moon"], "--on=moon must be one of local, slurm, debug"),
        (["2d", "--set", "autoencoder.channels=6"], "autoencoder.channels=6 must be 8, that of the shipped"),
        (["2a", "--set", "train.epoch=3"], "did you mean train.epochs?"),
        (["2a", "--preset", "digit"], "did you mean digits?"),
        (["2a", "--points", "best"], "--points=best must be own, base, or one guidance and temperature for all rows"),
        (["2a", "--points", "1.5,inf"], "--points=1.5,inf must be own, base, or one"),
        (["2a", "--points", "1.5,-1"], "sample.temperature=-1.0 must be >= 0"),
        (["1a", "--points", "base"], "--points=base is for rows of tables that generate images, and none is asked for"),
        (["figure-8"], "figure-8 shows the row 2a autoregressive; ask for it as well"),
    ],
)
def test_wrong_grids_are_one_line(call, tmp_path, arguments, part):
    done = call("grid", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_what_failed_is_listed_and_the_rest_has_run(tiny, tmp_path, with_latents):
    store = with_latents(tmp_path)
    broken = {"quantizer.kind": "quantile", "quantizer.levels": 65_000, "quantizer.per": "channel"}
    cells = [
        Cell("broken", override(tiny, broken), ("reconstruct",)),
        Cell("good", override(tiny, {"quantizer.kind": "uniform"}), ("reconstruct",)),
    ]
    (failure,) = attempt_cells(store, cells, RUNTIME, "tests")
    assert str(failure).startswith("quantizer of broken: levels=65000 must be at most")
    assert str(failure).endswith("1 stages that need it did not run")
    assert len(stages_of(store, "reconstruct")) == 1


def test_ahead_of_time_stages_run_and_are_not_recorded(tiny, tmp_path, with_latents):
    store = with_latents(tmp_path)
    cell, ahead = (
        Cell("one", tiny, ("quantizer",)),
        Cell("two", override(tiny, {"quantizer.levels": 8}), ("quantizer",)),
    )
    attempt_cells(store, [cell], RUNTIME, "tests", 1, [ahead])
    assert len(stages_of(store, "quantizer")) == 2
    assert [path.stem for path in (tmp_path / "cells").iterdir()] == [cell.id]


def test_base_settings_reach_every_row():
    grid = asked("1a", "2a", assignments=["train.epochs=7"])
    assert {settings(row.cell.config)["train.epochs"] for row in grid.rows} == {7}


@pytest.mark.slow
def test_table_5_joins_a_grid(tmp_path, tiny, with_latents, monkeypatch):
    """The heads of the paper's sizes take minutes: here the tiny one stands in, measured all the same."""
    row = {"autoregressive 1024×4": {}}
    monkeypatch.setattr(speed, "preset_cells", lambda: speed.cells(tiny, row))
    grid = asked("1b", "5", assignments=SHORT)
    store = with_latents(tmp_path)
    run_grid.run(store, grid, RUNTIME, jobs=1)
    plan = json.loads((tmp_path / "plans" / "mine.json").read_text())
    assert plan["tables"] == ["1b", "5"]
    (line,) = [line for line in plan["rows"] if line["table"] == "5"]
    (stage,) = json.loads((tmp_path / "cells" / f"{line['cell']}.json").read_text())["stages"].values()
    assert json.loads((store.folder(stage) / "metrics.json").read_text())["metrics"]["token_ms_1"] > 0


def test_a_distance_that_is_no_number_is_never_chosen(monkeypatch, tmp_path):
    points = [search.SearchPoint({"sample.guidance": value}, ()) for value in (1.0, 1.5, 2.0)]
    distances = {1.0: math.nan, 1.5: 3.0, 2.0: 2.0}
    monkeypatch.setattr(search.SearchPoint, "metric", lambda point, store: distances[point.values["sample.guidance"]])
    assert search.best(Store(tmp_path), points) == {"sample.guidance": 2.0}
