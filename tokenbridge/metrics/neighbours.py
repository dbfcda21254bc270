"""Density and coverage of generated images among real ones (arXiv 2002.09797), by their features.

N generated images, M real ones, B of them at once, F features. A ball is around each real image, its radius the
distance to the k-th nearest other real image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenbridge.metrics.extraction import Array

BATCH = 10_000


def density_coverage(features: Array, reference: Array, k: int) -> tuple[float, float]:
    """Mean number of balls that a generated image lies in, over k; share of balls that hold a generated image.

    features (N, F), reference (M, F), M > k.
    """
    generated, real = torch.from_numpy(features), torch.from_numpy(reference)
    inside, covered = 0, 0
    for centres in real.split(BATCH):
        # the nearest is the image itself
        radius = _distances(centres, real).kthvalue(k + 1, dim=1).values
        within = _distances(centres, generated) < radius[:, None]
        inside += int(within.sum())
        covered += int(within.any(1).sum())
    return inside / (k * len(generated)), covered / len(real)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """(B, N)"""
    return torch.cat([torch.cdist(first, part) for part in second.split(BATCH)], 1)
