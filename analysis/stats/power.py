"""How many seeds would settle a difference, if the true one is the one that was seen."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

from scipy import stats

from analysis.stats.differences import Gap
from analysis.stats.estimates import quantile

POWER = 0.8
"""chance that a test of so many seeds shows the difference"""
MOST_SEEDS = 100


@lru_cache(maxsize=100_000)
def seeds_needed(gap: Gap, level: float) -> int | None:
    """Fewest seeds with which a two-sided t test shows the difference with a chance of 80 %; None beyond MOST_SEEDS.

    By the noncentral t distribution (Johnson and Welch 1940), with the spread of one pair of seeds as it is known now.
    Its degrees of freedom grow with the seeds, as those of the rows do from which it is known.

    Args:
        gap: over seeds, one value for each; its mean is taken as the true difference.
        level: of the test, in (0, 1).
    """
    now = len(gap.values)
    if gap.error is None or now < 2 or not gap.mean:
        return None
    spread, each = gap.error * math.sqrt(now), gap.freedom / (now - 1)
    counts = range(2, MOST_SEEDS + 1)

    def shows(seeds: int) -> bool:
        return power(abs(gap.mean) / spread, seeds, each * (seeds - 1), level) >= POWER

    found = bisect_left(counts, True, key=shows)  # more seeds have more power
    return counts[found] if found < len(counts) else None


def power(effect: float, seeds: int, freedom: float, level: float) -> float:
    """Chance that a two-sided t test shows a difference.

    Args:
        effect: the difference over the standard deviation of one pair, above 0.
        seeds: pairs.
        freedom: degrees of freedom of the test.
        level: of the test.
    """
    limit, shift = quantile(level, freedom), effect * math.sqrt(seeds)
    # the other tail as that of the mirrored t: cdf(-limit, freedom, shift) is NaN in SciPy where it is nearly 0
    return float(stats.nct.sf(limit, freedom, shift) + stats.nct.sf(limit, freedom, -shift))
