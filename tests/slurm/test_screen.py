"""A sweep on one screen: what is broken or runs singly and first, the rest in groups, within width and height."""

import pytest

from slurm import screen, status
from slurm.screen import Size
from tests.helpers.sweeps import Small
from tokenbridge.store.artifacts import Store

WIDE = Size(110, 50)


@pytest.fixture(autouse=True)
def away(monkeypatch, tmp_path):
    """A machine without Slurm: folders and events say it all."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def large(tmp_path):
    """300 cells: a third finished, 20 trainings under way, 10 failed."""
    small = Small(Store(tmp_path), 300)
    small.submit()
    cells = list(small.sweep.cells.values())
    small.finish(*{id for cell in cells[:100] for id in cell.stages.values()})
    for n in range(100, 140, 2):
        small.say(small.id("train", n), "started")
        small.train(small.id("train", n), 9)
    for n in range(140, 160, 2):
        small.say(small.id("train", n), "started")
        small.say(small.id("train", n), "failed", error="CUDA out of memory. Tried to allocate 20.00 MiB")
    return small


def lines(small, size=WIDE, everything=False):
    found = status.look(small.store, small.sweep)
    return screen.lines(found, status.seconds_left(small.store, found), size, everything)


@pytest.mark.parametrize("size", [Size(110, 50), Size(80, 24), Size(60, 40), Size(200, 12)])
def test_300_cells_fit(large, size):
    found = lines(large, size)
    assert max(map(len, found)) <= size.width
    least = 26 if size.lines < 26 else size.lines  # totals, errors and six rows are there on the smallest screen
    assert len(found) < least
    text = " ".join(" ".join(found).split())
    for part in ("300 cells: 100 finished, 20 failed, 40 running", "CUDA out of memory", "tokenbridge retry small"):
        assert part in text


def test_every_cell_is_counted_once(large):
    """Groups and single lines together are all cells, and the broken come first."""
    for size in (Size(110, 50), Size(110, 30), Size(110, 10)):
        rows = screen.grouped_rows(status.look(large.store, large.sweep), size.lines - 8)
        counted = [1 if row.single else int(row.label.split()[0]) for row in rows]
        assert sum(counted) == 300
        assert len(rows) <= max(size.lines - 8, 0)
        assert rows[0].label.startswith("2a-b070-t0") or size.lines == 10
    assert [row.label for row in rows][-1].endswith("other states; --all lists them")


def test_all_lists_each_cell(large):
    found = lines(large, everything=True)
    assert sum(line.startswith("2a-b") for line in found) == 300


def test_a_small_sweep(tmp_path):
    """The whole screen, letter by letter."""
    small = Small(Store(tmp_path))
    small.submit()
    shared = [small.id(kind, n) for kind in ("quantizer", "reconstruct") for n in (0, 2)]
    small.finish(small.id("latents"), *shared, small.id("train", 2), small.id("likelihood", 2))
    small.say(small.id("train"), "started")
    small.train(small.id("train"), 45, 100)
    small.say(small.id("sample", 2), "started")
    small.say(small.id("sample", 2), "failed", error="disk full")
    found = [line for line in lines(small, Size(160, 50)) if "submitted 20" not in line and "without Slurm" not in line]
    assert found == [
        "small: 4 cells: 1 failed, 2 running, 1 queued",
        "17 stages: 7 finished, 1 failed, 1 cancelled, 1 running, 1 queued, 6 blocked",
        "",
        "                      latents quantizer reconstruct train likelihood sample score",
        "2a-b001-t0            ok      ok        ok          ok    ok         FAIL   canc",
        "2a-b000-t0            ok      ok        ok          45%   .          .      .     step 45/100, 55 s left",
        "2a-b000-t1            ok      ok        ok          45%   .          .      .     step 45/100, 55 s left",
        "2a-b001-t1            ok      ok        ok          ok    ok         q      .",
        "ok finished  run running, or 45% done  q queued  . waits for its inputs  FAIL failed  canc cancelled",
        "failed: sample of 2a-b001-t0: disk full",
        "    tokenbridge logs 2a-b001-t0 --stage sample --sweep small",
        "tokenbridge retry small submits again what failed, was cancelled or is lost",
    ]


def test_colour_does_not_move_columns(large):
    plain, painted = lines(large), lines(large, Size(110, 50, colour=True))
    assert any("\033[31m" in line for line in painted)
    stripped = [line.replace("\033[0m", "") for line in painted]
    for code in ("31", "32", "33"):
        stripped = [line.replace(f"\033[{code}m", "") for line in stripped]
    assert [line.rstrip() for line in stripped] == plain


def test_the_failed_end_of_a_round_is_told(tmp_path):
    small = Small(Store(tmp_path))
    small.submit()
    small.finish(*small.sweep.stages)
    small.say(small.sweep.last, "started")
    small.say(small.sweep.last, "failed", error="Invalid account")
    found = lines(small)
    assert "failed: end of a round of small: Invalid account" in found
    assert "    tokenbridge logs next-small --sweep small" in found


def test_double_executions_are_told(tmp_path):
    small = Small(Store(tmp_path))
    small.submit()
    small.say(small.id("train"), "discarded")
    assert "1 result came twice and the later discarded: Slurm ran the job twice" in lines(small)


def test_the_list_of_sweeps(large):
    done = Small(large.store, 2, "done", first=0)
    found = screen.sweeps_table(status.looks(large.store, [large.sweep, done.sweep]), 90)
    assert found[0].split() == ["sweep", "submitted", "cells", "state", "command"]
    assert [part for part in found[1].split("  ") if part][2:4] == ["100/300", "under way, 20 broken"]
    assert [part.strip() for part in found[2].split("  ") if part][2:4] == ["2/2", "finished"]
    assert max(map(len, found)) <= 90
