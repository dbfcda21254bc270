"""Measures of a set of images against a reference set, by their features.

Inception-style score, KID, precision and recall are torch-fidelity's, on features that are at hand; the Fréchet
distance is frechet.py. Each name carries the extractor (fd_digits): none of them is a FID or an Inception score.

Letters: N images, M reference images, F features, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from tokenbridge.config import Data, UserError
from tokenbridge.metrics.extraction import Array, Labels, Real
from tokenbridge.metrics.frechet import (
    Statistics,
    frechet_distance,
    frechet_left_out,
    jackknife_error,
    jackknife_groups,
)
from tokenbridge.weight_files import weights_hash

SEED = 0
KID_SUBSETS = 20
KID_SUBSET_SIZE = 1000
NEIGHBORHOOD = 3
JACKKNIFE_GROUPS = 20


def agreement(logits: Array, labels: Labels) -> float:
    """Share of images whose most likely class is their label."""
    return float(np.mean(logits.argmax(1) == labels))


def left_out(features: Array, labels: Labels, reference: Statistics) -> list[float]:
    """Fréchet distances without each group of a jackknife stratified by label."""
    groups = min(JACKKNIFE_GROUPS, len(features) // 2)
    return frechet_left_out(features, reference, jackknife_groups(labels, groups)).tolist()


def frechet_metrics(name: str, features: Array, reference: Statistics, left: list[float]) -> dict[str, float]:
    """fd_<name> and its standard error over draws of the images, by the distances of left_out."""
    return {f"fd_{name}": frechet_distance(features, reference), f"fd_{name}_se": jackknife_error(left)}


def inception_style_score(name: str, logits: Array) -> dict[str, float]:
    """is_<name>, between 1 and K: exp of the mean divergence of class probabilities from their mean (arXiv 1606.03498).

    Logits (N, K) are shuffled and cut into is_splits(N) parts; the mean over parts.
    """
    found = isc_features_to_metric(torch.from_numpy(logits), is_splits(len(logits)), shuffle=True, rng_seed=SEED)
    return {f"is_{name}": found["inception_score_mean"]}


def set_metrics(name: str, features: Array, reference: Array) -> dict[str, float]:
    """kid_<name>_x1e3 (arXiv 1801.01401, mean of subsets), precision_<name>, recall_<name> (1904.06991).

    features (N, F), reference (M, F). Raises UserError where a set has too few images for the nearest neighbours of
    precision and recall.
    """
    fewest = min(len(features), len(reference))
    if fewest <= NEIGHBORHOOD:
        raise UserError(
            f"sets of {len(features)} and {len(reference)} images must each have over {NEIGHBORHOOD}; take more images"
        )
    pair = torch.from_numpy(features), torch.from_numpy(reference)
    size = min(KID_SUBSET_SIZE, fewest)
    # torch-fidelity ignores unknown names; save_cpu_ram: distances in pieces
    kid = kid_features_to_metric(*pair, kid_subsets=KID_SUBSETS, kid_subset_size=size, rng_seed=SEED, verbose=False)
    near = prc_features_to_metric(*pair, prc_neighborhood=NEIGHBORHOOD, save_cpu_ram=True, verbose=False)
    return {
        f"kid_{name}_x1e3": 1000 * kid["kernel_inception_distance_mean"],
        f"precision_{name}": near["precision"],
        f"recall_{name}": near["recall"],
    }


def is_splits(count: int) -> int:
    """Parts over which the score is averaged: the usual 10, but 1 below 1,000 images.

    With 36 images a part (360 in 10) the score of real digits would read a tenth low.
    """
    return 10 if count >= 1000 else 1


def set_protocol(name: str, data: Data, images: int, reference: Real) -> dict[str, Any]:
    """What the numbers above depend on beside the images."""
    return {
        "features": name,
        "features_weights": weights_hash(name),
        "reference_images": len(reference.features),
        "reference_hash": reference.pixel_hash,
        "images": images,
        "image_size": data.image_size,
        "resize": "none",
        "is_splits": is_splits(images),
        "fd_se": f"jackknife over {min(JACKKNIFE_GROUPS, images // 2)} groups of images, stratified by label",
    }


def kid_protocol(images: int, reference: int) -> dict[str, Any]:
    """The same for kid, precision and recall."""
    return {
        "kid_subsets": KID_SUBSETS,
        "kid_subset_size": min(KID_SUBSET_SIZE, images, reference),
        "prc_neighborhood": NEIGHBORHOOD,
        "metric_seed": SEED,
    }
