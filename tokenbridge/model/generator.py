"""Tokens, backbone and head together: the loss of masked positions, sampling, and the exact likelihood.

B image, L position, U seen and R drawn positions, C channel, D width, N = selected positions. Latents have unit
deviation, positions row-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from tokenbridge.config import RunConfig, Sample
from tokenbridge.model.backbone import UNCONDITIONAL, Backbone, take
from tokenbridge.model.heads import Head, build_head
from tokenbridge.model.heads.captured import Draw
from tokenbridge.model.masking import confidence_noise, guidance_weight, least_confident_first, masked_after
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
        parts = self.backbone.gradient_checkpointing  # in evaluation as well, where as many positions are masked
        return (self.head.loss_in_parts if parts else self.head.loss)(z[mask], tokens[mask], noise[mask])

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
        for masked in range(self.positions, 0, -1):
            at, seen = order[:, masked - 1 : masked], order[:, masked:].sort(1).values
            yield self.backbone.at(embedded, seen, labels, at)[:, 0], take(tokens, at)[:, 0]

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
    def sample(self, labels: Tensor, order: Tensor, noise: Tensor, how: Sample, draw: Draw | None = None) -> Tensor:
        """Tokens (B, L, C) by iterative unmasking (MAR, arXiv 2406.11838, section 3.4), in how.iterations.

        An image depends on its own label, order and noise alone; `draws` makes the last two.

        Args:
            labels: (B) int64 classes.
            order: (B, L) generation orders, revealed from the end.
            noise: (B, *noise_shape(how)) of the kind head.noise.
            draw: in place of the head's own, such as one captured in graphs.
        """
        draw = draw or partial(_draw, self.head, how)
        shape = (*order.shape, self.tokenizer.channels)
        tokens = torch.zeros(shape, dtype=self.tokenizer.dtype, device=labels.device)
        gumbel = confidence_noise(order) if how.confidence > 0 else None
        masked = self.positions
        for step, left in enumerate(masked_after(self.positions, how.iterations)):
            own = noise if gumbel is None else noise[:, step]
            order = self.iteration(tokens, order, masked, left, labels, own, how, draw, gumbel)
            masked = left
        return tokens

    def iteration(
        self,
        tokens: Tensor,
        order: Tensor,
        masked: int,
        left: int,
        labels: Tensor,
        noise: Tensor,
        how: Sample,
        draw: Draw,
        gumbel: Tensor | None = None,
    ) -> Tensor:
        """Draw the positions that one iteration reveals, in place. All indices are known or computed on the device.

        Args:
            tokens: (B, L, C), of which those of order[:, masked:] are known.
            order: (B, L) generation orders.
            masked: positions that are masked before it.
            left: positions that stay masked.
            labels: (B) int64 classes.
            noise: (B, L, *head's).
            how: its guidance counts, and its confidence with gumbel.
            draw: Head.sample, or one captured in graphs.
            gumbel: (B, L) noise of the positions to reveal by confidence; None for the order's.

        Returns:
            The order, revealed from the end; confidence changes it.
        """
        weight = guidance_weight(how.guidance_schedule, how.guidance, self.positions, left)
        first = left if gumbel is None else 0  # by confidence, all masked positions are drawn
        at, seen = order[:, first:masked].sort(1).values, order[:, masked:].sort(1).values
        z, free = self._features(tokens, seen, at, labels, guided=weight != 1)
        drawn = draw(z, take(noise, at).flatten(0, 1), free, weight)
        if gumbel is not None:
            nats = self.head.log_prob(self.head.mixed(z, how, free, weight)[0], drawn).view(at.shape)
            rising = least_confident_first(nats / self.tokenizer.channels * how.confidence, take(gumbel, at))
            order = torch.cat([take(at, rising), order[:, masked:]], dim=1)
            at, drawn = order[:, left:masked], take(drawn.view(*at.shape, -1), rising[:, left:])
        tokens.scatter_(1, at[..., None].expand(-1, -1, tokens.shape[-1]), drawn.view(*at.shape, -1))
        return order

    def _features(
        self, tokens: Tensor, seen: Tensor, at: Tensor, labels: Tensor, guided: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Features (B·R, D) of positions (B, R), given those seen (B, U), with the label and, where guided, without.

        Both are rows of one batch.
        """
        embedded = self.tokenizer.decode(tokens)
        if seen.shape[1] == 0:
            return self._first(embedded[:1], at, labels, guided)
        if not guided:
            return self.backbone.at(embedded, seen, labels, at).flatten(0, 1), None
        both = torch.cat([labels, torch.full_like(labels, UNCONDITIONAL)])
        z = self.backbone.at(embedded.repeat(2, 1, 1), seen.repeat(2, 1), both, at.repeat(2, 1))
        conditional, free = z.flatten(0, 1).chunk(2)
        return conditional, free

    def _first(self, embedded: Tensor, at: Tensor, labels: Tensor, guided: bool) -> tuple[Tensor, Tensor | None]:
        """Features of positions (B, R), as _features gives them, of images of which no position is seen.

        They depend on the label alone: those of all classes, or of the images where they are fewer, are computed once,
        and those without a label once for all images.
        """
        classes = self.backbone.class_embedding.num_embeddings
        few = classes < len(labels)
        row = labels if few else torch.arange(len(labels), device=labels.device)
        known = torch.arange(classes, device=labels.device) if few else labels
        if few or guided:
            known = torch.cat([known, known.new_full((1,), UNCONDITIONAL)])
        z = self.backbone.at(embedded.expand(len(known), -1, -1), at.new_empty(len(known), 0), known)
        return z[row[:, None], at].flatten(0, 1), z[-1][at].flatten(0, 1) if guided else None


def _draw(head: Head, how: Sample, z: Tensor, noise: Tensor, unconditional: Tensor | None, guidance: float) -> Tensor:
    return head.sample(z, noise, how, unconditional, guidance)
