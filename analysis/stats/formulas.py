"""Laws that numbers are held against, and the ends of a search's grid."""

from __future__ import annotations

import math
from collections.abc import Iterable

PANTER_DITE = math.pi * math.sqrt(3) / 2
"""mean squared error times squared levels of the best quantizer of N(0, 1) with many levels (Panter and Dite, 1951)"""

Setting = tuple[float, float]
"""a point of a search: guidance and temperature"""


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
