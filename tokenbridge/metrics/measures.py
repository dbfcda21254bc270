"""What the score stage measures of generated images: one function a measure.

N generated images, M reference images, R other real images, F features, K classes, S spatial features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tokenbridge.metrics import frechet
from tokenbridge.metrics import sets as fidelity
from tokenbridge.metrics.extraction import Array, Found, Images, Labels
from tokenbridge.metrics.frechet import Statistics
from tokenbridge.metrics.reference import Reference
from tokenbridge.metrics.scorers import Scorer


@dataclass(frozen=True)
class Scored:
    """Generated images, what the extractor says of them, and the real ones they are measured against."""

    scorer: Scorer
    images: Images
    """uint8 (N, ch, H, W)"""
    labels: Labels
    """int64 (N,), the classes asked for"""
    found: Found
    reference: Reference
    floor: Found | None
    """of R real images that the reference does not hold"""

    @property
    def name(self) -> str:
        """Of the extractor, part of the name of each metric that depends on it."""
        return self.scorer.suffix

    @property
    def fd(self) -> str:
        """Name of the Fréchet distance."""
        return f"{self.scorer.distance}_{self.scorer.suffix}"

    @property
    def features(self) -> Array:
        """float32 (N, F)"""
        return self.found.features

    @property
    def logits(self) -> Array | None:
        """float32 (N, K), of extractors that classify"""
        return self.found.logits

    @property
    def statistics(self) -> Statistics:
        """Of the reference."""
        return self.reference.statistics

    @cached_property
    def left_out(self) -> list[float]:
        """Fréchet distances without each group of images of the jackknife."""
        return fidelity.left_out(self.features, self.labels, self.statistics)


def distance(s: Scored) -> dict[str, float]:
    """fd with its error; the same of real images (floor), and of as few generated ones as there are of these."""
    found = fidelity.frechet_metrics(s.fd, s.features, s.statistics, s.left_out)
    if s.floor is None:
        return found
    real = s.floor.features
    found |= {f"{s.fd}_floor": frechet.frechet_distance(real, s.statistics), f"{s.fd}_floor_images": float(len(real))}
    if len(s.images) >= len(real):
        # few images read high: this one compares with the floor
        few = s.features[: len(real)]
        found[f"{s.fd}_at_floor_images"] = frechet.frechet_distance(few, s.statistics)
    return found


def spatial(s: Scored) -> dict[str, float]:
    """sfid (arXiv 2103.03841), where extractor and reference have spatial features."""
    if s.found.spatial is None or s.reference.spatial is None:
        return {}
    return {f"s{s.fd}": frechet.frechet_distance(s.found.spatial, s.reference.spatial)}


def sets(s: Scored) -> dict[str, float]:
    """Inception-style score of extractors that classify; KID, precision and recall against images."""
    found = {} if s.logits is None else fidelity.inception_style_score(s.name, s.logits)
    if s.reference.real is None:
        return found
    return found | fidelity.set_metrics(s.scorer, s.features, s.reference.real.found.features)


def agreement(s: Scored) -> dict[str, float]:
    """Of an extractor that knows the data's classes."""
    if s.logits is None or not s.scorer.own:
        return {}
    return {"agreement": fidelity.agreement(s.logits, s.labels)}


def infinity(s: Scored) -> dict[str, float]:
    """fd_infinity, of published scorers with images enough."""
    if s.scorer.own or len(s.images) < 4 * s.scorer.width:
        return {}
    return {f"{s.fd}_infinity": frechet.extrapolated(s.features, s.statistics)}


MEASURES: tuple[Callable[[Scored], dict[str, float]], ...] = (
    distance,
    spatial,
    sets,
    agreement,
    infinity,
)
"""all that metrics.json of a score holds; analysis/README.md shows how to add one"""
