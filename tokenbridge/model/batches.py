"""The batches of a training. Every draw depends on (seed, step, index of the image in the global batch) alone.

B images of the batch, L position, E latent channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenbridge.config import Train
from tokenbridge.data.latents import Latents
from tokenbridge.model.backbone import UNCONDITIONAL
from tokenbridge.model.masking import mask_from_order, masked_count
from tokenbridge.rng import generator

CHECK_IMAGES = 512
"""images of the validation loss"""


@dataclass
class Batch:
    """The arguments of Generator.forward."""

    latents: Tensor
    """(B, L, E) float32 of unit deviation"""
    labels: Tensor
    """(B) int64, UNCONDITIONAL where dropped"""
    mask: Tensor
    """(B, L) bool"""
    noise: Tensor
    """(B, L, *head.loss_noise_shape) normals"""

    def split(self, size: int) -> list[Batch]:
        """Parts of at most `size` images."""
        columns = (self.latents, self.labels, self.mask, self.noise)
        return [Batch(*part) for part in zip(*(column.split(size) for column in columns), strict=True)]

    def pinned(self) -> Batch:
        """The same in memory that a GPU reads while the processor goes on."""
        return Batch(*(column.pin_memory() for column in (self.latents, self.labels, self.mask, self.noise)))


class Draws:
    """Batches by step: a permutation per epoch, one mask ratio per global batch, the rest per image.

    Args:
        noise_shape: loss_noise_shape of the head.
    """

    def __init__(self, train: Train, latents: Latents, noise_shape: tuple[int, ...] = ()):
        self.noise_shape = noise_shape or (0,)
        self.train, self.latents, self.labels = train, latents, latents.labels("train")
        self.images = len(self.labels)
        self.epoch_steps = self.images // train.batch
        train.require_images(self.images)
        self.steps = train.epochs * self.epoch_steps
        self._shuffled = lru_cache(1)(self._permutation)  # of 1.28 million images it takes 23 ms, in each step

    def batch(self, step: int, images: range | None = None) -> Batch:
        """The global batch of a step, or those of its images that are asked for, with the same draws.

        Args:
            step: of the training, from 0.
            images: positions within the global batch; None for all.
        """
        images = range(self.train.batch) if images is None else images
        seed = self.train.seed
        epoch, turn = divmod(step, self.epoch_steps)
        index = self._shuffled(epoch)[turn * self.train.batch + torch.tensor(images)]
        mirrored = self._mirrored(step, images) if self.latents.flips else None
        mean, deviation = self.latents.posterior("train", index.numpy(), mirrored)
        positions = mean.shape[1]
        generators = [generator(seed, "train", step, i) for i in images]
        noise = torch.stack([torch.randn(mean.shape[1:], generator=g) for g in generators])
        order = torch.stack([torch.randperm(positions, generator=g) for g in generators])
        dropped = torch.stack([torch.rand((), generator=g) for g in generators]) < self.train.label_drop
        uniform = float(torch.rand((), generator=generator(seed, "mask", step), dtype=torch.float64))
        mask = self.mask(order, uniform)
        labels = self.labels[index].masked_fill(dropped, UNCONDITIONAL)
        return Batch(mean + deviation * noise, labels, mask, self._noise(positions, generators))

    def _permutation(self, epoch: int) -> Tensor:
        """(N) the images of an epoch in their order."""
        return torch.randperm(self.images, generator=generator(self.train.seed, "epoch", epoch))

    def _mirrored(self, step: int, images: range) -> NDArray[np.int64]:
        """(B) 1 where the mirror image is taken, else 0, by generators of their own, so that the other draws stay."""
        draws = [torch.randint(2, (), generator=generator(self.train.seed, "flip", step, i)) for i in images]
        return torch.stack(draws).numpy()

    def _noise(self, positions: int, generators: list[torch.Generator]) -> Tensor:
        """The normals (B, L, *noise_shape) that the head's loss reads, none for most heads."""
        return torch.stack([torch.randn((positions, *self.noise_shape), generator=g) for g in generators])

    def mask(self, order: Tensor, uniform: float) -> Tensor:
        """A mask (B, L) bool, True where masked, with as many in each row.

        Args:
            order: (B, L) int64, generation orders.
            uniform: the quantile of the mask ratio, in [0, 1).
        """
        ratio_min, deviation = self.train.mask_ratio_min, self.train.mask_ratio_deviation
        return mask_from_order(order, masked_count(uniform, order.shape[1], ratio_min, deviation))

    def validation(self) -> Batch | None:
        """The same few images, masks and draws at every check; no label is dropped. None without validation images."""
        if not self.latents.has("validation"):
            return None
        check = generator("validation check")
        latents = self.latents.posterior_sample("validation", check, CHECK_IMAGES)
        order = torch.stack([torch.randperm(latents.shape[1], generator=check) for _ in latents])
        noise = self._noise(latents.shape[1], [check] * len(latents))
        labels = self.latents.labels("validation")[self.latents.few("validation", CHECK_IMAGES)]
        return Batch(latents, labels, self.mask(order, 0.5), noise)


class Ahead:
    """The micro-batches of a training in their order, each prepared by a thread while the one before is worked on.

    Args:
        draws: gives them, with the same draws whoever asks.
        parts: positions within the global batch of each micro-batch of a step.
        device: that trains on them; of a GPU, they come in pinned memory.
    """

    def __init__(self, draws: Draws, parts: Sequence[range], device: torch.device):
        self.draws, self.parts, self.device = draws, parts, device
        self._thread = ThreadPoolExecutor(1, "batches")
        self._next: tuple[tuple[int, int], Future[Batch]] | None = None

    def take(self, step: int, part: int) -> Batch:
        """A micro-batch; the one that follows it begins to be prepared."""
        key, ready = self._next or (None, None)
        batch = ready.result() if ready and key == (step, part) else self._prepare(step, part)
        following = divmod(step * len(self.parts) + part + 1, len(self.parts))
        self._next = None
        if following[0] < self.draws.steps:
            self._next = following, self._thread.submit(self._prepare, *following)
        return batch

    def _prepare(self, step: int, part: int) -> Batch:
        batch = self.draws.batch(step, self.parts[part])
        if self.device.type != "cuda":
            return batch
        with torch.cuda.device(self.device):  # a thread has a current device of its own
            return batch.pinned()
