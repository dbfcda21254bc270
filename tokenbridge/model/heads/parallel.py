"""Parallel head: all channels at once, independent given the feature (table 2a of arXiv 2503.16430).

N positions, T steps (channels or groups of them), V classes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenbridge.config import Sample
from tokenbridge.model.heads.categorical import CategoricalHead, draw_class
from tokenbridge.model.heads.contract import guide


class ParallelHead(CategoricalHead):
    """The autoregressive head's transformer without the levels as input: same width, depth and conditioning.

    Channel queries attend to each other, but each is a function of the feature alone, so p(q) = Π_c p(q_c | z).
    """

    def logits(self, z: Tensor, target: Tensor | None = None) -> Tensor:
        condition = self.condition(z)[:, None]
        x = condition + self.position
        modulations, final = self.modulations(condition + self.step)
        for block, modulation in zip(self.layers, modulations, strict=True):
            x = block(x, modulation, causal=False)
        return self.classify(self.finish(x, final))

    def draw(self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None, guidance: float) -> Tensor:
        logits = self.logits(z)
        if unconditional is not None:
            logits = guide(logits, self.logits(unconditional), guidance).masked_fill(self.invalid, -torch.inf)
        return draw_class(logits, noise, how)
