"""Example images of the stages as PNG bytes, for MLflow's artifact view. Analysis draws its own figures."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from tokenbridge.config import UserError

COLUMNS = 10
GAP = 2
SHOWN = 64
"""small images are enlarged to at least this many pixels a side, without smoothing"""


def draw(examples: Path, *names: str) -> bytes:
    """Images of examples.npz as PNG: a single array as a grid of ten columns, several one above the other.

    Args:
        names: the arrays, each uint8 (n, ch, H, W), several of them of one shape.
    """
    arrays = [_read(examples, name) for name in names]
    if len(arrays) == 1:
        return _png(_grid(arrays[0], COLUMNS))
    if any(array.shape != arrays[0].shape for array in arrays):
        shapes = " and ".join(f"{name} {array.shape}" for name, array in zip(names, arrays, strict=True))
        raise UserError(f"{examples}: {shapes} must have one shape; delete its folder and run again")
    return _png(_grid(np.concatenate(arrays), len(arrays[0])))


def _read(path: Path, key: str) -> np.ndarray:
    try:
        # opened here: NumPy leaves the file open where its zip is damaged
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images = arrays[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} has no readable {key!r} ({error}); delete its folder and run again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UserError(
            f"{path}: {key} is {images.dtype} {images.shape}, must be uint8 (n, 1 or 3, H, W);"
            " delete its folder and run again"
        )
    return images


def _grid(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (n, ch, H, W) -> (rows, columns) of enlarged images on white, (height, width, ch)."""
    n, channels, height, width = images.shape
    factor = -(-SHOWN // max(height, width)) if max(height, width) < SHOWN else 1
    images = images.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    height, width = height * factor + GAP, width * factor + GAP
    sheet = np.full((-(-n // columns) * height - GAP, min(n, columns) * width - GAP, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _png(sheet: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet).save(buffer, "PNG")
    return buffer.getvalue()
