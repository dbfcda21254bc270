"""Time of a whole model: sampling of images and steps of training, with random weights and random latents.

B image, L position, E latent channel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenbridge.config import RunConfig
from tokenbridge.model.batches import Batch, Draws
from tokenbridge.model.generator import Generator
from tokenbridge.model.masking import mask_from_order, masked_count
from tokenbridge.model.trainer import Trainer
from tokenbridge.rng import drawn_from, generator
from tokenbridge.speed.heads import open_gates
from tokenbridge.speed.timing import summary, take_turns
from tokenbridge.tokenizers import Tokenizer
from tokenbridge.tokenizers.scalar import fit
from tokenbridge.tokenizers.trained import codebooks, finish

IMAGES = 8
"""images sampled at once"""
MOST_TRAINED = 64
"""images of a training step; of a larger global batch, one process has a part"""
MOST_ON_CPU = 20_000_000
"""weights of the backbone's blocks up to which a CPU is asked: beyond, an image takes minutes"""
CALIBRATION = 20_000
"""random latent vectors that a tokenizer is fitted to"""


def reason_to_leave_out(config: RunConfig, device: torch.device) -> str:
    """Why a whole model is not measured here; empty where it is."""
    c = config.backbone
    weights = 12 * c.width**2 * (c.encoder_depth + c.decoder_depth)
    if device.type == "cuda" or weights <= MOST_ON_CPU:
        return ""
    return "image_ms and train_images_per_second need a GPU at this size: on a CPU an image takes minutes"


def measure_model(config: RunConfig, device: torch.device, rounds: int) -> dict[str, float]:
    """Measure one config.

    Returns:
        image_ms: milliseconds per image of a whole sampling run of IMAGES together, with the config's sample settings,
        without the autoencoder, which all share. train_images_per_second: of Trainer.update. On a GPU also
        image_compiled_ms, and peak_memory_mb: largest memory that the training step held, MiB.
    """
    return _sampling(config, device, rounds) | _training(config, device, rounds)


def _sampling(config: RunConfig, device: torch.device, rounds: int) -> dict[str, float]:
    model = random_model(config, device)
    metrics = summary("image_ms", _seconds(sampling(model, config, device), rounds, device), IMAGES)
    if device.type == "cuda":
        model.backbone.compile_blocks()
        compiled = sampling(model, config, device, torch.bfloat16)
        metrics |= summary("image_compiled_ms", _seconds(compiled, rounds, device), IMAGES)
    return metrics


def _training(config: RunConfig, device: torch.device, rounds: int) -> dict[str, float]:
    model = random_model(config, device).train()
    model.backbone.gradient_checkpointing = config.train.gradient_checkpointing
    trainer = Trainer(config.train, RepeatedBatch(config, model), model, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = summary("ms", _seconds(trainer.update, rounds, device))["ms"] / 1000
    metrics = {"train_images_per_second": len(trainer.draws.batch(0).labels) / seconds}
    if device.type == "cuda":
        metrics["peak_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return metrics


def _seconds(way: Callable[[], Any], rounds: int, device: torch.device) -> list[float]:
    return take_turns({"way": way}, rounds, device).seconds["way"]


def random_model(config: RunConfig, device: torch.device) -> Generator:
    """The config's generator in evaluation mode, with weights as if trained, on a tokenizer of random latents."""
    tokenizer = random_tokenizer(config)
    with drawn_from("speed"):
        model = Generator(config, tokenizer, tuple(range(tokenizer.channels)))
        open_gates(model.head)
    tokenizer.to(device)
    return model.eval().to(device)


def random_tokenizer(config: RunConfig) -> Tokenizer:
    """A tokenizer of the config's size; one that needs training gets random codes, which cost the same."""
    latents = torch.randn(CALIBRATION, config.autoencoder.channels, generator=generator("speed", "latents"))
    if not config.quantizer.trained:
        return fit(config.quantizer, latents)
    codes = codebooks(config, partial(torch.randn, generator=generator("speed", "codes")))
    return finish(config, codes, 1.0, torch.stack([latents.amin(0), latents.amax(0)]))


def sampling(
    model: Generator, config: RunConfig, device: torch.device, low: torch.dtype | None = None
) -> Callable[[], Tensor]:
    """A whole sampling run of IMAGES images, () -> tokens (IMAGES, L, C).

    Args:
        model: on `device`.
        config: its sample settings count.
        device: where it runs.
        low: precision of matrix products, None for float32.
    """
    order, noise = (x.to(device) for x in model.draws(config.sample, range(IMAGES)))
    labels = (torch.arange(IMAGES) % config.data.classes).to(device)

    def run() -> Tensor:
        with torch.autocast(device.type, low, enabled=low is not None):
            return model.sample(labels, order, noise, config.sample)

    return run


class RepeatedBatch(Draws):
    """One batch of random latents as every step's: drawing costs nothing."""

    def __init__(self, config: RunConfig, model: Generator, most: int = MOST_TRAINED):
        self.train, self.steps, self.epoch_steps = config.train, 1_000_000, 1000
        images, positions = min(config.train.batch, most), config.positions
        g = generator("speed", "batch")
        latents = torch.randn(images, positions, config.autoencoder.channels, generator=g)
        labels = torch.arange(images) % config.data.classes
        order = torch.stack([torch.randperm(positions, generator=g) for _ in range(images)])
        masked = masked_count(0.5, positions, config.train.mask_ratio_min, config.train.mask_ratio_deviation)
        shape = model.head.loss_noise_shape or (0,)
        noise = torch.randn(images, positions, *shape, generator=g)
        self.repeated = Batch(latents, labels, mask_from_order(order, masked), noise)

    def batch(self, step: int, images: range | None = None) -> Batch:
        return self.repeated if images is None else self.repeated.split(len(images))[0]
