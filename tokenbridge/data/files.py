"""Which images there are: the shipped digits as arrays, folders as lists of files. Planning asks, so without torch.

Letters: N images, H height, W width.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tokenbridge.config import Data, UserError

Split = Literal["train", "held-out"]
SPLITS: tuple[Split, ...] = ("train", "held-out")
DIGITS_CLASSES = 10
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def fingerprint(config: Data) -> str:
    """Hash of what the images are, hex: pixels of the digits; relative paths and sizes of a folder (reads no image)."""
    hasher = hashlib.sha256()
    if config.source == "digits":
        pixels, labels = digits(config)
        hasher.update(pixels.tobytes() + labels.tobytes())
        return hasher.hexdigest()
    roots: dict[Split, str | None] = {"train": config.path, "held-out": config.held_out_path}
    for split, root in roots.items():
        if root is not None:
            for path in files(config, split)[0]:
                hasher.update(f"{split}\0{path.relative_to(root).as_posix()}\0{path.stat().st_size}\n".encode())
    return hasher.hexdigest()


def split_of(config: Data, split: Split) -> tuple[np.ndarray | list[Path], np.ndarray]:
    """Pixels of the digits or paths of a folder's files, and labels int64 (N,), of a split."""
    if config.source == "digits":
        pixels, labels = digits(config)
        chosen = _members(config, labels, split)
        return pixels[chosen], labels[chosen]
    paths, labels = files(config, split)
    if config.held_out_path is not None:
        return paths, labels
    chosen = _members(config, labels, split)
    return [paths[i] for i in chosen], labels[chosen]


def _members(config: Data, labels: np.ndarray, split: Split) -> np.ndarray:
    """Indices of a split, ascending: a seeded share test_fraction of each class (rounded, at least 1) is held out."""
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
    """Image files and labels of a split's folder, in torchvision's ImageFolder order (sorted classes, sorted paths).

    With data.class_list, its order of classes.
    """
    assert config.path is not None
    root = Path(config.path)
    classes = _classes(root, "data.path", config)
    if split == "held-out" and config.held_out_path is not None:
        root = Path(config.held_out_path)
        theirs = _classes(root, "data.held_out_path", config)
        if theirs != classes:
            name = sorted(set(theirs) ^ set(classes))[0]
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


def class_count(folder: Path, other: str = "") -> int:
    """Number of class folders, at least 2 or UserError; other: words for what else the user could have given."""
    if not folder.is_dir():
        raise UserError(f"{folder} must be a folder with one sub-folder per class{other}; correct the path")
    count = sum(entry.is_dir() for entry in folder.iterdir())
    if count < 2:
        raise UserError(f"{folder} must hold one sub-folder per class, at least 2; sort the images into such folders")
    return count


def _classes(root: Path, key: str, config: Data) -> list[str]:
    if not root.is_dir():
        raise UserError(f"{key}={root} must be a folder with one sub-folder per class, and is none; correct the path")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    where = f"sub-folders of {root}"
    if config.class_list is not None:
        listed, where = _listed(Path(config.class_list)), f"classes of data.class_list={config.class_list}"
        if lacking := sorted(set(listed) - set(names)):
            raise UserError(
                f"data.class_list={config.class_list} names {lacking[0]}, which is no sub-folder of {root}; correct it"
            )
        names = listed
    if len(names) < 2:
        raise UserError(
            f"{key}={root} must hold one sub-folder per class, at least 2, and holds {len(names)}; sort the images into"
            " such folders"
        )
    if len(names) != config.classes:
        raise UserError(f"data.classes={config.classes} must be {len(names)}, the number of {where}; correct it")
    return names


def _listed(path: Path) -> list[str]:
    """Names of class folders, one per line; empty lines are skipped."""
    try:
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.class_list={path} must be a text file with one class folder per line ({error})"
        ) from error
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"data.class_list={path} names {twice[0]} twice; a class has one label")
    return names
