"""Stage `latents`: images to memory-mapped posterior moments (data/latents.py reads them), scale, channel statistics.

Each split is one .npy, encoded in shards (store/shards.py): a killed encoding goes on where it was, and several
processes share it.
Letters: N images, C latent channels, h and w latent grid, L = h·w positions (row-major).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from tokenbridge.autoencoders.frozen import FrozenAutoencoder
from tokenbridge.autoencoders.sources import autoencoder_of
from tokenbridge.config import Precision, RunConfig, Runtime, UserError
from tokenbridge.data import images as data
from tokenbridge.data.files import Split, names_by_label, splits
from tokenbridge.data.latents import LOG_VARIANCES, STORED, as_tensor, labels_path, moments_path, moments_shape
from tokenbridge.devices import at_precision, pick_device, require_precision
from tokenbridge.distributed import world
from tokenbridge.model.ordering import CUTOFF, constant, low_frequency_share, radial_spectrum
from tokenbridge.stages import FIT_IMAGES
from tokenbridge.store.artifacts import NOTES, write_array, write_json
from tokenbridge.store.runs import write_classes
from tokenbridge.store.shards import Filling, publish

SETTING = "latents.precision"
SHARD = 4096
"""images per shard"""


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Encode all splits, together with the other processes. Raises UserError for latents that are not finite."""
    here = world()
    device = here.device(pick_device(runtime))
    require_precision(device, config.latents.precision, SETTING)
    autoencoder = autoencoder_of(config, inputs, device)
    images: dict[Split, data.Images] = {split: data.load(config.data, split) for split in splits(config.data)}
    fillings: dict[Split, Filling] = {}
    for split in images:
        shape = moments_shape(config, split, len(images[split]))
        fillings[split] = Filling(out, moments_path(out, split).stem, shape, STORED[config.latents.dtype], SHARD)
    try:
        for filling in fillings.values():
            filling.begin(here)
        for split, filling in fillings.items():
            filling.fill(here, _Encoder(config, autoencoder, images[split], split, device, runtime))
    except BaseException:
        if here.main and not any(filling.begun() for filling in fillings.values()):
            shutil.rmtree(out / NOTES, ignore_errors=True)
            for filling in fillings.values():
                filling.path.unlink(missing_ok=True)
        raise
    here.barrier()
    if here.main:
        _finish(config, autoencoder, images, list(fillings.values()), out)


class _Encoder:
    """Encodes parts of a split's images into moments as they are stored."""

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
        self.precision: Precision = config.latents.precision

    def __call__(self, parts: Sequence[range]) -> Iterator[NDArray[Any]]:
        """The moments of each part in turn; images are read ahead, beyond its end too."""
        size = self.runtime.batch
        inside = [[part[first : first + size] for first in range(0, len(part), size)] for part in parts]
        images = data.in_batches(self.images, [batch for batches in inside for batch in batches])
        for part, batches in zip(parts, inside, strict=True):
            what, encoded = f"encode {self.split} {part.start}–{part.stop - 1} of {len(self.images)}", list[Tensor]()
            for rows in tqdm(batches, what, leave=False, disable=self.runtime.no_bar):
                batch, _ = next(images)
                moments = self._moments(batch, rows.start)
                if self.flip:
                    moments = torch.stack([moments, self._moments(batch.flip(-1), rows.start)], 1)
                encoded.append(moments)
            moments = torch.cat(encoded)
            yield (moments.view(torch.uint16) if self.dtype is torch.bfloat16 else moments).numpy()

    def _moments(self, batch: Tensor, first: int) -> Tensor:
        with at_precision(self.device, self.precision, SETTING):
            moments = self.autoencoder.moments(batch.to(self.device)).cpu()
        stored = moments.to(self.dtype)
        for numbers, why in (
            (moments, "they must be finite: check these images and the autoencoder's weights"),
            (stored, f"latents.dtype={self.dtype} cannot hold them; take bfloat16 or float32".replace("torch.", "")),
        ):
            if not bool(torch.isfinite(numbers).all()):
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
    """Write labels, names of classes, statistics of what is stored, and checksums."""
    for split in images:
        write_array(labels_path(out, split), images[split].labels)
    write_classes(out, names_by_label(config.data))
    fitted = data.few_of(images["train"].labels, FIT_IMAGES)
    train = as_tensor(np.load(moments_path(out, "train"), mmap_mode="r")[fitted]).float()
    train = train[:, 0] if config.latents.flip else train
    scale, units = config.latents.scale, {}
    if scale == "autoencoder":
        assert autoencoder.scaling_factor is not None, "asked for before any stage"
        scale, units = autoencoder.scaling_factor, autoencoder.units
    stats = statistics(train, scale) | units
    write_json(out / "stats.json", stats)
    frequencies, power = radial_spectrum(train.chunk(2, dim=1)[0].double() * stats["scale"])
    np.savez_compressed(
        out / "examples.npz",
        frequencies=frequencies.numpy(),
        power=power.numpy(),
        share=np.array(stats["low_frequency_share"]),
        order=np.array(stats["frequency_order"]),
        cutoff=np.array(CUTOFF),
    )
    publish(out, fillings)


def statistics(moments: Tensor, scale: float | Literal["auto"]) -> dict[str, Any]:
    """Scale to unit standard deviation and statistics of the unit latents per channel, from moments (N, 2C, h, w).

    A channel that is the same in all images is named on stderr; its correlation with others is 0. Raises UserError
    where all are.
    """
    mean, log_variance = moments.double().chunk(2, dim=1)
    same = constant(mean)
    if bool(same.all()):
        raise UserError(
            f"latents of all {len(mean)} training images are equal, and must differ: check the images and the"
            " autoencoder's weights"
        )
    if bool(same.any()):
        channels = ", ".join(map(str, same.nonzero().flatten().tolist()))
        print(f"latents: channels {channels} are equal in all training images and hold no information", file=sys.stderr)
    noise = log_variance.clamp(*LOG_VARIANCES).exp()
    if scale == "auto":
        scale = float(1 / (mean.var(correction=0) + noise.mean()).sqrt())
    flat = mean.transpose(0, 1).flatten(1) * scale  # (C, N·L)
    variance = flat.var(1, correction=0) + noise.mean((0, 2, 3)) * scale**2
    share, related = low_frequency_share(mean), torch.corrcoef(flat)
    related[same[:, None] | same] = 0.0
    related.fill_diagonal_(1.0)
    return {
        "scale": scale,
        "channel_mean": flat.mean(1).tolist(),
        "channel_deviation": variance.sqrt().tolist(),
        "posterior_deviation": (noise.sqrt().mean((0, 2, 3)) * scale).tolist(),
        "correlation": related.tolist(),
        "low_frequency_share": share.tolist(),
        "frequency_order": share.argsort(descending=True).tolist(),
        "images": len(moments),
    }
