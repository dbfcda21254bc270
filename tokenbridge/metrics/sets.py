"""Measures of a set of images against a reference set, by their features.

Inception-style score, KID, precision and recall are torch-fidelity's, on features that are at hand; the Fréchet
distance is frechet.py. Each name carries the scorer (fd_digits, fid_tf): by the digits' classifier, none of them is a
FID or an Inception score.

Letters: N images, M reference images, F features, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from tokenbridge.config import UserError
from tokenbridge.metrics.extraction import Array, Labels
from tokenbridge.metrics.frechet import (
    Statistics,
    frechet_distance,
    frechet_left_out,
    jackknife_error,
    jackknife_groups,
)
from tokenbridge.metrics.neighbours import density_coverage
from tokenbridge.metrics.scorers import Scorer

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


def frechet_metrics(fd: str, features: Array, reference: Statistics, left: list[float]) -> dict[str, float]:
    """The distance by its name fd, and its standard error over draws of the images, by the distances of left_out."""
    return {fd: frechet_distance(features, reference), f"{fd}_se": jackknife_error(left)}


def inception_style_score(name: str, logits: Array) -> dict[str, float]:
    """is_<name>, between 1 and K: exp of the mean divergence of class probabilities from their mean (arXiv 1606.03498).

    Logits (N, K) are shuffled and cut into is_splits(N) parts; the mean over parts.
    """
    found = isc_features_to_metric(torch.from_numpy(logits), is_splits(len(logits)), shuffle=True, rng_seed=SEED)
    return {f"is_{name}": found["inception_score_mean"]}


def set_metrics(scorer: Scorer, features: Array, reference: Array) -> dict[str, float]:
    """kid_x1e3 (arXiv 1801.01401, mean of subsets), precision, recall (1904.06991), with the scorer's name.

    Published scorers also give density and coverage (2002.09797). features (N, F), reference (M, F). Raises UserError
    where a set has too few images for the nearest neighbours.
    """
    fewest, name = min(len(features), len(reference)), scorer.suffix
    if fewest <= NEIGHBORHOOD:
        raise UserError(
            f"sets of {len(features)} and {len(reference)} images must each have over {NEIGHBORHOOD}; take more images"
        )
    pair, subsets = (torch.from_numpy(features), torch.from_numpy(reference)), kid_subsets(scorer)
    size = min(KID_SUBSET_SIZE, fewest)
    # torch-fidelity ignores unknown names; save_cpu_ram: distances in pieces
    kid = kid_features_to_metric(*pair, kid_subsets=subsets, kid_subset_size=size, rng_seed=SEED, verbose=False)
    near = prc_features_to_metric(*pair, prc_neighborhood=NEIGHBORHOOD, save_cpu_ram=True, verbose=False)
    found = {
        f"kid_{name}_x1e3": 1000 * kid["kernel_inception_distance_mean"],
        f"precision_{name}": near["precision"],
        f"recall_{name}": near["recall"],
    }
    if scorer.own:
        return found
    density, coverage = density_coverage(features, reference, NEIGHBORHOOD)
    return found | {f"density_{name}": density, f"coverage_{name}": coverage}


def is_splits(count: int) -> int:
    """Parts over which the score is averaged: the usual 10, but 1 below 1,000 images.

    With 36 images a part (360 in 10) the score of real digits would read a tenth low.
    """
    return 10 if count >= 1000 else 1


def kid_subsets(scorer: Scorer) -> int:
    """torch-fidelity's 100, and fewer for the digits."""
    return KID_SUBSETS if scorer.own else 100


def set_protocol(
    scorer: Scorer, weights: str, image_size: int, images: int, reference: int | None, hash: str
) -> dict[str, Any]:
    """What the numbers above depend on beside the images. reference: number of its images, where it is known."""
    return {
        "features": scorer.name,
        "features_weights": weights,
        "reference_images": reference,
        "reference_hash": hash,
        "images": images,
        "image_size": image_size,
        "resize": scorer.resize,
        "is_splits": is_splits(images),
        "fd_se": f"jackknife over {min(JACKKNIFE_GROUPS, images // 2)} groups of images, stratified by label",
    }


def kid_protocol(scorer: Scorer, images: int, reference: int) -> dict[str, Any]:
    """The same for kid, precision and recall; reference: number of the images whose features are there."""
    return {
        "kid_subsets": kid_subsets(scorer),
        "kid_subset_size": min(KID_SUBSET_SIZE, images, reference),
        "prc_neighborhood": NEIGHBORHOOD,
        "metric_seed": SEED,
    }
