"""Grids of this machine, which status and sweeps know by their cells; what runs is told by who holds its lock."""

import json
import shutil

import pytest

from experiments.paper import plan
from slurm import local
from tests.helpers import command as small_command
from tests.helpers.sweeps import Small
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import RecordedCell, write_cells


@pytest.fixture(autouse=True)
def away(monkeypatch, tmp_path_factory):
    """No Slurm here."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


@pytest.fixture
def grid(tmp_path):
    """The cells of a sweep of Slurm as a grid of this machine has them, none of it run."""
    store = Store(tmp_path / "runs")
    small = Small(store, name="mine")
    shutil.rmtree(store.root / "sweeps")
    cells = [
        RecordedCell(id, [cell.name], "tokenbridge", {}, cell.stages, ["mine"])
        for id, cell in small.sweep.cells.items()
    ]
    write_cells(store, cells)
    return small


@pytest.fixture
def call(grid, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "110")
    (grid.store.root / "tracking.json").touch()

    def run(*arguments):
        return small_command.call(monkeypatch, capsys, *arguments, "--runs", grid.store.root)

    return run


@pytest.mark.slow
def test_what_runs_what_waits_and_what_is_finished(call, grid):
    store, train = grid.store, grid.id("train")
    idle = call("status", "mine")
    assert idle.returncode == 1
    assert "mine: 4 cells: 4 waiting" in idle.stdout
    assert "on this machine, begun" in idle.stdout
    assert "- not run" in idle.stdout
    assert "the same `tokenbridge grid` command goes on with what is missing" in idle.stdout
    grid.finish(*(grid.id(kind) for kind in ("latents", "quantizer")))
    with store.lock(train):
        store.folder(f"{train}.partial").mkdir(parents=True)
        busy = call("status")
        assert busy.returncode == 3, busy.stdout + busy.stderr
        assert "2 running" in busy.stdout
        assert json.loads(call("status", "mine", "--json").stdout)["slurm"] == "no sweep of Slurm"
        assert "under way" in call("sweeps").stdout
        with store.lock(train, wait=False) as ours:
            assert not ours  # looking has taken it from nobody
    assert call("status").returncode == 1  # what a kill has left does not run
    grid.finish(*grid.sweep.stages)
    shutil.rmtree(store.folder(f"{train}.partial"))
    plan.file(store.root, "mine").parent.mkdir()
    plan.file(store.root, "mine").write_text("{}")
    done = call("status", "mine")
    assert done.returncode == 0, done.stdout
    assert "4 cells: 4 finished" in done.stdout


def test_the_list_has_both(call, grid):
    assert call("sweeps").stdout.splitlines()[1].split()[0] == "mine"
    Small(grid.store, name="far", first=4)
    names = [line.split()[0] for line in call("sweeps").stdout.splitlines()[1:]]
    assert names == ["far", "mine"]
    assert "4/4" not in call("sweeps").stdout
    assert "not finished  on this machine" in call("sweeps").stdout
    assert call("status").stdout.startswith("far: ")  # the latest of Slurm
    Small(grid.store, name="mine")  # submitted as well
    assert [sweep.name for sweep in local.sweeps(grid.store)] == []


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_what_is_for_slurm_alone(call, command):
    done = call(command, "mine")
    assert done.returncode == 2
    assert "mine runs on this machine and not on Slurm" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_grid_at_all(call, grid):
    shutil.rmtree(grid.store.root / "cells")
    assert "there is no grid in" in call("status").stderr
    assert "no sweep in" in call("sweeps").stdout
    assert "none is no sweep" in call("status", "none").stderr
