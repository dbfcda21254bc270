"""What the images of a folder are, without torch: classes, how large, grey or coloured, which cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from PIL import Image, ImageChops

from tokenbridge.config import Data, UserError
from tokenbridge.data.files import class_count, class_names_of, files, is_number, read_image, readable, remarks
from tokenbridge.data.folders import printable
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
NAMED, SHOWN = 3, 20
"""unreadable files that a message names; classes whose images are counted for a reader"""


@dataclass(frozen=True)
class Survey:
    """The images of a folder and below."""

    data: Data
    """its folder, the number of its classes and their order: of numbers, as numbers"""
    counts: dict[str, int]
    """images by class, in the order of the labels"""
    shapes: Counter[tuple[int, int]]
    """those that were looked at by width and height in pixels"""
    grey: bool
    """whether no image that was read has colours"""

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


def survey(folder: Path) -> Survey:
    """Look at the images of a folder, of many at some: their heads, and some seconds of reading.

    Raises:
        UserError: no folder of images, or some that cannot be read: how many, and the first of them.
    """
    count, names = class_count(folder), class_names_of(folder)
    if numeric := all(map(is_number, names)) and names != sorted(names, key=int):
        names = sorted(names, key=int)
    data = {"source": "folder", "path": str(folder), "classes": count}
    config = build(Data, data | ({"class_order": "numeric"} if numeric else {}))
    paths, labels = files(config, "train")
    counts = Counter(labels.tolist())
    shapes, grey = _look(paths[:: -(-len(paths) // SIZED)])
    return Survey(config, {name: counts[label] for label, name in enumerate(names)}, shapes, grey)


def _look(paths: Sequence[Path]) -> tuple[Counter[tuple[int, int]], bool]:
    """Images by width and height, and whether those that were read are grey."""
    shapes, coloured, read, unreadable = Counter[tuple[int, int]](), False, 0, list[str]()
    for number, path in enumerate(paths):
        try:
            with readable(path), Image.open(path) as image:
                shape = image.size
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


def _coloured(path: Path) -> bool:
    """Whether the three colours of an image differ anywhere by more than what JPEG's rounding does to greys."""
    colours = read_image(path, "RGB").split()
    apart = [ImageChops.difference(*pair).histogram() for pair in combinations(colours, 2)]
    return any(any(counts[ROUNDING + 1 :]) for counts in apart)
