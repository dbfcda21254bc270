"""Where reconstruction values come from: the normal distribution (the paper), an even grid, or the data.

N values, V levels. All in float64.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from tokenbridge.config import Quantizer, UserError

Array = NDArray[np.float64]


def reconstruction_values(config: Quantizer, values: Array, per_channel: bool) -> Array:
    """The levels of a scalar quantizer, increasing.

    Args:
        config: the kind, the number of levels, and the range of the fixed kinds.
        values: (N,) calibration values, of which fixed levels need mean and deviation per channel alone.
        per_channel: whether the values are one channel's: fixed levels then follow their mean and deviation.

    Returns:
        (V,) float64.
    """
    if config.kind == "quantile":
        return quantile_centers(values, config.levels_each)
    if config.kind == "lloyd-max":
        starts = [Quantizer(kind="uniform", levels=config.levels_each, range=config.range)]
        starts += [
            Quantizer(levels=config.levels_each, range=w, edges="truncated") for w in (config.range, 3 * math.sqrt(3))
        ]
        fixed = [_fixed_centers(start) for start in starts]
        fixed += [values.mean() + values.std() * centers for centers in fixed]
        return lloyd_max_centers(values, [quantile_centers(values, config.levels_each), *fixed])
    centers = _fixed_centers(config)
    return values.mean() + values.std() * centers if per_channel else centers


def _fixed_centers(config: Quantizer) -> Array:
    if config.kind == "uniform":
        return (np.arange(config.levels_each) + 0.5) / config.levels_each * 2 * config.range - config.range
    return gaussian_centers(config.levels_each, config.std_range, config.edges) * config.range / config.std_range


def gaussian_centers(levels: int, std_range: float, edges: str = "clamped") -> Array:
    """(levels,) means of N(0, 1) in equal-probability bins (arXiv 2503.16430, equations 2 and 3), symmetric about 0.

    Args:
        levels: number of bins.
        std_range: the outermost bounds are ±std_range standard deviations.
        edges: as for gaussian_bounds.
    """
    bounds = gaussian_bounds(levels, std_range, edges)
    density = np.exp(-(bounds**2) / 2) / math.sqrt(2 * math.pi)
    means = -np.diff(density) / np.diff(ndtr(bounds))
    return (means - means[::-1]) / 2  # exactly symmetric


def gaussian_bounds(levels: int, std_range: float, edges: str = "clamped") -> Array:
    """(levels + 1,) bounds of the equal-probability bins of N(0, 1), within ±std_range.

    Args:
        levels: number of bins.
        std_range: the outermost bounds, in standard deviations.
        edges: "clamped": bins of the whole line, their bounds clipped to the range; otherwise ("truncated") bins that
            share the probability within the range equally.
    """
    if edges == "clamped":
        return np.clip(ndtri(np.linspace(0, 1, levels + 1)), -std_range, std_range)
    return ndtri(np.linspace(ndtr(-std_range), ndtr(std_range), levels + 1))


def quantile_centers(values: Array, levels: int) -> Array:
    """(levels,) means of bins that hold equal shares of the values, ties kept together, no bin empty."""
    distinct, counts = _distinct(values, levels)
    ends = np.searchsorted(np.cumsum(counts), np.arange(1, levels) / levels * len(values))
    step = np.arange(levels - 1)
    ends = np.maximum.accumulate(ends - step) + step  # at least one distinct value per bin
    ends = np.clip(ends + 1, 1 + step, len(distinct) - levels + 1 + step)
    starts = np.concatenate([[0], ends])
    return np.add.reduceat(distinct * counts, starts) / np.add.reduceat(counts, starts)


def lloyd_max_centers(values: Array, starts: list[Array]) -> Array:
    """(V,) levels of least squared error: Lloyd's iteration to a fixed point from each start, best kept.

    An iteration never raises the error, so the result is at most as far off as any of the starts.

    Args:
        values: (N,) calibration values.
        starts: (V,) levels each.
    """
    distinct, counts = _distinct(values, len(starts[0]))
    weight = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    first = np.concatenate([[0.0], np.cumsum(distinct * counts)])
    second = np.concatenate([[0.0], np.cumsum(distinct**2 * counts)])
    best: tuple[float, Array] = (math.inf, starts[0])
    for start in starts:
        best = min(best, _lloyd(np.sort(start), distinct, weight, first, second), key=lambda run: run[0])
    return best[1]


def _lloyd(centers: Array, distinct: Array, weight: Array, first: Array, second: Array) -> tuple[float, Array]:
    bounds: NDArray[np.int64] | None = None
    for _ in range(100_000):
        middle = np.searchsorted(distinct, (centers[1:] + centers[:-1]) / 2, side="right")
        new = np.concatenate([[0], middle, [len(distinct)]])
        if bounds is not None and np.array_equal(new, bounds):
            break
        bounds = new
        total = np.diff(weight[bounds])
        mean = np.diff(first[bounds]) / np.where(total > 0, total, 1)
        spread = np.where(total > 0, np.diff(second[bounds]) - total * mean**2, 0.0)
        empty = total == 0
        if empty.any():  # an unused level goes to one end of a bin with most error, which can only help
            widest = np.argsort(spread)[::-1][: empty.sum()]
            mean[np.flatnonzero(empty)[: len(widest)]] = distinct[bounds[widest + 1] - 1]
        centers = np.sort(mean)
        centers = _separate(centers, distinct)
    assert bounds is not None
    total, mean = np.diff(weight[bounds]), centers
    error = np.sum(np.diff(second[bounds]) - 2 * mean * np.diff(first[bounds]) + total * mean**2)
    return float(error), centers


def _separate(centers: Array, distinct: Array) -> Array:
    """Levels that fell on one value move to free data values, so that all V stay distinct."""
    same = np.flatnonzero(np.diff(centers) <= 0) + 1
    if len(same):
        free = np.setdiff1d(distinct, centers)[: len(same)]
        centers[same[: len(free)]] = free
    return np.sort(centers)


def _distinct(values: Array, levels: int) -> tuple[Array, NDArray[np.int64]]:
    distinct, counts = np.unique(values, return_counts=True)
    if levels > len(distinct):
        raise UserError(
            f"levels={levels} must be at most {len(distinct)}, the number of distinct values to fit;"
            " lower quantizer.levels, give more images or use quantizer.kind=gaussian"
        )
    return distinct, counts
