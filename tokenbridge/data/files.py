"""Which images there are: the shipped digits as arrays, folders as lists of files. Planning asks, so without torch.

Letters: N images, H height, W width.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from tokenbridge.config import Data, UserError
from tokenbridge.data import contents
from tokenbridge.data.folders import EXTENSIONS, Walk, class_names, printable, walk

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
DIGITS_CLASSES = 10
KEYS: dict[Split, str] = {"train": "data.path", "test": "data.test_path"}
SHOWN_CLASSES = 20
FLAT = "."
"""name of the one class of a folder that holds images and no sub-folder"""


def fingerprint(config: Data) -> str:
    """Hash of what the images are, hex: pixels of the digits; names within a folder and contents of its files.

    Raises:
        UserError: as `files`.
    """
    hasher = hashlib.sha256()
    if config.source == "digits":
        pixels, labels = digits(config)
        hasher.update(pixels.tobytes() + labels.tobytes())
        return hasher.hexdigest()
    for split, root in roots(config).items():
        names, walked = _walked(config, split)
        for name, images in zip(names, walked.images, strict=True):
            hasher.update(os.fsencode(f"{split}\0{name}\0") + contents.digest_of(root / name, images))
    return hasher.hexdigest()


def splits(config: Data) -> tuple[Split, ...]:
    """The splits that hold images."""
    return tuple(split for split in SPLITS if split != "validation" or config.validation_fraction)


def split_of(config: Data, split: Split) -> tuple[np.ndarray | list[Path], np.ndarray]:
    """Pixels of the digits or paths of a folder's files, and labels int64 (N,), of a split."""
    if config.source == "digits":
        pixels, labels = digits(config)
        chosen = _members(config, labels, split)
        return pixels[chosen], labels[chosen]
    paths, labels = files(config, split)
    if split == "test" and config.test_path is not None:
        return paths, labels
    chosen = _members(config, labels, split)
    return [paths[i] for i in chosen], labels[chosen]


def _members(config: Data, labels: np.ndarray, split: Split) -> np.ndarray:
    """Indices of a split, ascending: seeded shares of each class (rounded, at least 1) are its test and validation."""
    test_fraction = 0.0 if config.test_path is not None else config.test_fraction
    parts = []
    for label in range(config.classes):
        members = np.flatnonzero(labels == label)
        test, validation = (
            max(1, round(len(members) * f)) if f else 0 for f in (test_fraction, config.validation_fraction)
        )
        if test + validation >= len(members):
            shares = f"data.test_fraction={test_fraction:g} and " if test else ""
            raise UserError(
                f"{shares}data.validation_fraction={config.validation_fraction:g} leave no training image in class"
                f" {label} ({len(members)} images); lower them (data.validation_fraction=0: no validation), add images"
                " or give data.test_path"
            )
        shuffled = np.random.default_rng([config.split_seed, label]).permutation(members)
        ranges = {
            "test": slice(test),
            "validation": slice(test, test + validation),
            "train": slice(test + validation, None),
        }
        parts.append(shuffled[ranges[split]])
    return np.sort(np.concatenate(parts))


def digits(config: Data) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 1, image_size, image_size) and labels int64 (N,) of all shipped digits."""
    if config.classes != DIGITS_CLASSES or config.image_channels != 1:
        raise UserError(
            f"data.classes={config.classes}, data.image_channels={config.image_channels} must be {DIGITS_CLASSES} and 1"
            " for the shipped digits; correct them or use data.source=folder"
        )
    return _resized_digits(config.image_size)


@cache
def _resized_digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits, 8×8 of 0..16, as uint8 (N, 1, size, size) and int64 (N,)."""
    table = _digits_table()
    eight = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = [np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in eight]
    pixels, labels = np.stack(images)[:, None], table[:, -1].astype(np.int64)
    for array in (pixels, labels):
        array.setflags(write=False)  # shared by every caller in the process
    return pixels, labels


