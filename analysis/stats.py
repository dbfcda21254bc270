"""Intervals over seeds or images, differences of two numbers and when one is settled, and how a number is printed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import Literal

from scipy import stats

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
PANTER_DITE = math.pi * math.sqrt(3) / 2
"""mean squared error times squared levels of the best quantizer of N(0, 1) with many levels (Panter and Dite, 1951)"""

Over = Literal["seeds", "images", "pairs", ""]
"""what an interval is over: trainings, sampled images, matched pairs of cells; empty: there is none"""
Verdict = Literal["better", "worse", "no difference shown"]
Setting = tuple[float, float]
"""a point of a search: guidance and temperature"""


@dataclass(frozen=True)
class Estimate:
    """A mean with the half-width of its 95 % interval, None where there is none."""

    mean: float
    half: float | None
    values: tuple[float, ...]
    keys: tuple[Hashable, ...] = ()
    """training seed of each value, where it is known: equal ones pair"""
    error: float | None = None
    """standard error over images of a single value"""
    over: Over = ""
    left_out: tuple[float, ...] = ()
    """a single value without each group of its images in turn, where that is known"""
    shared: bool = False
    """whether all that it is compared with was measured on the same images"""

    @property
    def seeds(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Gap:
    """A difference as a test sees it: its standard error (None: no test) and degrees of freedom."""

    mean: float
    error: float | None
    freedom: float
    values: tuple[float, ...]
    """one for each pair, or the mean alone"""
    over: Over
    coarse: bool = False
    """whether all pairs differ by the same though their values vary, as shares of few images do"""

    def half(self, level: float = LEVEL) -> float | None:
        """Half-width of the interval that misses the true difference with probability `level`."""
        return None if self.error is None else quantile(level, self.freedom) * self.error

    @property
    def p(self) -> float | None:
        """Two-sided p value for no difference. Without any spread a difference is certain."""
        if self.error is None:
            return None
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))

    @property
    def settled(self) -> bool:
        """Whether the 95 % interval leaves out zero, for two numbers compared by themselves.

        Coarse values settle nothing: that their interval has no width comes from how few values there are.
        """
        half = self.half()
        return half is not None and abs(self.mean) > half and not self.coarse

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.mean, self.half(), self.values, over="" if self.error is None else self.over)


@dataclass(frozen=True)
class Comparison:
    """One cell against its base, among all tests of its table."""

    difference: Estimate
    """cell minus base, with its own 95 % interval"""
    p: float
    adjusted: float
    """p by Holm's method: with `better` and `worse` below 0.05, one of a table's tests is wrong in 5 % of tables"""
    verdict: Verdict
    corrected: float
    """half-width at the level at which Holm's method decided: leaves out zero just where a difference is shown"""

    @property
    def shown(self) -> bool:
        return self.verdict != "no difference shown"


@lru_cache(maxsize=4096)
def quantile(level: float, freedom: float) -> float:
    """Standard errors on either side of a mean that leave out a share `level` of Student's t distribution."""
    return float(stats.t.ppf(1 - level / 2, freedom))


def estimate(
    values: Sequence[float],
    keys: Sequence[Hashable] = (),
    error: float | None = None,
    over: Over = "seeds",
    left_out: Sequence[float] = (),
    shared: bool = False,
) -> Estimate:
    """Mean ± t(0.975, n - 1)·s/√n of one value per seed, or a single value ± 1.96·error over images.

    Args:
        values: one number for each measurement.
        keys: the training seed of each value. Values of one training are one observation, their mean.
        error: standard error over images of a single value.
        over: what several values are over.
        left_out: a single value without each group of its images in turn.
        shared: whether all that it is compared with was measured on the same images.
    """
    assert len(values), "an estimate needs a value"
    if len(keys):
        groups: dict[Hashable, list[float]] = {}
        for key, value in zip(keys, values, strict=True):
            groups.setdefault(key, []).append(value)
        keys, values = tuple(groups), [fmean(group) for group in groups.values()]
    sample, keys = tuple(map(float, values)), tuple(keys)
    if not all(map(math.isfinite, sample)):
        return Estimate(sample[0] if len(sample) == 1 else math.nan, None, sample, keys)
    if len(sample) == 1:
        half = None if error is None else quantile(LEVEL, math.inf) * error
        return Estimate(sample[0], half, sample, keys, error, "" if half is None else "images", tuple(left_out), shared)
    half = quantile(LEVEL, len(sample) - 1) * math.sqrt(_variance(sample) / len(sample))
    return Estimate(fmean(sample), half, sample, keys, None, over)


