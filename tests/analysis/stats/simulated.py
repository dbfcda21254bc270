"""Tables of random rows, for what verdicts on them are worth. For tests and measurements only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis import stats

Array = NDArray[np.float64]
Deviations = Callable[[np.random.Generator, int], Array]
SHARED = 0.3
"""of the variance that rows of one seed have in common, as those of the committed report do"""


def _even(random: np.random.Generator, rows: int) -> Array:
    return np.ones(rows)


def _lognormal(random: np.random.Generator, rows: int) -> Array:
    return np.exp(random.normal(size=rows))


def _some(factor: float, rows: slice) -> Deviations:
    def deviations(random: np.random.Generator, count: int) -> Array:
        found = np.ones(count)
        found[rows] = factor
        return found

    return deviations


UNEVEN: dict[str, Deviations] = {
    "even": _even,
    "log-normal": _lognormal,
    "one row ×5": _some(5, slice(1, 2)),
    "one row ×10": _some(10, slice(1, 2)),
    "base ×5": _some(5, slice(0, 1)),
    "base ÷5": _some(0.2, slice(0, 1)),
    "half ×3": _some(3, slice(0, None, 2)),
}
"""standard deviations of a table's rows, of which the first is the base"""


def table(random: np.random.Generator, deviations: Array, seeds: int) -> list[stats.Estimate]:
    """Rows whose true values are all 0.

    Args:
        random: where they are drawn from.
        deviations: standard deviation of each row (R).
        seeds: of each row.
    """
    shared, own = random.normal(size=(1, seeds)), random.normal(size=(len(deviations), seeds))
    values = SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * deviations[:, None] * own
    return [stats.estimate(row, range(seeds)) for row in values.tolist()]


def moderated(rows: list[stats.Estimate]) -> list[stats.Gap]:
    """The difference of each row but the first to the first, as reports test it."""
    spread = stats.spreads(dict(enumerate(rows)))
    return [stats.moderated_gap(row, rows[0], (i, 0), spread) for i, row in enumerate(rows)][1:]


def paired(rows: list[stats.Estimate]) -> list[stats.Gap]:
    """The same by paired t tests alone."""
    return [stats.gap(row, rows[0]) for row in rows[1:]]


def shown(gaps: list[stats.Gap], family: stats.Family) -> list[bool]:
    """Which of them a report would show."""
    found = stats.compare([stats.Difference(gap, "lower") for gap in gaps], family)
    return [each is not None and each.shown for each in found]
