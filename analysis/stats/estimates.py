"""A mean with its interval over seeds or images."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Literal

from scipy import stats

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE

Over = Literal["seeds", "images", "pairs", ""]
"""what an interval is over: trainings, sampled images, matched pairs of cells; empty: there is none"""


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
    least: float = 0.0
    """variance that one value has at least, as a share of so many images has"""

    @property
    def seeds(self) -> int:
        return len(self.values)


def estimate(
    values: Sequence[float],
    keys: Sequence[Hashable] = (),
    error: float | None = None,
    over: Over = "seeds",
    left_out: Sequence[float] = (),
    shared: bool = False,
) -> Estimate:
    """Mean ± t(0.975, n - 1)·s/√n of one value per seed, or a single value ± 1.96·error over images.

    The interval is Student's (1908); with three seeds it is wide, but covers what it says where a bootstrap does not.

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
    half = quantile(LEVEL, len(sample) - 1) * math.sqrt(variance(sample) / len(sample))
    return Estimate(fmean(sample), half, sample, keys, None, over)


@lru_cache(maxsize=4096)
def quantile(level: float, freedom: float) -> float:
    """Standard errors on either side of a mean that leave out a share `level` of Student's t distribution."""
    return float(stats.t.ppf(1 - level / 2, freedom))


def variance(values: Sequence[float]) -> float:
    """Unbiased variance. In plain Python: for a few seeds a hundred times as fast as an array."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def best(means: Sequence[float | None], better: str, beats: Callable[[int, int], bool]) -> int | None:
    """Position of the value that is settled to beat every other one of its column, or None.

    Each rival is tested at the level itself: all the tests have to pass, which asks for no correction (the
    intersection-union test, Berger 1982).

    Args:
        means: one for each row; None where the row has no number.
        better: "lower", "higher", or "" for a column without a direction, which has no best.
        beats: whether the difference of the row at the first position to that at the second is settled.
    """
    present = [i for i, mean in enumerate(means) if mean is not None]
    if better == "" or len(present) < 2:
        return None
    sign = 1 if better == "lower" else -1
    first, *rest = sorted(present, key=lambda i: sign * (means[i] or 0.0))
    return first if all(beats(first, other) for other in rest) else None
