"""Memorization: whether generated images lie nearer to the images that the model was trained on than chance has it.

N generated images, T training images, O other real images of the same source, F features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from tokenbridge.metrics.extraction import Array

AT_ONCE = 4096
"""images whose distances are taken together"""
MOST = 100_000
"""training images that are compared at most; of more, every second, third and so on"""


def memorization_protocol(train: int) -> dict[str, int]:
    """How many of so many training images are compared, where not all are: a copy of another one counts as none."""
    compared = len(range(0, train, _step(train)))
    return {"memorized_train_images": compared} if compared < train else {}


def _step(train: int) -> int:
    return max(1, math.ceil(train / MOST))


def memorized(features: Array, train: Array, others: Array) -> tuple[float, float]:
    """The share of generated images beyond chance whose nearest real image is one of the training images.

    To a model that generalizes all T + O real images are alike, so the nearest is one of the others with probability
    O/(T + O); a model that copies its training images has none. With s, the share of generated images whose nearest is
    one of the others, 1 − s·(T + O)/O is 0 on average for the first and 1 for the second, below 0 by chance. (The three
    samples of Meehan, Chaudhuri and Dasgupta, arXiv 2004.05675; theirs compares distances, and reads images of a
    narrower distribution as copies.)

    Args:
        features: float32 (N, F) of generated images.
        train: float32 (T, F) of training images, of which at most MOST are compared.
        others: float32 (O, F) of real images that the model has not seen.

    Returns:
        The share, and its standard error over which of the real images were trained on (of the permutation of real
        images, exact; a few may be near to many generated ones).
    """
    train = train[:: _step(len(train))]
    to_train, nearest_train = _nearest(features, train)
    to_others, nearest_others = _nearest(features, others)
    unseen = (to_others < to_train) / 2 + (to_others <= to_train) / 2  # equal ones count half
    nearest = np.where(unseen > 0.5, len(train) + nearest_others, nearest_train)
    count, chance = len(train) + len(others), len(others) / (len(train) + len(others))
    spread = np.bincount(nearest, minlength=count).std(ddof=1)
    error = math.sqrt(len(others) * (1 - chance)) * float(spread) / len(features)
    return 1 - float(unseen.mean()) / chance, error / chance


def _nearest(features: Array, real: Array) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance and number of the real image nearest to each generated one, (N,)."""
    # float64: distances as products of matrices lose half of their digits
    images, found = torch.from_numpy(real).double(), []
    for part in torch.from_numpy(features).double().split(AT_ONCE):
        each = [torch.cdist(part, block).min(1) for block in images.split(AT_ONCE)]
        distance, block = torch.stack([one.values for one in each]).min(0)
        index = torch.stack([one.indices for one in each]).gather(0, block[None])[0]
        found.append((distance, block * AT_ONCE + index))
    distances, numbers = zip(*found, strict=True)
    return torch.cat(distances).numpy(), torch.cat(numbers).numpy()
