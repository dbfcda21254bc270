"""Part (e): writing a checkpoint, encoding images by precision, features per second, and a score by precision."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build
from tokenbridge.autoencoders.sources import source_of
from tokenbridge.config import Data, RunConfig, Score, UserError
from tokenbridge.data import images as data
from tokenbridge.metrics.extraction import extract_set
from tokenbridge.metrics.frechet import frechet_distance
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.scorers import SCORERS, SHIPPED
from tokenbridge.model.trainer import Trainer
from tokenbridge.rng import generator
from tokenbridge.speed.card.rows import Clock, Row, Size, medians, precisions, products
from tokenbridge.speed.models import RepeatedBatch, random_model

KL16: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "block_out_channels": [128, 128, 256, 256, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 256,
}
"""the architecture of MAR's KL-16, as diffusers names it"""
IMAGES, BATCH = 32, 256
"""encoded, and scored, at once"""


def rows(size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    """With random weights, which take the same time; the score is that of the shipped digits."""
    yield from _checkpoint(size, device)
    yield from _encoding(size, device, clock)
    yield from _features(size, device, clock)
    yield from _scores(device, clock)


def _checkpoint(size: Size, device: torch.device) -> Iterator[Row]:
    config = size.config
    model = random_model(config, device).train()
    trainer = Trainer(config.train, RepeatedBatch(config, model, 1), model, device)
    trainer.update()  # the optimizer has its averages from the first step on
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder, "checkpoint.pt"), time.perf_counter()
        trainer.save(path, "speed")
        seconds = time.perf_counter() - start
        yield Row("checkpoint, written", seconds, "s")
        yield Row("checkpoint, size", path.stat().st_size / 1e9, "GB")


def pixels(config: RunConfig, images: int) -> torch.Tensor:
    """Random images (images, ch, H, W) uint8."""
    shape = (images, config.data.image_channels, config.data.image_size, config.data.image_size)
    return torch.randint(256, shape, generator=generator("speed", "pixels"), dtype=torch.uint8)


def _encoding(size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    source = size.config.autoencoder
    settings = KL16 if source.source == "ldm" else source_of(source).settings()
    architecture = {key: value for key, value in settings.items() if key not in ("latents_mean", "latents_std")}
    autoencoder, images = (
        FrozenAutoencoder(build(architecture)).eval().to(device),
        pixels(size.config, IMAGES).to(device),
    )
    for precision in precisions(device):
        name = f"encoding, {IMAGES} images at once, {precision}"
        if reason := clock.too_long(0):
            yield Row(name, why=reason)
            continue
        with products(device, precision):
            seconds = medians({"": lambda: autoencoder.moments(images)}, size.rounds, device)[""]
        yield Row(name, IMAGES / seconds, "images per second")


def _features(size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    scorer = "digits" if size.config.data.source == "digits" else "inception"
    try:
        extractor = load_extractor(scorer, device)
    except UserError as error:
        yield Row(f"features of {scorer}", why=str(error))
        return
    images = pixels(size.config, IMAGES).to(device)
    for precision in precisions(device):
        name = f"features of {scorer}, {IMAGES} images at once, {precision}"
        if reason := clock.too_long(0):
            yield Row(name, why=reason)
            continue
        with torch.inference_mode(), products(device, precision):
            seconds = medians({"": lambda: extractor(images)}, size.rounds, device)[""]
        yield Row(name, IMAGES / seconds, "images per second")


def _scores(device: torch.device, clock: Clock) -> Iterator[Row]:
    """How far a Fréchet distance depends on the precision of its features: the shipped classifier's, of real images."""
    for precision in precisions(device):
        name = f"{SCORERS[SHIPPED].fd} of test images to training images, {precision}"
        if reason := clock.too_long(0):
            yield Row(name, why=reason)
            continue
        extractor = load_extractor(SHIPPED, device, Score(precision=precision))
        sets = (data.load(Data(), split) for split in ("test", "train"))
        test, train = (extract_set(extractor, images, BATCH).extracted.features for images in sets)
        yield Row(name, frechet_distance(test, train))
