"""What the images of a folder are, without torch: how large, grey or coloured. Commands choose a size by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tokenbridge.config import UserError
from tokenbridge.data.files import class_count, readable, shorter_side
from tokenbridge.data.folders import EXTENSIONS, walk

MOST = 256
"""pixels per side that are chosen by themselves, at most"""
LOOKED_AT = 200
"""images of which colours are looked at, spread evenly"""
ROUNDING = 4
"""difference of an image's red, green and blue that is no colour"""
STRIDES = (8, 4, 2)
POSITIONS = 4
"""per side, at least, that a stride leaves which is chosen by itself"""


@dataclass(frozen=True)
class Survey:
    """The images of a folder and below."""

    images: int
    classes: int
    smallest: int
    """the shortest side of all images, pixels"""
    largest: int
    """the longest of the shorter sides"""
    grey: bool
    """whether no image that was looked at has colours"""

    def size(self, multiple: int) -> int:
        """Pixels per side that fit all images: a multiple of a number, at most MOST. UserError where none fits."""
        size = min(self.smallest, MOST) // multiple * multiple
        if size < 4:
            raise UserError(
                f"images of {self.smallest} pixels must have {max(4, multiple)} at least; give --size, and they are"
                " enlarged"
            )
        return size

    def sizes(self) -> str:
        """The sizes in words."""
        return str(self.smallest) if self.smallest == self.largest else f"{self.smallest} to {self.largest}"


def survey(folder: Path) -> Survey:
    """Look at all images of a folder, their heads alone but for colours.

    Raises:
        UserError: no folder of images, or one that cannot be read.
    """
    classes = class_count(folder)
    (paths,) = walk(folder, [folder]).images
    if not paths:
        raise UserError(f"{folder} holds no image; it needs files ending in {' '.join(EXTENSIONS)}")
    sides = [shorter_side(path) for path in paths]
    looked_at = paths[:: -(-len(paths) // LOOKED_AT)]
    return Survey(len(paths), classes, min(sides), max(sides), not any(map(_coloured, looked_at)))


def stride_of(size: int) -> int:
    """The largest stride that divides a size and leaves POSITIONS per side; 2 where none does."""
    return next((each for each in STRIDES if size % each == 0 and size // each >= POSITIONS), STRIDES[-1])


def _coloured(path: Path) -> bool:
    """Whether the three colours of an image differ anywhere by more than what JPEG's rounding does to greys."""
    with readable(path), Image.open(path) as image:
        if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
            return False
        image = image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")
        colours = np.asarray(image, np.int16)
    return bool((colours.max(-1) - colours.min(-1)).max() > ROUNDING)
