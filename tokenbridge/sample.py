"""Stage `sample`: images from a trained generator. Image i depends on (weights, config, i) alone.

N images, L position, C channel. Image i has class i modulo the number of classes, as in the 50-per-class protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tokenbridge.artifacts import new_array, write_json
from tokenbridge.autoencoder import autoencoder_of
from tokenbridge.config import RunConfig, Runtime, Sample
from tokenbridge.devices import pick_device
from tokenbridge.generator import Generator
from tokenbridge.latents import Latents, to_grid
from tokenbridge.rng import generator
from tokenbridge.train import load_model

EXAMPLES = 100


def draws(model: Generator, how: Sample, images: range) -> tuple[Tensor, Tensor]:
    """Generation orders (N, L) and noise, as Generator.sample reads them, each image's from its own generator."""
    shape = model.noise_shape(how)
    draw = {"uniform": torch.rand, "normal": torch.randn}[model.head.noise]
    own = [generator(how.seed, "sample", i) for i in images]
    orders = torch.stack([torch.randperm(model.positions, generator=g) for g in own])
    return orders, torch.stack([draw(shape, generator=g) for g in own])


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Draw config.sample.images images as uint8, with their tokens and labels."""
    device = pick_device(runtime)
    model = load_model(config, inputs, device, config.sample.weights)
    autoencoder = autoencoder_of(config, inputs, device)
    scale, count = Latents(inputs["latents"]).scale, config.sample.images
    labels = torch.arange(count) % config.data.classes
    size = (config.data.image_channels, config.data.image_size, config.data.image_size)
    samples = new_array(out / "samples.npy", np.uint8, (count, *size))
    kind = np.uint16 if model.tokenizer.levels else np.float32
    kept = new_array(out / "tokens.npy", kind, (count, config.positions, model.tokenizer.channels))
    bar = tqdm(total=count, desc="sample", unit="image", leave=False, disable=runtime.no_bar)
    with bar:
        for first in range(0, count, runtime.batch):
            images = range(first, min(first + runtime.batch, count))
            order, noise = draws(model, config.sample, images)
            chosen = labels[first : images.stop].to(device)
            tokens = model.sample(chosen, order.to(device), noise.to(device), config.sample)
            decoded = autoencoder.decode(to_grid(model.tokenizer.decode(tokens), scale))
            samples[first : images.stop], kept[first : images.stop] = decoded.cpu(), tokens.cpu()
            bar.update(len(images))
    samples.flush()
    kept.flush()
    np.save(out / "labels.npy", labels.numpy())
    np.savez_compressed(out / "examples.npz", images=samples[:EXAMPLES], labels=labels[:EXAMPLES])
    protocol = config.sample.model_dump() | {"head": config.head.kind, "quantizer": config.quantizer.kind}
    write_json(out / "metrics.json", {"metrics": {"images": count}, "protocol": protocol})
