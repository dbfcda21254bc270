"""Stage `latents`: images to memory-mapped posterior moments; scale and channel statistics, found once.

The store is one .npy a split, encoded in shards (tokenbridge/store/shards.py): a killed encoding goes on where it was,
and several processes share it.
N image, C channel, h and w latent grid, L = h·w positions (row-major).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tokenbridge.autoencoders.frozen import FrozenAutoencoder, autoencoder_of
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.data import images as data
from tokenbridge.devices import pick_device
from tokenbridge.distributed import world
from tokenbridge.model.ordering import CUTOFF, low_frequency_share, radial_spectrum
from tokenbridge.store.artifacts import read_json, write_json
from tokenbridge.store.shards import NOTES, REMEDY, Filling, damaged, publish

Split = Literal["train", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "held-out")
FIT_IMAGES = 50_000  # at most so many training images calibrate scale, order and quantizer
SHARD = 4096
"""images of a shard"""
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
"""numpy's type of each; it has no bfloat16, whose bits are kept"""


class Latents:
    """What the stage left in a folder. Unit latents are the autoencoder's times `scale`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stats: dict[str, Any] = read_json(folder / "stats.json")
        self.scale: float = self.stats["scale"]
        self.frequency_order: tuple[int, ...] = tuple(self.stats["frequency_order"])
        self._moments: dict[Split, NDArray[Any]] = {}

    def moments(self, split: Split) -> NDArray[Any]:
        """As stored, memory-mapped: (N, 2C, h, w), mean then log-variance, or (N, 2, 2C, h, w), mirrored second.

        bfloat16 as uint16 bits.
        """
        if split not in self._moments:
            self._moments[split] = _array(self.folder / f"{_name(split)}_moments.npy")
        return self._moments[split]

    def labels(self, split: Split) -> Tensor:
        """(N,) int64."""
        return torch.from_numpy(np.array(_array(self.folder / f"{_name(split)}_labels.npy")))

    @property
    def flips(self) -> bool:
        """Whether training images are there mirrored as well."""
        return self.moments("train").ndim == 5

    def read(self, split: Split, index: NDArray[np.int64] | slice, mirrored: NDArray[np.int64] | None = None) -> Tensor:
        """Moments (n, 2C, h, w) as stored; mirrored: for each image 1 for its mirror image's, else 0."""
        moments = self.moments(split)
        if moments.ndim == 5:
            return _tensor(moments[index, 0 if mirrored is None else mirrored])
        return _tensor(moments[index])

    def posterior(
        self, split: Split, index: NDArray[np.int64] | slice, mirrored: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and deviation of unit latents, each (n, L, C) float32."""
        moments = self.read(split, index, mirrored).float().flatten(2).transpose(1, 2)
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


def _array(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r"))  # memmap's own indexing is slower
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} must be a whole array ({error}); {REMEDY}") from error


def _tensor(stored: NDArray[Any]) -> Tensor:
    """In memory, of the type that was stored."""
    tensor = torch.from_numpy(stored if stored.flags.writeable else stored.copy())
    return tensor.view(torch.bfloat16) if stored.dtype == np.uint16 else tensor


def verify(folder: Path) -> int:
    """Read a finished store and compare it with its checksums; returns the number of images.

    UserError names the first part that is damaged.
    """
    if wrong := list(damaged(folder)):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"{folder} is damaged: {wrong[0]}{more} is not what was written; {REMEDY}")
    return sum(len(Latents(folder).labels(split)) for split in SPLITS)


def moments_shape(config: RunConfig, split: Split, images: int) -> tuple[int, ...]:
    """Shape of a split's stored array."""
    both = (2,) if config.latents.flip and split == "train" else ()
    return (images, *both, 2 * config.autoencoder.channels, config.grid_size, config.grid_size)


def stored_bytes(config: RunConfig, images: Mapping[Split, int]) -> int:
    """Of the arrays of a store of so many images: moments and labels, each with numpy's header of 128 bytes."""
    size = np.dtype(STORED[config.latents.dtype]).itemsize
    numbers = sum(math.prod(moments_shape(config, split, count)) for split, count in images.items())
    return size * numbers + 8 * sum(images.values()) + 2 * 128 * len(images)


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Encode both splits, together with the other processes. Raises UserError for latents that are not finite."""
    here = world()
    device = here.device(pick_device(runtime))
    autoencoder = autoencoder_of(config, inputs, device)
    images: dict[Split, data.Images] = {split: data.load(config.data, split) for split in SPLITS}
    fillings: dict[Split, Filling] = {}
    for split in SPLITS:
        shape = moments_shape(config, split, len(images[split]))
        fillings[split] = Filling(out, f"{_name(split)}_moments", shape, STORED[config.latents.dtype], SHARD)
    for filling in fillings.values():
        filling.begin(here)
    try:
        for split, filling in fillings.items():
            filling.fill(here, _Encoder(config, autoencoder, images[split], split, device, runtime))
    except BaseException:
        if here.main and not any(filling.begun() for filling in fillings.values()):
            shutil.rmtree(out / NOTES)
            for filling in fillings.values():
                filling.path.unlink()
        raise
    here.barrier()
    if here.main:
        _finish(config, autoencoder, images, list(fillings.values()), out)


class _Encoder:
    """Images of a split to stored moments, a range at a time."""

    def __init__(
        self,
        config: RunConfig,
        autoencoder: FrozenAutoencoder,
        images: data.Images,
        split: Split,
        device: torch.device,
        runtime: Runtime,
    ):
        self.autoencoder, self.images, self.split, self.device = autoencoder, images, split, device
        self.dtype, self.flip = getattr(torch, config.latents.dtype), config.latents.flip and split == "train"
        self.runtime = runtime

    def __call__(self, rows: range) -> NDArray[Any]:
        what, encoded = f"encode {self.split} {rows.start}–{rows.stop - 1} of {len(self.images)}", list[Tensor]()
        steps = math.ceil(len(rows) / self.runtime.batch)
        batches = data.batches(self.images, self.runtime.batch, rows)
        for batch, _ in tqdm(batches, what, steps, leave=False, disable=self.runtime.no_bar):
            each = self._moments(batch, rows.start + sum(map(len, encoded)))
            encoded.append(torch.stack([each, self._moments(batch.flip(-1), rows.start)], 1) if self.flip else each)
        moments = torch.cat(encoded)
        return (moments.view(torch.uint16) if self.dtype is torch.bfloat16 else moments).numpy()

    def _moments(self, batch: Tensor, first: int) -> Tensor:
        found = self.autoencoder.moments(batch.to(self.device)).cpu()
        stored = found.to(self.dtype)
        for each, why in (
            (found, "they must be finite: check these images and the autoencoder's weights"),
            (stored, f"latents.dtype={self.dtype} cannot hold them; take bfloat16 or float32".replace("torch.", "")),
        ):
            if not bool(torch.isfinite(each).all()):
                last = first + len(batch) - 1
                raise UserError(f"latents of {self.split} images {first} to {last} hold NaN or infinite values; {why}")
        return stored


def _finish(
    config: RunConfig,
    autoencoder: FrozenAutoencoder,
    images: Mapping[Split, data.Images],
    fillings: list[Filling],
    out: Path,
) -> None:
    """Labels, statistics of what is stored, checksums."""
    for split in SPLITS:
        np.save(out / f"{_name(split)}_labels.npy", images[split].labels)
    train = _tensor(_array(out / "train_moments.npy")[:FIT_IMAGES]).float()
    train = train[:, 0] if config.latents.flip else train
    scale, own = config.latents.scale, {}
    if scale == "autoencoder":
        assert autoencoder.scaling_factor is not None, "asked for before any stage"
        scale, own = autoencoder.scaling_factor, {"shift": autoencoder.shift}
    found = statistics(train, scale) | own
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
    publish(out, fillings, [out / f"{_name(split)}_labels.npy" for split in SPLITS])


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
