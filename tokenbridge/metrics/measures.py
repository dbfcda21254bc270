"""What the score stage measures of generated images: one function a measure.

N generated images, M reference images, R other real images, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tokenbridge.metrics import fidelity, frechet
from tokenbridge.metrics.extraction import Array, Images, Labels
from tokenbridge.metrics.frechet import Statistics


@dataclass(frozen=True)
class Scored:
    """Generated images, what the extractor says of them, and the real ones they are measured against."""

    name: str
    """of the extractor, part of the name of each metric that depends on it"""
    images: Images
    """uint8 (N, ch, H, W)"""
    labels: Labels
    """int64 (N,), the classes asked for"""
    features: Array
    """float32 (N, F)"""
    logits: Array
    """float32 (N, K)"""
    reference_features: Array
    """float32 (M, F)"""
    real_features: Array
    """float32 (R, F), of real images that the reference does not hold"""

    @cached_property
    def statistics(self) -> Statistics:
        """Of the reference."""
        return frechet.from_features(self.reference_features)

    @cached_property
    def left_out(self) -> list[float]:
        """Fréchet distances without each group of images of the jackknife."""
        return fidelity.left_out(self.features, self.labels, self.statistics)


def distance(s: Scored) -> dict[str, float]:
    """fd_<name> with its error; the same of real images (floor), and of as few generated ones as there are of these."""
    floor = frechet.frechet_distance(s.real_features, s.statistics)
    found = fidelity.frechet_metrics(s.name, s.features, s.statistics, s.left_out)
    found |= {f"fd_{s.name}_floor": floor, f"fd_{s.name}_floor_images": float(len(s.real_features))}
    if len(s.images) >= len(s.real_features):
        # few images read high: this one compares with the floor
        few = s.features[: len(s.real_features)]
        found[f"fd_{s.name}_at_floor_images"] = frechet.frechet_distance(few, s.statistics)
    return found


def sets(s: Scored) -> dict[str, float]:
    found = fidelity.inception_style_score(s.name, s.logits)
    return found | fidelity.set_metrics(s.name, s.features, s.reference_features)


def agreement(s: Scored) -> dict[str, float]:
    return {"agreement": fidelity.agreement(s.logits, s.labels)}


MEASURES: tuple[Callable[[Scored], dict[str, float]], ...] = (
    distance,
    sets,
    agreement,
)
"""all that metrics.json of a score holds; analysis/README.md shows how to add one"""
