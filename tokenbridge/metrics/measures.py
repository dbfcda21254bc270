"""The measures of the score stage: one function each, and the scores of each class.

N generated images, M reference images, R other real images, F features, K classes, S spatial features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tokenbridge.data.images import in_turn
from tokenbridge.metrics import frechet, sets
from tokenbridge.metrics.extraction import Array, Extracted, Images, Labels, Real
from tokenbridge.metrics.frechet import Statistics
from tokenbridge.metrics.memorization import memorized
from tokenbridge.metrics.reference import Reference
from tokenbridge.metrics.scorers import Scorer
from tokenbridge.rng import generator

FEWEST = 10
"""images of a class in each set, below which it has no scores"""


@dataclass(frozen=True)
class Scored:
    """Generated images, what the extractor gives for them, and the real ones they are measured against."""

    scorer: Scorer
    images: Images | None
    """uint8 (N, ch, H, W); None where they need not fit in memory, as outside of the stage"""
    labels: Labels | None
    """int64 (N,), the classes asked for, by number in the scorer's order; None where nobody says them"""
    extracted: Extracted
    reference: Reference
    floor: Extracted | None
    """of R real images that the reference does not hold"""
    order: Labels | None = None
    """int64 (N,), places in an order of which every part is like the whole, as mixed gives it; None: they lie so"""

    @property
    def name(self) -> str:
        """The scorer's suffix, which ends the name of each metric that depends on it."""
        return self.scorer.suffix

    @property
    def fd(self) -> str:
        """The name of the Fréchet distance."""
        return self.scorer.fd

    @property
    def features(self) -> Array:
        """float32 (N, F)"""
        return self.extracted.features

    @property
    def ordered(self) -> Array:
        """float32 (N, F), the features in that order"""
        return self.features if self.order is None else self.features[self.order]

    @property
    def logits(self) -> Array | None:
        """float32 (N, K), of extractors that classify"""
        return self.extracted.logits

    @property
    def statistics(self) -> Statistics:
        """The statistics of the reference."""
        return self.reference.statistics

    @property
    def splits(self) -> tuple[Array, Array] | None:
        """Features of the training images and of others, float32 (T, F), (O, F); None where one is not there."""
        if self.reference.real is None or self.floor is None:
            return None
        reference, floor = self.reference.real.extracted.features, self.floor.features
        return (reference, floor) if self.reference.name == "train" else (floor, reference)

    @cached_property
    def left_out(self) -> list[float]:
        """The Fréchet distances without each group of images of the jackknife."""
        labels = np.zeros(len(self.features), np.int64) if self.labels is None else self.labels
        return frechet.left_out(self.features, labels, self.statistics)


def mixed(labels: Labels | None, count: int) -> Labels | None:
    """An order of images of which every part is like the whole; None where they lie so, as classes in turn do.

    Args:
        labels: int64 (N,), the images' classes; None where nobody says them, so that they may lie class by class.
        count: N.

    Returns:
        int64 (N,), places of the images, the same at each call; or None.
    """
    if labels is not None and np.array_equal(in_turn(labels), np.arange(count)):
        return None
    return torch.randperm(count, generator=generator("order of given images")).numpy()


def distance(s: Scored) -> dict[str, float]:
    """The distance with its error; that of real images (floor), and that of as many generated ones as these."""
    distances = frechet.frechet_metrics(s.fd, s.features, s.statistics, s.left_out)
    if s.floor is None:
        return distances
    real = s.floor.features
    distances |= {
        f"{s.fd}_floor": frechet.frechet_distance(real, s.statistics),
        f"{s.fd}_floor_images": float(len(real)),
    }
    if len(s.features) >= len(real):
        # few images read high: this one compares with the floor
        few = s.ordered[: len(real)] if len(s.features) > len(real) else s.features
        distances[f"{s.fd}_at_floor_images"] = frechet.frechet_distance(few, s.statistics)
    return distances


def spatial(s: Scored) -> dict[str, float]:
    """sFID (arXiv 2103.03841), the distance of spatial features, where extractor and reference have them."""
    if s.extracted.spatial is None or s.reference.spatial is None:
        return {}
    return {f"s{s.fd}": frechet.frechet_distance(s.extracted.spatial, s.reference.spatial)}


def set_scores(s: Scored) -> dict[str, float]:
    """The Inception-style score of extractors that classify; KID, precision and recall against images."""
    scores = {} if s.logits is None else sets.inception_style_score(s.name, s.logits)
    if s.reference.real is None:
        return scores
    return scores | sets.set_metrics(s.scorer, s.features, s.reference.real.extracted.features)


def cmmd(s: Scored) -> dict[str, float]:
    """CMMD (arXiv 2401.09603), of the scorer that it is defined by."""
    if not s.scorer.cmmd or s.reference.real is None:
        return {}
    return {"cmmd": sets.cmmd(s.features, s.reference.real.extracted.features)}


def agreement(s: Scored) -> dict[str, float]:
    """The agreement with the labels, of an extractor that knows the data's classes."""
    if s.logits is None or s.labels is None or not s.scorer.knows_classes:
        return {}
    return {s.scorer.agreement: sets.agreement(s.logits, s.labels)}


def infinity(s: Scored) -> dict[str, float]:
    """FD∞ (arXiv 1911.07023), of published scorers with images enough."""
    if s.scorer.in_domain or len(s.features) < 4 * s.scorer.width:
        return {}
    return {f"{s.fd}_infinity": frechet.extrapolated(s.ordered, s.statistics)}


def memorization(s: Scored) -> dict[str, float]:
    """The share of memorized images beyond chance, where the reference and the others are both splits."""
    if s.splits is None:
        return {}
    share, error = memorized(s.features, *s.splits)
    return {f"memorized_{s.name}": share, f"memorized_{s.name}_se": error}


MEASURES: tuple[Callable[[Scored], dict[str, float]], ...] = (
    distance,
    spatial,
    set_scores,
    cmmd,
    agreement,
    infinity,
    memorization,
)
"""all that metrics.json of a score holds; CONTRIBUTING.md shows how to add one"""


def by_class(scorer: Scorer, extracted: Extracted, labels: Labels, real: Real) -> list[dict[str, Any]]:
    """Scores of each class with images enough in both sets, from features that are there; none for unknown classes.

    The numbers of images, KID, and the agreement of a scorer that knows classes. The Fréchet distance is given where
    both numbers exceed F: of fewer images it says how many there are. KID has no such bias.
    """
    if real.labels is None:
        return []
    rows = []
    for label in np.unique(labels):
        mine, theirs = labels == label, real.labels == label
        fewest = min(mine.sum(), theirs.sum())
        if fewest < FEWEST:
            continue
        pair = extracted.features[mine], real.extracted.features[theirs]
        row: dict[str, Any] = {"class": int(label), "images": int(mine.sum()), "reference_images": int(theirs.sum())}
        row[f"kid_{scorer.suffix}_x1e3"] = 1000 * sets.kernel_distance(*pair)
        if fewest > scorer.width:
            row[scorer.fd] = frechet.frechet_distance(*pair)
        if scorer.knows_classes and extracted.logits is not None:
            row[scorer.agreement] = sets.agreement(extracted.logits[mine], labels[mine])
        rows.append(row)
    return rows
