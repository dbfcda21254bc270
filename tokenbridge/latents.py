"""Stage `latents`: images to memory-mapped posterior moments; scale and channel statistics, found once.

N image, C channel, h and w latent grid, L = h·w positions (row-major).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from tokenbridge import data
from tokenbridge.artifacts import new_array, read_json, write_json
from tokenbridge.autoencoder import autoencoder_of
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.devices import pick_device
from tokenbridge.ordering import CUTOFF, low_frequency_share, radial_spectrum

Split = Literal["train", "held-out"]
FIT_IMAGES = 50_000  # at most so many training images calibrate scale, order and quantizer


class Latents:
    """What the stage left in a folder. Unit latents are the autoencoder's times `scale`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stats: dict[str, Any] = read_json(folder / "stats.json")
        self.scale: float = self.stats["scale"]
        self.frequency_order: tuple[int, ...] = tuple(self.stats["frequency_order"])

    def moments(self, split: Split) -> NDArray[np.float32]:
        """(N, 2C, h, w) float32, mean then log-variance, memory-mapped."""
        return np.load(self.folder / f"{_name(split)}_moments.npy", mmap_mode="r")

    def labels(self, split: Split) -> Tensor:
        """(N,) int64."""
        return torch.from_numpy(np.load(self.folder / f"{_name(split)}_labels.npy"))

    def posterior(self, split: Split, index: NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """Mean and deviation of unit latents, each (n, L, C) float32."""
        moments = torch.from_numpy(np.array(self.moments(split)[index])).flatten(2).transpose(1, 2)
        mean, log_variance = moments.chunk(2, dim=-1)
        return mean * self.scale, (0.5 * log_variance.clamp(-30, 20)).exp() * self.scale

    def posterior_mean(self, split: Split, index: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Unit latents (n, L, C) float32."""
        return self.posterior(split, index)[0]

    def posterior_sample(self, split: Split, generator: torch.Generator, most: int | None = None) -> Tensor:
        """Unit latents (n, L, C) float32, one draw an image, of the first `most` images."""
        mean, deviation = self.posterior(split, slice(most))
        return mean + deviation * torch.randn(mean.shape, generator=generator)


def to_grid(x: Tensor, scale: float) -> Tensor:
    """Unit latents (B, L, C) of a square grid -> the autoencoder's latents (B, C, h, w)."""
    side = round(x.shape[1] ** 0.5)
    return (x / scale).transpose(1, 2).unflatten(2, (side, side))


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Encode both splits. Raises UserError for latents that are not finite."""
    device = pick_device(runtime)
    autoencoder = autoencoder_of(config, inputs, device)
    splits: tuple[Split, ...] = ("train", "held-out")
    for split in splits:
        images = data.load(config.data, split)
        shape = (len(images), 2 * config.autoencoder.channels, config.grid_size, config.grid_size)
        moments = new_array(out / f"{_name(split)}_moments.npy", np.float32, shape)
        done = 0
        for batch, _ in tqdm(DataLoader(images, runtime.batch), f"encode {split}", leave=False, disable=runtime.no_bar):
            encoded = autoencoder.moments(batch.to(device)).cpu()
            if not bool(torch.isfinite(encoded).all()):
                raise UserError(
                    f"latents of {split} images {done} to {done + len(batch) - 1} hold NaN or infinite values;"
                    " they must be finite: check these images and the autoencoder's weights"
                )
            moments[done : done + len(batch)] = encoded.numpy()
            done += len(batch)
        moments.flush()
        np.save(out / f"{_name(split)}_labels.npy", images.labels)
    train = torch.from_numpy(np.array(np.load(out / "train_moments.npy", mmap_mode="r")[:FIT_IMAGES]))
    found = statistics(train, config.latents.scale)
    write_json(out / "stats.json", found)
    frequencies, power = radial_spectrum(train.chunk(2, dim=1)[0].double() * found["scale"])
    share, order = np.array(found["low_frequency_share"]), np.array(found["frequency_order"])
    np.savez_compressed(
        out / "examples.npz",
        frequencies=frequencies.numpy(),
        power=power.numpy(),
        share=share,
        order=order,
        cutoff=np.array(CUTOFF),
    )


def statistics(moments: Tensor, scale: float | Literal["auto"]) -> dict[str, Any]:
    """Scale to unit deviation and, in unit latents, what the channels are like; from moments (N, 2C, h, w)."""
    mean, log_variance = moments.double().chunk(2, dim=1)
    noise = log_variance.clamp(-30, 20).exp()
    if scale == "auto":
        scale = float(1 / (mean.var(correction=0) + noise.mean()).sqrt())
    flat = mean.transpose(0, 1).flatten(1) * scale  # (C, N·L)
    variance = flat.var(1, correction=0) + noise.mean((0, 2, 3)) * scale**2
    share = low_frequency_share(mean)
    return {
        "scale": scale,
        "channel_mean": flat.mean(1).tolist(),
        "channel_deviation": variance.sqrt().tolist(),
        "posterior_deviation": (noise.sqrt().mean((0, 2, 3)) * scale).tolist(),
        "correlation": torch.corrcoef(flat).tolist(),
        "low_frequency_share": share.tolist(),
        "frequency_order": share.argsort(descending=True).tolist(),
        "images": len(moments),
    }


def _name(split: Split) -> str:
    return split.replace("-", "_")
