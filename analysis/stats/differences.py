"""Two numbers compared: what pairs, the error of the difference, its p value, and when it is settled."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from scipy import stats
from scipy.optimize import root_scalar

from analysis.stats.estimates import LEVEL, Estimate, Over, quantile, variance

MANY = 1e5
"""degrees of freedom that are as good as infinite"""
TIE = 1e-6
"""of a difference: a spread below it is rounding"""


@dataclass(frozen=True)
class Gap:
    """A difference as a test sees it: its standard error (None: no test) and degrees of freedom."""

    mean: float
    error: float | None
    freedom: float
    values: tuple[float, ...]
    """one for each pair, or the mean alone"""
    over: Over
    moderated: bool = False
    """whether its error borrows from the other rows"""

    def half(self, level: float = LEVEL) -> float | None:
        """Half-width of the interval that misses the true difference with probability `level`."""
        return None if self.error is None else quantile(level, self.freedom) * self.error

    @cached_property
    def p(self) -> float | None:
        """Two-sided p value for no difference, of Student's t distribution; above 0, however small."""
        if self.error is None:
            return None
        return max(float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom)), sys.float_info.min)

    @property
    def settled(self) -> bool:
        """Whether the 95 % interval leaves out zero, for two numbers compared by themselves."""
        return self.p is not None and self.p < LEVEL

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.mean, self.half(), self.values, over="" if self.error is None else self.over)


def gap(a: Estimate, b: Estimate) -> Gap:
    """The difference a - b, tested by what the two share.

    Where each has one measurement the error is over images. Otherwise the seeds that both have (by `keys`) are paired
    (Student 1908), if there are at least two; else the test is Welch's (1947), or there is none where either has one
    seed. Values that all differ by the same have no spread to test by: a tie says nothing.

    Args:
        a: on the scale on which its spread is even.
        b: on the same scale.
    """
    if a.seeds == b.seeds == 1:
        error, freedom = _over_images(a, b)
        return Gap(a.mean - b.mean, _no_tie(error, a.mean - b.mean), freedom, (a.mean - b.mean,), "images")
    common = pairs(a, b)
    return gap_of([x - y for x, y in common], least=a.least + b.least) if len(common) > 1 else _welch(a, b)


def pairs(a: Estimate, b: Estimate) -> list[tuple[float, float]]:
    """The values of both at the seeds that both have."""
    ours, theirs = (dict(zip(e.keys, e.values, strict=bool(e.keys))) for e in (a, b))
    return [(ours[key], theirs[key]) for key in ours if key in theirs]


def gap_of(values: Sequence[float], over: Over = "seeds", least: float = 0.0) -> Gap:
    """The mean of paired differences; no test with one pair, or where all are the same.

    Args:
        values: one difference for each pair. With one that is not finite, the mean is NaN and there is no test.
        over: what the pairs are over.
        least: variance that one difference has at least, as that of two shares has.
    """
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Gap(math.nan, None, 1, tuple(values), over)
    mean = fmean(values)
    error = math.sqrt(max(variance(values), least) / count) if count > 1 else None
    return Gap(mean, _no_tie(error, mean), count - 1, tuple(values), over)


def gap_to_set(a: Estimate, b: Estimate) -> Gap:
    """The difference a - b, one of which has several seeds and the other one set of samples, which is taken as it is.

    The variance of the mean over seeds and that of the set over its images are joined, and so are their critical values
    in proportion to them (Cochran and Cox 1950): with Satterthwaite's degrees of freedom, three seeds would call up to
    8 % of equal pairs different. Nothing is said of what another set would read that the same method made.

    Args:
        a: on the scale on which its spread is even.
        b: on the same scale.
    """
    alone, several = (a, b) if a.seeds == 1 else (b, a)
    assert alone.seeds == 1 < several.seeds
    mean = a.mean - b.mean
    if alone.error is None or not math.isfinite(mean):
        return Gap(mean, None, 1, (mean,), "seeds")
    of_mean, of_images = max(variance(several.values), several.least) / several.seeds, alone.error**2
    error = _no_tie(math.sqrt(of_mean + of_images), mean)
    return Gap(mean, error, _cochran_freedom(of_mean, several.seeds - 1, of_images), (mean,), "seeds")


def _cochran_freedom(estimated: float, freedom: int, known: float) -> float:
    """Degrees of freedom whose 5 % critical value is the mean of those of two variances, weighted by them.

    Args:
        estimated: one with so many degrees of freedom.
        freedom: these.
        known: one with infinitely many.
    """
    total = estimated + known
    ends = quantile(LEVEL, freedom), quantile(LEVEL, math.inf)
    critical = (estimated * ends[0] + known * ends[1]) / total if total else ends[0]
    if critical <= quantile(LEVEL, MANY):
        return math.inf
    if critical >= ends[0]:  # the known one is lost in rounding
        return freedom
    return root_scalar(lambda x: stats.t.ppf(1 - LEVEL / 2, x) - critical, bracket=(freedom, MANY)).root


def _no_tie(error: float | None, mean: float) -> float | None:
    return error if error and error > TIE * abs(mean) else None


def _over_images(a: Estimate, b: Estimate) -> tuple[float | None, float]:
    """Standard error of a - b over images, None where it is unknown, and its degrees of freedom.

    What was measured on the same images, or sampled with the same noise, pairs: a jackknife (Efron and Stein 1981) of
    the difference over the groups of images left out, which for means over images is the paired t test. Without these
    parts the errors of two own sets of images are joined; those of the same images say nothing of the difference.
    """
    if a.left_out and len(a.left_out) == len(b.left_out):
        parts = [x - y for x, y in zip(a.left_out, b.left_out, strict=True)]
        return (len(parts) - 1) * math.sqrt(variance(parts) / len(parts)), len(parts) - 1
    if a.error is None or b.error is None or a.shared or b.shared:
        return None, math.inf
    return math.hypot(a.error, b.error), math.inf


def _welch(a: Estimate, b: Estimate) -> Gap:
    mean = a.mean - b.mean
    if min(a.seeds, b.seeds) < 2 or a.half is None or b.half is None:
        return Gap(mean, None, 1, (mean,), "seeds")
    parts = [max(variance(x.values), x.least) / x.seeds for x in (a, b)]
    return Gap(
        mean,
        _no_tie(math.sqrt(sum(parts)), mean),
        welch_freedom(parts, [x.seeds - 1 for x in (a, b)]),
        (mean,),
        "seeds",
    )


def welch_freedom(parts: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of estimated variances (Satterthwaite 1946).

    Args:
        parts: the variances.
        freedoms: degrees of freedom of each, above 0.
    """
    total = math.fsum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    return math.fsum(parts) ** 2 / total if total else 1.0
