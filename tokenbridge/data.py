"""Images and their labels: the shipped digits, and folders of images with the ADM crop.

Letters: N images, H height, W width; images are uint8 (channels, H, W).
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from tokenbridge.config import Data, UserError

Split = Literal["train", "held-out"]
DIGITS_CLASSES = 10
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Images(Dataset[tuple[Tensor, int]]):
    """A set of labelled images. labels: int64 (N,); item i: (uint8 (channels, H, W), label)."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise NotImplementedError


class ArrayImages(Images):
    """Images that are in memory. pixels: uint8 (N, channels, H, W)."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray):
        self.pixels, self.labels = pixels, labels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.pixels[index].copy()), int(self.labels[index])


class FileImages(Images):
    """Images that are read, cropped and converted on demand; an unreadable one raises UserError with its path."""

    def __init__(self, paths: list[Path], labels: np.ndarray, size: int, channels: int):
        self.paths, self.labels, self.size, self.channels = paths, labels, size, channels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = adm_crop(_read(self.paths[index], "L" if self.channels == 1 else "RGB"), self.size)
        pixels = np.array(image, np.uint8).reshape(self.size, self.size, self.channels)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), int(self.labels[index])


def load(config: Data, split: Split) -> Images:
    """The images of a split. Raises UserError where the folder, its classes or the sizes do not fit the config."""
    if config.source == "digits":
        pixels, labels = _digits(config)
        chosen = _members(config, labels, split)
        return ArrayImages(pixels[chosen], labels[chosen])
    paths, labels = _files(config, split)
    if config.held_out_path is None:
        chosen = _members(config, labels, split)
        paths, labels = [paths[i] for i in chosen], labels[chosen]
    return FileImages(paths, labels, config.image_size, config.image_channels)


def stack(dataset: Images) -> tuple[np.ndarray, np.ndarray]:
    """A small set in memory: (uint8 (N, channels, H, W), int64 (N,))."""
    if isinstance(dataset, ArrayImages):
        return dataset.pixels, dataset.labels
    return torch.stack([dataset[i][0] for i in range(len(dataset))]).numpy(), dataset.labels


def fingerprint(config: Data) -> str:
    """Hash of what the images are, hex: pixels of the digits; relative paths and sizes of a folder (reads no image)."""
    hasher = hashlib.sha256()
    if config.source == "digits":
        pixels, labels = _digits(config)
        hasher.update(pixels.tobytes() + labels.tobytes())
        return hasher.hexdigest()
    roots: dict[Split, str | None] = {"train": config.path, "held-out": config.held_out_path}
    for split, root in roots.items():
        if root is not None:
            for path in _files(config, split)[0]:
                hasher.update(f"{split}\0{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
    return hasher.hexdigest()


def adm_crop(image: Image.Image, size: int) -> Image.Image:
    """Centre crop of ADM: halve by box filter while the short side is at least twice the size, bicubic, cut the centre.

    Equal pixel by pixel to `center_crop_arr` of github.com/openai/guided-diffusion (image_datasets.py).
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = size / min(image.size)
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _digits(config: Data) -> tuple[np.ndarray, np.ndarray]:
    if config.classes != DIGITS_CLASSES or config.image_channels != 1:
        raise UserError(
            f"data.classes={config.classes}, data.image_channels={config.image_channels} must be {DIGITS_CLASSES} and 1"
            " for the shipped digits; correct them or use data.source=folder"
        )
    return _resized_digits(config.image_size)


@cache
def _resized_digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits, 8×8 of 0..16, as uint8 (N, 1, size, size) and int64 (N,)."""
    from sklearn.datasets import load_digits  # scikit-learn takes most of a second to import

    digits: Any = load_digits()
    eight = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = [np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in eight]
    pixels, labels = np.stack(images)[:, None], digits.target.astype(np.int64)
    for array in (pixels, labels):
        array.setflags(write=False)  # shared by every caller in the process
    return pixels, labels


def _members(config: Data, labels: np.ndarray, split: Split) -> np.ndarray:
    """Indices of a split, ascending: of each class a seeded share test_fraction (rounded, at least 1) is held out."""
    parts = []
    for label in range(config.classes):
        members = np.flatnonzero(labels == label)
        count = max(1, round(len(members) * config.test_fraction))
        if count >= len(members):
            raise UserError(
                f"data.test_fraction={config.test_fraction:g} leaves no training image in class {label}"
                f" ({len(members)} images); lower it, add images or give data.held_out_path"
            )
        shuffled = np.random.default_rng([config.split_seed, label]).permutation(members)
        parts.append(shuffled[:count] if split == "held-out" else shuffled[count:])
    return np.sort(np.concatenate(parts))


def _files(config: Data, split: Split) -> tuple[list[Path], np.ndarray]:
    """Image files and labels of a split's folder, in torchvision's ImageFolder order (sorted classes, sorted paths)."""
    assert config.path is not None
    root = Path(config.path)
    classes = _classes(root, "data.path", config.classes)
    if split == "held-out" and config.held_out_path is not None:
        root = Path(config.held_out_path)
        found = _classes(root, "data.held_out_path", config.classes)
        if found != classes:
            name = sorted(set(found) ^ set(classes))[0]
            raise UserError(f"data.held_out_path={root} must have the classes of data.path, but {name} is in one only")
    paths, labels = [], []
    for label, name in enumerate(classes):
        inside = [Path(folder, file) for folder, _, files in os.walk(root / name, followlinks=True) for file in files]
        images = sorted(path for path in inside if path.suffix.lower() in EXTENSIONS)
        if not images:
            raise UserError(
                f"{root / name} holds no image; a class folder needs files ending in {' '.join(EXTENSIONS)}"
            )
        paths += images
        labels += [label] * len(images)
    return paths, np.array(labels, np.int64)


def _classes(root: Path, key: str, expected: int) -> list[str]:
    if not root.is_dir():
        raise UserError(f"{key}={root} must be a folder with one sub-folder a class, and is none; correct the path")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if len(found) < 2:
        raise UserError(
            f"{key}={root} must hold one sub-folder a class, at least 2, and holds {len(found)}; sort the images into"
            " such folders"
        )
    if len(found) != expected:
        raise UserError(
            f"data.classes={expected} must be {len(found)}, the number of sub-folders of {root}; correct it"
        )
    return found


def _read(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}); replace or delete the file") from error
