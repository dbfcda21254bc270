"""Stage `score`: samples against real images. What the numbers mean and depend on is in metrics.json.

N samples, ch channels, H and W sides.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.devices import pick_device
from tokenbridge.metrics import extraction, sets
from tokenbridge.metrics.extraction import Images, Labels, Real
from tokenbridge.metrics.measures import MEASURES, Scored, by_class, mixed
from tokenbridge.metrics.memorization import memorization_protocol
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.reference import References
from tokenbridge.metrics.scorers import cautions, misfit, own_cautions, qualified
from tokenbridge.stages.sample import read_labels
from tokenbridge.store.artifacts import Store, checked, read_array, write_json
from tokenbridge.store.runs import read_metrics, write_metrics

NO_IMAGES = "a file of statistics has no features of images: KID, precision, recall, density and coverage are left out"


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Write what each scorer says of the samples, scores by class, and the samples' features.

    Raises UserError where the features do not fit the data, and for samples that the sample stage did not finish.
    """
    images, labels, settings = _samples(inputs["sample"])
    metrics, protocol, left_out, classes = {}, {}, {}, {}
    warnings = _duplicates(images) + own_cautions(config.score, config.data)
    for name in config.score.scorers:
        scored, references = _scored(config, name, images, labels, out, runtime)
        metrics |= {key: value for measure in MEASURES for key, value in measure(scored).items()}
        left_out[scored.fd] = scored.left_out
        protocol |= qualified(_protocol(config, scored, references), scored.scorer, config.score)
        counts = {"samples": len(images), "reference images": scored.reference.images}
        warnings += cautions(scored.scorer, scored.fd, references.weights, counts, scored.reference.unsaid)
        if scored.reference.real is not None and labels is not None:
            classes[name] = by_class(scored.scorer, scored.extracted, labels, scored.reference.real)
    protocol |= {f"sample.{key}": value for key, value in settings.items()}
    for line in warnings:
        print(f"score: {line}", file=sys.stderr)
    write_json(out / "classes.json", classes)
    write_metrics(out, metrics, protocol, left_out=left_out, warnings=warnings)


def _scored(
    config: RunConfig, name: str, images: Images, labels: Labels | None, out: Path, runtime: Runtime
) -> tuple[Scored, References]:
    """The images as a scorer sees them, whose features stay in `out`; and its references."""
    if reason := misfit(config.score, name, config.data):
        raise UserError(reason)
    extractor = load_extractor(name, pick_device(runtime), config.score, runtime.trust_weights)
    references = References(Store(out.parents[1]), config.data, extractor, config.score, name, runtime.batch)
    reference, other = references.configured(), config.floor_split
    real = references.split(other).real if other else None
    extracted = extraction.extract(extractor, images, runtime.batch)
    about = {"features": name, "weights": references.weights}
    extraction.write(
        out / f"features-{name}.safetensors", Real(extracted, labels, extraction.pixel_hash(images)), about
    )
    floor, order = None if real is None else real.extracted, mixed(labels, len(images))
    return Scored(references.scorer, images, labels, extracted, reference, floor, order), references


def _protocol(config: RunConfig, scored: Scored, references: References) -> dict[str, Any]:
    scorer, reference, count = scored.scorer, scored.reference, len(scored.features)
    size, weights = config.data.image_size, references.weights
    protocol = sets.set_protocol(scorer, weights, size, count, reference.images, reference.hash)
    protocol |= references.protocol(reference)
    if reference.real is None:
        protocol["left_out"] = NO_IMAGES
    else:
        protocol |= sets.kid_protocol(scorer, count, len(reference.real))
        if reference.file is not None:
            protocol["prc_reference_images"] = len(reference.real)
    protocol["reference"] = reference.name
    if other := config.floor_split:
        protocol["floor"] = f"{other} against {reference.name}"
    if scored.splits is not None:
        protocol |= memorization_protocol(len(scored.splits[0]))
    return protocol


def _duplicates(images: Images) -> list[str]:
    seen = {hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in images}
    again = len(images) - len(seen)
    return [f"{again} of {len(images)} samples are duplicates of others, pixel by pixel"] if again else []


def _samples(folder: Path) -> tuple[Images, Labels | None, dict[str, Any]]:
    """Samples (N, ch, H, W), labels (N,), None where given samples have none, and the protocol of their making."""
    images, labels = read_array(checked(folder / "samples.npy")), read_labels(folder)
    assert images.dtype == np.uint8, images.dtype
    assert labels is None or len(images) == len(labels), (images.shape, labels.shape)
    return images, labels, read_metrics(folder).protocol
