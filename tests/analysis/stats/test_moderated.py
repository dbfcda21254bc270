"""Moderated variances against a port of limma, brute force, the two-way layout by least squares, and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from analysis import stats
from analysis.stats.moderated import inverse_trigamma, smyth

LIMMA = (
    # variances, degrees of freedom, and df2 and scale of pylimma 0.2.0's fit_f_dist (limma's fitFDist)
    ((0.3, 0.9, 2.1, 0.05, 0.7, 1.6, 0.2, 4.4), (2,) * 8, 5.590069980832823, 0.9423156316859251),
    ((0.01, 0.3, 5.0, 0.02, 9.0, 1.0), (1, 2, 4, 1, 3, 2), 1.2856898602555065, 0.2967477699661053),
    ((1.0, 1.2, 0.9, 1.1, 1.05), (4,) * 5, math.inf, 1.05),
)
SQUEEZED = (0.77306406, 0.93116537, 1.24736799, 0.70718852, 0.87846493, 1.1156169, 0.74671384, 1.85342301)
"""var_post of pylimma 0.2.0's squeeze_var (limma's squeezeVar) for the first of LIMMA"""


@pytest.mark.parametrize(("variances", "freedoms", "freedom", "variance"), LIMMA)
def test_the_prior_is_limma_s(variances, freedoms, freedom, variance) -> None:
    found = smyth(variances, freedoms)
    assert (found.freedom, found.variance) == (pytest.approx(freedom), pytest.approx(variance))


def test_moderated_variances_are_limma_s() -> None:
    variances, freedoms, *_ = LIMMA[0]
    prior = smyth(variances, freedoms)
    assert [prior.squeeze(v, d) for v, d in zip(variances, freedoms, strict=True)] == pytest.approx(SQUEEZED, rel=1e-7)


def test_the_moderated_variance_is_one_over_the_posterior_mean_of_precision() -> None:
    """By brute force over σ²: the prior's density times the likelihood of the row's own variance."""
    prior, own, freedom = stats.Prior(3.7, 1.9), 0.4, 2

    def weight(precision: float) -> float:
        before = scipy_stats.chi2.pdf(precision * prior.freedom * prior.variance, prior.freedom)
        return float(before * scipy_stats.chi2.pdf(own * freedom * precision, freedom) * precision)

    whole, mean = (integrate.quad(lambda x, k=k: x**k * weight(x), 0, 60)[0] for k in (0, 1))
    assert prior.squeeze(own, freedom) == pytest.approx(whole / mean, rel=1e-6)


def test_the_moments_of_the_prior_find_it_again() -> None:
    random, freedom, variance = np.random.default_rng(4), 6.0, 0.5
    precisions = random.chisquare(freedom, size=200_000) / (freedom * variance)
    own = random.chisquare(2, size=precisions.size) / 2 / precisions
    found = smyth(own, np.full(own.size, 2.0))
    assert (found.freedom, found.variance) == (pytest.approx(freedom, rel=0.05), pytest.approx(variance, rel=0.02))


@pytest.mark.parametrize("value", [1e-8, 1e-3, 0.6449, 1.6449, 50.0, 1e9])
def test_the_inverse_of_trigamma(value: float) -> None:
    from scipy.special import polygamma

    assert float(polygamma(1, inverse_trigamma(value))) == pytest.approx(value, rel=1e-5)


def test_caution_expects_variances_to_differ_more_and_to_be_larger() -> None:
    variances, freedoms, *_ = LIMMA[0]
    theirs, ours = smyth(variances, freedoms), smyth(variances, freedoms, caution=2.0)
    assert 0 < ours.freedom < theirs.freedom / 2
    assert ours.variance > theirs.variance


def _rows(values: np.ndarray) -> dict[object, stats.Estimate]:
    return {i: stats.estimate(row, range(len(row))) for i, row in enumerate(values.tolist())}


def test_two_rows_alone_are_the_paired_test() -> None:
    values = np.random.default_rng(0).normal(size=(2, 5))
    rows = _rows(values)
    spread = stats.spreads(rows)
    (first, free), (second, other) = (spread.own[i] for i in (0, 1))
    expected = scipy_stats.ttest_rel(*values)
    assert first + second == pytest.approx((values[0] - values[1]).var(ddof=1))
    assert free + other == pytest.approx(4)
    assert stats.moderated_gap(rows[0], rows[1], (0, 1), spread).p == pytest.approx(expected.pvalue)


def test_variances_are_of_what_is_left_beside_rows_and_seeds() -> None:
    """By ordinary least squares over all dummies, with seeds that some rows lack."""
    random = np.random.default_rng(1)
    rows = {
        i: stats.estimate(random.normal(size=n).tolist(), range(i % 2, n + i % 2))
        for i, n in enumerate((3, 3, 5, 4, 2, 3))
    }
    cells = [(i, key, value) for i, e in rows.items() for key, value in zip(e.keys, e.values, strict=True)]
    design = np.array([[float(i == r) for r in rows] + [float(key == s) for s in range(6)] for i, key, _ in cells])
    y = np.array([value for *_, value in cells])
    hat = design @ np.linalg.pinv(design)
    residuals, left = y - hat @ y, 1 - np.diag(hat)
    for i, (variance, freedom) in stats.spreads(rows).own.items():
        mine = [k for k, cell in enumerate(cells) if cell[0] == i]
        assert freedom == pytest.approx(left[mine].sum())
        assert variance == pytest.approx((residuals[mine] ** 2).sum() / left[mine].sum())


def test_a_moderated_difference_as_worked_by_hand() -> None:
    rows = _rows(np.random.default_rng(2).normal(size=(9, 3)) * 0.1)
    spread = stats.spreads(rows)
    assert spread.prior is not None
    found = stats.moderated_gap(rows[3], rows[0], (3, 0), spread)
    parts = []
    for row in (3, 0):
        own, free = spread.own[row]
        squeezed = (spread.prior.freedom * spread.prior.variance + free * own) / (spread.prior.freedom + free)
        parts.append((own, free) if own > squeezed else (squeezed, free + spread.prior.freedom))
    (a, m), (b, n) = parts
    assert found.error == pytest.approx(math.sqrt((a + b) / 3))
    assert found.freedom == pytest.approx(min((a + b) ** 2 / (a**2 / m + b**2 / n), 9 * 2 * (8 / 9)))
    assert found.mean == pytest.approx(np.mean(np.subtract(rows[3].values, rows[0].values)))
    assert found.moderated


@pytest.mark.parametrize(("rows", "seeds"), [(4, 3), (9, 2)])
def test_few_rows_or_seeds_are_not_moderated(rows: int, seeds: int) -> None:
    values = np.random.default_rng(3).normal(size=(rows, seeds))
    every = _rows(values)
    found = stats.moderated_gap(every[1], every[0], (1, 0), stats.spreads(every))
    assert found.p == pytest.approx(scipy_stats.ttest_rel(values[1], values[0]).pvalue)
    assert not found.moderated


def test_rows_of_other_seeds_are_compared_by_welch_s_test() -> None:
    every = _rows(np.random.default_rng(4).normal(size=(9, 3)))
    own = stats.estimate([1.0, 2.5, 1.7], range(7, 10))
    found = stats.moderated_gap(own, every[0], ("own", 0), stats.spreads(every | {"own": own}))
    assert found.p == pytest.approx(scipy_stats.ttest_ind(own.values, every[0].values, equal_var=False).pvalue)


def test_rows_without_any_spread_say_nothing() -> None:
    every = {i: stats.estimate([float(i)] * 3, range(3)) for i in range(6)}
    spread = stats.spreads(every)
    assert spread.prior is None
    assert stats.moderated_gap(every[1], every[0], (1, 0), spread).p is None
    assert stats.spreads({}).prior is None
    assert not stats.spreads({"one": stats.estimate([1.0], [0])}).own
