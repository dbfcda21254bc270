"""Trains small KL autoencoders: the one of the digits that the package ships, and one of any images.

The loop serves trained tokenizers too.

Letters: B images, C latent channels, h = w latent positions a side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tokenbridge import rng
from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build, to_signed
from tokenbridge.autoencoders.sources import Digits
from tokenbridge.config import Data, UserError
from tokenbridge.data.images import Images, batches, load, stack
from tokenbridge.store.artifacts import file_hash, write_json
from tokenbridge.store.provenance import environment
from tokenbridge.weights import write_half

NAME = "digits_autoencoder"
CARD = "card.json"
WIDTHS = (32, 48, 64, 64, 64, 64)
"""of an own autoencoder's body, from the full resolution down, a level for each halving"""
MEASURED = 1000
"""held-out images, at most, that the quality is of"""
PIXELS = 2**20
"""that go through the network at once where quality is measured: 4,096 images of 16×16, 16 of 256×256"""
NOISE = 0.05
"""deviation of the decoder's normal, images in [−1, 1]: sets the weight of the Kullback–Leibler term"""
FREE_NATS = 1.5
"""a channel's mean Kullback–Leibler term a position is not pushed below this (free bits, arXiv 1606.04934)"""

DEFINITIONS = {
    "psnr_db": "posterior means decoded to uint8, peak 255, squared error averaged over all pixels of all images",
    "mean_image_psnr_db": "the same, a value an image, averaged",
    "psnr_db_with_noise_of_a_tenth": "the same as psnr_db, each mean moved by normal noise of a tenth of its channel's"
    " aggregate deviation",
    "aggregate_deviation": "deviation of a draw from the posterior of a random image and position: its mean square is"
    " the means' variance + the mean posterior variance",
    "noise_ratio": "mean posterior deviation ÷ aggregate deviation, a value a channel",
    "informative_channels": "channels with noise_ratio < 0.5",
    "aggregate_mean, skewness, excess_kurtosis, channel_correlation": "of the posterior means",
}


@dataclass(frozen=True)
class Budget:
    """How long and how fast: the same for the shipped autoencoder and for trained tokenizers."""

    epochs: int = 30
    batch: int = 64
    learning_rate: float = 3e-3


