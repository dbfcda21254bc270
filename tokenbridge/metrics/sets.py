"""Measures of a set of images against a reference set, by their features; the Fréchet distance is in frechet.py.

Inception-style score and KID are torch-fidelity's, precision and recall equal its. Each name carries the scorer
(kid_tf_x1e3): by the digits' classifier, none of them is an Inception score.

Letters: N images, M reference images, B of them at once, F features, K classes.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenbridge.config import UserError
from tokenbridge.metrics import frechet
from tokenbridge.metrics.extraction import Array, Labels
from tokenbridge.metrics.libraries import fidelity
from tokenbridge.metrics.scorers import Scorer

SEED = 0
KID_SUBSETS = 20
KID_SUBSET_SIZE = 1000
NEIGHBORHOOD = 3
CMMD_SIGMA, CMMD_SCALE = 10, 1000
BATCH = 10_000
"""images at once for distances, as torch-fidelity has them"""
ROWS = 1_000
"""images at once for kernels"""
KEPT = 4
_kept = dict[tuple[Any, ...], Tensor]()
"""radii of the last KEPT references by the SHA-256, type and shape of their features, and k"""


def agreement(logits: Array, labels: Labels) -> float:
    """Share of images whose most likely class is their label."""
    return float(np.mean(logits.argmax(1) == labels))


def inception_style_score(name: str, logits: Array) -> dict[str, float]:
    """is_<name>, between 1 and K: exp of the mean divergence of class probabilities from their mean (arXiv 1606.03498).

    Logits (N, K) are shuffled and cut into is_splits(N) parts; the mean over parts.
    """
    score = fidelity("isc")(torch.from_numpy(logits), is_splits(len(logits)), shuffle=True, rng_seed=SEED)
    return {f"is_{name}": score["inception_score_mean"]}


def set_metrics(scorer: Scorer, features: Array, reference: Array) -> dict[str, float]:
    """KID × 10³ (arXiv 1801.01401), precision and recall (1904.06991); names carry the scorer's suffix.

    Published scorers also give density and coverage.

    Args:
        features: (N, F) of generated images.
        reference: (M, F) of real ones.

    Raises:
        UserError: a set has too few images for the nearest neighbours.
    """
    fewest, name = min(len(features), len(reference)), scorer.suffix
    if fewest <= NEIGHBORHOOD:
        raise UserError(
            f"sets of {len(features)} and {len(reference)} images must each have over {NEIGHBORHOOD}; take more images"
        )
    pair, subsets = (torch.from_numpy(features), torch.from_numpy(reference)), kid_subsets(scorer)
    size = min(KID_SUBSET_SIZE, fewest)
    # torch-fidelity ignores unknown names
    kid = fidelity("kid")(*pair, kid_subsets=subsets, kid_subset_size=size, rng_seed=SEED, verbose=False)
    precision, recall = precision_recall(*pair, NEIGHBORHOOD)
    metrics = {
        f"kid_{name}_x1e3": 1000 * kid["kernel_inception_distance_mean"],
        f"precision_{name}": precision,
        f"recall_{name}": recall,
    }
    if scorer.in_domain:
        return metrics
    density, coverage = density_coverage(features, reference, NEIGHBORHOOD)
    return metrics | {f"density_{name}": density, f"coverage_{name}": coverage}


def precision_recall(generated: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """Precision and recall (arXiv 1904.06991), the numbers of torch-fidelity to the last bit.

    It finds the radii of the reference anew for each set of images, which at 50,000 images takes far longer than all
    else; here they are kept from one set to the next.

    Args:
        generated: float32 (N, F), N > k.
        real: float32 (M, F), M > k.
        k: a ball's radius is the distance to the k-th nearest other image of its set.

    Returns:
        The share of generated images in a ball around a real one, and of real images in one around a generated one.
    """

    def share(images: Tensor, centres: Tensor, radii: Tensor) -> float:
        inside = torch.zeros(len(images), dtype=torch.bool)
        for found, part in zip(inside.split(BATCH), images.split(BATCH), strict=True):
            for some, balls in zip(centres.split(BATCH), radii.split(BATCH), strict=True):
                found |= (torch.cdist(part, some) <= balls).any(1)
        return inside.float().mean().item()

    return share(generated, real, _kept_radii(real, k)), share(real, generated, _radii(generated, k))


def kernel_distance(first: Array, second: Array) -> float:
    """KID of all images at once, without bias (arXiv 1801.01401), of features (N, F), (M, F): kernel (x·y/F + 1)³."""
    x, y = (torch.from_numpy(each).double() for each in (first, second))

    def total(a: Tensor, b: Tensor) -> float:
        return float(sum(((part @ b.T / a.shape[1] + 1) ** 3).sum() for part in a.split(ROWS)))

    def within(a: Tensor) -> float:
        of_itself = float(((a.square().sum(1) / a.shape[1] + 1) ** 3).sum())
        return (total(a, a) - of_itself) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))


def cmmd(features: Array, reference: Array) -> float:
    """CMMD (arXiv 2401.09603): squared kernel distance of embeddings of unit length, × 1000.

    Kernel exp(−|x − y|²/2σ²) with σ = 10, an image's pair with itself included, as in cmmd/distance.py
    of github.com/google-research/google-research.

    Args:
        features: (N, F) of generated images.
        reference: (M, F) of real ones.

    Returns:
        At least 0 but for rounding.
    """
    x, y = (nn.functional.normalize(torch.from_numpy(each).double(), dim=1) for each in (features, reference))

    def kernel(a: Tensor, b: Tensor) -> float:
        parts = ((-(1 - part @ b.T) / CMMD_SIGMA**2).exp().sum() for part in a.split(ROWS))  # |x − y|² = 2 − 2 x·y
        return float(sum(parts)) / (len(a) * len(b))

    return CMMD_SCALE * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


def density_coverage(features: Array, reference: Array, k: int) -> tuple[float, float]:
    """Density and coverage (arXiv 2002.09797, eq. 2 and 3).

    A ball is around each real image, its radius the distance to the k-th nearest other real image. Density is the mean
    number of balls that a generated image lies in, over k; coverage the share of balls that hold a generated image.

    Args:
        features: (N, F) of generated images.
        reference: (M, F) of real ones, M > k.
    """
    generated, real = torch.from_numpy(features), torch.from_numpy(reference)
    inside, covered = 0, 0
    for centres, radii in zip(real.split(BATCH), _kept_radii(real, k).split(BATCH), strict=True):
        holds = torch.zeros(len(centres), dtype=torch.bool)
        for part in generated.split(BATCH):
            within = torch.cdist(centres, part) < radii[:, None]
            inside += int(within.sum())
            holds |= within.any(1)
        covered += int(holds.sum())
    return inside / (k * len(generated)), covered / len(real)


def _kept_radii(real: Tensor, k: int) -> Tensor:
    """The radii of a reference, computed once as long as it is among the last few that were asked for."""
    values = np.ascontiguousarray(real.numpy())
    key = sha256(values.data).hexdigest(), values.dtype, values.shape, k
    _kept[key] = radii = _kept.pop(key) if key in _kept else _radii(real, k)
    while len(_kept) > KEPT:
        del _kept[next(iter(_kept))]
    return radii


def _radii(centres: Tensor, k: int) -> Tensor:
    """Distances (M,) of images (M, F) to the k-th nearest other one."""
    return torch.cat([_nearest(part, centres, k + 1)[:, -1] for part in centres.split(BATCH)])  # the first is itself


def _nearest(images: Tensor, others: Tensor, count: int) -> Tensor:
    """Distances (B, count) of images (B, F) to the nearest of others (M, F), the smallest first."""
    nearest = images.new_full((len(images), count), torch.inf)
    for part in others.split(BATCH):
        # kthvalue takes 15 times as long
        nearest = torch.cat([nearest, torch.cdist(images, part)], 1).topk(count, largest=False).values
    return nearest


def is_splits(count: int) -> int:
    """Parts over which the score is averaged: the usual 10, but 1 below 1,000 images.

    With 36 images per part (360 in 10) the score of real digits would read a tenth low.
    """
    return 10 if count >= 1000 else 1


def kid_subsets(scorer: Scorer) -> int:
    """The number of KID's subsets: torch-fidelity's 100, and fewer of in-domain features."""
    return KID_SUBSETS if scorer.in_domain else 100


def set_protocol(
    scorer: Scorer, weights: str, image_size: int | None, images: int | None, reference: int | None, hash: str
) -> dict[str, Any]:
    """The settings that a scorer's numbers depend on beside the images.

    Args:
        weights: SHA-256 of the scorer's, hex.
        image_size: pixels per side, where they are known.
        images: N, where it is known.
        reference: M, where it is known.
        hash: of the reference.
    """
    protocol = {
        "features": scorer.name,
        "features_weights": weights,
        "reference_images": reference,
        "reference_hash": hash,
        "images": images,
        "image_size": image_size,
        "resize": scorer.resize,
    }
    if images is None:
        return protocol
    error = f"jackknife over {frechet.groups(images)} groups of images, stratified by label"
    return protocol | {"is_splits": is_splits(images), "fd_se": error}


def kid_protocol(scorer: Scorer, images: int, reference: int) -> dict[str, Any]:
    """The settings of KID, precision and recall; reference: number of the images whose features are there."""
    return {
        "kid_subsets": kid_subsets(scorer),
        "kid_subset_size": min(KID_SUBSET_SIZE, images, reference),
        "prc_neighborhood": NEIGHBORHOOD,
        "metric_seed": SEED,
    }