def _digits_table() -> np.ndarray:
    """(1797, 65): 64 values per image and its label, as load_digits reads them."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.exists():  # importing scikit-learn takes one to three seconds, reading its file a twentieth
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])


def files(config: Data, split: Split) -> tuple[list[Path], np.ndarray]:
    """Image files and labels int64 (N,) of a split's folder, in the order of torchvision's ImageFolder.

    Raises:
        UserError: a folder, a class or a class list that does not fit the config.
    """
    _, walked = _walked(config, split)
    labels = np.repeat(np.arange(len(walked.images)), [len(images) for images in walked.images])
    return [path for images in walked.images for path in images], labels.astype(np.int64)


def roots(config: Data) -> dict[Split, Path]:
    """The folders of class folders by split: of training alone where the others are shares of it."""
    paths: dict[Split, str | None] = {"train": config.path, "test": config.test_path}
    return {split: Path(path) for split, path in paths.items() if path is not None}


def remarks(config: Data) -> Iterator[str]:
    """Lines on what the folders are read as: the label of each class, what was left out, loops, a doubtful order."""
    if config.source == "digits":
        return
    for split in roots(config):
        key = KEYS[split]
        if split == "test" and config.test_path == config.path:
            return
        names, walked = _walked(config, split)
        count = sum(map(len, walked.images))
        if names == [FLAT]:
            yield f"{key}: {count:,} images without class folders: one class"
        else:
            yield f"{key}: {count:,} images in {len(names)} classes: {_shortened(names)}"
        if left_out := +walked.left_out:
            left = ", ".join(f"{number:,} {what}" for what, number in sorted(left_out.items()))
            yield f"{key}: left out: {left}; images end in {' '.join(EXTENSIONS)}"
        for link in walked.loops:
            yield f"{key}: {printable(link)} leads to a folder that is read already or holds it; it is not followed"
        numeric = sorted(names, key=int) if all(is_number(name) for name in names) else names
        if numeric != names and config.class_list is None:
            label = next(label for label, name in enumerate(names) if numeric[label] != name)
            yield (
                f"{key}: class folders are numbers in the order of text, so that label {label} is {names[label]};"
                f" with data.class_order=numeric it is {numeric[label]}, data.class_list gives any order"
            )


def classes_of(config: Data) -> list[str]:
    """Names of the classes by label, as they print. UserError where the folder does not fit the config."""
    if config.source == "digits":
        return [str(digit) for digit in range(DIGITS_CLASSES)]
    return [printable(name) for name in _classes(config, "train")[0]]


def class_count(folder: Path, other: str = "") -> int:
    """Number of class folders; 1 for a folder of images alone.

    Args:
        other: words for what else the user could have given.

    Raises:
        UserError: there is one class folder, or neither such folders nor images.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} must be a folder of images, with one sub-folder per class or none{other}; correct the path"
        )
    names, _ = _names_in(folder)
    _require_classes(str(folder), folder, names)
    return len(names)


def names_by_label(config: Data) -> list[str]:
    """Names of the classes by label, fit to be printed; none for the digits and for images without classes.

    Raises:
        UserError: as `files`.
    """
    names = classes_of(config)
    return [] if config.source == "digits" or names == [FLAT] else names


def class_names_of(folder: Path) -> list[str]:
    """Names of a folder's classes, sorted as text; FLAT alone where it holds images instead."""
    return _names_in(folder)[0]


def _names_in(root: Path) -> tuple[list[str], Counter[str]]:
    """Names of the class folders in a folder, FLAT alone where it holds images instead; what lies beside them."""
    names, others = class_names(root)
    if names or not any(path.suffix.lower() in EXTENSIONS for path in root.iterdir()):
        return names, others
    return [FLAT], Counter()


def _require_classes(what: str, root: Path, names: Sequence[str]) -> None:
    """Raise UserError for a single class folder, which is most often one level too high, and for none."""
    if len(names) < 2 and names != [FLAT]:
        remedy = f"give {printable(root / names[0])} itself" if names else "put images there"
        raise UserError(
            f"{what} must hold one sub-folder per class, at least 2, or images alone, and holds {len(names)}; {remedy},"
            " or sort the images into such folders"
        )


