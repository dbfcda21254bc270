"""Moderated differences: variances of few seeds, made steadier by those of all other rows of a report.

Three seeds tell a row's variance with two degrees of freedom. Rows that are measured alike vary alike, so the variances
of all rows say what is usual, and each row's own is drawn towards it: the empirical Bayes of Smyth (2004), as in limma.

What is moderated are the variances of rows, not of differences to the base: those share the base, so they rise and fall
together and would look more alike than they are. Seeds pair, since all rows of a seed share its order of images: the
variances are of what is left beside one effect a row and one a seed. For two rows alone this is the paired t test.

Few rows let variances look more alike than they are, and one row may be far off. So, beside Smyth's estimates:
- the unevenness of variances is taken to be as large as two of its standard errors above the estimate allow, and what
  is usual is their geometric mean;
- a row that varies more than its moderated variance says keeps its own, with its own degrees of freedom;
- with fewer than 5 rows, or 3 common seeds, nothing is moderated, and neither are two samplings of the same trainings,
  whose differences are steadier than what their rows show.
A simulation holds tables of even and of very uneven rows to their 5 % (tests/analysis/stats/test_false_verdicts.py).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, polygamma

from analysis.stats.differences import Gap, gap, pairs, welch_freedom
from analysis.stats.estimates import Estimate

CAUTION = 2.0
"""standard errors that are added to the unevenness of variances"""
LEAST_ROWS, LEAST_SEEDS = 5, 3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prior:
    """What variances are before a row's own are seen: 1/σ² has the distribution of χ²(freedom)/(freedom·variance)."""

    freedom: float
    """degrees of freedom that it is worth; infinite where all rows vary alike"""
    variance: float

    def squeeze(self, variance: float, freedom: float) -> float:
        """The moderated variance (Smyth 2004, eq. 6).

        Args:
            variance: the row's own.
            freedom: its degrees of freedom.
        """
        if math.isinf(self.freedom):
            return self.variance
        return (self.freedom * self.variance + freedom * variance) / (self.freedom + freedom)


@dataclass(frozen=True)
class Spreads:
    """The variances of the rows of one metric, for differences between any two of them."""

    own: Mapping[Any, tuple[float, float]]
    """row -> its variance and degrees of freedom"""
    prior: Prior | None
    """None where there are too few rows to tell what is usual"""

    def of(self, row: Hashable) -> tuple[float, float]:
        """The variance of one value of a row and its degrees of freedom; both 0 where nothing is known."""
        variance, freedom = self.own.get(row, (0.0, 0.0))
        if self.prior is None or not freedom:
            return variance, freedom
        moderated = self.prior.squeeze(variance, freedom)
        return (variance, freedom) if variance > moderated else (moderated, freedom + self.prior.freedom)

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom of all rows: no test has more."""
        return math.fsum(freedom for _, freedom in self.own.values())


def smyth(variances: Sequence[float] | Array, freedoms: Sequence[float] | Array, caution: float = 0.0) -> Prior:
    """The prior of variances by the moments of their logarithms (Smyth 2004, section 6.2).

    Args:
        variances: one for each row, above 0.
        freedoms: degrees of freedom of each, above 0.
        caution: standard errors that are added to the unevenness of variances; 0 for Smyth's own estimates. Above 0 the
            prior's variance is the rows' geometric mean, which is larger than Smyth's.
    """
    x, half = np.asarray(variances, np.float64), np.asarray(freedoms, np.float64) / 2
    logs = np.log(x) - digamma(half) + np.log(half)
    uneven = float(logs.var(ddof=1) - polygamma(1, half).mean())
    if caution:
        # a sample variance of R values has the variance σ⁴(2/(R - 1) + excess kurtosis/R)
        error = math.sqrt(polygamma(1, half).mean() ** 2 * 2 / (len(x) - 1) + polygamma(3, half).mean() / len(x))
        uneven = max(uneven, 0.0) + caution * error
    if uneven <= 0:
        return Prior(math.inf, float(x.mean()))
    freedom = 2 * inverse_trigamma(uneven)
    shift = 0.0 if caution else float(digamma(freedom / 2)) - math.log(freedom / 2)
    return Prior(freedom, float(np.exp(logs.mean() + shift)))


def inverse_trigamma(value: float) -> float:
    """The x > 0 whose trigamma function is value > 0, by Newton's method (Smyth 2004, appendix)."""
    if value > 1e7:
        return 1 / math.sqrt(value)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def spreads(rows: Mapping[Any, Estimate]) -> Spreads:
    """The variances of rows beside one effect for each row and one for each seed, and what is usual among them.

    Args:
        rows: each row's values by training seed, on the scale on which their spread is even. Those of one seed, or
            whose values are not finite, tell nothing.
    """
    told = {row: e for row, e in rows.items() if e.seeds > 1 and e.keys and all(map(math.isfinite, e.values))}
    if not told:
        return Spreads({}, None)
    residuals, left = _beside_rows_and_seeds(list(told.values()))
    own: dict[Any, tuple[float, float]] = {}
    for (row, e), x, free in zip(told.items(), residuals, left, strict=True):
        freedom = float(free.sum())
        if freedom > 1e-9:
            own[row] = (max(float((x**2).sum()) / freedom, e.least), freedom)
    return Spreads(own, _prior(list(own.values())))


