"""Seeds added until claims are settled: what each look runs, and what is refused."""

import json

import pytest

from experiments.cli import grid as command
from experiments.grid.looks import growing, looks
from experiments.grid.request import Request
from tests.conftest import SHORT
from tests.helpers.runs import with_database


@pytest.mark.parametrize(
    ("first", "most", "wanted"), [(3, 12, (3, 6, 9, 12)), (3, 10, (3, 6, 9, 10)), (5, 5, (5,)), (2, 3, (2, 3))]
)
def test_looks(first, most, wanted):
    assert looks(first, most) == wanted


def test_searches_use_the_seeds_of_the_first_look_whatever_is_added():
    request = growing(Request(name="x", tables=("2a",)), 12)
    first, last = (request.model_copy(update={"seeds": seeds}).grid() for seeds in (3, 12))
    searched = [
        {cell.id for row in grid.search.values() for point in row.first() for cell in point.cells}
        for grid in (first, last)
    ]
    assert searched[0] == searched[1]
    assert {row.cell.id for row in first.rows} < {row.cell.id for row in last.rows}
    assert len(last.rows) == 2 * 12


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["1a"], "--until-settled is for tables with claims (2a, "),
        (["2a", "--row", "2a:parallel"], "--row=2a:parallel leaves out rows of claims; with --until-settled ask for"),
        (["--axis", "quantizer.levels=8,16"], "--until-settled is for tables with claims"),
        (["2a", "--seeds", "1"], "--seeds=1 of the first look must be from 2 to --max-seeds=12"),
        (["2a", "--seeds", "5", "--max-seeds", "4"], "--seeds=5 of the first look must be from 2 to --max-seeds=4"),
        (["2a", "--on", "slurm"], "--until-settled looks between rounds of seeds on this machine"),
    ],
)
def test_what_cannot_grow_is_one_line(call, tmp_path, words, part):
    done = call("grid", *words, "--until-settled", cwd=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("settled_at", [1, 2])
def test_a_grid_stops_when_its_claims_are_settled(call, tmp_path, with_latents, template, monkeypatch, settled_at):
    """The real numbers of models this small settle nothing; a look that settles is made by hand the second time."""
    with_database(with_latents(tmp_path / "runs"), template / "mlflow.db")
    seen, judge = [], command._claims

    def claims(store, name):
        seen.append(judge(store, name))
        return (2, 2) if len(seen) == settled_at else seen[-1]

    monkeypatch.setattr(command, "_claims", claims)
    words = [word for setting in SHORT for word in ("--set", setting)]
    words += ["--points", "base", "--seeds", "2", "--max-seeds", "5", "--jobs", "1", "--name", "mine"]
    done = call("grid", "2a", *words, "--until-settled", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("look ") == settled_at
    assert f"look {settled_at} of 3, {2 * settled_at} seeds: 2 of 2 claims settled" in done.stdout
    assert all(count == 2 for _, count in seen)  # the Fréchet distance and the bits
    plan = json.loads((tmp_path / "runs" / "plans" / "mine.json").read_text())
    assert (plan["looks"], len(plan["rows"])) == ([2, 4, 5], 2 * 2 * settled_at)
    assert "looks at 2, 4, 5 of them at most" in plan["notes"][1]
    assert call("report", "mine", cwd=tmp_path).returncode == 0
