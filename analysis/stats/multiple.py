"""Verdicts on many comparisons at once: claims, which were named beforehand, and all others, which were not.

Claims are few and said to be true: Holm's method keeps the chance of even one wrong verdict among them at 5 %. The
others are exploratory: of those that are shown, at most 5 % on average are wrong (their false-discovery rate).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from analysis.stats.differences import Gap, gap
from analysis.stats.estimates import LEVEL, Estimate
from analysis.stats.power import seeds_needed
from analysis.stats.scales import PLAIN, Scale

Verdict = Literal["better", "worse", "no difference shown"]
Family = Literal["claim", "exploratory"]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """A difference with how it is told, and which way is better."""

    gap: Gap
    """first minus second, on the metric's scale"""
    better: str = ""
    """which way is better: "lower", "higher", or "" for no direction"""
    scale: Scale = PLAIN
    base: float = 0.0
    """the second, on the metric's scale"""

    @property
    def effect(self) -> float:
        """The difference as it is told (see Scale)."""
        return self.scale.tell(self.gap.mean, self.base)

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Ends of the interval that misses the true difference with probability `level`, as they are told."""
        half = self.gap.half(level)
        if half is None:
            return None
        low, high = (self.scale.tell(self.gap.mean + sign * half, self.base) for sign in (-1, 1))
        return low, high

    @property
    def way(self) -> Literal["better", "worse"]:
        """Which way the difference goes, settled or not."""
        return "better" if (self.gap.mean < 0) == (self.better == "lower") else "worse"

    @property
    def turned(self) -> Difference:
        """The second minus the first."""
        gap = replace(self.gap, mean=-self.gap.mean, values=tuple(-value for value in self.gap.values))
        return replace(self, gap=gap, base=self.base + self.gap.mean)


@dataclass(frozen=True)
class Comparison:
    """One difference among all tests of its family, with its verdict."""

    difference: Difference
    family: Family
    adjusted: float
    """p by the family's method: below 0.05 just where a difference is shown"""
    level: float
    """at which the method decided: its interval leaves out zero just where a difference is shown"""

    @property
    def p(self) -> float:
        return self.difference.gap.p or 1.0

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the one place that says so of a test among others."""
        return self.adjusted < LEVEL

    @property
    def verdict(self) -> Verdict:
        return self.difference.way if self.shown else "no difference shown"

    @property
    def corrected(self) -> tuple[float, float]:
        """Ends of the interval at the level at which it was decided, as they are told."""
        interval = self.difference.interval(self.level)
        assert interval is not None, "what is tested has an error"
        return interval

    @property
    def seeds_needed(self) -> int | None:
        """Seeds that would settle it; None where it is settled, not over seeds, or beyond power.MOST_SEEDS."""
        if self.shown or self.difference.gap.over != "seeds":
            return None
        return seeds_needed(self.difference.gap, self.level)

    @property
    def turned(self) -> Comparison:
        """The second against the first."""
        return replace(self, difference=self.difference.turned)


def holm(p: Sequence[float], looks: int = 1) -> tuple[list[float], list[float]]:
    """Adjusted p values, and the level at which Holm's step-down method decided each test (Holm 1979).

    The smallest of m goes against 0.05/m, the next against 0.05/(m - 1), and so on until one fails; all behind it fail
    at that one's level.

    Args:
        p: p values in [0, 1].
        looks: times that the tests are made at most, with ever more seeds, stopping when it suits. Each look has an
            even share of the 5 % (Bonferroni), which holds for any test and however its looks depend on each other; the
            boundaries of Pocock (1977), by normal theory, give t tests of 3, 6, 9 and 12 seeds 5.8 % false verdicts.

    Returns:
        Adjusted p values in [0, 1] and levels in (0, 0.05], both in the order of `p`.
    """
    adjusted, levels = [0.0] * len(p), [0.0] * len(p)
    largest, level, failed = 0.0, 0.0, False
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        left = len(p) - step
        largest = max(largest, min(1.0, p[i] * left * looks))
        level = level if failed else LEVEL / (left * looks)
        failed = failed or largest >= LEVEL
        adjusted[i], levels[i] = largest, level
    return adjusted, levels


def benjamini_hochberg(p: Sequence[float]) -> tuple[list[float], list[float]]:
    """Adjusted p values for a false-discovery rate of 5 % (Benjamini and Hochberg 1995), and the level of each test.

    The k tests are shown whose p values are largest below 0.05·k/m. Their intervals are at that level, so that of all
    intervals that are shown 5 % are expected to miss (Benjamini and Yekutieli 2005); those of the others at the next,
    0.05·(k + 1)/m, so that each holds zero.

    Returns:
        Adjusted p values in [0, 1] and levels in (0, 0.05], both in the order of `p`.
    """
    count, order = len(p), sorted(range(len(p)), key=lambda i: p[i])
    adjusted, smallest = [0.0] * count, 1.0
    for rank in range(count, 0, -1):
        smallest = min(smallest, p[order[rank - 1]] * count / rank)
        adjusted[order[rank - 1]] = smallest
    shown = sum(value < LEVEL for value in adjusted)
    levels = [LEVEL * (shown if value < LEVEL else shown + 1) / count for value in adjusted]
    return adjusted, levels


def compare(differences: Sequence[Difference], family: Family, looks: int = 1) -> list[Comparison | None]:
    """The verdicts of all differences of a family.

    Args:
        differences: those to test.
        family: claims are decided by Holm's method, exploratory ones by their false-discovery rate.
        looks: of claims, as holm has it.

    Returns:
        One comparison for each of `differences`, in their order; None where there is no direction or no standard error.
    """
    p = {i: each.gap.p for i, each in enumerate(differences) if each.better and each.gap.p is not None}
    values = list(p.values())
    adjusted, levels = holm(values, looks) if family == "claim" else benjamini_hochberg(values)
    comparisons: list[Comparison | None] = [None] * len(differences)
    for i, value, level in zip(p, adjusted, levels, strict=True):
        comparisons[i] = Comparison(differences[i], family, value, level)
    return comparisons


def compare_with(
    base: Key, values: Mapping[Key, Estimate], better: str, scale: Scale = PLAIN
) -> dict[Key, Comparison | None]:
    """The verdicts of all others against one, as exploratory comparisons of samplings of the same trainings.

    They pair seed by seed, or image by image of one seed. Their spread is not moderated: points are not trainings.

    Args:
        base: the one that they are compared with.
        values: of all, on the scale.
        better: which way is better, "lower" or "higher".
        scale: how differences are told.

    Returns:
        One comparison for each of the others, in their order; None where there is no test.
    """
    others = [key for key in values if key != base]
    differences = [Difference(gap(values[key], values[base]), better, scale, values[base].mean) for key in others]
    return dict(zip(others, compare(differences, "exploratory"), strict=True))