def train_autoencoder(out: Path, epochs: int = 30, seed: int = 0) -> dict[str, Any]:
    """Train on the training split, write `digits_autoencoder.safetensors` and `.json` into out, return the latter.

    Quality is measured on the weights as stored (float16), on the held-out split.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed_of(seed, "autoencoder", "weights"))
        model = build(Digits().settings())
    draws = rng.generator(seed, "autoencoder", "data")
    minimize(lambda images: _loss(model, images, draws), model, load(Data(), "train"), Budget(epochs), draws)
    out.mkdir(parents=True, exist_ok=True)
    write_half(model, out / f"{NAME}.safetensors")
    card = {
        "command": f"tokenbridge train-autoencoder --epochs {epochs} --seed {seed}",
        "epochs": epochs,
        "seed": seed,
        "sha256": file_hash(out / f"{NAME}.safetensors"),
        "versions": environment()["versions"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "quality": evaluate(out / f"{NAME}.safetensors"),
        "definitions": DEFINITIONS,
    }
    write_json(out / f"{NAME}.json", card)
    return card


def train_own_autoencoder(
    out: Path,
    images: Data,
    channels: int,
    stride: int,
    epochs: int = 30,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Train on a folder of images and make `out` a diffusers folder with card.json, which is returned.

    Squared error and the Kullback–Leibler term alone: for small images and for trying things. Large photographs come
    out blurred; there, a published one serves better. UserError: a stride that is no power of two or does not divide
    the images.
    """
    levels = stride.bit_length()
    if stride & (stride - 1) or not 2 <= levels <= len(WIDTHS) or images.image_size % stride:
        raise UserError(
            f"--stride {stride} must be a power of two from 2 to {2 ** (len(WIDTHS) - 1)} that divides the image size,"
            f" {images.image_size}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed_of(seed, "autoencoder", "weights"))
        model = build({
            "in_channels": images.image_channels,
            "out_channels": images.image_channels,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": WIDTHS[:levels],
            "layers_per_block": 1,
            "latent_channels": channels,
            "norm_num_groups": 8,
            "sample_size": images.image_size,
            "mid_block_add_attention": False,
        }).to(device)  # fmt: skip
    draws = rng.generator(seed, "autoencoder", "data")
    budget = Budget(epochs)
    minimize(lambda batch: _loss(model, batch, draws), model, load(images, "train"), budget, draws, augment=mirror)
    held_out = load(images, "held-out")
    pixels = torch.cat([part for part, _ in batches(held_out, MEASURED, range(min(MEASURED, len(held_out))))])
    card = {
        "images": images.path,
        "image_size": images.image_size,
        "epochs": epochs,
        "seed": seed,
        "versions": environment()["versions"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "quality": quality(FrozenAutoencoder(model.eval().requires_grad_(False)), pixels),
        "definitions": DEFINITIONS,
    }
    model.to(memory_format=torch.contiguous_format).save_pretrained(out)
    write_json(out / CARD, card)
    return card


def minimize(
    loss: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Images,
    budget: Budget,
    draws: torch.Generator,
    no_bar: bool | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
) -> None:
    """Train a model in place on shifted or otherwise augmented images; loss of a batch (B, ch, H, W) in [−1, 1]."""
    if len(images) < budget.batch:
        raise UserError(f"data holds {len(images)} training images and must hold {budget.batch}, a batch; add some")
    optimizer = torch.optim.AdamW(model.parameters(), budget.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
    steps = budget.epochs * (len(images) // budget.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, budget.learning_rate, total_steps=steps, pct_start=0.15)
    device = next(model.parameters()).device
    bar = tqdm(total=steps, desc="autoencoder", disable=no_bar, leave=False)
    model.train()
    for _ in range(budget.epochs):
        order = torch.randperm(len(images), generator=draws)
        for pixels, _ in batches(images, budget.batch, order[: len(order) // budget.batch * budget.batch].tolist()):
            batch = to_signed((augment or shift)(pixels, draws)).to(device)
            value = loss(batch.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
    bar.close()
    model.eval()


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Nats an image: minus the log density of a normal of deviation NOISE around the decoded one, less a constant."""
    return (decoded - images).square().sum((1, 2, 3)).mean() / (2 * NOISE**2)


def _loss(model: Any, images: Tensor, draws: torch.Generator) -> Tensor:
    """Negative evidence bound a pixel (arXiv 1312.6114) with a normal decoder of fixed deviation and free bits."""
    posterior = model.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=draws).to(images.device)
    error = reconstruction_loss(model.decode(posterior.mean + posterior.std * noise).sample, images)
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar)
    channels = divergence.mean((0, 2, 3)).clamp(min=FREE_NATS)
    return (error + channels.sum() * divergence[0, 0].numel()) / images[0].numel()


def shift(images: Tensor, draws: torch.Generator) -> Tensor:
    """Move half of the images by −2, 0 or 2 pixels a side (one pixel of the 8×8 originals); uint8 (B, ch, H, W)."""
    steps = torch.randint(-1, 2, (len(images), 2), generator=draws) * 2
    moved = torch.rand(len(images), generator=draws) < 0.5
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    size = images.shape[-1]
    return torch.stack(
        [
            padded[i, :, 2 + y : 2 + y + size, 2 + x : 2 + x + size] if moved[i] else images[i]
            for i, (y, x) in enumerate(steps.tolist())
        ]
    )


def mirror(images: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror half of the images; uint8 (B, ch, H, W)."""
    chosen = torch.rand(len(images), generator=draws) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def evaluate(path: Path) -> dict[str, Any]:
    """Measures of stored weights on the held-out digits, as DEFINITIONS says."""
    return quality(Digits(weights=path).load(), torch.from_numpy(stack(load(Data(), "held-out"))[0].copy()))


def quality(frozen: FrozenAutoencoder, images: Tensor) -> dict[str, Any]:
    """The same of any autoencoder and images, uint8 (N, ch, H, W)."""
    device, part = next(frozen.model.parameters()).device, max(1, PIXELS // images[0, 0].numel())

    def through(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        return torch.cat([network(each.to(device)).cpu() for each in inputs.split(part)])

    mean, logvar = through(frozen.moments, images).chunk(2, 1)
    error = (through(frozen.decode, mean).double() - images.double()).square()
    flat = mean.double().movedim(1, 0).flatten(1)  # (C, N·h·w)
    posterior = (0.5 * logvar.double()).exp().movedim(1, 0).flatten(1)
    aggregate = (flat.var(1) + posterior.square().mean(1)).sqrt()
    ratio = posterior.mean(1) / aggregate
    standard = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    noise = 0.1 * aggregate.float()[:, None, None] * torch.randn(mean.shape, generator=rng.generator(0))
    noisy = through(frozen.decode, mean + noise)
    return {
        "psnr_db": _psnr(error.mean()),
        "mean_image_psnr_db": round(float(np.mean([_psnr(e) for e in error.mean((1, 2, 3))])), 2),
        "psnr_db_with_noise_of_a_tenth": _psnr((noisy.double() - images.double()).square().mean()),
        "images": len(images),
        "informative_channels": int((ratio < 0.5).sum()),
        "noise_ratio": _rounded(ratio),
        "posterior_deviation": _rounded(posterior.mean(1)),
        "aggregate_mean": _rounded(flat.mean(1)),
        "aggregate_deviation": _rounded(aggregate),
        "skewness": _rounded(standard.pow(3).mean(1)),
        "excess_kurtosis": _rounded(standard.pow(4).mean(1) - 3),
        "channel_correlation": [_rounded(row) for row in flat.corrcoef()],
    }


def _psnr(error: Tensor) -> float:
    return round(10 * math.log10(255**2 / max(error.item(), 1e-12)), 2)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
