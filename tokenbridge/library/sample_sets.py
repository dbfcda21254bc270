"""Samples that another program drew, as the finished `sample` stage of a run: read, held against the data, written.

N images that are kept, H pixels per side, C channels of the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokenbridge.config import Data, RunConfig, UserError
from tokenbridge.data import files, folders, images
from tokenbridge.data.images import FileImages, Images, in_turn
from tokenbridge.library.image_sets import ImageSet, Labels, of_folder, of_path
from tokenbridge.metrics import reference_files
from tokenbridge.rng import generator
from tokenbridge.stages.sample import EXAMPLES, NO_LABELS
from tokenbridge.store.artifacts import new_array, write_array
from tokenbridge.store.runs import write_metrics

SHOWN = 5
"""names of classes in a message"""
LOOKED_AT = 200
"""training images that tell whether colour images are grey all the same"""


@dataclass(frozen=True)
class SampleSet:
    """Samples of another program, as many as a configuration asks for.

    Attributes:
        path: the folder or file.
        there: images that it holds.
        images: these, RGB, cropped where that was asked for.
        order: int64 (N,), which of them are kept, in their order: classes in turn where labels are known, as in samples
            that are drawn here; else all as they are, or a fixed random choice.
        labels: int64 (N,), places in the data's classes; None where nobody says them.
        data: what the images are like.
        about: how they were read, for the protocol.
        batch: images at once.
    """

    path: Path
    there: int
    images: Images
    order: NDArray[np.int64]
    labels: Labels | None
    data: Data
    about: dict[str, str]
    batch: int

    def __len__(self) -> int:
        return len(self.order)

    def pixels(self) -> Iterator[Tensor]:
        """Yield the images in order, uint8 (n, C, H, H), a batch at a time.

        Raises:
            UserError: an image that cannot be read, one of colours where the data are grey.
        """
        for first, (part, _) in enumerate(images.batches(self.images, self.batch, self.order.tolist())):
            part = part.expand(len(part), 3, *part.shape[2:])  # grey images of an .npz have one channel
            if self.data.image_channels == 1 and (coloured := _coloured(part)).any():
                which = self._name(first * self.batch + int(coloured.nonzero()[0]))
                raise UserError(
                    f"{which} has colours, and the data are grey (data.image_channels=1); give"
                    " grey images, or take a plan of colour images"
                )
            yield part if self.data.image_channels == 3 else part[:, :1]

    def _name(self, place: int) -> str:
        """What to call a kept image: by its file where it has one."""
        number = int(self.order[place])
        if isinstance(self.images, FileImages):
            return images.called(self.images.places[number])
        return f"image {number} of {self.path}"

    @cached_property
    def hash(self) -> str:
        """What sample.given calls them: a hash of pixels and labels, whatever file or folder holds them.

        Raises:
            UserError: as pixels; grey images where the data have colours.
        """
        hasher, grey = hashlib.sha256(), self.data.image_channels == 3
        for part in self.pixels():
            hasher.update(part.numpy().tobytes())
            grey = grey and not _coloured(part).any()
        if grey and not _grey(self.data):
            raise UserError(
                f"all images of {self.path} are grey, and the data have colours (data.image_channels=3); give colour"
                " images, or take a plan of grey ones"
            )
        if self.labels is not None:
            hasher.update(self.labels.tobytes())
        return f"sha256:{hasher.hexdigest()[:12]}"


def read_set(path: Path, config: RunConfig, resize: bool = False, batch: int = 256) -> SampleSet:
    """Open samples and hold them against a configuration's data and number of images.

    Args:
        path: a folder of images, with class folders or without, or an .npz file (arr_0, and labels as arr_1).
        config: its data, and sample.images.
        resize: whether images of another size are scaled and cropped as the data's are (ADM's crop).
        batch: images at once.

    Raises:
        UserError: no images, too few, another size, classes that the data do not have.
    """
    count, size = config.sample.images, config.data.image_size
    opened = _opened(path, config.data, resize)
    if opened.count < count:
        raise UserError(
            f"{path} holds {opened.count} images and must hold {count} at least, as many as the plan's own rows draw"
            " (sample.images); add images"
        )
    labels, told = _labels(opened, path, config.data)
    if labels is not None:
        order, chosen = in_turn(labels)[:count], "classes in turn"
    elif opened.count == count:
        order, chosen = np.arange(count), "all, as they are"
    else:
        order = np.sort(torch.randperm(opened.count, generator=generator("given samples"))[:count].numpy())
        chosen = "at random"
    about = {"from": str(path), "there": str(opened.count), "chosen": chosen, "labels": told}
    crop = "padded or cropped" if config.data.padded else "ADM's"
    about |= {"crop": f"{crop}, to {size}"} if resize else {}
    shown = opened.read(3)
    source = _Resized(shown, config.data) if resize and not isinstance(shown, FileImages) else shown
    kept = None if labels is None else labels[order]
    return SampleSet(path, opened.count, source, order, kept, config.data, about, batch)


def write_set(given: SampleSet, out: Path) -> None:
    """Write what a finished `sample` stage leaves; labels where they are known.

    Args:
        given: the samples.
        out: the stage's folder, while it is written.

    Raises:
        UserError: they have changed since their hash was taken.
    """
    data, hasher, first = given.data, hashlib.sha256(), 0
    shape = (len(given), data.image_channels, data.image_size, data.image_size)
    samples = new_array(out / "samples.npy", np.uint8, shape)
    for part in given.pixels():
        samples[first : first + len(part)] = part.numpy()
        hasher.update(part.numpy().tobytes())
        first += len(part)
    samples.flush()
    examples = {"images": samples[:EXAMPLES]}
    if given.labels is not None:
        write_array(out / "labels.npy", given.labels)
        hasher.update(given.labels.tobytes())
        examples["labels"] = given.labels[:EXAMPLES]
    if f"sha256:{hasher.hexdigest()[:12]}" != given.hash:
        raise UserError(f"{given.path} has changed while it was read; give the command again")
    np.savez_compressed(out / "examples.npz", **examples)  # pyright: ignore[reportArgumentType]
    write_metrics(out, {"images": len(given)}, {"given": given.hash, "images": len(given)} | given.about)


class _Resized(Images):
    """Images in memory, scaled and cropped on demand."""

    def __init__(self, whole: Images, data: Data):
        self.whole, self.data, self.labels = whole, data, whole.labels

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, label = self.whole[index]
        whole = pixels.expand(3, *pixels.shape[1:]).permute(1, 2, 0)
        image = Image.fromarray(whole.contiguous().numpy())
        image = images.fitted(image, self.data.image_size, self.data.padded)
        return torch.from_numpy(np.array(image, np.uint8).transpose(2, 0, 1).copy()), label


def _coloured(part: Tensor) -> Tensor:
    """bool (n,): which of uint8 images (n, 1 or 3, H, W) are not grey."""
    return (part != part[:, :1]).flatten(1).any(1)


def _grey(data: Data) -> bool:
    """Whether a few training images are all grey, though they have three channels."""
    train = images.load(data, "train")
    parts = images.batches(train, LOOKED_AT, images.few_of(train.labels, LOOKED_AT).tolist())
    return not any(_coloured(part).any() for part, _ in parts)


def _opened(path: Path, data: Data, resize: bool) -> ImageSet:
    size = data.image_size
    if path.is_dir():
        opened = of_folder(path, size, data.padded)
        shown = opened.read(3)
        assert isinstance(shown, FileImages)
        sizes = map(images.shape_of, shown.places)
        wrong = next(((w, h) for w, h in sizes if (w, h) != (size, size)), None) if not resize else None
    else:
        if path.suffix != ".npz":
            raise UserError(f"{path} must be a folder of images, or a file ending in .npz; correct the path")
        found = of_path(path)
        if isinstance(found, Path):
            raise UserError(
                f"{path} holds statistics or features and must hold images ({reference_files.IMAGES}); give the images"
            )
        opened, (_, height, width, _) = found, reference_files.images_shape(path)
        wrong = (width, height) if (width, height) != (size, size) and not resize else None
    if wrong:
        raise UserError(
            f"{path} has images of {wrong[0]}×{wrong[1]} pixels, which must be {size}×{size} (data.image_size); give"
            " images of that size, or --resize to have them scaled and cropped as the data's are"
        )
    return opened


def _labels(opened: ImageSet, path: Path, data: Data) -> tuple[Labels | None, str]:
    """Places in the data's classes (of all images), and where they are from; UserError for classes they do not have."""
    if data.classes == 1:
        return np.zeros(opened.count, np.int64), "one class"
    if opened.labels is None:
        return None, NO_LABELS
    if path.suffix == ".npz" and not path.is_dir():
        if (most := int(opened.labels.max())) >= data.classes:
            raise UserError(
                f"{path} has label {most}, which must be below {data.classes} (data.classes); correct"
                f" {reference_files.LABELS}, or leave it out"
            )
        return opened.labels, reference_files.LABELS
    known = tuple(files.classes_of(data))
    if wrong := [name for name in opened.classes if name not in known]:
        names = ", ".join(known[:SHOWN]) + (", …" if len(known) > SHOWN else "")
        raise UserError(
            f"{path} has a folder {folders.printable(wrong[0])}, which is no class of the data ({names}); name folders"
            " by these classes, or put all images into one folder without classes"
        )
    return opened.labels_among(known), "class folders"
