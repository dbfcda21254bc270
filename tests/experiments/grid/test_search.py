"""A search that goes on beyond the edge that its best point lies at, until it is inside, at a bound, or long enough."""

import math
from itertools import product

import pytest

from experiments.grid import search
from experiments.grid.request import Request
from experiments.grid.search import BOUNDS, SEARCH, WIDENINGS, RowSearch, most_points, widened
from experiments.grid.tune import ScoredPoint as Tuned
from experiments.grid.tune import Search, climb, forecast, images_drawn
from experiments.paper.plan import ranked
from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.trained import Models
from slurm import rounds
from tokenbridge.config import Runtime
from tokenbridge.store.artifacts import Store

START = [list(values) for values in SEARCH.values()]


def test_points_are_ranked_by_their_metric_and_of_equals_the_first_comes_first():
    values = [3.0, math.nan, 1.0, 2.0, 1.0]
    assert ranked(values, "lower") == [2, 4, 3, 0, 1]
    assert ranked(values, "higher") == [0, 3, 2, 4, 1]


def valley(guidance, temperature, at):
    """A distance with one lowest place, along the ratios of both."""
    return math.log(guidance / at[0]) ** 2 + 3 * math.log(temperature / at[1]) ** 2


@pytest.fixture
def scores(monkeypatch):
    """Points of searches have the distance to a place as their score, all but those not `finished`."""

    def at(place, finished=lambda values: True):
        monkeypatch.setattr(search.SearchPoint, "scored", lambda point, store: finished(point.values))
        monkeypatch.setattr(search.SearchPoint, "metric", lambda point, store: valley(*point.values.values(), place))

    return at


@pytest.mark.parametrize(
    ("place", "wider"),
    [
        ((1.5, 0.9), [[1.0, 1.5, 2.0], [0.8, 0.9, 1.0]]),
        ((2.0, 0.9), [[1.0, 1.5, 2.0, 2.7], [0.8, 0.9, 1.0]]),  # 2 · 2 ÷ 1.5
        ((2.0, 0.8), [[1.0, 1.5, 2.0, 2.7], [0.71, 0.8, 0.9, 1.0]]),  # 0.8 · 0.8 ÷ 0.9
        ((1.0, 1.0), [[1.0, 1.5, 2.0], [0.8, 0.9, 1.0, 1.1]]),  # guidance 1 is none: a bound
    ],
)
def test_a_line_is_added_beyond_each_edge_at_the_ratio_of_the_last_two(place, wider):
    assert widened(START, place) == wider


@pytest.mark.parametrize(
    ("axes", "place", "wider"),
    [
        ([[2.0], [0.9]], (2.0, 0.9), [[2.0], [0.9]]),  # one value has no edges
        (
            [[0.0, 2.0], [0.55, 0.7]],
            (2.0, 0.55),
            [[0.0, 2.0, 4.0], [0.5, 0.55, 0.7]],
        ),  # no ratio to 0; the bound is tried
        ([[1.0, 1.01], [0.3, 0.5]], (1.01, 0.3), [[1.0, 1.01, 1.02], [0.3, 0.5]]),  # rounding never makes a value twice
    ],
)
def test_edges_of_other_grids(axes, place, wider):
    assert widened(axes, place) == wider


