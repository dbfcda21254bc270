"""The released way to sample whole images, on our own weights: the opponent of the sampler in comparisons of speed.

As the code of TokenBridge (commit 3ede281) and MAR (fe470ac) runs: all positions through all blocks, a pass with the
label and one without (MAR: both in one batch), positions chosen by masks, the whole prefix of channels again for each
channel, modulations of a diffusion head again in each step. The draws are those of our sampler, so both give the same
tokens.

B image, L position, C channel, D width, N = selected positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenbridge.config import RunConfig, UserError
from tokenbridge.model.backbone import UNCONDITIONAL
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads.autoregressive import AutoregressiveHead
from tokenbridge.model.heads.contract import Head
from tokenbridge.model.masking import guidance_weight, mask_from_order, masked_after
from tokenbridge.speed.heads import step_by_step

KINDS = ("autoregressive", "diffusion")
"""heads of which there is a released sampler"""


class ReleasedSampler:
    """Draws tokens from a generator as the released code does.

    Raises:
        UserError: the config's head was not released, or the config reveals positions by confidence.
    """

    def __init__(self, model: Generator, config: RunConfig):
        kind, how = config.head.kind, config.sample
        if kind not in KINDS or how.confidence > 0:
            raise UserError(f"head.kind={kind} with sample.confidence={how.confidence:g} has no released sampler")
        self.model, self.how = model, how
        self.head: Head = model.head if kind == "autoregressive" else step_by_step(model.head, config)

    @torch.no_grad()
    def __call__(self, labels: Tensor, order: Tensor, noise: Tensor) -> Tensor:
        """Tokens (B, L, C), those of Generator.sample for the same arguments.

        Args:
            labels: (B) int64 classes.
            order: (B, L) generation orders, revealed from the end.
            noise: (B, *noise_shape(how)) of the kind head.noise.
        """
        model, how = self.model, self.how
        mask = torch.ones(order.shape, device=order.device)
        tokens = torch.zeros(*order.shape, model.tokenizer.channels, dtype=model.tokenizer.dtype, device=labels.device)
        for left in masked_after(model.positions, how.iterations):
            current = tokens.clone()
            z, free = self._features(model.tokenizer.decode(current), mask.bool(), labels)
            after = mask_from_order(order, left).float()
            reveal = torch.logical_xor(mask.bool(), after.bool()).nonzero(as_tuple=True)
            weight = guidance_weight(how.guidance_schedule, how.guidance, model.positions, left)
            current[reveal] = self._draw(z[reveal], None if free is None else free[reveal], noise[reveal], weight)
            tokens, mask = current, after
        return tokens

    def _features(self, embedded: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, L, D) with the label and, where guided, without it."""
        backbone, none = self.model.backbone, torch.full_like(labels, UNCONDITIONAL)
        if self.how.guidance == 1:
            return backbone(embedded, mask, labels), None
        if isinstance(self.head, AutoregressiveHead):
            return backbone(embedded, mask, labels), backbone(embedded, mask, none)
        z, free = backbone(torch.cat([embedded, embedded]), torch.cat([mask, mask]), torch.cat([labels, none])).chunk(2)
        return z, free

    def _draw(self, z: Tensor, free: Tensor | None, noise: Tensor, weight: float) -> Tensor:
        """Tokens (N, C)."""
        if not isinstance(self.head, AutoregressiveHead):
            return self.head.sample(z, noise, self.how, free, weight)
        z, rest = self.head.mixed(z, self.how, free, weight)
        assert rest is None, "the release guides features"
        return self.head.tokens(self.head.draw_recomputing(z, noise, self.how))