def _prior(own: Sequence[tuple[float, float]]) -> Prior | None:
    if len(own) < LEAST_ROWS:
        return None
    # a row without spread has no logarithm: limma lifts it to a small part of the usual, too
    floor = 1e-5 * float(np.median([variance for variance, _ in own]))
    if not floor:
        return None
    return smyth([max(variance, floor) for variance, _ in own], [freedom for _, freedom in own], CAUTION)


def _beside_rows_and_seeds(rows: Sequence[Estimate]) -> tuple[list[Array], list[Array]]:
    """Residuals of the two-way layout by least squares, and the degrees of freedom that each of them keeps (1 - h).

    Effects of rows are taken out first (Frisch and Waugh 1933), so the equations are as many as there are seeds.
    """
    seeds = {key: i for i, key in enumerate(dict.fromkeys(key for e in rows for key in e.keys))}
    designs, values = [], []
    for e in rows:
        design = np.zeros((e.seeds, len(seeds)))
        design[np.arange(e.seeds), [seeds[key] for key in e.keys]] = 1
        designs.append(design - design.mean(0))
        values.append(np.asarray(e.values) - np.mean(e.values))
    whole = np.concatenate(designs)
    inverse = np.linalg.pinv(whole.T @ whole, hermitian=True)
    effects = inverse @ (whole.T @ np.concatenate(values))
    residuals = [y - design @ effects for y, design in zip(values, designs, strict=True)]
    left = [1 - 1 / len(design) - np.einsum("ij,jk,ik->i", design, inverse, design) for design in designs]
    return residuals, left


def moderated_gap(a: Estimate, b: Estimate, rows: tuple[Hashable, Hashable], spread: Spreads) -> Gap:
    """The difference a - b over the seeds that both have, by moderated variances; by `gap` where nothing is moderated.

    Args:
        a: on the scale on which its spread is even.
        b: on the same scale.
        rows: what `spread` calls both.
        spread: of all rows of the metric.
    """
    common = pairs(a, b)
    (first, free), (second, other) = (spread.of(row) for row in rows)
    if spread.prior is None or not free or not other or len(common) < LEAST_SEEDS:
        return gap(a, b)
    error = math.sqrt((first + second) / len(common))
    freedom = min(welch_freedom([first, second], [free, other]), spread.freedom)
    values = tuple(x - y for x, y in common)
    return Gap(fmean(values), error or None, freedom, values, "seeds", moderated=True)
