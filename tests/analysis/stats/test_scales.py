"""Scales: what a difference is told as, and shares, whose spread over seeds counting alone sets a floor to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis import stats

LOG, SHARE = stats.Scale("log"), stats.Scale("logit", 100)


def test_a_difference_of_logs_is_a_ratio() -> None:
    a, b = (LOG.of(stats.estimate(values, range(3))) for values in ([1.7, 3.4, 6.8], [2.0, 4.0, 8.0]))
    gap = stats.gap(a, b)
    assert gap.p is None  # the same ratio at each seed: a tie
    assert LOG.tell(gap.mean, b.mean) == pytest.approx(-15)
    assert LOG.tell(math.log(2), 7.0) == pytest.approx(100)


def test_a_number_without_a_logarithm_has_no_test() -> None:
    bad = LOG.of(stats.estimate([1.0, 0.0, 2.0], range(3)))
    assert stats.gap(bad, LOG.of(stats.estimate([1.0, 2.0, 3.0], range(3)))).p is None
    assert (
        stats.gap(SHARE.of(stats.estimate([100.0, 99.0], range(2))), SHARE.of(stats.estimate([98.0, 97.0], range(2)))).p
        is None
    )


def test_shares_of_zero_and_of_all_are_kept_off_the_ends() -> None:
    found = SHARE.of(stats.estimate([100.0, 50.0], range(2)), 9)
    assert found.values == pytest.approx((math.log(9.5 / 0.5), 0.0))
    assert SHARE.tell(0.0, 1.0) == 0
    base = math.log(0.955 / 0.045)
    up = math.log(0.994 / 0.006)
    assert SHARE.tell(up - base, base) == pytest.approx(3.9)


def test_a_share_varies_at_least_as_counting_does() -> None:
    """Five seeds that all read 1,900 of 2,000 are no certainty: their error is that of 10,000 images at least."""
    tied, rival = (SHARE.of(stats.estimate([value] * 5, range(5)), 2000) for value in (95.0, 95.5))
    assert tied.least == pytest.approx(1 / (2000 * 0.95 * 0.05), rel=1e-2)
    gap = stats.gap(rival, tied)
    assert gap.error == pytest.approx(math.sqrt((tied.least + rival.least) / 5))
    assert gap.p is not None
    assert 0.05 < gap.p < 0.2


def test_an_interval_around_a_share_of_all_reaches_below_it_and_no_further_up() -> None:
    corrected = SHARE.to(100.0, 400)
    below, above = SHARE.around(100.0, 0.8, corrected)
    share = 400.5 / 401
    lower = 1 / (1 + math.exp(0.8) * (1 - share) / share)
    assert (below, above) == (pytest.approx(100 * (share - lower)), 0.0)
    assert below > 0.1
    below, above = SHARE.around(0.0, 0.8, -corrected)
    assert (below, above) == (0.0, pytest.approx(100 * (share - lower)))
    assert SHARE.around(97.0, 0.8, 0.0) == pytest.approx((3.44, 1.63), abs=0.01)


@pytest.mark.parametrize("share", [0.5, 0.97, 0.998])
def test_false_verdicts_on_shares_that_tie_are_five_per_cent(share: float) -> None:
    """Two rows of the same share: differences of shares as such settle far more than they should."""
    random, count, tables = np.random.default_rng(1), 500, 2_000
    draws = random.binomial(count, share, size=(tables, 2, 3)) / count * 100
    wrong = 0
    for a, b in draws.tolist():
        ours, theirs = (SHARE.of(stats.estimate(x, range(3)), count) for x in (a, b))
        wrong += stats.gap(ours, theirs).settled
    assert wrong / tables < 0.06


def test_the_error_over_images_goes_along() -> None:
    a = LOG.of(stats.estimate([4.0], [0], error=0.2, left_out=[3.9, 4.1]))
    assert (a.mean, a.error) == (pytest.approx(math.log(4)), pytest.approx(0.05))
    assert a.left_out == pytest.approx((math.log(3.9), math.log(4.1)))
    share = SHARE.of(stats.estimate([50.0], [0], error=2.0), 100)
    assert share.error == pytest.approx(0.02 / 0.25)
