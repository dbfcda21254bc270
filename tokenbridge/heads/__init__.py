"""Heads: the distribution of one token given its feature. One contract, one file a head.

N positions, C channel, V level, D width of the feature.

loss(z (N, D), target (N, C)) -> (N,): nats, summed over channels (where the head has a likelihood, minus log_prob)
log_prob(z, target) -> (N,): log probability of the token, nats
sample(z, noise, temperature, unconditional, guidance) -> (N, C): noise is drawn per image outside, (N, *noise_shape) of
the kind head.noise, so a draw depends on its image alone; temperature 0 takes the most likely value.
unconditional (N, D) and guidance w mix where the head says (head.guidance_on).
"""

from __future__ import annotations

from tokenbridge.config import Head
from tokenbridge.heads.autoregressive import AutoregressiveHead
from tokenbridge.heads.categorical import CategoricalHead
from tokenbridge.heads.parallel import ParallelHead

HEADS: dict[str, type[CategoricalHead]] = {"autoregressive": AutoregressiveHead, "parallel": ParallelHead}


def build_head(config: Head, width: int, levels: tuple[int, ...], order: tuple[int, ...]) -> CategoricalHead:
    """The configured head for features of a width and tokens with these levels a channel, predicted in this order."""
    return HEADS[config.kind](config, width, levels, order)


__all__ = ["HEADS", "CategoricalHead", "build_head"]
