"""Pictures: where an image is, and reading it in 8 bits per channel. Without torch: planning asks.

An image is a file, or a record: a row of a table, a member of an archive, an item of a set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from tokenbridge.config import UserError
from tokenbridge.data.folders import printable


class Record(Protocol):
    """An image that is no file of its own; as text, what to call it."""

    def open(self) -> Image.Image:
        """The image as it is stored. UserError where the record is not there as it was."""
        ...


Place = Path | Record


def opened(place: Place) -> Image.Image:
    """The image at a place, for a `with`; Pillow's errors as they are."""
    return Image.open(place) if isinstance(place, Path) else place.open()


def called(place: Place) -> str:
    """What to call an image in a line of text."""
    return printable(place if isinstance(place, Path) else str(place))


def shape_of(place: Place) -> tuple[int, int]:
    """Width and height of an image, by its header. UserError where it cannot be read."""
    with readable(place), opened(place) as image:
        return image.size


@contextmanager
def readable(place: Place) -> Iterator[None]:
    """Turn what Pillow raises for what is no whole image into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        where = "the file" if isinstance(place, Path) else "it"
        line = f"{called(place)} cannot be read as an image ({error}); replace or delete {where}"
        raise UserError(line) from error


def read_image(place: Place, mode: str) -> Image.Image:
    """Read an image in 8 bits per channel as ADM and torchvision's loader do: without alpha, ignoring EXIF rotation.

    Of 16 bits the high byte is taken: Pillow does so for colours by itself, but cuts greys off at 255.
    """
    with readable(place), opened(place) as image:
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
