"""The contract of a head: the distribution of one token given its feature.

N positions, C channel, D width of the feature.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenbridge import config
from tokenbridge.config import HEAD_KINDS, Sample

POSITIONS_AT_ONCE = 1024
"""positions whose activations are there at once, where they are computed anew in the backward pass: of the paper's L
8 GB in bfloat16"""


class Head(nn.Module):
    """The base of all heads; HEAD_KINDS of tokenbridge.config declares them.

    A subclass is built from (c, width D, levels, order) where it predicts levels, as CategoricalHead does, and from
    (c, width D, channels C) where it predicts values.

    Attributes:
        noise: what a draw reads, uniforms in [0, 1) or standard normals.
        loss_noise_shape: shape of the normals per position that the loss reads, () for none.
    """

    noise: Literal["uniform", "normal"]
    loss_noise_shape: tuple[int, ...] = ()

    def __init__(self, c: config.Head):
        super().__init__()
        self.kind = c.kind

    def noise_shape(self, how: Sample) -> tuple[int, ...]:
        """The shape of the noise that a draw of one position reads."""
        raise NotImplementedError

    def loss(self, z: Tensor, target: Tensor, noise: Tensor | None = None) -> Tensor:
        """The training loss per position, summed over channels: nats (−log_prob) where the head has a density.

        Args:
            z: (N, D) features.
            target: (N, C) tokens, int64 levels or float32 values.
            noise: (N, *loss_noise_shape) standard normals.

        Returns:
            (N,) float32.
        """
        return -self.log_prob(z, target)

    def loss_in_parts(self, z: Tensor, target: Tensor, noise: Tensor) -> Tensor:
        """The same loss, which keeps its arguments alone for the backward pass (gradient checkpointing).

        That computes the activations of POSITIONS_AT_ONCE positions anew at a time. Gradients differ by rounding, and
        dropout by its draws, where there is more than one part.
        """
        parts = zip(*(each.split(POSITIONS_AT_ONCE) for each in (z, target, noise)), strict=True)
        return torch.cat([checkpoint(self.loss, *part, use_reentrant=False) for part in parts])

    def log_prob(self, z: Tensor, target: Tensor) -> Tensor:
        """Log probability (levels) or log density (values of unit deviation) of tokens, in nats.

        Args:
            z: (N, D) features.
            target: (N, C) tokens, int64 levels or float32 values.

        Returns:
            (N,), summed over channels.

        Raises:
            NotImplementedError: the head has no exact likelihood.
        """
        raise NotImplementedError(f"a {self.kind} head has no exact likelihood")

    def sample(
        self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Draw a token per position; nothing is random but the noise, which is drawn per image outside.

        Args:
            z: (N, D) features.
            noise: (N, *noise_shape(how)) of the kind that `noise` names.
            how: temperature (0: the most likely value), guidance_on, and what this kind of head reads beside them.
            unconditional: (N, D) features without the class, None for an unguided draw.
            guidance: the weight of guide(), applied where guided_on(how) says.

        Returns:
            (N, C) tokens.
        """
        raise NotImplementedError

    def guided_on(self, how: Sample) -> str:
        """What guidance mixes: features, logits or estimate."""
        return HEAD_KINDS[self.kind].guided[0] if how.guidance_on == "auto" else how.guidance_on

    def mixed(
        self, z: Tensor, how: Sample, unconditional: Tensor | None, guidance: float
    ) -> tuple[Tensor, Tensor | None]:
        """The features to draw from, guided already where guidance mixes features.

        Args:
            z: (N, D) features.
            how: its guidance_on says what is mixed.
            unconditional: (N, D) features without the class, None for an unguided draw.
            guidance: the weight of guide().

        Returns:
            (N, D) features, and the unconditional ones where the head itself has to mix; else None.
        """
        if unconditional is None or self.guided_on(how) != "features":
            return z, unconditional
        return guide(z, unconditional, guidance), None


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598).

    Args:
        conditional: features, logits or estimates with the class.
        unconditional: the same without it.
        guidance: 1 gives the conditional value, 0 the unconditional one; above 1 goes beyond the conditional.
    """
    return unconditional + guidance * (conditional - unconditional)
