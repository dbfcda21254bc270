"""Which images there are: those of a source, shared out among the splits. Planning asks, so without torch.

Letters: N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from tokenbridge.config import Data, UserError
from tokenbridge.data.pictures import Place
from tokenbridge.data.sources import source_of

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def fingerprint(config: Data) -> str:
    """Hash of what the images are, hex, wherever they are.

    Raises:
        UserError: as `split_of`.
    """
    return source_of(config).fingerprint()


def splits(config: Data) -> tuple[Split, ...]:
    """The splits that hold images."""
    return tuple(split for split in SPLITS if split != "validation" or config.validation_fraction)


def split_of(config: Data, split: Split) -> tuple[np.ndarray | Sequence[Place], np.ndarray]:
    """Images of a split, and their labels.

    Returns:
        Pixels uint8 (N, channels, H, W) of images in memory, or where each image is; labels int64 (N,).

    Raises:
        UserError: there are no such images, or they do not fit the config.
    """
    source = source_of(config)
    if split == "test" and source.gives_test:
        return source.given("test")
    images, labels = source.given("train")
    chosen = _members(config, labels, split, source.gives_test)
    return images[chosen] if isinstance(images, np.ndarray) else [images[i] for i in chosen], labels[chosen]


def _members(config: Data, labels: np.ndarray, split: Split, gives_test: bool) -> np.ndarray:
    """Indices of a split, ascending: seeded shares of each class (rounded, at least 1) are its test and validation."""
    test_fraction = 0.0 if gives_test else config.test_fraction
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


def remarks(config: Data) -> Iterator[str]:
    """Lines on what the images are read as: the label of each class, what was left out, loops, a doubtful order."""
    return source_of(config).remarks()


def classes_of(config: Data) -> list[str]:
    """Names of the classes by label, as they print. UserError where the images do not fit the config."""
    return source_of(config).classes()


def names_by_label(config: Data) -> list[str]:
    """Names of the classes by label, fit to be printed; none for the digits and for images without classes.

    Raises:
        UserError: as `split_of`.
    """
    source = source_of(config)
    return [] if source.classless else source.classes()
