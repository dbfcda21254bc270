"""Intervals over seeds, when a difference between two cells is settled, and how a number is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; half is the half-width of its Student t interval (95 %), None with one seed."""

    mean: float
    half: float | None
    values: tuple[float, ...]

    @property
    def seeds(self) -> int:
        return len(self.values)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean ± t(0.975, n - 1)·s/√n of one value a seed; at least one value."""
    assert values, "an estimate needs a value"
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) == 1:
        return Estimate(float(sample[0]), None, tuple(values))
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(sample) - 1)
    half = quantile * sample.std(ddof=1) / math.sqrt(len(sample))
    return Estimate(float(sample.mean()), float(half), tuple(values))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b with Welch's interval (unequal variances); no interval where either has one seed."""
    gap = a.mean - b.mean
    if a.half is None or b.half is None:
        return Estimate(gap, None, (gap,))
    parts = [np.var(x.values, ddof=1) / x.seeds for x in (a, b)]
    total = float(sum(parts))
    if total == 0:
        return Estimate(gap, 0.0, (gap,))
    freedom = total**2 / sum(part**2 / (x.seeds - 1) for part, x in zip(parts, (a, b), strict=True))
    return Estimate(gap, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(total), (gap,))


def settled(a: Estimate, b: Estimate) -> bool:
    """Whether the interval of the difference leaves out zero; never with one seed."""
    gap = difference(a, b)
    return gap.half is not None and abs(gap.mean) > gap.half


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


def number(value: float, decimals: int) -> str:
    """A number with a real minus sign; thousands are set apart."""
    return f"{value:,.{decimals}f}".replace("-", "−").replace(",", "\N{NARROW NO-BREAK SPACE}")
