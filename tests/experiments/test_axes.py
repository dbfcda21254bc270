"""Axes: as they are typed, their points and names; the grid that they make, and the plan that it joins."""

import json
from collections import Counter

import pytest

from experiments.axes import GRIDS, Axis, names, parse, points, run_name, text
from experiments.grid import run as run_grid
from experiments.grid.request import Request
from experiments.paper import plan as plan_file
from experiments.pipeline import graph
from tests.conftest import SHORT
from tests.experiments.grid.test_grid import RUNTIME, small_search, stages_of  # noqa: F401 (a fixture)
from tests.helpers.runs import with_database
from tokenbridge.config import UserError
from tokenbridge.overrides import build


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("quantizer.levels=16,32,64", (16, 32, 64)),
        ("sample.temperature=0.9, 1.0", (0.9, 1.0)),
        ("head.order=[1,0],[0,1]", ([1, 0], [0, 1])),
        ("head.order=stored,frequency", ("stored", "frequency")),
        ("sample.top_k=none,5", (None, 5)),
        ('data.path="a,b",64', ("a,b", "64")),
        ("head.depth=2", (2,)),
    ],
)
def test_an_axis_is_read_and_written(word, values):
    axis = parse(word)
    assert axis == Axis(word.partition("=")[0], values)
    assert parse(text(axis)) == axis


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("quantizer.levls=8,16", "quantizer.levls is no setting; did you mean quantizer.levels?"),
        ("quantizer=8", "quantizer is a section, not a setting"),
        ("quantizer.levels=", "has an empty value"),
        ("quantizer.levels=8,,16", "has an empty value"),
        ("quantizer.levels=8,16,8", "has 8 twice; give each value once"),
        ("quantizer.range=3,3.0", "has 3.0 twice"),
        ("quantizer.levels", "must have the form key=value,value"),
    ],
)
def test_a_wrong_axis_is_one_line(word, part):
    with pytest.raises(UserError) as caught:
        parse(word)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"backbone.width": 48}, "digits-backbone-width48"),
        ({"head.width": 48}, "digits-head-width48"),
        ({"quantizer.levels": 32, "train.epochs": 5}, "digits-levels32-train-epochs5"),
        ({"quantizer.kind": "uniform", "quantizer.range": 3.0}, "digits-uniform-range3"),
        ({"data.path": "/my images/a"}, "digits-data-path--myimages-a"),
        ({}, "digits"),
    ],
)
def test_two_configurations_never_share_the_name_of_a_run(changes, name):
    assert run_name("digits", changes) == name


def test_points_and_names():
    axes = GRIDS["ablation"]
    found = points(axes)
    assert len(found) == 16
    assert names(axes, found)[:3] == ["b08-r3-d1-t0.9", "b08-r3-d1-t1.0", "b08-r3-d3-t0.9"]
    assert names(axes, found) == sorted(names(axes, found))
    assert points(axes[:2], each=True) == [
        {"quantizer.levels": 8}, {"quantizer.levels": 64}, {"quantizer.range": 3.0}, {"quantizer.range": 5.0},
    ]  # fmt: skip
    several = [
        parse("quantizer.levels=8,128"), parse("train.learning_rate=1e-3,5e-4"), parse("quantizer.kind=uniform"),
        parse("head.width=16"), parse("backbone.width=96"), parse("head.order=[1,0]"),
    ]  # fmt: skip
    assert names(several, points(several)[:1]) == ["b008-lr0.0010-uniform-w16-backbone-width96-order-1.0"]
    with pytest.raises(UserError, match=r"head\.depth is given 2 times"):
        points([parse("head.depth=1"), parse("head.depth=2")])


def test_the_ablation_is_16_cells_and_8_trainings():
    asked = Request(name="x", tables=("ablation",)).grid()
    kinds = Counter(stage.kind.name for stage in graph(asked.first()[0]).values())
    assert kinds == {"latents": 1, "quantizer": 4, "train": 8, "likelihood": 8, "sample": 16, "score": 16}
    assert {trial.seed for trial in asked.trials} == {0}
    assert asked.search == {}


def test_one_axis_at_a_time_shares_the_base():
    asked = Request(name="x", axes=("quantizer.levels=8,16,32", "head.depth=1,2"), each=True).grid()
    cells = {trial.cell.name: trial.values for trial in asked.trials}
    assert list(cells) == ["b08", "b16", "b32", "d1"]  # d2 is the base, as b16
    assert cells["d1"] == {"quantizer.levels": 16, "head.depth": 1}


def test_a_request_makes_the_same_grid_from_json():
    request = Request(name="x", tables=("2c",), axes=("quantizer.range=3,4",), assignments=("train.epochs=7",))
    again = build(Request, json.loads(request.model_dump_json()))
    assert again == request
    assert again.grid() == request.grid()
    asked = request.grid()
    assert [trial.seed for trial in asked.trials] == [0, 0, 1, 1, 2, 2]  # as many seeds as the table has
    assert asked.axes == (Axis("quantizer.range", (3.0, 4.0)),)
    assert len({trial.cell.id for trial in asked.trials}) == 6


