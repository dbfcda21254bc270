"""Features of images, by a frozen extractor; those of real images are extracted once for all stages of a store.

Letters: N images, ch channels, H and W sides, F features, K classes; images are uint8 (N, ch, H, W).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from tokenbridge import data
from tokenbridge.artifacts import Store, digest
from tokenbridge.config import Data, UserError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Array = NDArray[np.float32]

FOLDER = "features"
"""of the store, beside its stages"""


def misfit(extractor: nn.Module, config: Data) -> str | None:
    """Why an extractor's features do not measure such images, or None where they do."""
    device = next(extractor.parameters()).device
    shape = (1, config.image_channels, config.image_size, config.image_size)
    try:
        _, logits = extractor(torch.zeros(shape, dtype=torch.uint8, device=device))
    except UserError as error:
        return str(error)
    if logits.shape[1] != config.classes:
        classes = logits.shape[1]
        return f"data.classes={config.classes} must be {classes} for these features, which are no measure of other data"
    return None


@torch.inference_mode()
def extract(extractor: nn.Module, images: Images, batch: int) -> tuple[Array, Array]:
    """Features (N, F) and logits (N, K) of images, float32, `batch` images at once, where the extractor is."""
    device = next(extractor.parameters()).device
    found = []
    for start in range(0, len(images), batch):
        part = torch.from_numpy(np.array(images[start : start + batch]))
        found.append([value.cpu().numpy() for value in extractor(part.to(device))])
    return np.concatenate([f for f, _ in found]), np.concatenate([g for _, g in found])


def pixel_hash(images: Images) -> str:
    """SHA-256 of shape and pixels, 12 hex digits."""
    hasher = hashlib.sha256(str(images.shape).encode())
    for image in images:
        hasher.update(np.ascontiguousarray(image).data)
    return hasher.hexdigest()[:12]


@dataclass(frozen=True)
class Real:
    """What an extractor says of real images: features (N, F), and the hash of their pixels."""

    features: Array
    pixel_hash: str


def real(store: Store, config: Data, split: data.Split, extractor: nn.Module, weights: str, batch: int) -> Real:
    """Features of a split's images. weights: hash of the extractor's.

    They are kept by what changes them, down to their last bit: the images, the weights, the device, the threads and how
    many images it saw at once. So no number depends on whether they were there.
    """
    device = next(extractor.parameters()).device.type
    images = {"data": config.model_dump(exclude={"path", "held_out_path"}), "images": data.fingerprint(config)}
    id = digest([images, split, weights, batch, device, torch.get_num_threads()])
    path = store.root / FOLDER / f"{id}.safetensors"
    with store.lock(f"{FOLDER}-{id}"):
        if not path.exists():
            _extract(path, config, split, extractor, batch)
    return _read(path)


def _extract(path: Path, config: Data, split: data.Split, extractor: nn.Module, batch: int) -> None:
    pixels, _ = data.stack(data.load(config, split))
    features = extract(extractor, pixels, batch)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({"features": features}, partial, {"pixel_hash": pixel_hash(pixels)})
    partial.rename(path)


def _read(path: Path) -> Real:
    try:
        with safe_open(path, framework="numpy") as file:
            return Real(file.get_tensor("features"), file.metadata()["pixel_hash"])
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} must be a whole safetensors file ({error}); delete it and run again") from error
