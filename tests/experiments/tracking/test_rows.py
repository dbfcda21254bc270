"""One run per row of a report's tables, with its seeds below: the numbers of the tables, whatever happens between."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.frame import load
from analysis.frame.source import read
from analysis.tables.fill import fill
from analysis.tables.text import to_csv
from experiments.cli.rows import refresh
from experiments.paper import plan as plan_file
from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from experiments.tracking.rows import HALF
from tests.helpers import runs as small_runs
from tests.helpers import senders
from tests.helpers.runs import NOTHING, config_of, content, id_of, runs_of
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, read_json, write_json
from tokenbridge.store.runs import RecordedCell, write_cells

GRID = "grid"
LEVELS = (2, 4, 8, 16, 32)
NAMES = ["b02", "b04", "b08", "b16", "b32"]
PARENT = "mlflow.parentRunId"


def numbers(levels: int, seed: int) -> dict[str, float]:
    """Of one training: a distance that grows with the levels and a share, both with an uneven spread."""
    draw = np.random.default_rng([levels, seed])
    fd = (3 + levels / 2) * np.exp(0.1 * draw.normal())
    return {"fd_digits": float(fd), "agreement": float(0.9 + 0.01 * draw.normal()), "fd_digits_se": 0.5}


def add_seed(store: Store, levels: int, seed: int, sweeps: tuple[str, ...] = (GRID,)) -> str:
    """A cell with a training of its own; its quantizer is that of all seeds."""
    stages = {"quantizer": small_runs.stage(store, "quantizer", levels, metrics={"mse": 1 / levels})}
    stages["train"] = small_runs.train(store, [levels, seed], 3)
    seen = {"images": small_runs.images(), "labels": np.arange(10)}
    stages["sample"] = small_runs.stage(store, "sample", [levels, seed], metrics={"images": 71.0}, examples=seen)
    stages["score"] = small_runs.stage(store, "score", [levels, seed], metrics=numbers(levels, seed))
    id = small_runs.add_cell(store, f"b{levels:02d}-s{seed}", config_of(levels, **{"train.seed": seed}), stages)
    write_cells(store, [RecordedCell(**read_json(store.root / "cells" / f"{id}.json") | {"sweeps": list(sweeps)})])
    return id


def write_plan(store: Store, cells: dict[tuple[int, int], str], name: str = GRID, **more: Any) -> None:
    """The plan of a grid over levels.

    Args:
        store: the runs folder.
        cells: (levels, seed) -> the cell's id.
        name: of the grid.
        more: what else the plan says.
    """
    axis = {"key": "quantizer.levels", "values": sorted({levels for levels, _ in cells})}
    trials = [{"cell": id, "values": {"quantizer.levels": n}, "seed": seed} for (n, seed), id in cells.items()]
    plan = {"name": name, "title": "Levels", "base": json.loads(config_of(2).model_dump_json()), "tables": []}
    write_json_plan(store, name, plan | {"rows": [], "axes": [axis], "cells": trials} | more)


def write_json_plan(store: Store, name: str, plan: dict[str, Any]) -> None:
    (store.root / "plans").mkdir(exist_ok=True)
    write_json(plan_file.file(store.root, name), plan)


def grid(store: Store, seeds: int, name: str = GRID, levels: tuple[int, ...] = LEVELS) -> dict[tuple[int, int], str]:
    cells = {(n, seed): add_seed(store, n, seed, (name,)) for n in levels for seed in range(seeds)}
    write_plan(store, cells, name)
    return cells


def bring(store: Store) -> dict[str, int]:
    """What `tokenbridge sync` does."""
    assert refresh(store) == []
    return tracking.sync(store)


@pytest.fixture
def store(tmp_path, template) -> Store:
    store = Store(tmp_path / "runs")
    grid(small_runs.with_database(store, template / "mlflow.db"), 3)
    return store


def interval(levels: int, name: str, seeds: int = 3) -> tuple[float, float]:
    """Mean and half-width by SciPy's own Student t interval."""
    values = [numbers(levels, seed)[name] for seed in range(seeds)]
    low, high = stats.t.interval(0.95, seeds - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(np.mean(values)), (high - low) / 2


def test_a_row_holds_mean_interval_and_seeds_above_its_cells(store):
    bring(store)
    rows, cells, sweep = runs_of(store, "row"), runs_of(store, "cell"), runs_of(store, "sweep")[GRID]
    assert sorted(rows) == NAMES
    for n, name in zip(LEVELS, NAMES, strict=True):
        data = rows[name].data
        for metric in ("fd_digits", "agreement"):
            mean, half = interval(n, metric)
            assert data.metrics[f"score/{metric}"] == pytest.approx(mean, rel=1e-12)
            assert data.metrics[f"score/{metric}{HALF}"] == pytest.approx(half, rel=1e-9)
        assert data.metrics["seeds"] == 3
        assert data.metrics["quantizer/mse"] == 1 / n
        assert f"quantizer/mse{HALF}" not in data.metrics  # one measurement, which all seeds share
        assert not [key for key in data.metrics if "_se" in key and not key.endswith(HALF) and key != "seeds"]
        assert (data.params["quantizer.levels"], "train.seed" in data.params) == (str(n), False)
        assert data.params.items() <= cells[f"{name}-s0"].data.params.items()
        assert (data.tags["kind"], data.tags["seeds"], data.tags["states"]) == ("row", "0, 1, 2", "finished 3")
        assert data.tags[PARENT] == sweep.info.run_id
        below = {run.data.tags[PARENT] for key, run in cells.items() if key.startswith(name)}
        assert below == {rows[name].info.run_id}
        assert rows[name].info.status == "FINISHED"
    assert len(cells) == 15


def test_its_numbers_and_verdicts_are_those_of_the_reports_table(store, tmp_path):
    bring(store)
    plan = plan_file.read(plan_file.file(store.root, GRID))
    load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    source = read(tmp_path / "source")
    filled = fill(next(table for table in source.tables if table.id == "axes"), source)
    (tmp_path / "table.csv").write_text(to_csv(filled))
    table = pd.read_csv(tmp_path / "table.csv").set_index("label")
    rows = runs_of(store, "row")
    assert sorted(rows) == sorted(table.index)
    for label, line in table.iterrows():
        data = rows[str(label)].data
        for key in ("score/fd_digits", "score/agreement"):
            printed = [line[f"measured {key}"], line[f"measured {key} half-width"]]
            assert [data.metrics[key], data.metrics[f"{key}{HALF}"]] == pytest.approx(printed, rel=1e-9)
            verdict = data.tags.get(f"verdict.{key}", "")
            assert verdict.partition(":")[0].rstrip("°") == ("" if label == "b02" else line[f"measured {key} verdict"])
        entry = next(row for row in filled.rows if row.label == label).measured[0]
        assert f"{entry.text} {entry.interval}" in data.tags["mlflow.note.content"]
        assert entry.change in data.tags.get("verdict.score/fd_digits", "")
    assert rows["b32"].data.tags["verdict.score/fd_digits"].startswith("worse")
    assert rows["b32"].data.tags["verdict.score/fd_digits"].endswith("against b02")


def test_twice_sends_nothing_twice_even_without_its_memory(store):
    bring(store)
    before = content(store)
    assert bring(store) == NOTHING
    (store.root / "tracking.json").unlink()
    shutil.rmtree(store.root / "rows")
    again = bring(store)
    assert again == NOTHING | {"artifacts": again["artifacts"]}
    assert content(store) == before


def test_more_seeds_change_the_row_and_make_no_other(store):
    bring(store)
    first = {name: run.info.run_id for name, run in runs_of(store, "row").items()}
    grid(store, 5)
    bring(store)
    rows, cells = runs_of(store, "row"), runs_of(store, "cell")
    assert {name: run.info.run_id for name, run in rows.items()} == first
    assert runs_of(store, "superseded") == {}
    mean, half = interval(8, "fd_digits", 5)
    metrics = rows["b08"].data.metrics
    assert (metrics["seeds"], metrics["score/fd_digits"]) == (5, pytest.approx(mean, rel=1e-12))
    assert metrics[f"score/fd_digits{HALF}"] == pytest.approx(half, rel=1e-9)
    assert sum(run.data.tags[PARENT] == first["b08"] for run in cells.values()) == 5


@pytest.mark.slow
def test_cells_that_came_before_their_row_move_below_it(store):
    """As after a sweep on Slurm, whose last job sends what it has: rows come with the report, `sync` or `ui`."""
    tracking.sync(store)
    sweep = runs_of(store, "sweep")[GRID].info.run_id
    assert {run.data.tags[PARENT] for run in runs_of(store, "cell").values()} == {sweep}
    counts = bring(store)
    assert (counts["runs"], counts["artifacts"]) == (5, 0)
    rows = {run.info.run_id for run in runs_of(store, "row").values()}
    assert {run.data.tags[PARENT] for run in runs_of(store, "cell").values()} == rows
    assert tracking.sync(store) == NOTHING
    fresh = Store(shutil.copytree(store.root, store.root.with_name("fresh")))
    (fresh.root / "tracking.json").unlink()
    assert tracking.catch_up(store, [next((store.root / "cells").glob("*.json")).stem]) == NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("call", [2, 5, 9, 14])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sender_that_is_killed_goes_on(store, call, when):
    refresh(store)
    log = store.root.parent / "log"
    process = senders.start(log, senders.killed_at, store.root, call, when)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL, log.read_text()
    bring(store)
    rows, cells = runs_of(store, "row"), runs_of(store, "cell")  # each name once
    assert (len(rows), len(cells), len(runs_of(store, "superseded"))) == (5, 15, 0)
    assert {run.data.tags[PARENT] for run in cells.values()} == {run.info.run_id for run in rows.values()}
    assert rows["b04"].data.metrics["score/fd_digits"] == pytest.approx(interval(4, "fd_digits")[0], rel=1e-12)


@pytest.mark.slow
def test_a_row_that_was_deleted_by_hand_is_made_again(store):
    bring(store)
    mlflow = mlflow_store.client(tracking.tracking_uri(store))
    gone = runs_of(store, "row")["b04"].info.run_id
    mlflow.delete_run(gone)
    assert bring(store)["runs"] == 1
    row = runs_of(store, "row")["b04"]
    assert row.info.run_id != gone
    assert row.data.metrics["score/fd_digits"] == pytest.approx(interval(4, "fd_digits")[0], rel=1e-12)
    below = [run for run in runs_of(store, "cell").values() if run.data.tags[PARENT] == row.info.run_id]
    assert len(below) == 3


@pytest.mark.slow
@pytest.mark.parametrize("remembered", [True, False])
def test_rows_that_a_plan_no_longer_has_step_aside(store, remembered):
    bring(store)
    grid(store, 3, levels=LEVELS[:4])
    if not remembered:
        (store.root / "tracking.json").unlink()
    bring(store)
    assert sorted(runs_of(store, "row")) == NAMES[:4]
    assert sorted(runs_of(store, "superseded")) == NAMES[4:]
    sweep = runs_of(store, "sweep")[GRID].info.run_id
    assert {run.data.tags[PARENT] for name, run in runs_of(store, "cell").items() if name.startswith("b32")} == {sweep}
    assert bring(store) == NOTHING


@pytest.mark.slow
def test_another_folders_rows_are_left_alone(store, tmp_path, monkeypatch):
    """Two people with one server, each with a grid of the same name but other settings."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store.root}/mlflow.db")
    bring(store)
    other = Store(tmp_path / "other")
    cells = {(n, s): add_seed(other, n, 10 * (s + 1)) for n in (3, 5) for s in range(2)}
    write_plan(other, cells)
    bring(other)
    (store.root / "tracking.json").unlink()
    bring(store)
    assert sorted(runs_of(store, "row")) == sorted([*NAMES, "b03", "b05"])


@pytest.mark.slow
def test_a_row_of_one_seed_is_its_cell(store):
    cells = grid(store, 1, "other", (2, 4))
    bring(store)
    assert {run.data.tags["report"] for run in runs_of(store, "row").values()} == {GRID}
    write_plan(store, {**cells, (2, 1): add_seed(store, 2, 1, ("other",))}, "other")
    bring(store)
    rows = [run for run in all_rows(store) if run.data.tags["report"] == "other"]
    assert [run.data.metrics["seeds"] for run in rows] == [2]
    tags = runs_of(store, "cell")["b04-s0"].data.tags
    assert (tags["sweep.other"], tags[f"sweep.{GRID}"]) == ("row", "yes")


def all_rows(store: Store) -> list[Any]:
    uri = tracking.tracking_uri(store)
    mlflow = mlflow_store.client(uri)
    return list(mlflow.search_runs([mlflow_store.experiment_id(mlflow, store, uri)], "tags.kind = 'row'"))


@pytest.mark.slow
def test_a_cell_of_two_sweeps_lies_under_the_row_of_the_first(store):
    again = {(n, seed): add_seed(store, n, seed, ("later",)) for n in (2, 4) for seed in range(4)}
    write_plan(store, again, "later")
    bring(store)
    rows = {(run.data.tags["report"], run.info.run_name): run for run in all_rows(store)}
    assert len(rows) == 7
    assert rows["later", "b02"].data.metrics["seeds"] == 4
    above = {name: run.data.tags[PARENT] for name, run in runs_of(store, "cell").items() if name.startswith("b02")}
    first = rows[GRID, "b02"].info.run_id
    assert above == dict.fromkeys(("b02-s0", "b02-s1", "b02-s2"), first) | {"b02-s3": rows["later", "b02"].info.run_id}


@pytest.mark.slow
def test_a_seed_without_its_number_leaves_the_row_without_it_and_says_so(store):
    shutil.rmtree(store.folder(id_of("score", [4, 1])))
    bring(store)
    data = runs_of(store, "row")["b04"].data
    assert "2 of 3 seeds" in data.tags["refused"]
    assert not [key for key in data.metrics if key.startswith("score/")]
    assert data.metrics["seeds"] == 3
    small_runs.stage(store, "score", [4, 1], metrics=numbers(4, 1))
    bring(store)
    data = runs_of(store, "row")["b04"].data
    assert data.metrics["score/fd_digits"] == pytest.approx(interval(4, "fd_digits")[0], rel=1e-12)
    assert "refused" not in data.tags


@pytest.mark.slow
def test_frames_do_not_count_rows_as_cells(store):
    before = load.frame_from_stages(store.root)
    bring(store)
    frame = load.runs(store.root)
    assert len(frame) == 15
    pd.testing.assert_frame_equal(frame.drop(columns="run_id"), before.drop(columns="run_id"), check_exact=True)


def seen_first(store: Store, sweep: str) -> tuple[dict[str, Any], list[str]]:
    """The view that a sweep's page opens with, of all where it is empty, and the names that it lists."""
    mlflow = mlflow_store.client(uri := tracking.tracking_uri(store))
    _, urls = tracking.ui_command(store)
    experiment = mlflow.get_experiment(mlflow_store.experiment_id(mlflow, store, uri))
    entry = json.loads(experiment.tags[f"mlflow.sharedViewState.{urls[sweep].rpartition('=')[2]}"])
    view = json.loads(entry["state"])
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    found = mlflow.search_runs([experiment.experiment_id], view["searchFilter"], order_by=[order])
    return view, [str(run.info.run_name) for run in found]


def test_the_sweeps_page_lists_its_rows_best_first(store):
    bring(store)
    view, names = seen_first(store, GRID)
    ranked = sorted(LEVELS, key=lambda n: interval(n, "fd_digits")[0])
    assert names == [f"b{n:02d}" for n in ranked]
    first = ["tags.`score/fd_digits`", "metrics.`seeds`", "params.`quantizer.levels`"]
    assert view["selectedColumns"][:3] == first
    assert seen_first(store, "")[0]["selectedColumns"][:2] == first[:2]
    rows, best = runs_of(store, "row"), ranked[0]
    for n, name in zip(LEVELS, NAMES, strict=True):
        mean, half = interval(n, "fd_digits")
        assert rows[name].data.tags["score/fd_digits"] == f"{mean:.4g} ± {half:.2g}"
        mean, half = (100 * value for value in interval(n, "agreement"))
        assert rows[name].data.tags["score/agreement"] == f"{mean:.4g} ± {half:.2g} %"
    charts = [chart.get("metricKey") for chart in view["compareRunCharts"]]
    assert charts[:2] == ["score/fd_digits", f"score/fd_digits{HALF}"]  # which draws no error bars
    sweep = runs_of(store, "sweep")[GRID].data
    mean, half = interval(best, "fd_digits")
    assert sweep.metrics["best/fd_digits"] == pytest.approx(mean, rel=1e-12)  # and not the luckiest seed's
    assert sweep.tags["score/fd_digits"] == f"best {mean:.4g} ± {half:.2g}: b{best:02d}"


@pytest.mark.slow
def test_the_sweeps_page_lists_cells_too_while_some_that_no_row_has_are_under_way(store):
    bring(store)
    add_seed(store, 64, 0)
    shutil.move(store.folder(id_of("score", [64, 0])), store.root / "aside")
    bring(store)
    names = seen_first(store, GRID)[1]
    assert ({*NAMES, "b64-s0", "b02-s1"} <= {*names}, len(names)) == (True, 5 + 16 + 1)
    shutil.move(store.root / "aside", store.folder(id_of("score", [64, 0])))
    bring(store)
    assert sorted(seen_first(store, GRID)[1]) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["{ half", '{"rows": 3}', '{"state": "x", "rows": [{"cells": ["a"]}]}'])
