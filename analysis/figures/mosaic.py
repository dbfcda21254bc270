"""Small images drawn pixel by pixel: enlarged by whole numbers, without smoothing, on exact canvas pixels.

n images, ch channels, h and w sides. Lengths are pixels of the figure at its own resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

GAP = 12
LINE = 44
"""height of a line of text"""


def enlargement(images: Pixels, target: int = 96) -> int:
    """Whole factor that brings images (n, ch, h, w) to about `target` pixels a side, at least 1."""
    return max(1, round(target / max(images.shape[-2:])))


def sheet(rows: Sequence[Pixels], factor: int, gaps: str) -> Pixels:
    """Rows of images, each uint8 (n, ch, h, w) with 1 or 3 channels, as one picture (H, W, 3) with coloured gaps."""
    height, width = (side * factor + GAP for side in rows[0].shape[-2:])
    columns = max(len(row) for row in rows)
    background = np.round(np.array(to_rgb(gaps)) * 255).astype(np.uint8)
    picture = np.broadcast_to(background, (len(rows) * height - GAP, columns * width - GAP, 3)).copy()
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
            large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
            picture[r * height : (r + 1) * height - GAP, c * width : (c + 1) * width - GAP] = large
    return picture


def canvas(width: int, height: int) -> Figure:
    """A figure of exactly this many pixels."""
    dpi = float(mpl.rcParams["figure.dpi"])
    # half a pixel more: the renderer rounds down, and width / dpi · dpi may fall just under width
    return Figure(figsize=((width + 0.5) / dpi, (height + 0.5) / dpi), dpi=dpi)


def place(figure: Figure, picture: Pixels, left: int, top: int) -> Axes:
    """Put a picture on a canvas, one of its pixels on one of the canvas's."""
    width, height = figure.get_size_inches() * figure.dpi
    tall, wide = picture.shape[:2]
    # the origin is the lower left corner of the whole pixels
    bottom = int(height) - top - tall
    axes = figure.add_axes((left / width, bottom / height, wide / width, tall / height))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return axes


def write(figure: Figure, text: str, x: float, y: float, **style: object) -> None:
    """Text at a pixel counted from the left and the top."""
    width, height = figure.get_size_inches() * figure.dpi
    figure.text(x / width, 1 - y / height, text, **style)  # pyright: ignore[reportArgumentType]


def block(
    figure: Figure, rows: Sequence[Pixels], left: int, top: int, factor: int, title: str, names: Sequence[str]
) -> Axes:
    """A titled mosaic with a name over each column; the mosaic's upper left corner is at (left, top)."""
    picture = sheet(rows, factor, str(mpl.rcParams["grid.color"]))
    step = rows[0].shape[-1] * factor + GAP
    for i, name in enumerate(names):
        write(figure, name, left + i * step + (step - GAP) / 2, top - 8, ha="center", va="bottom")
    if title:
        write(figure, title, left, top - 8 - LINE, ha="left", va="bottom", fontweight="bold")
    return place(figure, picture, left, top)


def row_names(figure: Figure, names: Sequence[str], right: int, top: int, step: int) -> None:
    """Names of mosaic rows, right-aligned at `right`."""
    for i, name in enumerate(names):
        write(figure, name, right, top + i * step + (step - GAP) / 2, ha="right", va="center")
