"""Two sets of images against each other, by any scorers: what `tokenbridge score` and `tokenbridge.score` say.

N images, M reference images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenbridge.config import Data, Runtime, Score, UserError
from tokenbridge.devices import pick_device
from tokenbridge.library.image_sets import ImageSet
from tokenbridge.metrics import extraction, frechet, sets
from tokenbridge.metrics.extraction import Extracted, Real
from tokenbridge.metrics.measures import MEASURES, Scored, by_class, mixed
from tokenbridge.metrics.memorization import memorization_protocol, memorized
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.reference import Reference, References
from tokenbridge.metrics.reference_files import FEWEST
from tokenbridge.metrics.scorers import SCORERS, SHIPPED, cautions, channels_of, own_about, weights_of
from tokenbridge.store.artifacts import Store

Z = 1.959964
"""standard errors on either side of a number that hold 95 % of a normal distribution"""
CROP = "centre crop of ADM, where images are larger"


@dataclass(frozen=True)
class ScorerResult:
    """What one scorer says of N images against M others.

    Attributes:
        scorer: its name.
        metrics: name -> number, as in a score stage's metrics.json.
        protocol: what the numbers depend on beside the images.
        classes: scores of each class that both sets name, empty where they name none.
        warnings: what a reader must know, a sentence each, without a full stop.
    """

    scorer: str
    metrics: dict[str, float]
    protocol: dict[str, Any]
    classes: list[dict[str, Any]]
    warnings: list[str]

    def half_widths(self) -> dict[str, float]:
        """Name -> half the width of a 95 % interval over images, of the metrics that have a standard error."""
        errors = ((name, self.metrics.get(f"{name}_se")) for name in self.metrics)
        return {name: Z * error for name, error in errors if error is not None}


def compare(
    samples: ImageSet | Path,
    reference: ImageSet | Path,
    score: Score,
    store: Store,
    runtime: Runtime,
    train: ImageSet | None = None,
) -> list[ScorerResult]:
    """Measure images against others.

    Args:
        samples: N images, or a file that score.reference takes: kept features, or statistics, which give the Fréchet
            distance alone.
        reference: M images of the same size, or such a file.
        score: scorers, their weights, and score.reference_features for statistics that do not say it.
        store: the runs folder, which keeps the features of both.
        runtime: device and batch.
        train: what made the samples was trained on; gives the share of memorized ones, with reference images.

    Returns:
        One for each scorer, in their order.

    Raises:
        UserError: sizes that differ, a scorer that these images do not fit, weights that are not to be had, statistics
            where memorized images are asked for.
    """
    images = [given for given in (samples, reference, train) if isinstance(given, ImageSet)]
    for few in images:
        if few.count < FEWEST:
            raise UserError(f"{few.name} holds {few.count} images and must hold {FEWEST} at least; add some")
    for other in images[1:]:
        if other.size != images[0].size:
            raise UserError(
                f"{other.name} has images of {other.size} pixels and must have {images[0].size} as {images[0].name};"
                " give --size"
            )
    sides = [_Sides(name, score, store, runtime, images) for name in score.scorers]
    for given in images:
        _read_once(sides, given)
    return [_by(each, samples, reference, train) for each in sides]


def _read_once(sides: Sequence[_Sides], given: ImageSet) -> None:
    """Keep the features of all scorers, so that each image is decoded once for those that see as many channels."""
    for channels in {each.channels for each in sides}:
        alike = [each for each in sides if each.channels == channels]
        extractors = {each.weights: each.extractor for each in alike}
        what, batch = alike[0].what(given), alike[0].batch
        extraction.keep(alike[0].store, what, extractors, batch, partial(given.read, channels))


class _Sides:
    """Opens the sets for one scorer."""

    def __init__(self, name: str, score: Score, store: Store, runtime: Runtime, images: list[ImageSet]):
        self.score, self.store, self.batch = score, store, runtime.batch
        self.size = images[0].size if images else None
        self.extractor = load_extractor(name, pick_device(runtime), score, runtime.trust_weights)
        self.references = References(store, Data(), self.extractor, score, name, self.batch)
        self.scorer, self.weights = self.references.scorer, self.references.weights
        self.channels, self.known = channels_of(score, self.scorer.name), _classes(score, name)

    def open(self, given: ImageSet | Path) -> Reference:
        if isinstance(given, Path):
            return self.references.of_path(self.score.model_copy(update={"reference": str(given)}), self.size)
        real = extraction.kept(
            self.store, self.what(given), self.extractor, self.weights, self.batch, partial(given.read, self.channels)
        )
        return Reference(given.name, real, hash=given.hash)

    def what(self, given: ImageSet) -> list[Any]:
        """What tells the images that the scorer sees from all others."""
        return [given.hash, given.size, self.channels]


def _by(sides: _Sides, samples: ImageSet | Path, reference: ImageSet | Path, train: ImageSet | None) -> ScorerResult:
    mine, against = sides.open(samples), sides.open(reference)
    if train is not None and (without := next((each.name for each in (mine, against) if each.real is None), "")):
        raise UserError(f"{without} holds statistics and must hold images or features to look for memorized ones")
    protocol, metrics, classes, unmatched = _protocol(sides, mine, against), {}, [], []
    if mine.real is None:
        metrics[sides.scorer.fd] = frechet.frechet_distance(mine.statistics, against.statistics)
    else:
        labels = samples.labels_among(sides.known) if sides.known and isinstance(samples, ImageSet) else None
        order = mixed(samples.labels if isinstance(samples, ImageSet) else mine.real.labels, len(mine.real))
        scored = Scored(sides.scorer, None, labels, mine.real.extracted, against, None, order)
        metrics |= {key: value for measure in MEASURES for key, value in measure(scored).items()}
        if train is not None:
            seen = sides.open(train).real
            assert seen is not None
            assert against.real is not None
            features = scored.features, seen.extracted.features, against.real.extracted.features
            share, error = memorized(*features)
            metrics |= {f"memorized_{scored.name}": share, f"memorized_{scored.name}_se": error}
            protocol |= {"train": train.name, "train_images": train.count, "train_hash": train.hash}
            protocol |= memorization_protocol(train.count)
        if isinstance(samples, ImageSet) and isinstance(reference, ImageSet):
            classes, unmatched = _by_class(scored, samples, reference, sides.known)
    counts = {"samples": mine.images, "reference images": against.images}
    warnings = cautions(sides.scorer, sides.scorer.fd, sides.weights, counts, mine.unsaid or against.unsaid)
    return ScorerResult(sides.scorer.name, metrics, protocol, classes, warnings + unmatched)


def _classes(score: Score, name: str) -> tuple[str, ...]:
    """Names of the classes that a scorer's own classes are, empty for scorers that know none of the data's."""
    if name == SHIPPED:
        return tuple(str(digit) for digit in range(10))
    return tuple(own_about(weights_of(score, name))["classes"]) if SCORERS[name].tells_images else ()


def _by_class(
    scored: Scored, samples: ImageSet, reference: ImageSet, known: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Scores of each class, by its name, where both sets say the classes of their images; and why there are none.

    known: the classes of the scorer, if it has some of the data's: only with them does it say whether it agrees.
    """
    real = scored.reference.real
    assert real is not None
    if samples.labels is None or reference.labels is None:
        return [], []
    for classes, extracted in ((known, scored.extracted), (reference.classes, Extracted(scored.features))):
        mine, theirs = samples.labels_among(classes), reference.labels_among(classes)
        if mine is not None and theirs is not None:
            rows = by_class(scored.scorer, extracted, mine, Real(real.extracted, theirs, real.pixel_hash))
            return [row | {"class": classes[row["class"]]} for row in rows], []
    strange = next(
        (samples.classes[label] for label in samples.labels if samples.classes[label] not in reference.classes), None
    )
    if strange is None:
        return [], [
            f"no class is compared, as the labels of {samples.name} or {reference.name} are numbers, and the classes of"
            " the other are numbers in another order; give class folders on both sides"
        ]
    return [], [
        f"no class is compared, as {samples.name} has one called {strange} and {reference.name} none;"
        " call equal classes by equal names"
    ]


def _protocol(sides: _Sides, samples: Reference, reference: Reference) -> dict[str, Any]:
    images = samples.images
    protocol = sets.set_protocol(sides.scorer, sides.weights, sides.size, images, reference.images, reference.hash)
    protocol |= sides.references.protocol(reference)
    protocol |= {"crop": CROP, "samples": samples.name, "samples_hash": samples.hash, "reference": reference.name}
    if samples.real is not None and reference.real is not None:
        protocol |= sets.kid_protocol(sides.scorer, len(samples.real), len(reference.real))
    return protocol