def test_damaged_rows_are_made_again(store, damage):
    bring(store)
    (store.root / "rows" / f"{GRID}.json").write_text(damage)
    with pytest.raises(UserError, match=r"rows/grid.json .*delete it and run `tokenbridge sync`"):
        tracking.sync(store)
    assert bring(store) == NOTHING


@pytest.mark.slow
def test_a_damaged_plan_or_stage_keeps_no_other_rows_back(store):
    write_json_plan(store, "bad", {"title": "x"})
    cells = grid(store, 2, "worse", (3, 5))
    (store.folder(id_of("score", [3, 1])) / "metrics.json").write_text("{")
    errors = [str(error) for error in refresh(store)]
    assert ["bad.json must have title" in errors[0], "metrics.json" in errors[1]] == [True, True]
    with pytest.raises(UserError, match=r"metrics.json"):
        tracking.sync(store)
    assert sorted(runs_of(store, "row")) == NAMES
    assert len(cells) == 4


def test_the_command_sends_rows(store, call):
    done = call("sync", cwd=store.root.parent)
    assert (done.returncode, done.stdout.startswith("sent 36 runs")) == (0, True), done
    assert len(runs_of(store, "row")) == 5
    assert call("sync", cwd=store.root.parent).stdout == "MLflow was up to date\n"
    unused = Path(store.root / "plans" / "old.json")
    unused.write_text('{"title": "old"}')
    done = call("sync", cwd=store.root.parent)
    assert (done.returncode, done.stdout) == (2, "MLflow was up to date\n")
    assert "old.json must have title" in done.stderr


def test_a_report_that_is_written_computes_its_rows_whatever_was_computed_before(store):
    """Another version of the program may print other numbers of the same stages."""
    assert refresh(store) == []
    path = store.root / "rows" / f"{GRID}.json"
    computed = read_json(path)
    other = json.loads(json.dumps(computed))
    other["rows"][0]["metrics"]["score/fd_digits"] = -1.0
    write_json(path, other)
    assert refresh(store) == []
    assert read_json(path) == other
    assert refresh(store, GRID) == []
    assert read_json(path) == computed
