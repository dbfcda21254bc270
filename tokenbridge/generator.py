"""Tokens, backbone and head together: the loss of masked positions, sampling, and the exact likelihood.

B image, L position, C channel, D width, N = selected positions. Latents have unit deviation, positions row-major.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenbridge.backbone import UNCONDITIONAL, Backbone
from tokenbridge.config import RunConfig, Sample
from tokenbridge.heads import build_head
from tokenbridge.masking import guidance_weight, mask_from_order, masked_after
from tokenbridge.quantizers import Tokenizer


class Generator(nn.Module):
    """A class-conditional generator of tokens on a fixed tokenizer.

    order: channels in the order of prediction (tokenbridge.ordering). The tokenizer's values are no parameters of the
    model and are not in its state dict.
    """

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, order: tuple[int, ...]):
        super().__init__()
        config.require_categorical()
        self.positions = config.positions
        self.backbone = Backbone(config.backbone, config.positions, tokenizer.embedding_width, config.data.classes)
        self.head = build_head(config.head, config.backbone.width, tokenizer.levels, order)
        self._tokenizer = (tokenizer,)  # in a tuple, so that it is no sub-module

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer[0]

    def forward(self, latents: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Nats of the tokens at masked positions, summed over channels: (N,), N = masked positions of all images.

        latents (B, L, C) float; labels (B,) int64 or UNCONDITIONAL; mask (B, L) bool, as many True in each row.
        """
        tokens = self.tokenizer.encode(latents)
        z = self.backbone(self.tokenizer.decode(tokens), mask, labels)
        return self.head.loss(z[mask], tokens[mask])

    @torch.no_grad()
    def log_prob(self, latents: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """(B,) nats: log probability of all tokens, one position at a time in each image's order (B, L), last first."""
        tokens = self.tokenizer.encode(latents)
        embedded = self.tokenizer.decode(tokens)
        total = torch.zeros(len(latents), device=latents.device)
        rows = torch.arange(len(latents), device=latents.device)
        for masked in range(self.positions, 0, -1):
            z = self.backbone(embedded, mask_from_order(order, masked), labels)
            at = order[:, masked - 1]
            total += self.head.log_prob(z[rows, at], tokens[rows, at])
        return total

    @torch.no_grad()
    def sample(self, labels: Tensor, order: Tensor, noise: Tensor, how: Sample) -> Tensor:
        """Tokens (B, L, C) by iterative unmasking; an image depends on its own label, order and noise alone.

        labels (B,) int64; order (B, L): revealed from the end; noise (B, L, *head.noise_shape), of the kind head.noise.
        """
        channels = self.tokenizer.channels
        tokens = torch.zeros(len(labels), self.positions, channels, dtype=torch.int64, device=labels.device)
        guided = how.guidance != 1.0
        both = torch.cat([labels, torch.full_like(labels, UNCONDITIONAL)]) if guided else labels
        masked = self.positions
        for left in masked_after(self.positions, how.iterations):
            mask = mask_from_order(order, masked)
            reveal = mask & ~mask_from_order(order, left)
            embedded = self.tokenizer.decode(tokens)
            if guided:  # one batch for both passes
                z, free = self.backbone(embedded.repeat(2, 1, 1), mask.repeat(2, 1), both).chunk(2)
                weight = guidance_weight(how.guidance_schedule, how.guidance, self.positions, left)
                drawn = self.head.sample(z[reveal], noise[reveal], how.temperature, free[reveal], weight)
            else:
                z = self.backbone(embedded, mask, both)
                drawn = self.head.sample(z[reveal], noise[reveal], how.temperature)
            tokens[reveal] = drawn
            masked = left
        return tokens