@pytest.mark.parametrize(
    ("best", "chosen", "added"),
    [
        ((1.5, 0.9), (1.5, 0.9), [0]),
        ((2.7, 0.9), (2.7, 0.9), [3, 3, 0]),
        ((1.0, 0.6), (1.0, 0.63), [3, 3, 3, 0]),
        ((1.0, 0.1), (1.0, 0.5), [3, 3, 3, 3]),  # the last line is the bound
        ((100.0, 0.1), (6.4, 0.5), [7, 9, 11, 13]),  # as many as there may be
    ],
)
def test_a_search_goes_on_until_its_best_point_is_inside(tmp_path, scores, best, chosen, added):
    scores(best)
    row, store = RowSearch((Cell("x", DIGITS),), 900), Store(tmp_path)
    assert [len(row.wider(store, number)) for number in range(1, len(added) + 1)] == added
    points = row.points(store)
    assert len(points) == 9 + sum(added)
    assert tuple(search.best(store, points).values()) == chosen
    assert len({tuple(point.values.values()) for point in points}) == len(points)  # none twice
    brute = min(points, key=lambda point: valley(*point.values.values(), best))
    assert tuple(brute.values.values()) == chosen
    axes = [sorted({point.values[key] for point in points}) for key in SEARCH]
    assert len(points) == math.prod(map(len, axes))  # a whole grid
    assert all(value >= bound for values, bound in zip(axes, BOUNDS.values(), strict=True) for value in values)
    assert len(points) <= most_points(SEARCH.values()) == 49


def test_what_is_not_scored_yet_widens_nothing(tmp_path, scores):
    scores((5.0, 0.9), finished=lambda values: values["sample.guidance"] <= 2)
    row, store = RowSearch((Cell("x", DIGITS),), 900), Store(tmp_path)
    assert [len(row.wider(store, number)) for number in (1, 2, 3)] == [
        3,
        0,
        0,
    ]  # the line is asked for until it is there


def test_a_sweep_has_a_round_for_each_widening(tmp_path, scores):
    grid, store = Request(name="x", tables=("2a",), seeds=2).grid(), Store(tmp_path)
    scores((2.7, 0.9))
    assert grid.rounds == 2 + WIDENINGS
    counts = [len(rounds.of(store, grid, number).cells) for number in range(1, grid.rounds + 1)]
    # two rows of two seeds: nine points, two lines of three, nothing more, the rows themselves
    assert counts == [36, 12, 12, 0, 0, 4]
    last = rounds.of(store, grid, grid.rounds).cells
    assert {cell.config.sample.guidance for cell in last} == {2.7}
    assert {cell.config.score.split for cell in last} == {"test"}


def test_tune_widens_its_first_rung(tmp_path, monkeypatch):
    """Points have the distance to a place beyond the grid; later rungs keep a third of all that were tried."""
    from experiments.grid import tune

    ran = []

    def scored(store, found, place, images=None):
        return Tuned(*place, images or 0, (), (valley(*place, (3.5, 0.9)),), (None,))

    monkeypatch.setattr(tune, "_run", lambda store, cells, runtime, jobs: ran.append(len(cells)))
    monkeypatch.setattr(tune, "scored", scored)
    found = Search(Models("x", (DIGITS,)))
    rungs = list(climb(Store(tmp_path), found, Runtime(), 1))
    assert ran == [9, 3, 3, 3, 6, 2]  # 2.7, 3.6 and 4.8 beside 1, 1.5 and 2; then a third of 18, and of 6
    assert [(rung.images, len(rung.points), rung.kept) for rung in rungs] == [(100, 18, 6), (300, 6, 2), (900, 2, 1)]
    assert rungs[-1].points[0].place == (3.6, 0.9)
    assert {point.place for point in rungs[0].points} == {*product((1.0, 1.5, 2.0, 2.7, 3.6, 4.8), (0.8, 0.9, 1.0))}
    sizes = [(rung.images, len(rung.points)) for rung in rungs]
    assert images_drawn(found, sizes) == (18 * 100 + 6 * 300 + 2 * 900, 6 * 100 + 2 * 300, 18 * 900)
    assert any("at most 4 times, 40 points more" in line for line in forecast(Store(tmp_path), found, 1))


def test_a_dry_run_says_what_widening_costs_at_most(call, tmp_path):
    done = call("grid", "2a", "--seeds", "2", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # two rows of two seeds, a sample and a score stage each
    assert "at most 4 times, 40 points more per row, 320 stages of" in done.stdout
    assert "goes on beyond an edge" not in call("grid", "2a", "--points", "base", "--dry-run", cwd=tmp_path).stdout
