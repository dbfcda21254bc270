"""Stage `likelihood`: bits per latent dimension of held-out images.

One position at a time over L iterations in one fixed order per image, unguided, temperature 1; nats summed over
channels and positions, divided by L·C·ln 2. The density of a categorical head is its probability over its bin's width,
in unit-deviation latents; the outer bins end at the calibration extremes, and values beyond are moved to them and
counted, for continuous tokens as well, so that all heads are asked about the same values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tokenbridge.config import RunConfig, Runtime
from tokenbridge.data.latents import Latents
from tokenbridge.devices import pick_device
from tokenbridge.model.generator import Generator
from tokenbridge.rng import generator
from tokenbridge.stages.train import load_model
from tokenbridge.store.runs import write_metrics


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Write the mean bits per dimension with its standard error, and the share of values beyond the extremes."""
    device = pick_device(runtime)
    model = load_model(config, inputs, device, config.sample.weights)
    latents = Latents(inputs["latents"])
    x = latents.posterior_sample("held-out", generator("likelihood"))
    labels = latents.labels("held-out")
    order = torch.stack([torch.randperm(x.shape[1], generator=generator("likelihood order", i)) for i in range(len(x))])
    low, high = (bound.cpu() for bound in model.tokenizer.extremes)
    beyond = ((x < low) | (x > high)).double().mean().item()
    x = x.clamp(low, high)
    bits = torch.cat(
        [
            bits_per_dimension(model, *(part.to(device) for part in batch))
            for batch in zip(
                x.split(runtime.batch), labels.split(runtime.batch), order.split(runtime.batch), strict=True
            )
        ]
    ).cpu()
    metrics = {
        "bits_per_dim": bits.mean().item(),
        "bits_per_dim_se": (bits.std() / math.sqrt(len(bits))).item(),
        "held_out_beyond_extremes": beyond,
    }
    protocol = {
        "split": "held-out",
        "images": len(x),
        "values": "unit-deviation latents, one draw from each posterior",
        "order": "one random order an image, one position at a time",
        "weights": config.sample.weights,
        "scale": latents.scale,
    }
    write_metrics(out, metrics, protocol)


def bits_per_dimension(model: Generator, latents: Tensor, labels: Tensor, order: Tensor) -> Tensor:
    """(B,) bits per latent dimension: of the density of latents, for heads that predict levels too.

    Args:
        model: whose head has a density.
        latents: (B, L, C) of unit deviation, within the calibration extremes.
        labels: (B) int64 classes.
        order: (B, L) int64 generation orders, which are revealed from the end.
    """
    tokenizer = model.tokenizer
    log_volume = tokenizer.log_volume(tokenizer.encode(latents)).sum(1)
    nats = -(model.log_prob(latents, labels, order) - log_volume)
    return nats / (latents[0].numel() * math.log(2))
