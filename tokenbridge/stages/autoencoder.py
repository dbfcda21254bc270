"""Stage `autoencoder`: an autoencoder like the shipped one, with a seed and a floor of information per channel.

So that autoencoders are a setting like any other: how much channels repeat each other depends on the floor (see
autoencoder.free_nats), and what is found with one autoencoder need not hold with the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from tokenbridge import rng
from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build
from tokenbridge.autoencoders.losses import NOISE, Criterion, Recipe
from tokenbridge.autoencoders.sources import BODY_WEIGHTS, Trained
from tokenbridge.autoencoders.train import MEASURED, Budget, evidence_loss, minimize, quality
from tokenbridge.checkpoints import Checkpoints
from tokenbridge.config import RunConfig, Runtime
from tokenbridge.data import images as data
from tokenbridge.devices import pick_device
from tokenbridge.store.artifacts import write_atomic
from tokenbridge.store.runs import write_metrics


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Train on the training images, write the weights, measure on test images.

    The weights depend on images, budget, floor and seed alone (same threads, CPU type, library).
    """
    device, settings = pick_device(runtime), config.autoencoder
    budget, seed = Budget(settings.epochs), settings.seed
    train, test = data.load(config.data, "train"), data.load(config.data, "test")
    with rng.drawn_from(seed, "autoencoder", "weights"):
        model = build(Trained(settings).settings()).to(device)
    draws = rng.generator(seed, "autoencoder", "data")
    recipe, steps = recipe_of(config, device), budget.steps(len(train))
    last, data_of = model.decoder.conv_out.weight, config.data
    criterion = Criterion(recipe, last, data_of.image_channels, data_of.image_size, steps, seed)
    minimize(
        lambda batch: evidence_loss(model, batch, draws, settings.free_nats, criterion),
        model, train, budget, draws, runtime.no_bar, ema=recipe.ema,
        kept=Checkpoints.of_stage(out, runtime.checkpoint_seconds), criterion=criterion,
    )  # fmt: skip
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    write_atomic(out / BODY_WEIGHTS, save(state))
    shown = data.few_of(test.labels, MEASURED).tolist()
    pixels = torch.cat([part for part, _ in data.batches(test, runtime.batch, shown)])
    card = quality(FrozenAutoencoder(model.eval().requires_grad_(False)), pixels)
    metrics = {
        "psnr": card["mean_image_psnr_db"],
        "mean_correlation": mean_correlation(np.array(card["channel_correlation"])),
        "informative_channels": card["informative_channels"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    protocol = {
        "psnr": "test images, mean over images, peak 255",
        "train_images": len(train),
        "test_images": len(shown),
        "image_size": config.data.image_size,
        "seed": seed,
        "decoder_deviation": NOISE,
        **asdict(budget),
        **recipe.about(steps),
    }
    write_metrics(out, metrics, protocol)


def recipe_of(config: RunConfig, device: torch.device) -> Recipe:
    """What the training of a run's autoencoder, alone or with its tokens, has beside the squared error."""
    of = config.autoencoder
    distance = None
    if of.perceptual_weights is not None:
        from tokenbridge.metrics.networks import distance_of

        distance = distance_of(Path(of.perceptual_weights), config.data, device, "autoencoder.perceptual_weights")
    return Recipe(of.perceptual, distance, of.adversarial, of.adversarial_start, of.ema)


def mean_correlation(correlation: np.ndarray) -> float:
    """Mean absolute value of the entries (C, C) that are no channel's with itself; of one channel 0."""
    others = ~np.eye(len(correlation), dtype=bool)
    return float(np.abs(correlation[others]).mean()) if others.any() else 0.0