def shorter_side(path: Path) -> int:
    """The shorter side of an image file in pixels, by its header. Raises UserError where it cannot be read."""
    with readable(path), Image.open(path) as image:
        return min(image.size)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what Pillow raises for a file that is no whole image into a UserError with its path."""
    try:
        yield
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        line = f"{printable(path)} cannot be read as an image ({error}); replace or delete the file"
        raise UserError(line) from error


def read_image(path: Path, mode: str) -> Image.Image:
    """Read an image in 8 bits per channel as ADM and torchvision's loader do: without alpha, ignoring EXIF rotation.

    Of 16 bits the high byte is taken: Pillow does so for colours by itself, but cuts greys off at 255.
    """
    with readable(path), Image.open(path) as image:
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            return Image.fromarray((np.array(image).astype(np.uint16) >> 8).astype(np.uint8)).convert(mode)
        if image.mode in ("I", "F"):
            raise ValueError("its pixels have 32 bits, and must have 8 or 16")
        if "transparency" in image.info:  # bytes of it in a palette are a warning otherwise
            return image.convert("RGBA").convert(mode)
        if image.mode == mode:
            image.load()
            return image  # which convert would copy
        return image.convert(mode)


def _walked(config: Data, split: Split) -> tuple[list[str], Walk]:
    """Names of the classes by label and the images of each."""
    names, others = _classes(config, "train")
    if split == "test" and config.test_path is not None:
        theirs, others = _classes(config, split)
        if theirs != names:
            name = printable(sorted(set(theirs) ^ set(names))[0])
            raise UserError(
                f"data.test_path={config.test_path} must have the classes of data.path, but {name} is in one only"
            )
    root = roots(config).get(split, Path(config.path or ""))
    walked = walk(root, [root / name for name in names])
    walked.left_out.update(others)
    for name, images in zip(names, walked.images, strict=True):
        folder = root / name
        if not images and folder in walked.loops:
            raise UserError(
                f"{printable(folder)} is a link to a folder that is read already or holds it; an image has one class:"
                " delete the link"
            )
        if not images:
            raise UserError(
                f"{printable(folder)} holds no image; a class folder needs files ending in {' '.join(EXTENSIONS)}"
            )
    return names, walked


def _classes(config: Data, split: Split) -> tuple[list[str], Counter[str]]:
    """Names of the class folders by label; how many entries beside them are passed over."""
    key, root = KEYS[split], roots(config)[split]
    if not root.is_dir():
        raise UserError(f"{key}={root} must be a folder with one sub-folder per class, and is none; correct the path")
    names, others = _names_in(root)
    where = f"sub-folders of {root}" if names != [FLAT] else f"classes of {root}, which holds images alone"
    if config.class_list is not None:
        listed, where = _listed(Path(config.class_list)), f"classes of data.class_list={config.class_list}"
        if lacking := sorted(set(listed) - set(names)):
            raise UserError(
                f"data.class_list={config.class_list} names {printable(lacking[0])}, which is no sub-folder of {root};"
                " correct it"
            )
        others["class folders that data.class_list leaves out"] += len(names) - len(listed)
        names = listed
    elif config.class_order == "numeric":
        if texts := [name for name in names if not is_number(name)]:
            raise UserError(
                f"data.class_order=numeric needs class folders that are whole numbers, and {printable(texts[0])} of"
                f" {root} is none; take data.class_order=text or data.class_list"
            )
        names = sorted(names, key=int)
    _require_classes(f"{key}={root}", root, names)
    if len(names) != config.classes:
        raise UserError(f"data.classes={config.classes} must be {len(names)}, the number of {where}; correct it")
    return names, others


def _listed(path: Path) -> list[str]:
    """Names of class folders, one per line in any bytes; empty lines and a byte order mark are skipped."""
    try:
        text = os.fsdecode(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        if "\0" in text:
            raise ValueError("it holds zero bytes")
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.class_list={path} must be a text file with one class folder per line ({error})"
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"data.class_list={path} names {printable(twice[0])} twice; a class has one label")
    return names


def is_number(name: str) -> bool:
    """Whether the name of a class folder is a whole number."""
    return name.isascii() and name.isdigit()


def _shortened(names: Sequence[str]) -> str:
    """Labels and names of classes: all of them, or the first and the last."""
    labelled = [f"{label} {printable(name)}" for label, name in enumerate(names)]
    return ", ".join(labelled if len(names) <= SHOWN_CLASSES else [*labelled[: SHOWN_CLASSES - 1], "…", labelled[-1]])
