"""What images are, of a folder or another source: classes, how large, grey or coloured, which cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageChops

from tokenbridge.config import Data, UserError
from tokenbridge.data.class_folders import class_count, class_names_of, is_number
from tokenbridge.data.files import remarks
from tokenbridge.data.folders import printable, walk
from tokenbridge.data.pictures import Place, read_image, shape_of
from tokenbridge.data.sources import Labelled, source_of
from tokenbridge.data.torchvision_sets import SETS
from tokenbridge.overrides import build

MOST = 256
"""pixels per side that are chosen by themselves, at most"""
SIZED, READ = 20_000, 300_000_000
"""images whose heads are read, at most, and pixels: both spread evenly over the images, so that it takes seconds"""
ROUNDING = 4
"""difference of an image's red, green and blue that is no colour"""
STRIDES = (8, 4, 2)
POSITIONS = 4
"""per side, at least, that a stride leaves which is chosen by itself"""
HOW_READ = ("classes", "test_path", "image_column", "label_column")
"""settings of data that say how files of many images are read"""
NAMED, SHOWN = 3, 20
"""unreadable files that a message names; classes whose images are counted for a reader"""


@dataclass(frozen=True)
class Survey:
    """The images that a configuration gives for training, validation and, where they are shares, test."""

    data: Data
    """its folder, the number of its classes and their order: of numbers, as numbers"""
    counts: dict[str, int]
    """images by class, in the order of the labels"""
    shapes: Counter[tuple[int, int]]
    """those that were looked at by width and height in pixels"""
    grey: bool
    """whether no image that was read has colours"""

    @property
    def what(self) -> str:
        """What the user called them."""
        return self.data.path or self.data.name or ""

    @property
    def images(self) -> int:
        return sum(self.counts.values())

    @property
    def classes(self) -> int:
        return len(self.counts)

    @property
    def smallest(self) -> int:
        """The shortest side of all images, pixels."""
        return min(map(min, self.shapes))

    @property
    def largest(self) -> int:
        """The longest of the shorter sides, pixels."""
        return max(map(min, self.shapes))

    @property
    def median(self) -> int:
        """The shorter side that at least half of the images have, pixels."""
        sides = sorted(min(shape) for shape in self.shapes.elements())
        return sides[(len(sides) - 1) // 2]

    def size(self, multiple: int) -> int:
        """Pixels per side that half of the images have: a multiple of a number, at most MOST. UserError for none."""
        size = min(self.median, MOST) // multiple * multiple
        if size < 4:
            raise UserError(
                f"images of {self.median} pixels must have {max(4, multiple)} at least; give the size, and they are"
                " enlarged"
            )
        return size

    def sizes(self) -> str:
        """The sizes in words."""
        if self.smallest == self.largest:
            return str(self.smallest)
        return f"{self.smallest} to {self.largest} (median {self.median})"

    def lines(self) -> list[str]:
        """What they are, the classes' labels, images of each, and what was left out."""
        classes = "one class" if self.classes == 1 else f"{self.classes} classes"
        shape = "{} × {} pixels".format(*next(iter(self.shapes))) if len(self.shapes) == 1 else f"{self.sizes()} pixels"
        side = "" if len(self.shapes) == 1 else ", the shorter side"
        first, *others = (line.partition(": ")[2] for line in remarks(self.data))
        lines = [f"{self.images:,} images in {classes}, {'grey' if self.grey else 'colour'}, {shape}{side}"]
        if self.classes > 1:
            each = [f"{printable(name)} {count:,}" for name, count in self.counts.items()]
            counts = ", ".join(each[:SHOWN] + (["…"] if each[SHOWN:] else []))
            lines += [f"labels: {first.partition('classes: ')[2]}", f"images of each class: {counts}"]
        return lines + others


def survey(images: Path, given: Mapping[str, Any] | None = None) -> Survey:
    """Look at images as data_of finds them, of many at some: their heads, and some seconds of reading.

    Args:
        images: as data_of takes them.
        given: as data_of takes them.

    Raises:
        UserError: as data_of; some cannot be read: how many, and the first of them.
    """
    return survey_of(data_of(images, given))


def data_of(images: Path, given: Mapping[str, Any] | None = None) -> Data:
    """The settings of images that are named by one word, with the number of their classes.

    Args:
        images: a folder with class folders or of images alone, a parquet file or tar shard or a folder of such and of
            no image, or the name of a set of torchvision where nothing is called so.
        given: settings by dotted key, of which those that say how files of many images are read count (HOW_READ).

    Raises:
        UserError: none of these.
    """
    if (data := _shipped(images)) is not None:
        data |= {name: value for name in HOW_READ if (value := (given or {}).get(f"data.{name}")) is not None}
        source = source_of(build(Data, {"classes": 2} | data))  # with one, no label is read
        assert isinstance(source, Labelled)
        return source.config if "classes" in data else build(Data, data | {"classes": source.class_count()})
    count, names = class_count(images, ", or the name of a set of torchvision"), class_names_of(images)
    numeric = all(map(is_number, names)) and names != sorted(names, key=int)
    data = {"source": "folder", "path": str(images), "classes": count}
    return build(Data, data | ({"class_order": "numeric"} if numeric else {}))


def _shipped(images: Path) -> dict[str, Any] | None:
    """Source and place of images that are no files of their own; None for a folder of others."""
    if not images.exists() and str(images) in SETS:
        return {"source": "torchvision", "name": str(images)}
    for kind in ("parquet", "tar"):
        if images.suffix == f".{kind}" and images.is_file():
            return {"source": kind, "path": str(images)}
        if images.is_dir() and next(images.rglob(f"*.{kind}"), None) and not any(walk(images, [images]).images):
            return {"source": kind, "path": str(images)}
    return None


def survey_of(data: Data) -> Survey:
    """As survey, of images that are configured and read. UserError: as survey, and where they do not fit."""
    source = source_of(data)
    places, labels = source.given("train")
    assert not isinstance(places, np.ndarray), "images that are read"
    counts = Counter(labels.tolist())
    shapes, grey = _look(places[:: -(-len(places) // SIZED)])
    return Survey(data, {name: counts[label] for label, name in enumerate(source.classes())}, shapes, grey)


def _look(paths: Sequence[Place]) -> tuple[Counter[tuple[int, int]], bool]:
    """Images by width and height, and whether those that were read are grey."""
    shapes, coloured, read, unreadable = Counter[tuple[int, int]](), False, 0, list[str]()
    for number, path in enumerate(paths):
        try:
            shape = shape_of(path)
            if read <= READ * number / len(paths):
                coloured |= _coloured(path)
                read += shape[0] * shape[1]
        except UserError as error:
            unreadable.append(str(error).partition("; ")[0])
            continue
        shapes[shape] += 1
    if unreadable:
        listed = "; ".join(unreadable[:NAMED])
        more = f"; and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        which = "the image" if len(unreadable) == 1 else f"these {len(unreadable)} of {len(paths)} images"
        raise UserError(f"{listed}{more}; replace or delete {which}")
    return shapes, not coloured


def stride_of(size: int) -> int:
    """The largest stride that divides a size and leaves POSITIONS per side; 2 where none does."""
    return next((each for each in STRIDES if size % each == 0 and size // each >= POSITIONS), STRIDES[-1])


def _coloured(path: Place) -> bool:
    """Whether the three colours of an image differ anywhere by more than what JPEG's rounding does to greys."""
    colours = read_image(path, "RGB").split()
    apart = [ImageChops.difference(*pair).histogram() for pair in combinations(colours, 2)]
    return any(any(counts[ROUNDING + 1 :]) for counts in apart)
