"""Which positions are masked when: pure functions (MAR, arXiv 2406.11838, as used by TokenBridge).

B image, L position, R positions of each image that may be revealed. A generation order is a permutation of the
positions; m masked positions are its first m, so sampling reveals from the end.
"""

from __future__ import annotations

import math

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor


def masked_count(uniform: float, positions: int, ratio_min: float, deviation: float) -> int:
    """Number of masked positions in training: ceil(L·ratio), ratio from N(1, deviation²) cut to [ratio_min, 1].

    Args:
        uniform: the quantile of the ratio, in [0, 1).
        positions: L, of an image.
        ratio_min: the lowest ratio.
        deviation: of the normal distribution before it is cut.
    """
    low = ndtr((ratio_min - 1) / deviation)
    ratio = 1 + deviation * float(ndtri(low + uniform * (0.5 - low)))
    return min(positions, math.ceil(positions * ratio))


def mask_from_order(order: Tensor, masked: int) -> Tensor:
    """(B, L) bool, True = masked: the first `masked` positions of each row of order (B, L)."""
    mask = torch.zeros_like(order, dtype=torch.bool)
    return mask.scatter_(1, order[:, :masked], True)


def masked_after(positions: int, iterations: int) -> list[int]:
    """Numbers of masked positions left after each of N iterations: floor(L·cos(π/2·(k+1)/N)), falling by 1 at least."""
    assert 1 <= iterations <= positions
    left, counts = positions, []
    for k in range(iterations - 1):
        left = min(left - 1, math.floor(positions * math.cos(math.pi / 2 * (k + 1) / iterations)))
        counts.append(left)
    return [*counts, 0]


def guidance_weight(schedule: str, guidance: float, positions: int, masked: int) -> float:
    """Classifier-free guidance weight in an iteration that leaves m = `masked` of L = `positions` positions.

    The released sampler counts at least one masked position, in the last iteration too; so do we, to reproduce released
    numbers.

    Args:
        schedule: "constant": the guidance itself; "linear": w = 1 + (guidance - 1)·(L - m)/L; "cosine": the same
            share s of revealed positions bent to (1 - cos(π·s))/2.
        guidance: the configured weight; 1 is unguided.
        positions: of an image.
        masked: positions that are masked after the iteration.
    """
    if schedule == "constant":
        return guidance
    share = (positions - max(masked, 1)) / positions
    if schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return 1 + (guidance - 1) * share


def confidence_noise(order: Tensor) -> Tensor:
    """(B, L) Gumbel noise of each position, from random generation orders (B, L): rank r stands for the quantile
    (r + ½)/L."""
    rank = torch.arange(order.shape[1], device=order.device)
    gumbel = -(-((rank + 0.5) / len(rank)).log()).log()
    return torch.empty_like(order, dtype=gumbel.dtype).scatter_(1, order, gumbel.expand(order.shape))


def least_confident_first(score: Tensor, noise: Tensor) -> Tensor:
    """(B, R) indices of R positions by rising score and noise (B, R) together.

    The last k are those to reveal: Gumbel-top-k, a draw without replacement in proportion to exp(score); equal scores
    give the random order that the noise was made of.
    """
    return (score + noise).argsort(dim=1)
