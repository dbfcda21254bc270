"""Intervals, tests and their correction against SciPy, worked examples and simulation; laws of numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import stats
from tokenbridge.metrics import frechet

A, B = (1.31, 1.28, 1.36, 1.30, 1.33), (1.41, 1.52, 1.39, 1.40, 1.38)
REPETITIONS, UNEQUAL = 20_000, 5_000
"""of tests with three seeds, and of Welch's among them, whose degrees of freedom are another number each time"""


def _of(values, keys=(), error=None) -> stats.Estimate:
    return stats.estimate(values, keys, error)


def test_equal_seeds_pair_and_only_common_ones_count() -> None:
    found = stats.gap(_of(A, range(5)), _of(B[::-1], [4, 3, 2, 1, 0]))
    expected = scipy_stats.ttest_rel(A, B)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.mean - found.half(), found.mean + found.half()) == pytest.approx((low, high))
    some = stats.gap(_of(A, range(5)), _of(B[1:4], [1, 2, 3]))
    assert some.p == pytest.approx(scipy_stats.ttest_rel(A[1:4], B[1:4]).pvalue)
    assert len(some.values) == 3


@pytest.mark.parametrize("keys", [((), ()), (range(5), range(5, 10)), (range(5), range(4, 9))])
def test_without_two_common_seeds_it_is_welch_s_test(keys) -> None:
    found = stats.gap(_of(A, keys[0]), _of(B, keys[1]))
    expected = scipy_stats.ttest_ind(A, B, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.mean - found.half(), found.mean + found.half()) == pytest.approx((low, high))


def test_two_samplings_of_one_training_are_one_observation() -> None:
    found = stats.estimate([1.0, 3.0, 5.0], [0, 0, 1])
    assert (found.values, found.keys, found.mean) == ((2.0, 5.0), (0, 1), 3.5)
    assert stats.estimate([1.0, 3.0], [0, 0]).half is None


def test_one_measurement_has_an_interval_over_images() -> None:
    a, b = _of([12.0], [0], 0.3), _of([10.5], [0], 0.4)
    assert (a.over, a.half) == ("images", pytest.approx(1.959964 * 0.3))
    found = stats.gap(a, b)
    assert (found.over, found.error) == ("images", pytest.approx(0.5))
    assert found.half() == pytest.approx(1.959964 * 0.5)
    assert found.p == pytest.approx(2 * scipy_stats.norm.sf(3))
    assert stats.gap(a, _of([10.5], [0])).p is None  # whose error nobody knows
    assert stats.gap(a, _of(A, range(5))).p is None  # one seed against several


def test_a_tie_says_nothing_and_neither_does_infinity() -> None:
    """Differences that are all the same, but for rounding, have no spread to test by."""
    for ours, theirs in (([1.0, 2.0], [2.0, 3.0]), ([1.0, 2.0], [1.0, 2.0]), ([0.3, 0.5], [0.2, 0.4])):
        found = stats.gap(_of(ours, [0, 1]), _of(theirs, [0, 1]))
        assert (found.p, found.half(), found.settled) == (None, None, False)
    assert stats.gap(_of([1.0, 1.0]), _of([2.0, 2.0])).p is None
    assert stats.gap(_of([1.0], [0], 0.0), _of([2.0], [0], 0.0)).p is None
    broken = _of([1.0, math.inf], [0, 1])
    assert broken.half is None
    assert stats.gap(broken, _of([1.0, 2.0], [0, 1])).p is None


def test_no_p_value_is_zero() -> None:
    far = stats.gap(_of([1.0], [0], 1e-3), _of([1000.0], [0], 1e-3))
    assert 0 < far.p < 1e-300
    assert stats.compare([stats.Difference(far, "lower")], "claim")[0].adjusted > 0


def test_holm_as_worked_by_hand() -> None:
    """Holm (1979) by hand: 0.01·4, 0.0133·3 (at least the one before), 0.03·2, 0.04 (at least the one before)."""
    adjusted, levels = stats.holm([0.03, 0.01, 0.04, 0.0133])
    assert adjusted == pytest.approx([0.06, 0.04, 0.06, 0.04])
    # the third fails at 0.05/2, and the fourth behind it at the same level
    assert levels == pytest.approx([0.05 / 2, 0.05 / 4, 0.05 / 2, 0.05 / 3])
    assert stats.holm([]) == ([], [])
    assert stats.holm([0.9, 0.8])[0] == [1.0, 1.0]


def test_benjamini_hochberg_is_scipy_s() -> None:
    random = np.random.default_rng(2)
    for count in (1, 5, 40):
        p = (random.uniform(size=count) ** 3).tolist()
        assert stats.benjamini_hochberg(p)[0] == pytest.approx(scipy_stats.false_discovery_control(p))
    assert stats.benjamini_hochberg([]) == ([], [])
    # two of four are shown, at 0.05·2/4; the others are held against 0.05·3/4
    adjusted, levels = stats.benjamini_hochberg([0.9, 0.01, 0.02, 0.3])
    assert adjusted == pytest.approx([0.9, 0.04, 0.04, 0.4])
    assert levels == pytest.approx([0.0375, 0.025, 0.025, 0.0375])


