"""What a search of guidance and temperature settles: intervals, differences of two points, ends of the grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import numpy as np

from analysis import stats

QUANTILE = stats.quantile(stats.LEVEL, math.inf)
Place = tuple[float, float]
"""guidance and temperature"""


@dataclass(frozen=True)
class Gap:
    """A difference of two points and the half-width of its 95 % interval; None where nothing is known of it."""

    mean: float
    half: float | None

    @property
    def settled(self) -> bool:
        # a width of zero comes from values so coarse that all differences are one, and tells nothing
        return bool(self.half) and abs(self.mean) > self.half


class Point(Protocol):
    """A point of a search: for each training seed its value, the standard error over images and the distances without
    each group of images, where these are known."""

    @property
    def values(self) -> Sequence[float]: ...
    @property
    def errors(self) -> Sequence[float | None]: ...
    @property
    def left_out(self) -> Sequence[Sequence[float]]: ...


def half_width(point: Point) -> float | None:
    """Student t over training seeds, or normal over images where there is one seed."""
    return stats.estimate(point.values, error=point.errors[0]).half


def gap(first: Point, second: Point) -> Gap:
    """First minus second point of the same models: paired over training seeds (Student t of the differences).

    With one seed paired over images, which have the same noise at both points: a jackknife of the difference. Where its
    parts are not known, by both errors as if the images were independent, an interval that is rather too wide.
    """
    assert len(first.values) == len(second.values), "both points have the same training seeds"
    differences = [a - b for a, b in zip(first.values, second.values, strict=True)]
    if len(differences) > 1:
        return Gap(fmean(differences), stats.estimate(differences).half)
    return Gap(differences[0], _over_images(first, second))


def _over_images(first: Point, second: Point) -> float | None:
    (left,), (other) = first.left_out, second.left_out[0]
    if left and len(left) == len(other):
        parts = np.subtract(left, other)
        return QUANTILE * math.sqrt((len(parts) - 1) / len(parts) * float(((parts - parts.mean()) ** 2).sum()))
    (error,), (another,) = first.errors, second.errors
    return None if error is None or another is None else QUANTILE * math.hypot(error, another)


def edges(place: Place, points: Iterable[Place]) -> tuple[str, ...]:
    """Where a point ends the grid: "lowest guidance"; empty inside it."""
    points, found = list(points), list[str]()
    for i, name in enumerate(("guidance", "temperature")):
        values = {point[i] for point in points}
        if len(values) > 1:
            found += [f"lowest {name}"] if place[i] == min(values) else []
            found += [f"highest {name}"] if place[i] == max(values) else []
    return tuple(found)