def test_cells_that_cannot_run_are_named_before_any_runs(call, tmp_path):
    axes = ["--axis", "head.group=1,3,5,7", "--axis", "quantizer.levels=8,16"]
    done = call("grid", *axes, cwd=tmp_path)
    assert done.returncode == 2
    assert "6 of 8 cells cannot run: g3-b08 (head.group=3 must divide 8" in done.stderr
    assert "g3-b16" in done.stderr
    assert "g7" not in done.stderr
    assert "; and 3 more; leave these values out" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"axes": ("train.seed=0,1",), "seeds": 2}, "train.seed is an axis, so --seeds=2 has nothing to add"),
        ({}, "a grid needs tables, axes or one of ablation"),
        (
            {"axes": ("quantizer.kind=identity",)},
            "1 of 1 cells cannot run: identity (quantizer.kind=identity cannot go",
        ),
        ({"axes": ("quantizer.levels=16,16.0",)}, "has 16.0 twice"),
    ],
)
def test_what_makes_no_grid_is_refused(options, part):
    with pytest.raises(UserError) as caught:
        Request(name="x", **options).grid()
    assert part in str(caught.value)


def test_a_dry_run_counts_stages_and_hours(call, tmp_path):
    done = call("grid", "ablation", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["16"].startswith("16 cells of axes quantizer.levels, quantizer.range, head.depth, sample.temperature")
    assert " 8 to run,    0 finished,    8 shared" in lines["train"]
    assert " 53 to run,    0 finished,   43 shared" in lines["together"]
    assert "device-hours" in lines["together"]
    assert list(tmp_path.iterdir()) == []


def test_a_grid_tries_its_first_cell_runs_and_grows(call, tmp_path, with_latents, template, capsys):
    store = with_database(with_latents(tmp_path / "runs"), template / "mlflow.db")
    sets = [word for setting in SHORT for word in ("--set", setting)]
    arguments = ["--axis", "sample.temperature=0.9,1.1", *sets, "--name", "mine", "--threads", "1", "--jobs", "1"]
    done = call("grid", *arguments, "--try", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "score/fd_digits" in done.stdout
    assert "the whole grid, of which this cell is finished:" in done.stdout
    assert not (tmp_path / "runs" / "plans").exists()
    assert len(stages_of(store, "score")) == 1

    request = Request(name="mine", axes=("sample.temperature=0.9,1.1",), assignments=tuple(SHORT))
    assert run_grid.run(store, request.grid(), RUNTIME, jobs=1) == []
    assert len(stages_of(store, "train")) == 1
    assert [json.loads(path.read_text())["sweeps"] for path in store.root.glob("cells/*.json")] == [["mine"]] * 2
    plan = json.loads((store.root / "plans" / "mine.json").read_text())
    assert plan["axes"] == [{"key": "sample.temperature", "values": [0.9, 1.1]}]
    assert [cell["values"] for cell in plan["cells"]] == [{"sample.temperature": 0.9}, {"sample.temperature": 1.1}]
    assert (plan["each"], plan["search"], plan["rows"]) == (False, {}, [])

    capsys.readouterr()
    more = request.model_copy(update={"axes": ("sample.temperature=0.9,1.0,1.1",)})
    assert run_grid.run(store, more.grid(), RUNTIME, jobs=1) == []
    assert "2 of 2 stages done" in capsys.readouterr().out
    grown = json.loads((store.root / "plans" / "mine.json").read_text())
    assert grown["axes"] == [{"key": "sample.temperature", "values": [0.9, 1.0, 1.1]}]
    assert grown["cells"][:2] == plan["cells"]
    assert grown["cells"][2]["values"] == {"sample.temperature": 1.0}


def plan_of(axes, cells, **more):
    base = {"quantizer": {"levels": 16}, "head": {"depth": 2}}
    plan = {"base": base, "tables": [], "rows": [], "search": {}, "confidence": [], "each": False}
    axes = [{"key": key, "values": values} for key, values in axes.items()]
    cells = [{"cell": id, "values": values, "seed": 0} for id, values in cells.items()]
    return plan | {"axes": axes, "cells": cells} | more


def test_plans_of_two_grids_are_joined():
    levels = plan_of({"quantizer.levels": [8, 64]}, {"a": {"quantizer.levels": 8}, "b": {"quantizer.levels": 64}})
    one = plan_file.merged(levels, plan_of({"quantizer.levels": [32]}, {"c": {"quantizer.levels": 32}}))
    assert one["axes"][0]["values"] == [8, 64, 32]
    assert [cell["cell"] for cell in one["cells"]] == ["a", "b", "c"]
    both = plan_file.merged(levels, plan_of({"head.depth": [1]}, {"d": {"head.depth": 1}}))
    assert [axis["key"] for axis in both["axes"]] == ["quantizer.levels", "head.depth"]
    assert both["cells"][0]["values"] == {"quantizer.levels": 8, "head.depth": 2}
    assert both["cells"][2]["values"] == {"quantizer.levels": 16, "head.depth": 1}
    tables = plan_of({}, {}, tables=["1b"], rows=[{"table": "1b", "label": "±3", "cell": "e"}])
    kept = plan_file.merged(levels, tables)
    assert (kept["axes"], kept["cells"], kept["tables"]) == (levels["axes"], levels["cells"], ["1b"])
    before = {
        key: value for key, value in tables.items() if key not in ("axes", "each", "cells")
    }  # of an older version
    assert plan_file.merged(before, levels)["cells"] == levels["cells"]
    assert plan_file.merged(levels, plan_of({}, {}, base={"quantizer": {"levels": 8}}))["cells"] == []


def test_a_grid_of_tables_and_axes_is_searched_for_its_tables_alone(tmp_path, small_search):  # noqa: F811
    asked = Request(
        name="mix", tables=("2a",), axes=("quantizer.levels=8",), seeds=1, images=80, assignments=tuple(SHORT)
    ).grid()
    assert set(asked.search) == {"2a parallel", "2a autoregressive"}
    (trial,) = asked.trials
    assert trial.cell in asked.first()[0]
    assert trial.cell.config.sample.guidance == 2
    assert asked.about == "tables 2a and axes quantizer.levels (1)"
