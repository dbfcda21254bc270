"""Part (d): training at the largest micro-batch that fits: images per second, memory, utilization."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenbridge.config import RunConfig
from tokenbridge.model.batches import Draws
from tokenbridge.model.costs import training_step_flops
from tokenbridge.model.trainer import Trainer
from tokenbridge.rng import generator
from tokenbridge.speed.card.rows import Clock, Row, Size, medians
from tokenbridge.speed.models import RepeatedBatch, random_model
from tokenbridge.speed.timing import take_turns

FIRST, LARGEST = 16, 1024
"""images of the smallest and of the largest micro-batch that is tried on a GPU; each has twice as many as the last"""
PEAK_SIDE = 8192
"""of the square matrices whose product tells the device's peak"""


def rows(size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    """Steps on one batch of random latents, and the share of a step that drawing each batch adds to it."""
    images, seconds, memory, why = largest(size, device, clock)
    name = f"training, {images} images at once, {size.config.train.precision}"
    if not images:
        yield Row("training", why=why)
        return
    yield Row(f"{name} ({why})" if why else name, images / seconds, "images per second")
    reached = training_step_flops(with_batch(size.config, images)) / seconds
    yield Row(f"{name}, model operations", reached / 1e12, "TFLOP/s")
    yield Row(f"{name}, share of the peak of a product of matrices", 100 * reached / peak(size, device), "%")
    waiting = _step(with_batch(size.config, images), device, size.rounds, drawn=True)[0]
    yield Row(
        f"{name}, share of the step that waits for batches drawn from memory", 100 * max(0, 1 - seconds / waiting), "%"
    )
    if device.type == "cuda":
        yield Row(f"{name}, peak memory", memory / 2**30, "GiB")
    else:
        yield Row(f"{name}, peak memory", why="measured on a GPU alone")


def largest(size: Size, device: torch.device, clock: Clock) -> tuple[int, float, int, str]:
    """Images of the largest micro-batch that fits, seconds of its step, bytes at its peak, and why no larger one."""
    best, images = (0, 0.0, 0), FIRST if device.type == "cuda" else 8
    while images <= (LARGEST if device.type == "cuda" else 8):
        if reason := clock.too_long(4 * best[1]):
            return *best, reason
        try:
            best = images, *_step(with_batch(size.config, images), device, size.rounds)
        except torch.OutOfMemoryError:
            return *best, f"{images} do not fit into memory"
        images *= 2
    return *best, ""


def with_batch(config: RunConfig, images: int) -> RunConfig:
    """The configuration with another batch."""
    return config.model_copy(update={"train": config.train.model_copy(update={"batch": images})})


class RandomLatents:
    """Latents of a data set, in memory, with the part of tokenbridge.data.latents.Latents that batches are drawn by."""

    flips = False

    def __init__(self, config: RunConfig, images: int):
        g, shape = generator("speed", "latents"), (images, config.positions, config.autoencoder.channels)
        self.mean, self.classes = torch.randn(shape, generator=g), torch.arange(images) % config.data.classes

    def labels(self, split: str) -> Tensor:
        """(N) int64."""
        return self.classes

    def posterior(self, split: str, index: NDArray[np.int64], mirrored: object = None) -> tuple[Tensor, Tensor]:
        """Mean and deviation of images, each (B, L, C)."""
        mean = self.mean[torch.from_numpy(index)]
        return mean, torch.full_like(mean, 0.1)


def _step(config: RunConfig, device: torch.device, rounds: int, drawn: bool = False) -> tuple[float, int]:
    """Seconds of a step and bytes at its peak; with `drawn`, each step draws its batch."""
    model = random_model(config, device).train()
    model.backbone.gradient_checkpointing = config.train.gradient_checkpointing
    draws: Draws = RepeatedBatch(config, model, config.train.batch)
    if drawn:
        latents: Any = RandomLatents(config, 8 * config.train.batch)
        draws = Draws(config.train, latents, model.head.loss_noise_shape)
    trainer = Trainer(config.train, draws, model, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    seconds = statistics.median(take_turns({"": trainer.update}, rounds, device).seconds[""])
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def peak(size: Size, device: torch.device) -> float:
    """Operations per second of a product of square matrices in the training's precision, measured here."""
    side = PEAK_SIDE if device.type == "cuda" else 512
    dtype = torch.bfloat16 if size.config.train.precision == "bfloat16" else torch.float32
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    return 2 * side**3 / medians({"": lambda: matrix @ matrix}, 5, device)[""]
