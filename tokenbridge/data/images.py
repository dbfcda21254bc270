"""Images and their labels: those in memory, and those that are read, with the ADM crop.

Letters: N images, H height, W width; images are uint8 (channels, H, W).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import clear_frames

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenbridge.config import Data, UserError
from tokenbridge.data.files import Split, fingerprint, split_of
from tokenbridge.data.pictures import Place, called, read_image, shape_of

FEW = 500
"""files that one process reads in the time that it takes to start others"""
READERS = 8
"""processes that read files, at most"""


class Images(Dataset[tuple[Tensor, int]]):
    """A set of labelled images; labels: int64 (N,), item i: (uint8 (channels, H, W), label)."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, channels, H, W) and labels int64 (B,): what a loader asks for, all at once."""
        pixels, labels = zip(*(self[index] for index in indices), strict=True)
        return torch.stack(pixels), torch.tensor(labels)


class ArrayImages(Images):
    """Images that are in memory. pixels: uint8 (N, channels, H, W)."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray):
        self.pixels, self.labels = pixels, labels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.pixels[index].copy()), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = np.asarray(indices, np.int64)
        return torch.from_numpy(self.pixels[chosen]), torch.from_numpy(self.labels[chosen])


class FileImages(Images):
    """Images that are read, cropped and converted on demand; an unreadable one raises UserError that names it.

    padded: whether smaller images are padded, not enlarged.
    """

    def __init__(self, places: Sequence[Place], labels: np.ndarray, size: int, channels: int, padded: bool = False):
        self.places, self.labels = places, labels
        self.size, self.channels, self.padded = size, channels, padded

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0][0], int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        pixels = np.empty((len(indices), self.channels, self.size, self.size), np.uint8)
        # in the order of the files: of a parquet file whole groups of rows are read and kept for the next
        for row in np.argsort(indices, kind="stable"):
            whole = read_image(self.places[indices[row]], "L" if self.channels == 1 else "RGB")
            image = fitted(whole, self.size, self.padded)
            pixels[row] = np.asarray(image).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)
        return torch.from_numpy(pixels), torch.from_numpy(self.labels[np.asarray(indices, np.int64)])


def one_size(folder: Path, paths: Sequence[Path]) -> int:
    """The shorter side of images in a folder, the same of all. UserError where they differ."""
    size = min(shape_of(paths[0]))
    for other in paths[1:]:
        if (theirs := min(shape_of(other))) != size:
            raise UserError(
                f"images of {folder} must be of one size, and {other.relative_to(folder)} has {theirs} pixels where"
                f" {paths[0].relative_to(folder)} has {size}; give --size"
            )
    return size


def load(config: Data, split: Split) -> Images:
    """The images of a split. Raises UserError where the folder, its classes or the sizes do not fit the config."""
    images, labels = split_of(config, split)
    if isinstance(images, np.ndarray):
        return ArrayImages(images, labels)
    return FileImages(images, labels, config.image_size, config.image_channels, config.padded)


def batches(images: Images, size: int, order: Sequence[int] | range | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """All images, or those of an order: uint8 (B, channels, H, W) and labels int64 (B,), B = size but for the last.

    UserError: a file that cannot be read.
    """
    chosen = range(len(images)) if order is None else order
    yield from in_batches(images, [chosen[first : first + size] for first in range(0, len(chosen), size)])


def in_batches(images: Images, parts: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of each part, uint8 (B, channels, H, W), and their labels int64 (B,).

    Many files are read by several processes, ahead of what is asked for. UserError: a file that cannot be read.
    """
    readers = _readers() if isinstance(images, FileImages) and sum(map(len, parts)) >= FEW else 0
    if readers:
        images[parts[0][0]]  # opens what all readers share, once
    seeds = torch.Generator()  # of the loader's processes, which else take torch's global state
    try:
        # any iterables do, and what the collation gets is what __getitems__ gave
        yield from DataLoader(
            images,
            batch_sampler=parts,  # pyright: ignore[reportArgumentType]
            num_workers=readers,
            generator=seeds,
            collate_fn=_as_it_comes,  # pyright: ignore[reportArgumentType]
        )
    except UserError as error:
        clear_frames(error.__traceback__)  # they hold the loader, whose processes would take seconds each to end
        # what a reader sends has its whole traceback before the line
        line = str(error.args[0]).strip().splitlines()[-1]
        raise UserError(line.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")) from error


def _as_it_comes(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def _readers() -> int:
    """Number of reading processes: this process's share of the processors, beside others that torchrun started."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = processors // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(READERS, share) if share > 1 else 0


def stack(dataset: Images) -> tuple[np.ndarray, np.ndarray]:
    """Read a small set into memory: (uint8 (N, channels, H, W), int64 (N,))."""
    if isinstance(dataset, ArrayImages):
        return dataset.pixels, dataset.labels
    return torch.cat([part for part, _ in batches(dataset, 256)]).numpy(), dataset.labels


def fitted(image: Image.Image, size: int, padded: bool) -> Image.Image:
    """An image as `size` pixels per side: ADM's crop, or with smaller sides as they are, in the middle of black.

    Args:
        image: of any width and height.
        size: pixels per side.
        padded: whether an image whose shorter side is less than size is padded; ADM's crop enlarges it.
    """
    if not padded or min(image.size) >= size:
        return adm_crop(image, size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))  # beyond the image, crop gives black


def adm_crop(image: Image.Image, size: int) -> Image.Image:
    """Centre crop of ADM: halve by box filter while the short side is at least twice the size, bicubic, cut the centre.

    Equal pixel by pixel to `center_crop_arr` of github.com/openai/guided-diffusion (image_datasets.py).
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = size / min(image.size)
    width, height = round(image.width * factor), round(image.height * factor)
    left, top = (width - size) // 2, (height - size) // 2
    # rows, then columns, as Pillow does it in one call, which would scale columns that are cut off
    image = image.resize((width, image.height), Image.Resampling.BICUBIC).crop((left, 0, left + size, image.height))
    return image.resize((size, height), Image.Resampling.BICUBIC).crop((0, top, size, top + size))


def in_turn(labels: np.ndarray) -> np.ndarray:
    """An order in which classes come in turn, each with its images in their own order, as samples are drawn here.

    Args:
        labels: (N,) classes.

    Returns:
        int64 (N,), places of the images.
    """
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turns = np.empty(len(labels), np.int64)
    turns[by_class] = np.arange(len(labels)) - starts
    return np.lexsort((labels, turns))


def few_of(labels: np.ndarray, most: int) -> np.ndarray:
    """Places of at most so many images that stand for all.

    The first ones; of images that lie class by class, as class folders do, as many of each class as its share is.

    Args:
        labels: int64 (N,), the images' classes.
        most: how many are wanted at most.

    Returns:
        int64 (min(N, most),), increasing.
    """
    if lies_by_class(labels, most):
        return np.arange(most) * len(labels) // most
    return np.arange(min(len(labels), most))


def lies_by_class(labels: np.ndarray, most: int) -> bool:
    """Whether the first `most` images hold the first classes more than the others: labels (N,) rise from 0 to the last.

    Then few_of takes others than the first.
    """
    return len(labels) > most and labels[0] != labels[-1] and bool((np.diff(labels) >= 0).all())


__all__ = [
    "ArrayImages",
    "FileImages",
    "Images",
    "Split",
    "adm_crop",
    "batches",
    "called",
    "few_of",
    "fingerprint",
    "fitted",
    "in_turn",
    "lies_by_class",
    "load",
    "one_size",
    "shape_of",
    "stack",
]
