"""Intervals over seeds or images, differences between two cells and their verdicts, and how a number is printed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Literal

from scipy import stats

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE

Over = Literal["seeds", "images", "pairs", ""]
"""what an interval is over: trainings, sampled images, matched pairs of cells; empty: there is none"""
Verdict = Literal["better", "worse", "no difference shown"]


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
    """one a pair, or the mean alone"""
    over: Over

    def half(self, level: float = LEVEL) -> float | None:
        """Half-width of the interval that misses the true difference with this probability."""
        if self.error is None:
            return None
        return quantile(level, self.freedom) * self.error

    @property
    def p(self) -> float | None:
        """Two-sided, for no difference. Without any spread a difference is certain."""
        if self.error is None:
            return None
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))

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
    return float(stats.t.ppf(1 - level / 2, freedom))


def estimate(
    values: Sequence[float], keys: Sequence[Hashable] = (), error: float | None = None, over: Over = "seeds"
) -> Estimate:
    """Mean ± t(0.975, n - 1)·s/√n of one value a seed, or of a single value ± 1.96·error over images.

    keys: the training seed of each value. Values of one training are one observation, their mean.
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
        return Estimate(sample[0], half, sample, keys, error, "" if half is None else "images")
    half = quantile(LEVEL, len(sample) - 1) * math.sqrt(_variance(sample) / len(sample))
    return Estimate(fmean(sample), half, sample, keys, None, over)


def _variance(values: Sequence[float]) -> float:
    """Unbiased. In plain Python: for a few seeds a hundred times as fast as an array."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def gap(a: Estimate, b: Estimate) -> Gap:
    """a - b: paired over common seeds; Welch's where none pair; over images where each has one measurement."""
    if a.seeds == b.seeds == 1:
        known = a.error is not None and b.error is not None
        error = math.hypot(a.error or 0.0, b.error or 0.0) if known else None
        return Gap(a.mean - b.mean, error, math.inf, (a.mean - b.mean,), "images")
    ours, theirs = (dict(zip(each.keys, each.values, strict=bool(each.keys))) for each in (a, b))
    common = [key for key in ours if key in theirs]
    if len(common) > 1:
        return gap_of([ours[key] - theirs[key] for key in common])
    return _welch(a, b)


def gap_of(values: Sequence[float], over: Over = "seeds") -> Gap:
    """The mean of paired differences; no test with one pair."""
    count = len(values)
    if not all(map(math.isfinite, values)):
        return Gap(math.nan, None, 1, tuple(values), over)
    error = math.sqrt(_variance(values) / count) if count > 1 else None
    return Gap(fmean(values), error, count - 1, tuple(values), over)


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


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b with its 95 % interval."""
    return gap(a, b).estimate


def settled(a: Estimate, b: Estimate) -> bool:
    """Whether the interval of the difference leaves out zero."""
    found = gap(a, b)
    half = found.half()
    return half is not None and abs(found.mean) > half


def holm(p: Sequence[float]) -> tuple[list[float], list[float]]:
    """Adjusted p values, and the level at which Holm's step-down method decided each test.

    The smallest of m goes against 0.05/m, the next against 0.05/(m - 1), and so on until one fails; all behind it fail
    at that one's level.
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
    """Verdicts of all tests of one table: each difference with which way is better. None where there is no test."""
    tests = [i for i, (each, better) in enumerate(gaps) if better and each.p is not None]
    adjusted, levels = holm([gaps[i][0].p or 0.0 for i in tests])
    found: list[Comparison | None] = [None] * len(gaps)
    for i, value, level in zip(tests, adjusted, levels, strict=True):
        each, better = gaps[i]
        verdict: Verdict = "no difference shown"
        if value < LEVEL:
            verdict = "better" if (each.mean < 0) == (better == "lower") else "worse"
        found[i] = Comparison(each.estimate, each.p or 0.0, value, verdict, each.half(level) or 0.0)
    return found


def best(estimates: Sequence[Estimate | None], better: str) -> int | None:
    """Position of the value that is settled to beat every other one of its column, or None.

    better: "lower", "higher", or "" for a column without a direction.
    """
    present = [(i, e) for i, e in enumerate(estimates) if e is not None]
    if better == "" or len(present) < 2:
        return None
    sign = 1 if better == "lower" else -1
    first, *rest = sorted(present, key=lambda item: sign * item[1].mean)
    # beating each rival at the level asks for no correction: all the tests have to pass
    return first[0] if all(settled(first[1], other) for _, other in rest) else None


def extrapolated(value: float, images: float, few: float, few_images: float) -> float:
    """A Fréchet distance for infinitely many images, FD(N) = FD∞ + a/N through two numbers of images.

    Chong and Forsyth, arXiv 1911.07023: the bias of an estimated Fréchet distance falls with 1/N.
    """
    assert images > few_images > 0, (images, few_images)
    return (images * value - few_images * few) / (images - few_images)


def number(value: float, decimals: int) -> str:
    """A number with a real minus sign; thousands are set apart."""
    return f"{value:,.{decimals}f}".replace("-", "−").replace(",", "\N{NARROW NO-BREAK SPACE}")


def signed(value: float, decimals: int) -> str:
    """A difference: with its sign, but for what is printed as zero."""
    if not round(value, decimals):
        return number(0.0, decimals)
    return ("+" if value > 0 else "") + number(value, decimals)
