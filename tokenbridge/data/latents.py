"""Latents of a data set: the store that the stage `latents` leaves, and its reader.

A store holds, per split, memory-mapped posterior moments and labels, and stats.json with scale and channel statistics.
Letters: N images, C latent channels, h and w latent grid, L = h·w positions (row-major).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenbridge.config import RunConfig
from tokenbridge.data.files import SPLITS, Split
from tokenbridge.data.images import few_of
from tokenbridge.store.artifacts import checked, damaged, read_array, read_json
from tokenbridge.store.shards import Shards, check

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""numpy's type of each latents.dtype; it has no bfloat16, whose bits are kept"""
LOG_VARIANCES = (-60, 20)
"""to which they are clamped: posteriors keep to (−30, 20) themselves, and −60 is that of an encoder that has none"""


class Latents:
    """Reader of a store. Unit latents are the autoencoder's times `scale`.

    Where an argument `index` is taken, it selects n images of the split, and `mirrored` (n,) is 1 where the moments of
    the mirror image are wanted, else 0.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.stats = _statistics(folder / "stats.json")
        self.scale: float = self.stats["scale"]
        self.frequency_order: tuple[int, ...] = tuple(self.stats["frequency_order"])
        self._arrays: dict[Split, Shards] = {}

    def _moments(self, split: Split) -> Shards:
        """Memory-mapped moments: (N, 2C, h, w), mean then log-variance, or (N, 2, 2C, h, w), the mirror image's second.

        bfloat16 comes as uint16 bits.
        """
        if split not in self._arrays:
            self._arrays[split] = Shards(moments_path(self.folder, split))
        return self._arrays[split]

    def labels(self, split: Split) -> Tensor:
        """(N,) int64."""
        labels, count = read_array(checked(path := labels_path(self.folder, split))), len(self._moments(split).array)
        if labels.dtype != np.int64 or labels.shape != (count,):
            raise damaged(path, f"it holds {labels.dtype} {labels.shape}, must hold int64 ({count},)")
        return torch.from_numpy(np.array(labels))

    def few(self, split: Split, most: int) -> NDArray[np.int64]:
        """Places of at most so many images that stand for all, increasing."""
        return few_of(self.labels(split).numpy(), most)

    def has(self, split: Split) -> bool:
        """Whether the data set has images of a split: it may do without validation."""
        return moments_path(self.folder, split).exists()

    @property
    def flips(self) -> bool:
        """Whether training images are stored mirrored as well."""
        return self._moments("train").array.ndim == 5

    def read(self, split: Split, index: NDArray[np.int64] | slice, mirrored: NDArray[np.int64] | None = None) -> Tensor:
        """Moments (n, 2C, h, w) in the stored type. UserError for a shard that is not as it was written."""
        self._moments(split).check(index)
        moments = self._moments(split).array
        if moments.ndim == 5:
            return as_tensor(moments[index, 0 if mirrored is None else mirrored])
        return as_tensor(moments[index])

    def posterior(
        self, split: Split, index: NDArray[np.int64] | slice, mirrored: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of unit latents, each (n, L, C) float32."""
        moments = self.read(split, index, mirrored).float().flatten(2).transpose(1, 2)
        mean, log_variance = moments.chunk(2, dim=-1)
        return mean * self.scale, (0.5 * log_variance.clamp(*LOG_VARIANCES)).exp() * self.scale

    def posterior_mean(self, split: Split, index: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Unit latents (n, L, C) float32."""
        return self.posterior(split, index)[0]

    def posterior_sample(self, split: Split, generator: torch.Generator, most: int | None = None) -> Tensor:
        """Unit latents (n, L, C) float32, one draw per image, of `few` images or of all."""
        mean, deviation = self.posterior(split, slice(None) if most is None else self.few(split, most))
        return mean + deviation * torch.randn(mean.shape, generator=generator)


def to_grid(x: Tensor, scale: float) -> Tensor:
    """Unit latents (B, L, C) of a square grid -> the autoencoder's latents (B, C, h, w)."""
    side = round(x.shape[1] ** 0.5)
    return (x / scale).transpose(1, 2).unflatten(2, (side, side))


def moments_path(folder: Path, split: Split) -> Path:
    return folder / f"{split}_moments.npy"


def labels_path(folder: Path, split: Split) -> Path:
    return folder / f"{split}_labels.npy"


def _statistics(path: Path) -> dict[str, Any]:
    stats = read_json(checked(path), f"delete {path.parent} and run again")
    if not isinstance(stats, dict) or not {"scale", "frequency_order"} <= stats.keys():
        raise damaged(path, "it must hold scale and frequency_order")
    return stats


def as_tensor(stored: NDArray[Any]) -> Tensor:
    """Stored numbers in memory, in the type that was stored."""
    tensor = torch.from_numpy(stored if stored.flags.writeable else stored.copy())
    return tensor.view(torch.bfloat16) if stored.dtype == np.uint16 else tensor


def verify(folder: Path) -> int:
    """Compare a finished store with its checksums and return its number of images; UserError names what is damaged."""
    check(folder)
    latents = Latents(folder)
    return sum(len(latents.labels(split)) for split in SPLITS if latents.has(split))


def moments_shape(config: RunConfig, split: Split, images: int) -> tuple[int, ...]:
    """Shape of a split's stored moments."""
    mirrored = (2,) if config.latents.flip and split == "train" else ()
    return (images, *mirrored, 2 * config.autoencoder.channels, config.grid_size, config.grid_size)


def stored_bytes(config: RunConfig, images: Mapping[Split, int]) -> int:
    """Bytes of a store of so many images: moments and int64 labels, each file with numpy's header of 128 bytes."""
    size = np.dtype(STORED[config.latents.dtype]).itemsize
    numbers = sum(math.prod(moments_shape(config, split, count)) for split, count in images.items())
    return size * numbers + 8 * sum(images.values()) + 2 * 128 * len(images)
