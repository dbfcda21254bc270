"""Tokens, backbone and head together: the loss of masked positions, sampling, and the exact likelihood.

B image, L position, C channel, D width, N = selected positions. Latents have unit deviation, positions row-major.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tokenbridge.config import RunConfig, Sample
from tokenbridge.model.backbone import UNCONDITIONAL, Backbone
from tokenbridge.model.heads import build_head
from tokenbridge.model.masking import guidance_weight, mask_from_order, masked_after, most_confident
from tokenbridge.rng import generator
from tokenbridge.tokenizers import Tokenizer


class Generator(nn.Module):
    """A class-conditional generator of tokens on a fixed tokenizer.

    The tokenizer's values are no parameters of the model and are not in its state dict.

    Args:
        order: (C) channels in the order of prediction (tokenbridge.model.ordering).
    """

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, order: tuple[int, ...]):
        super().__init__()
        config.require_pair()
        self.positions = config.positions
        self.backbone = Backbone(config.backbone, config.positions, tokenizer.embedding_width, config.data.classes)
        self.head = build_head(config.head, config.backbone.width, tokenizer.channels, tokenizer.levels, order)
        self._tokenizer = (tokenizer,)  # in a tuple, so that it is no sub-module

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer[0]

    def forward(self, latents: Tensor, labels: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """The head's loss at the masked positions of all images.

        Args:
            latents: (B, L, E) float32 of unit deviation.
            labels: (B) int64, UNCONDITIONAL for none.
            mask: (B, L) bool, True where masked, as many in each row.
            noise: (B, L, *head.loss_noise_shape) standard normals.

        Returns:
            (N) float32, N masked positions, summed over channels.
        """
        tokens = self.tokenizer.encode(latents)
        z = self.backbone(self.tokenizer.decode(tokens), mask, labels)
        again = self.backbone.gradient_checkpointing and self.training
        return (self.head.loss_in_parts if again else self.head.loss)(z[mask], tokens[mask], noise[mask])

    @torch.no_grad()
    def log_prob(self, latents: Tensor, labels: Tensor, order: Tensor) -> Tensor:
        """The log probability of all tokens, one position at a time.

        Args:
            latents: (B, L, E) float32.
            labels: (B) int64.
            order: (B, L) generation order of each image, revealed from the end.

        Returns:
            (B) nats.
        """
        total = torch.zeros(len(latents), device=latents.device)
        for z, tokens in self.one_by_one(latents, labels, order):
            total += self.head.log_prob(z, tokens)
        return total

    @torch.no_grad()
    def one_by_one(self, latents: Tensor, labels: Tensor, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the feature (B, D) and the token (B, C) of one position of each image after another.

        Each feature has seen the tokens of the positions before its own in the order, and the label.

        Args:
            latents: (B, L, E) float32.
            labels: (B) int64.
            order: (B, L) generation order of each image, revealed from the end.
        """
        tokens = self.tokenizer.encode(latents)
        embedded = self.tokenizer.decode(tokens)
        rows = torch.arange(len(latents), device=latents.device)
        for masked in range(self.positions, 0, -1):
            z = self.backbone(embedded, mask_from_order(order, masked), labels)
            at = order[:, masked - 1]
            yield z[rows, at], tokens[rows, at]

    def noise_shape(self, how: Sample) -> tuple[int, ...]:
        """The shape of one image's noise: (L, *head's), with confidence (iterations, L, *head's)."""
        shape = (self.positions, *self.head.noise_shape(how))
        return (how.iterations, *shape) if how.confidence > 0 else shape

    def draws(self, how: Sample, images: range) -> tuple[Tensor, Tensor]:
        """Generation orders and noise of images, each image from its own generator.

        Args:
            how: its seed and the head's settings.
            images: their numbers.

        Returns:
            (N, L) int64 and (N, *noise_shape(how)) float32, on the CPU.
        """
        shape = self.noise_shape(how)
        draw = {"uniform": torch.rand, "normal": torch.randn}[self.head.noise]
        generators = [generator(how.seed, "sample", i) for i in images]
        orders = torch.stack([torch.randperm(self.positions, generator=g) for g in generators])
        return orders, torch.stack([draw(shape, generator=g) for g in generators])

    @torch.no_grad()
    def sample(self, labels: Tensor, order: Tensor, noise: Tensor, how: Sample) -> Tensor:
        """Tokens (B, L, C) by iterative unmasking (MAR, arXiv 2406.11838, section 3.4), in how.iterations.

        An image depends on its own label, order and noise alone; `draws` makes the last two.

        Args:
            labels: (B) int64 classes.
            order: (B, L) generation orders, revealed from the end.
            noise: (B, *noise_shape(how)) of the kind head.noise.
        """
        shape = (*order.shape, self.tokenizer.channels)
        tokens = torch.zeros(shape, dtype=self.tokenizer.dtype, device=labels.device)
        mask, masked = torch.ones_like(order, dtype=torch.bool), self.positions
        for step, left in enumerate(masked_after(self.positions, how.iterations)):
            z, free = self._features(tokens, mask, labels, guided=how.guidance != 1)
            weight = guidance_weight(how.guidance_schedule, how.guidance, self.positions, left)
            reveal = mask & ~mask_from_order(order, left)
            if how.confidence == 0:
                unconditional = None if free is None else free[reveal]
                drawn = self.head.sample(z[reveal], noise[reveal], how, unconditional, weight)
            else:
                unconditional = None if free is None else free[mask]
                drawn = self.head.sample(z[mask], noise[:, step][mask], how, unconditional, weight)
                believed = self.head.mixed(z[mask], how, unconditional, weight)[0]
                score = self.head.log_prob(believed, drawn) / self.tokenizer.channels
                reveal = most_confident(score * how.confidence, order, mask, masked - left)
                drawn = drawn[reveal[mask]]
            tokens[reveal] = drawn
            mask, masked = mask & ~reveal, left
        return tokens

    def _features(self, tokens: Tensor, mask: Tensor, labels: Tensor, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Features (B, L, D) with the label and, where guided, without it, from one batch of both."""
        embedded = self.tokenizer.decode(tokens)
        if not guided:
            return self.backbone(embedded, mask, labels), None
        both = torch.cat([labels, torch.full_like(labels, UNCONDITIONAL)])
        z, free = self.backbone(embedded.repeat(2, 1, 1), mask.repeat(2, 1), both).chunk(2)
        return z, free
