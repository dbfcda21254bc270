"""Guidance and temperature by sampling alone: which points get how many images, what is settled, nothing done twice."""

import json
import math
import shutil
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import norm, sem, ttest_rel

from analysis.stats import edges
from experiments.cli.tune import _estimate, _gap
from experiments.grid.tune import ScoredPoint, Search, images_drawn
from experiments.pipeline import Cell, record
from experiments.presets import DIGITS
from experiments.trained import Models, command, models, training
from tests.conftest import SHORT
from tests.helpers.runs import with_database
from tokenbridge.config import UserError
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store

SEARCH = ("--guidance", "1,2", "--temperature", "0.5,1", "--images", "50,70", "--jobs", "1")


def search(**changes):
    return replace(Search(Models("x", (DIGITS,))), **changes)


def trained(store, name, config, finished=True):
    """A cell as `run` records it, its training finished with nothing in it."""
    record(store, [Cell(name, config, ("train",))], "tests")
    if finished:
        with store.writing(training(config), {"kind": "train"}) as out:
            assert out is not None


@pytest.mark.parametrize(
    ("points", "images", "rungs"),
    [
        ((3, 3), (100, 300, 900), [(100, 9), (300, 3), (900, 2)]),
        ((5, 4), (100, 300, 900), [(100, 20), (300, 7), (900, 3)]),
        ((2, 2), (100, 300, 900), [(100, 4), (900, 2)]),  # two would go on to two
        ((1, 2), (100, 900), [(900, 2)]),
        ((3, 3), (300,), [(300, 9)]),
    ],
)
def test_a_third_goes_on_and_two_at_least(points, images, rungs):
    guidance, temperature = (tuple(1 + i / 8 for i in range(count)) for count in points)
    found = search(guidance=guidance, temperature=temperature, images=images)
    assert found.rungs == rungs


def test_images_that_a_rung_draws_anew_are_counted():
    # 9·100 + 3·300 + 2·900, of which 3·100 + 2·300 were drawn before; all nine with 900 would be 8,100
    sizes = search().rungs
    assert images_drawn(search(), sizes) == (3600, 900, 8100)
    assert images_drawn(search(models=Models("x", (DIGITS, DIGITS))), sizes) == (7200, 1800, 16200)


def test_the_search_never_draws_the_images_of_the_final_score():
    for seed in range(3):
        found = search(models=Models("x", (override(DIGITS, {"sample.seed": seed}),)))
        (rung,), (last,) = found.cells((1.0, 0.9), 100), found.cells((1.0, 0.9))
        assert rung.config.sample.seed != last.config.sample.seed == seed
        assert (rung.config.sample.images, last.config.sample.images) == (100, DIGITS.sample.images)
        ids = [cell.stages()[-2].inputs for cell in (rung, last)]
        assert ids[0] == ids[1]  # the same training


def point(*values, error=None, left=()):
    return ScoredPoint(1.0, 1.0, 100, (), values, (error,) * len(values), (left,) * len(values))


def test_two_points_are_compared_within_their_models():
    first, second = (3.1, 2.4, 5.0), (3.0, 2.1, 4.8)  # models differ more than points
    found = _gap(point(*first), point(*second))
    interval = ttest_rel(first, second).confidence_interval(0.95)
    assert found.half() == pytest.approx((interval.high - interval.low) / 2)
    assert found.mean == pytest.approx(0.2)
    assert found.settled == (interval.low > 0) == (ttest_rel(first, second).pvalue < 0.05)
    assert not _gap(point(0.5, 0.25), point(0.25, 0.0)).settled  # two equal differences of a coarse share


def test_one_model_is_compared_by_the_errors_over_its_images():
    first, second = point(3.0, error=0.3), point(2.0, error=0.4)
    assert _gap(first, second).half() == pytest.approx(norm.ppf(0.975) * 0.5)
    assert _gap(first, second).settled
    assert not _gap(point(2.9, error=0.3), second).settled
    assert _estimate(first).half == pytest.approx(0.588, abs=1e-3)
    unknown = _gap(point(3.0), second)
    assert (unknown.half(), unknown.settled, _estimate(point(3.0)).half) == (None, False, None)


