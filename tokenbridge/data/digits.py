"""The shipped handwritten digits, as arrays. Without torch: planning asks.

Letters: N images.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from tokenbridge.config import Data, UserError
from tokenbridge.data.sources import Given, Source

CLASSES = 10


class Digits(Source):
    """All 1,797 digits, of which test and validation images are shares."""

    classless = True

    @property
    def gives_test(self) -> bool:
        return False

    def fingerprint(self) -> str:
        pixels, labels = digits(self.config)
        return hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()

    def given(self, split: Given) -> tuple[np.ndarray, np.ndarray]:
        return digits(self.config)

    def classes(self) -> list[str]:
        return [str(digit) for digit in range(CLASSES)]


def digits(config: Data) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 1, image_size, image_size) and labels int64 (N,) of all shipped digits."""
    if config.classes != CLASSES or config.image_channels != 1:
        raise UserError(
            f"data.classes={config.classes}, data.image_channels={config.image_channels} must be {CLASSES} and 1"
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