@pytest.mark.parametrize("family", ["claim", "exploratory"])
@pytest.mark.parametrize("kind", ["plain", "log", "logit"])
def test_the_interval_leaves_out_zero_just_where_a_difference_is_shown(family, kind) -> None:
    random, seen = np.random.default_rng(3), set()
    for _ in range(100):
        gaps = []
        for shift in random.choice([-8, -2, 0, 2, 8], size=6):
            a, b = random.normal(shift, 1, size=(2, 3))
            gaps.append(stats.gap(_of(a, range(3)), _of(b - shift, range(3))))
        found = stats.compare([stats.Difference(gap, "lower", stats.Scale(kind), 0.3) for gap in gaps], family)
        for gap, each in zip(gaps, found, strict=True):
            low, high = each.corrected
            assert each.shown == (low > 0 or high < 0) == (each.adjusted < 0.05)
            assert low < each.difference.effect < high
            assert each.verdict == ("no difference shown" if not each.shown else "better" if gap.mean < 0 else "worse")
            own = each.difference.interval(0.05)
            assert low <= own[0] < own[1] <= high
            turned = each.turned
            assert turned.corrected == pytest.approx((-high, -low)) if kind == "plain" else turned.shown == each.shown
            seen.add(each.verdict)
    assert seen == {"better", "worse", "no difference shown"}


def test_what_has_no_direction_or_no_test_takes_no_part_in_the_correction() -> None:
    gap = stats.gap(_of(A, range(5)), _of(B, range(5)))
    lone = stats.gap(_of([1.0], [0]), _of([2.0], [0]))
    found = stats.compare(
        [stats.Difference(gap, "higher"), stats.Difference(gap, ""), stats.Difference(lone, "lower")], "claim"
    )
    assert found[0] is not None
    assert (found[0].verdict, found[0].adjusted) == ("worse", found[0].p)
    assert found[1:] == [None, None]


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_intervals_of_three_seeds_cover_what_they_promise(correlation: float) -> None:
    """95 % intervals of a mean, of a paired and of Welch's difference cover 93 to 97 %; a bootstrap's cover 74 %."""
    random = np.random.default_rng(11)
    shared = random.normal(size=(REPETITIONS, 1, 3))
    own = random.normal(size=(REPETITIONS, 2, 3))
    draws = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    covered = {"mean": 0, "paired": 0, "welch": 0}
    for number, (a, b) in enumerate(draws.tolist()):
        mean = stats.estimate(a)
        covered["mean"] += abs(mean.mean) < mean.half  # type: ignore[operator]
        paired = stats.gap(_of(a, range(3)), _of(b, range(3)))
        covered["paired"] += abs(paired.mean) < paired.half()  # type: ignore[operator]
        if number < UNEQUAL:
            welch = stats.gap(mean, stats.estimate(b))
            covered["welch"] += abs(welch.mean) < welch.half()  # type: ignore[operator]
    shares = {key: count / REPETITIONS for key, count in covered.items()} | {"welch": covered["welch"] / UNEQUAL}
    assert 0.93 < shares["mean"] < 0.97
    assert 0.93 < shares["paired"] < 0.97
    # pairs that are alike make Welch's interval too wide, never too narrow
    assert 0.93 < shares["welch"] < (1 if correlation else 0.975)


def test_the_extrapolation_is_exact_where_the_law_holds() -> None:
    true, slope = 3.7, 820.0
    assert stats.extrapolated(true + slope / 2000, 2000, true + slope / 359, 359) == pytest.approx(true)


def test_the_extrapolated_distance_of_normal_features_is_closer_to_the_true_one() -> None:
    """Features of 16 dimensions, whose true distance is known: |shift|² + Σ(√variance - 1)²."""
    random = np.random.default_rng(9)
    width, many, few = 16, 2000, 360
    shift, deviation = np.full(width, 0.2), np.linspace(0.8, 1.2, width)
    true = float((shift**2).sum() + ((deviation - 1) ** 2).sum())
    reference = frechet.from_moments(np.zeros(width), np.eye(width))
    plain, extrapolated = [], []
    for _ in range(30):
        features = shift + deviation * random.normal(size=(many, width))
        whole = frechet.frechet_distance(features, reference)
        plain.append(whole - true)
        small = frechet.frechet_distance(features[:few], reference)
        extrapolated.append(stats.extrapolated(whole, many, small, few) - true)
    assert abs(np.mean(extrapolated)) < abs(np.mean(plain)) / 5