def test_images_of_the_same_noise_are_compared_pair_by_pair():
    """Means of 400 values: the jackknife of their difference is the paired error of the mean, by SciPy."""
    draw = np.random.default_rng(0)
    noise = draw.normal(size=400)
    sets = [noise + shift + draw.normal(scale=0.1, size=400) for shift in (0.0, 0.03)]
    left = [tuple((x.sum() - x) / 399) for x in sets]
    found = _gap(*(point(x.mean(), error=sem(x), left=without) for x, without in zip(sets, left, strict=True)))
    low, high = ttest_rel(*sets).confidence_interval(0.95)
    assert found.half() == pytest.approx((high - low) / 2)
    assert found.settled
    assert not _gap(*(point(x.mean(), error=sem(x)) for x in sets)).settled


def test_ends_of_the_grid():
    points = [(g, t) for g in (1.0, 1.5, 2.0) for t in (0.9,)]
    assert edges((2.0, 0.9), points) == ("highest guidance",)  # one temperature has no ends
    assert edges((1.5, 0.9), points) == ()


def test_all_training_seeds_of_a_configuration_are_tuned_together(tmp_path):
    store, other = Store(tmp_path), override(DIGITS, ["head.depth=1"])
    for seed in range(3):
        trained(store, f"mine-s{seed}", override(DIGITS, {"train.seed": seed, "sample.guidance": 1 + seed}), seed != 2)
    trained(store, "other", override(other, {"train.seed": 5}))
    found = models(store, "mine-s1")
    assert [config.train.seed for config in found.configs] == [0, 1]
    assert {config.sample.guidance for config in found.configs} == {2}
    assert (found.name, found.untrained) == ("mine-s1", (2,))
    cell = next(path.stem for path in (tmp_path / "cells").iterdir() if "mine-s0" in path.read_text())
    assert models(store, cell).configs[1].train.seed == 1
    more = models(store, "mine-s1", ["sample.iterations=4"])
    assert (more.name, more.configs[0].sample.iterations) == ("mine-s1-iterations4", 4)
    at_preset = models(store, "digits").configs
    assert [(c.train.seed, c.sample.guidance) for c in at_preset] == [(0, 1.5), (1, 1.5)]
    assert models(store, "digits", ["sample.guidance=1"]).name == "mine-s0"  # the same cell has the same name
    assert command(override(other, {"train.seed": 5})) == "tokenbridge run digits head.depth=1 train.seed=5"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("mine-s", "mine-s is no cell of .*cells and no preset; did you mean mine"),
        ("late", "late is not trained in .*; run first: tokenbridge run digits head.depth=3 --only train"),
        ("twice", "twice names 2 cells, which differ in quantizer.levels; give an id: "),
        ("pixels", "quantizer.kind=identity cannot go with head.kind=autoregressive"),
    ],
)
def test_what_is_no_trained_cell_is_refused(tmp_path, what, message):
    store = Store(tmp_path)
    trained(store, "mine", DIGITS)
    trained(store, "late", override(DIGITS, ["head.depth=3"]), finished=False)
    for levels in (8, 32):
        trained(store, "twice", override(DIGITS, {"quantizer.levels": levels}))
    record(store, [Cell("pixels", override(DIGITS, ["quantizer.kind=identity"]), ("reconstruct",))], "tests")
    with pytest.raises(UserError, match=message):
        models(store, what)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guidance", "1,x"], "--guidance=1,x must be numbers with a comma between two, such as 1,2"),
        (["--guidance", "1,inf"], "--guidance=1,inf must be numbers"),
        (["--guidance", "-1,1"], "sample.guidance=-1.0 must be >= 0"),
        (["--temperature", "0.9,-0.1"], "sample.temperature=-0.1 must be >= 0"),
        (["--temperature", "0.9,0.9"], "--temperature=0.9,0.9 has a value twice; give each value once"),
        (["--guidance", "1", "--temperature", "1"], "one point, guidance 1, temperature 1, leaves nothing to choose"),
        (["--images", "300,100"], "--images=300,100 must rise from 50 or more, one for each rung"),
        (["--images", "10,100"], "--images=10,100 must rise from 50 or more"),
        (["--images", "99.5"], "--images=99.5 must be whole numbers"),
        (
            ["--metric", "fd_digit"],
            "--metric=fd_digit is no metric of samples with a direction; did you mean fd_digits?",
        ),
        (["--name", "a/b"], "--name=a/b must be letters, digits"),
    ],
)
def test_a_wrong_search_is_one_line(call, tmp_path, arguments, message):
    trained(Store(tmp_path / "runs"), "mine", DIGITS)
    before = sorted(tmp_path.rglob("*"))
    done = call("tune", "mine", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_search_from_its_models_to_its_record(call, tmp_path, with_latents, template):
    with_database(with_latents(tmp_path / "runs"), template / "mlflow.db")
    for seed in ([], ["train.seed=1"]):
        assert call("run", "digits", *SHORT, *seed, "--only", "train", cwd=tmp_path).returncode == 0
    dry = call("tune", "digits", *SHORT, *SEARCH, "--name", "mine", "--dry-run", cwd=tmp_path)
    assert "rung 1: 4 points, 50 images per point and training seed, 16 stages to run" in dry.stdout
    assert not (tmp_path / "runs" / "tunes").exists()
    done = call("tune", "digits", *SHORT, *SEARCH, "--name", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "runs" / "tunes" / "mine.json").read_text())
    first, last = found["rungs"]
    assert [rung["images"] for rung in found["rungs"]] == [50, 70]
    axes = [sorted({point[name] for point in first["points"]}) for name in ("guidance", "temperature")]
    assert len(first["points"]) == len(axes[0]) * len(axes[1]) >= 6  # of two values each, all points are at an edge
    assert len(last["points"]) == max(2, math.ceil(len(first["points"]) / 3))
    means = [point["mean"] for point in first["points"]]
    assert means == sorted(means)
    kept = {(point["guidance"], point["temperature"]) for point in first["points"][: len(last["points"])]}
    assert {(point["guidance"], point["temperature"]) for point in last["points"]} == kept
    best, second, *_ = last["points"]
    assert found["chosen"] == {"sample.guidance": best["guidance"], "sample.temperature": best["temperature"]}
    assert best["mean"] == fmean(best["values"]) <= second["mean"]
    assert len(best["left_out"][0]) == 20
    assert len(best["values"]) == len(found["repeat"]) == 2
    assert (found["final"]["images"], found["search_seed"], found["final_seed"]) == (71, 1, 0)
    assert found["before"] is None
    assert all(end in ("lowest temperature", "highest guidance", "highest temperature") for end in found["ends"])
    assert not math.isnan(found["runner_up"]["difference_half"])

    # the same search again runs nothing; what a kill left out is all that is done
    stages = tmp_path / "runs" / "stages"
    before = {path: path.stat().st_mtime_ns for path in stages.glob("*/manifest.json")}
    again = call("tune", "digits", *SHORT, *SEARCH, "--name", "mine", cwd=tmp_path)
    assert "stages done" not in again.stdout
    assert again.stdout.partition("chosen: ")[2] == done.stdout.partition("chosen: ")[2]
    cell = json.loads((tmp_path / "runs" / "cells" / f"{second['cells'][1]}.json").read_text())
    lost = stages / cell["stages"]["score"] / "manifest.json"
    shutil.rmtree(lost.parent)
    assert "1 of 1 stages done" in call("tune", "digits", *SHORT, *SEARCH, "--name", "mine", cwd=tmp_path).stdout
    changed = {path for path in stages.glob("*/manifest.json") if before.get(path) != path.stat().st_mtime_ns}
    assert changed == {lost}

    # the command that repeats the final score finds it finished
    words = found["repeat"][1].split()[1:]
    assert "stages done" not in call(*words, "--only", "score", cwd=tmp_path).stdout
