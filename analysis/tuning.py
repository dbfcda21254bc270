"""What a search of guidance and temperature settles: intervals, differences of two points, ends of the grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from analysis import stats

QUANTILE = NormalDist().inv_cdf((1 + stats.CONFIDENCE) / 2)
Place = tuple[float, float]
"""guidance and temperature"""


@dataclass(frozen=True)
class Gap:
    """A difference of two points and the half-width of its 95 % interval; None where nothing is known of it."""

    mean: float
    half: float | None

    @property
    def settled(self) -> bool:
        return self.half is not None and abs(self.mean) > self.half


def half_width(values: Sequence[float], errors: Sequence[float | None]) -> float | None:
    """Of one point: Student t over training seeds, or normal over images where there is one seed."""
    if len(values) > 1:
        return stats.estimate(values).half
    return None if errors[0] is None else QUANTILE * errors[0]


def gap(
    values: Sequence[float],
    errors: Sequence[float | None],
    others: Sequence[float],
    other_errors: Sequence[float | None],
) -> Gap:
    """First minus second point of the same models: paired over training seeds (Student t of the differences).

    With one seed by the errors over images, as if the two sets were independent: their noise is shared, which makes
    the true interval narrower if anything.
    """
    assert len(values) == len(others), "both points have the same training seeds"
    differences = [a - b for a, b in zip(values, others, strict=True)]
    if len(differences) > 1:
        return Gap(fmean(differences), stats.estimate(differences).half)
    (first,), (second,) = errors, other_errors
    if first is None or second is None:
        return Gap(differences[0], None)
    return Gap(differences[0], QUANTILE * math.hypot(first, second))


def edges(place: Place, points: Iterable[Place]) -> tuple[str, ...]:
    """Where a point ends the grid: "lowest guidance"; empty inside it."""
    points, found = list(points), list[str]()
    for i, name in enumerate(("guidance", "temperature")):
        values = {point[i] for point in points}
        if len(values) > 1:
            found += [f"lowest {name}"] if place[i] == min(values) else []
            found += [f"highest {name}"] if place[i] == max(values) else []
    return tuple(found)
