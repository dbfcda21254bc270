"""The contract of a source of images (data.source), and the list of them, SOURCES.

A source gives its images in one piece, of which validation and test are shares, or training and test images apart.
Without torch: planning asks.
Letters: N images.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from tokenbridge.config import Data, UserError
from tokenbridge.data.folders import printable
from tokenbridge.data.pictures import Place

SOURCES = {
    "digits": "tokenbridge.data.digits.Digits",
    "folder": "tokenbridge.data.class_folders.ClassFolders",
    "torchvision": "tokenbridge.data.torchvision_sets.TorchvisionSet",
    "parquet": "tokenbridge.data.parquet.Parquet",
    "tar": "tokenbridge.data.tar.Tar",
}
"""the class of each data.source, which is imported where images are asked for"""
Given = Literal["train", "test"]
KEYS: dict[Given, str] = {"train": "data.path", "test": "data.test_path"}
FLAT = "."
"""name of the one class of images without classes"""
SHOWN_CLASSES = 20


class Source(ABC):
    """The images that a configuration names. `train` is all that it gives, but for test images that it gives apart."""

    classless = False
    """whether classes have no names that a page could show"""

    def __init__(self, config: Data):
        self.config = config

    @property
    @abstractmethod
    def gives_test(self) -> bool:
        """Whether it gives test images apart; else they are a share."""

    @property
    def there(self) -> bool:
        """Whether the images can be looked at without a download."""
        return True

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what the images are, hex, wherever they are. UserError: as `given`."""

    @abstractmethod
    def given(self, split: Given) -> tuple[np.ndarray | Sequence[Place], np.ndarray]:
        """Images as they are given: pixels uint8 (N, channels, H, W) or where each is; labels int64 (N,).

        Raises:
            UserError: there are none, or they do not fit the configuration.
        """

    @abstractmethod
    def classes(self) -> list[str]:
        """Names of the classes by label, as they print. UserError: as `given`."""

    def remarks(self) -> Iterator[str]:
        """Lines on what the images are read as."""
        yield from ()


def source_of(config: Data) -> Source:
    """The source that a configuration names."""
    module, _, name = SOURCES[config.source].rpartition(".")
    return getattr(importlib.import_module(module), name)(config)


class Labelled(Source):
    """A source whose images come with numbers of classes; with data.classes=1 these are not read."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all classes, where the source knows them."""

    @abstractmethod
    def numbers(self, split: Given) -> np.ndarray:
        """Labels int64 (N,) as they are. UserError where there are none."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What to call the images in a line of text, by the setting that names them."""

    @property
    def classless(self) -> bool:
        return self.config.classes == 1

    def classes(self) -> list[str]:
        if self.config.classes == 1:
            return [FLAT]
        names = [printable(name) for name in self.names()]
        if names and len(names) != self.config.classes:
            raise UserError(
                f"data.classes={self.config.classes} must be {len(names)}, the number of classes of {self.what}"
                " (or 1, by which labels are not read); correct it"
            )
        return names or [str(label) for label in range(self.config.classes)]

    def class_count(self) -> int:
        """Number of classes: of their names, else one more than the largest label.

        Raises:
            UserError: as numbers; there are no labels, or all are below 0.
        """
        count = len(self.names()) or int(self.numbers("train").max(initial=-1)) + 1
        if count < 1:
            raise UserError(
                f"{self.what} must have images with labels from 0 on, and has none; correct it, or give data.classes=1,"
                " by which labels are not read"
            )
        return count

    def labels(self, split: Given, count: int) -> np.ndarray:
        """Labels int64 (N,) that fit data.classes, of so many images; UserError for others."""
        if self.config.classes == 1:
            return np.zeros(count, np.int64)
        self.classes()
        numbers, most = self.numbers(split), self.config.classes - 1
        if wrong := [int(number) for number in (numbers.min(), numbers.max()) if not 0 <= number <= most]:
            unlabelled = "; -1 stands for no label: name labelled images" if wrong[0] == -1 else ""
            raise UserError(
                f"a label of {self.what} ({split}) is {wrong[-1]}, and must be from 0 to {most} with"
                f" data.classes={self.config.classes}; correct it or the labels{unlabelled}"
            )
        if split == "train" and int(numbers.max()) < most:
            raise UserError(
                f"data.classes={self.config.classes} must be {int(numbers.max()) + 1}, one more than the largest label"
                f" of {self.what}; correct it"
            )
        return numbers

    def told(self, split: Given, key: str, where: str) -> str:
        """A line on the images of a split: how many, where, and the label of each class."""
        count = len(self.given(split)[1])
        if self.config.classes == 1:
            return f"{key}: {count:,} images {where}, whose labels are not read: one class"
        return f"{key}: {count:,} images {where} in {self.config.classes} classes: {shortened(self.classes())}"


def shortened(names: Sequence[str]) -> str:
    """Labels and names of classes: all of them, or the first and the last."""
    labelled = [f"{label} {printable(name)}" for label, name in enumerate(names)]
    return ", ".join(labelled if len(names) <= SHOWN_CLASSES else [*labelled[: SHOWN_CLASSES - 1], "…", labelled[-1]])