def _variance(values: Sequence[float]) -> float:
    """Unbiased variance. In plain Python: for a few seeds a hundred times as fast as an array."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def gap(a: Estimate, b: Estimate) -> Gap:
    """The difference a - b, tested by what the two share.

    Where each has one measurement the error is over images. Otherwise the seeds that both have (by `keys`) are paired,
    if there are at least two; else the test is Welch's, or there is none where either has one seed.
    """
    if a.seeds == b.seeds == 1:
        error, freedom = _over_images(a, b)
        return Gap(a.mean - b.mean, error, freedom, (a.mean - b.mean,), "images", coarse=error == 0)
    ours, theirs = (dict(zip(e.keys, e.values, strict=bool(e.keys))) for e in (a, b))
    common = [key for key in ours if key in theirs]
    if len(common) > 1:
        paired = gap_of([ours[key] - theirs[key] for key in common])
        return replace(paired, coarse=paired.error == 0 and len({ours[key] for key in common}) > 1)
    return _welch(a, b)


def gap_of(values: Sequence[float], over: Over = "seeds") -> Gap:
    """The mean of paired differences; no test with one pair.

    Args:
        values: one difference for each pair. With one that is not finite, the mean is NaN and there is no test.
        over: what the pairs are over.
    """
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Gap(math.nan, None, 1, tuple(values), over)
    error = math.sqrt(_variance(values) / count) if count > 1 else None
    return Gap(fmean(values), error, count - 1, tuple(values), over)


def _over_images(a: Estimate, b: Estimate) -> tuple[float | None, float]:
    """Standard error of a - b over images, None where it is unknown, and its degrees of freedom.

    What was measured on the same images, or sampled with the same noise, pairs: a jackknife of the difference over the
    groups of images left out, which for means over images is the paired t test. Without these parts the errors of two
    own sets of images are joined; those of the same images say nothing of the difference.
    """
    if a.left_out and len(a.left_out) == len(b.left_out):
        parts = [x - y for x, y in zip(a.left_out, b.left_out, strict=True)]
        return (len(parts) - 1) * math.sqrt(_variance(parts) / len(parts)), len(parts) - 1
    if a.error is None or b.error is None or a.shared or b.shared:
        return None, math.inf
    return math.hypot(a.error, b.error), math.inf


def _welch(a: Estimate, b: Estimate) -> Gap:
    mean = a.mean - b.mean
    if min(a.seeds, b.seeds) < 2 or a.half is None or b.half is None:
        return Gap(mean, None, 1, (mean,), "seeds")
    parts = [_variance(x.values) / x.seeds for x in (a, b)]
    total = sum(parts)
    if total == 0:
        return Gap(mean, 0.0, 1, (mean,), "seeds")
    freedom = total**2 / sum(part**2 / (x.seeds - 1) for part, x in zip(parts, (a, b), strict=True))
    return Gap(mean, math.sqrt(total), freedom, (mean,), "seeds")


def holm(p: Sequence[float]) -> tuple[list[float], list[float]]:
    """Adjusted p values, and the level at which Holm's step-down method decided each test (Holm, 1979).

    The smallest of m goes against 0.05/m, the next against 0.05/(m - 1), and so on until one fails; all behind it fail
    at that one's level.

    Returns:
        Adjusted p values in [0, 1] and levels in (0, 0.05], both in the order of `p`.
    """
    adjusted, levels = [0.0] * len(p), [0.0] * len(p)
    largest, level, failed = 0.0, 0.0, False
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        left = len(p) - step
        largest = max(largest, min(1.0, p[i] * left))
        level = level if failed else LEVEL / left
        failed = failed or largest >= LEVEL
        adjusted[i], levels[i] = largest, level
    return adjusted, levels


def compare(gaps: Sequence[tuple[Gap, str]]) -> list[Comparison | None]:
    """The verdicts of all tests of one table, corrected together by Holm's method.

    Args:
        gaps: each difference (cell minus base) with which way is better: "lower", "higher", or "" for no direction.

    Returns:
        One comparison for each of `gaps`, in their order; None where there is no direction or no standard error.
    """
    tests = [i for i, (gap, better) in enumerate(gaps) if better and gap.p is not None]
    adjusted, levels = holm([gaps[i][0].p or 0.0 for i in tests])
    comparisons: list[Comparison | None] = [None] * len(gaps)
    for i, value, level in zip(tests, adjusted, levels, strict=True):
        gap, better = gaps[i]
        verdict: Verdict = "no difference shown"
        if value < LEVEL:
            verdict = "better" if (gap.mean < 0) == (better == "lower") else "worse"
        comparisons[i] = Comparison(gap.estimate, gap.p or 0.0, value, verdict, gap.half(level) or 0.0)
    return comparisons


def best(estimates: Sequence[Estimate | None], better: str) -> int | None:
    """Position of the value that is settled to beat every other one of its column, or None.

    Args:
        estimates: one for each row; None where the row has no number.
        better: "lower", "higher", or "" for a column without a direction, which has no best.
    """
    present = [(i, e) for i, e in enumerate(estimates) if e is not None]
    if better == "" or len(present) < 2:
        return None
    sign = 1 if better == "lower" else -1
    first, *rest = sorted(present, key=lambda item: sign * item[1].mean)
    # beating each rival at the level asks for no correction: all the tests have to pass
    return first[0] if all(gap(first[1], other).settled for _, other in rest) else None


def extrapolated(value: float, images: float, few: float, few_images: float) -> float:
    """A Fréchet distance for infinitely many images, FD(N) = FD∞ + a/N through two numbers of images.

    Chong and Forsyth, arXiv 1911.07023: the bias of an estimated Fréchet distance falls with 1/N.

    Args:
        value: the distance of `images` images.
        images: the larger number of images.
        few: the distance of `few_images` images, fewer than `images`.
        few_images: the smaller number of images, at least 1.
    """
    assert images > few_images > 0, (images, few_images)
    return (images * value - few_images * few) / (images - few_images)


def edges(setting: Setting, settings: Iterable[Setting]) -> tuple[str, ...]:
    """Where a point lies at an end of a search's grid: "lowest guidance"; empty inside it.

    Args:
        setting: the point, which must be one of `settings`.
        settings: all points of the grid. A coordinate that they have one value of has no ends.
    """
    settings, names = list(settings), list[str]()
    for i, name in enumerate(("guidance", "temperature")):
        values = {other[i] for other in settings}
        if len(values) > 1:
            names += [f"lowest {name}"] if setting[i] == min(values) else []
            names += [f"highest {name}"] if setting[i] == max(values) else []
    return tuple(names)


def number(value: float, decimals: int) -> str:
    """A number with a real minus sign; thousands are set apart."""
    return f"{value:,.{decimals}f}".replace("-", "−").replace(",", "\N{NARROW NO-BREAK SPACE}")


def signed(value: float, decimals: int) -> str:
    """A difference: with its sign, but for what is printed as zero."""
    if not round(value, decimals):
        return number(0.0, decimals)
    return ("+" if value > 0 else "") + number(value, decimals)
