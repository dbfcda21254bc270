"""Guidance and temperature by sampling alone: which points get how many images, what is settled, nothing done twice."""

import json
import math
import shutil
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import false_discovery_control, norm, sem, ttest_rel
from scipy.stats import t as student

from analysis.stats import edges
from experiments.cli.tune import comparisons, estimate
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


def point(*values, error=None, left=(), temperature=1.0, count=None):
    return ScoredPoint(1.0, temperature, 100, (), values, (error,) * len(values), (left,) * len(values), count)


def against(first, second, **changes):
    """The comparison of one point with another, alone."""
    found = comparisons(search(**changes), [first, replace(second, temperature=0.5)], replace(second, temperature=0.5))
    return found[first.place]


def test_two_points_are_compared_within_their_models():
    first, second = (3.1, 2.4, 5.0), (3.0, 2.1, 4.8)  # models differ more than points
    found = against(point(*first), point(*second))
    test = ttest_rel(np.log(first), np.log(second))
    interval = test.confidence_interval(0.95)
    assert found.p == found.adjusted == pytest.approx(test.pvalue)
    assert found.corrected == pytest.approx([100 * math.expm1(interval.low), 100 * math.expm1(interval.high)])
    assert found.difference.effect == pytest.approx(100 * math.expm1(np.log(first).mean() - np.log(second).mean()))
    assert (found.verdict, against(point(*second), point(*first)).verdict) == ("no difference shown",) * 2
    near = tuple(value * 1.1 + 0.01 * i for i, value in enumerate(second))
    assert ttest_rel(np.log(near), np.log(second)).pvalue < 0.05
    assert (against(point(*near), point(*second)).verdict) == "worse"
    more = tuple(value + 0.3 + 0.01 * i for i, value in enumerate(second))
    assert against(point(*more), point(*second), metric="is_digits").verdict == "better"  # higher is better
    # two differences alike are no spread to test by
    assert against(point(0.5, 1.0), point(0.25, 0.5)) is None


def test_points_of_a_rung_are_judged_together_by_their_false_discovery_rate():
    draw = np.random.default_rng(1)
    models, ratios = draw.lognormal(1, 0.3, 5), (1.0, 1.01, 1.03, 1.06, 1.1, 1.3)
    values = [models * ratio * draw.lognormal(0, 0.02, 5) for ratio in ratios]
    points = [point(*each, temperature=0.5 + 0.1 * i) for i, each in enumerate(values)]
    found = list(comparisons(search(), points, points[0]).values())
    p = [ttest_rel(np.log(each), np.log(values[0])).pvalue for each in values[1:]]
    assert [each.p for each in found] == pytest.approx(p)
    adjusted = false_discovery_control(p)
    assert [each.adjusted for each in found] == pytest.approx(list(adjusted))
    assert [each.verdict == "worse" for each in found] == list(adjusted < 0.05)
    assert 0 < sum(adjusted < 0.05) < 5


def test_one_model_is_compared_by_the_errors_over_its_images():
    first, second = point(3.0, error=0.3), point(2.0, error=0.2)
    found, apart = against(first, second), math.hypot(0.3 / 3, 0.2 / 2)  # of logarithms
    assert found.p == pytest.approx(2 * norm.sf(math.log(1.5) / apart))
    assert found.verdict == "worse"
    assert against(point(2.5, error=0.3), second).verdict == "no difference shown"
    assert estimate(first).half == pytest.approx(0.588, abs=1e-3)
    assert (against(point(3.0), second), estimate(point(3.0)).half) == (None, None)


def test_shares_are_compared_by_their_logits():
    first, second = (0.99, 0.98, 0.995), (0.95, 0.9, 0.97)
    found = against(point(*first, count=300.0), point(*second, count=300.0), metric="agreement")
    shares = [(np.array(x) * 300 + 0.5) / 301 for x in (first, second)]
    apart = logit(shares[0]) - logit(shares[1])
    counting = sum(np.mean(1 / (300 * x * (1 - x))) for x in shares)  # no seed can vary less
    error = math.sqrt(max(np.var(apart, ddof=1), counting) / 3)
    assert found.p == pytest.approx(2 * student.sf(apart.mean() / error, 2))


def test_images_of_the_same_noise_are_compared_pair_by_pair():
    """Means of 400 values: the jackknife of their difference is the paired error of the mean, by SciPy."""
    draw = np.random.default_rng(0)
    noise = draw.normal(size=400)
    sets = [noise + shift + draw.normal(scale=0.1, size=400) for shift in (0.0, 0.03)]
    left = [tuple((x.sum() - x) / 399) for x in sets]
    points = [point(x.mean(), error=sem(x), left=without) for x, without in zip(sets, left, strict=True)]
    found = against(*points, metric="is_digits")  # whose spread is even as it is
    assert found.p == pytest.approx(ttest_rel(*sets).pvalue)
    assert found.corrected == pytest.approx(list(ttest_rel(*sets).confidence_interval(0.95)))
    assert found.shown
    assert not against(*(point(x.mean(), error=sem(x)) for x in sets), metric="is_digits").shown


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
    ratio = [math.log(b / a) for a, b in zip(best["values"], second["values"], strict=True)]
    assert found["runner_up"]["difference"] == pytest.approx(100 * math.expm1(fmean(ratio)))
    assert found["runner_up"] == second
    assert second["verdict"] == ("worse" if second["adjusted_p"] < 0.05 else "no difference shown")

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
