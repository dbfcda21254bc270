"""Sets of images as a command line names them: a folder, an .npz file, a split of a data set, drawn samples.

N images, H and W sides. Grey images of folders are read as the reader asks; all others are as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenbridge.config import Data, UserError
from tokenbridge.data import contents, files, folders, images
from tokenbridge.data.images import ArrayImages, FileImages, Images
from tokenbridge.metrics import reference_files
from tokenbridge.store.artifacts import file_hash

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images that can be read as often as they are needed.

    Attributes:
        name: what the user called them.
        count: N.
        size: pixels per side.
        hash: tells them from all other images.
        read: the images, given 1 for grey or 3 for colour, which a folder heeds.
        labels: int64 (N,), places in classes; None where nobody says them.
        classes: their names.
        numbered: whether these are but the numbers of the labels.
    """

    name: str
    count: int
    size: int
    hash: str
    read: Callable[[int], Images]
    labels: Labels | None = None
    classes: tuple[str, ...] = ()
    numbered: bool = False

    def labels_among(self, classes: tuple[str, ...]) -> Labels | None:
        """The labels as places in another list of classes; None where a name is not in it or labels are not known.

        Args:
            classes: names. Of some that are numbers in another order than theirs (0, 1, 10, 2) nobody knows whether a
                number is a name or a place, so that numbers are not looked for among them.

        Returns:
            int64 (N,), or None.
        """
        if self.numbered and all(map(str.isdigit, classes)) and [*classes] != sorted(classes, key=int):
            return None
        places = {name: place for place, name in enumerate(classes)}
        if self.labels is None or not {self.classes[label] for label in np.unique(self.labels)} <= places.keys():
            return None
        return np.array([places.get(name, -1) for name in self.classes], np.int64)[self.labels]


def of_path(path: Path, size: int | None = None) -> ImageSet | Path:
    """The images in a folder or an .npz file; a file of statistics or of kept features as it is.

    Args:
        path: the folder or file.
        size: as of_folder's.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if path.is_dir():
        return of_folder(path, size)
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise UserError(
            f"{path} must be a folder of images, or a file ending in .npz or .safetensors; correct the path"
        )
    keys = reference_files.holds(path) if path.suffix == ".npz" else set()
    if reference_files.IMAGES not in keys or "mu" in keys:
        return path
    pixels, labels = reference_files.images_of(path), reference_files.labels_of(path)
    return of_arrays(path.name, f"sha256:{file_hash(path)[:12]}", pixels, labels)


def of_folder(path: Path, size: int | None = None, padded: bool = False) -> ImageSet:
    """Images in a folder and below; folders in it are classes, unless images lie beside them.

    Args:
        path: the folder.
        size: side that the images are cropped to, as ADM does it; by default the shorter side, the same of all.
        padded: whether smaller images are padded, not enlarged.

    Raises:
        UserError: no image, an unreadable one, shorter sides that differ where no size is given.
    """
    names, _ = folders.class_names(path)
    by_class = bool(names) and not _images_beside(path)
    roots = [path / name for name in names] if by_class else [path]
    kept = [(root.name, found) for root, found in zip(roots, folders.walk(path, roots).images, strict=True) if found]
    paths = [image for _, found in kept for image in found]
    if not paths:
        raise UserError(f"{path} holds no image; it needs files ending in {' '.join(folders.EXTENSIONS)}")
    classes = tuple(folders.printable(name) for name, _ in kept) if by_class else ()
    labels = np.repeat(np.arange(len(kept)), [len(found) for _, found in kept]).astype(np.int64)
    size = size or images.one_size(path, paths)
    return ImageSet(
        folders.printable(path),
        len(paths),
        size,
        f"folder:{contents.digest_of(path, paths).hex()[:12]}:{size}{':padded' if padded else ''}",
        lambda channels: FileImages(paths, labels, size, channels, padded),
        labels if classes else None,
        classes,
    )


def _images_beside(path: Path) -> bool:
    return any(entry.suffix.lower() in folders.EXTENSIONS for entry in path.iterdir() if not entry.is_dir())


def of_arrays(
    name: str, hash: str, pixels: NDArray[np.uint8], labels: Labels | None, classes: Sequence[str] = ()
) -> ImageSet:
    """Images in memory.

    Args:
        name: what the user called them.
        hash: tells them from all other images.
        pixels: uint8 (N, 1 or 3, H, H).
        labels: int64 (N,); None where nobody says them.
        classes: names by label; where there are none, classes are called by their numbers.
    """
    count = 0 if labels is None else int(labels.max(initial=-1)) + 1
    numbered = len(classes) < count
    names = tuple(map(str, range(count))) if numbered else tuple(classes) if count else ()
    shown = np.zeros(len(pixels), np.int64) if labels is None else labels
    return ImageSet(
        name, len(pixels), pixels.shape[-1], hash, lambda channels: ArrayImages(pixels, shown), labels, names, numbered
    )


def of_split(name: str, config: Data, split: files.Split) -> ImageSet:
    """A split of a configured data set.

    Raises:
        UserError: the data set lacks it, or does not fit its configuration.
    """
    if split not in files.splits(config):
        raise UserError(
            f"{name} has no split {split}, and must be one of {', '.join(files.splits(config))}; correct it"
        )
    found = images.load(config, split)
    hash = f"{files.fingerprint(config)[:12]}:{split}:{config.image_size}{':padded' if config.padded else ''}"
    classes = tuple(files.classes_of(config))
    return ImageSet(name, len(found), config.image_size, hash, lambda channels: found, found.labels, classes)
