"""Small images drawn pixel by pixel: enlarged by whole numbers, without smoothing, on exact canvas pixels.

n images, ch channels, h and w sides, H and W those of a mosaic. Lengths are pixels of the figure at its own resolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

from analysis.figures.form import WIDTH
from analysis.frame.source import Source

Pixels = NDArray[np.uint8]

GAP = 12
"""between two images"""
LINE = 44
"""height of a line of text"""
MARGIN = 8
"""around a mosaic"""
ASIDE = 16
"""between the names of rows and the mosaic"""
LONGEST = 240
"""of a name over a column that is written upwards; a longer one is cut"""


@dataclass(frozen=True)
class Heads:
    """What stands over the columns of a mosaic."""

    names: tuple[str, ...] = ()
    upwards: bool = False
    """whether they are written from below, because one is wider than its column"""
    height: int = LINE


def heads(names: Sequence[str], step: int) -> Heads:
    """Names over columns: across where all of them have room, else upwards.

    Args:
        names: of the columns.
        step: pixels from one column to the next, the gap included.
    """
    widest = max(map(text_width, names), default=0)
    if widest <= step - GAP / 2:
        return Heads(tuple(names))
    cut = tuple(map(_cut, names))
    return Heads(cut, upwards=True, height=max(LINE, round(max(map(text_width, cut))) + GAP))


def _cut(name: str) -> str:
    short = name
    while text_width(short) > LONGEST:
        short = short.removesuffix("…")[:-1].rstrip() + "…"
    return short


def text_width(text: str, weight: str = "normal") -> float:
    """The width of a line in the style's type, in pixels of a canvas.

    Args:
        text: the line.
        weight: "normal" or "bold".
    """
    dpi = float(mpl.rcParams["figure.dpi"])
    font = FontProperties(size=mpl.rcParams["font.size"], weight=weight)
    return float(RendererAgg(1, 1, dpi).get_text_width_height_descent(text, font, ismath=False)[0])


def class_names(source: Source, labels: Iterable[int]) -> list[str]:
    """The names of classes; the label of one that has none, or none that the style's font can write.

    Args:
        source: the report's source.
        labels: of the classes.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    names = ((int(label), source.class_name(int(label))) for label in labels)
    return [name if all(ord(letter) in known for letter in name) else str(label) for label, name in names]


def image_names(source: Source, labels: NDArray[np.integer]) -> list[str]:
    """Names of images: their classes, numbered where a class has several; their numbers where all are of one.

    Args:
        source: the report's source.
        labels: of the images (n,).
    """
    classes = class_names(source, labels)
    if columns_of(labels) == "number":
        return [str(number) for number in range(1, len(classes) + 1)]
    earlier = [classes[:i].count(name) for i, name in enumerate(classes)]
    return [name + (f"-{count + 1}" if count else "") for name, count in zip(classes, earlier, strict=True)]


def enlargement(images: Pixels, target: int = 96, columns: int = 0, beside: int = 0) -> int:
    """Whole factor that brings images to about `target` pixels per side, at least 1.

    Args:
        images: (n, ch, h, w).
        target: the side of an enlarged image, in pixels.
        columns: so many of them fit beside each other into a figure.
        beside: pixels of the figure's width that they have not.
    """
    factor = max(1, round(target / max(images.shape[-2:])))
    most = float(mpl.rcParams["figure.dpi"]) * WIDTH - beside
    while factor > 1 and columns * steps(images, factor)[1] > most:
        factor -= 1
    return factor


def steps(images: Pixels, factor: int) -> tuple[int, int]:
    """Pixels from one enlarged image to the next, down and across, the gap included.

    Args:
        images: (n, ch, h, w).
        factor: whole enlargement.
    """
    height, width = images.shape[-2:]
    return height * factor + GAP, width * factor + GAP


def by_class(images: Pixels, columns: int) -> list[Pixels]:
    """Rows of one image per class, or of so many of a single one; an incomplete last row is left out.

    Args:
        images: (n, ch, h, w), of which image i has class i modulo the number of classes.
        columns: number of classes, or of images, in a row.
    """
    return [images[i : i + columns] for i in range(0, len(images) - columns + 1, columns)]


def sheet(rows: Sequence[Pixels], factor: int, gaps: str) -> Pixels:
    """Rows of images as one picture.

    Args:
        rows: uint8 (n, ch, h, w) each, with 1 or 3 channels and the same h and w.
        factor: whole enlargement.
        gaps: the colour between the images, as matplotlib takes it.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = steps(rows[0], factor)
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
    """A figure of exactly so many pixels at the style's resolution."""
    dpi = float(mpl.rcParams["figure.dpi"])
    # half a pixel more: the renderer rounds down, and width / dpi · dpi may fall just under width
    return Figure(figsize=((width + 0.5) / dpi, (height + 0.5) / dpi), dpi=dpi)


def place(figure: Figure, picture: Pixels, left: int, top: int) -> Axes:
    """Put a picture on a canvas, one of its pixels on one of the canvas's.

    Args:
        figure: of `canvas`.
        picture: (H, W, 3).
        left: pixels from the canvas's left side.
        top: pixels from its upper side.
    """
    width, height = figure.get_size_inches() * figure.dpi
    tall, wide = picture.shape[:2]
    # the origin is the lower left corner of the whole pixels
    bottom = int(height) - top - tall
    axes = figure.add_axes((left / width, bottom / height, wide / width, tall / height))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return axes


def write(figure: Figure, text: str, x: float, y: float, **style: object) -> None:
    """Write text on a canvas.

    Args:
        figure: of `canvas`.
        text: what to write.
        x: pixels from the left.
        y: pixels from the top.
        style: options of matplotlib's Figure.text.
    """
    width, height = figure.get_size_inches() * figure.dpi
    figure.text(x / width, 1 - y / height, text, parse_math=False, **style)  # pyright: ignore[reportArgumentType]


def block(
    figure: Figure, rows: Sequence[Pixels], left: int, top: int, factor: int, title: str = "", over: Heads | None = None
) -> Axes:
    """A mosaic with its upper left corner at (left, top), a title above and a name over each column.

    Args:
        rows: uint8 (n, ch, h, w) each.
        factor: pixels of the canvas per side of an image's pixel.
        title: in bold; empty for none.
        over: the names of the columns; none where another mosaic above has them.
    """
    picture = sheet(rows, factor, str(mpl.rcParams["grid.color"]))
    step = steps(rows[0], factor)[1]
    over = over or Heads()
    for i, name in enumerate(over.names):
        look = {"rotation": 90 if over.upwards else 0, "ha": "center", "va": "bottom"}
        write(figure, name, left + i * step + (step - GAP) / 2, top - 8, **look)
    if title:
        write(figure, title, left, top - 8 - over.height, ha="left", va="bottom", fontweight="bold")
    return place(figure, picture, left, top)


def name_rows(figure: Figure, names: Sequence[str], left: int, top: int, step: int) -> None:
    """Write names beside the rows of a mosaic.

    Args:
        figure: of `canvas`.
        names: one for each row.
        left: the mosaic's left side, in pixels.
        top: its upper side, in pixels.
        step: pixels from one row to the next, the gap included.
    """
    for i, name in enumerate(names):
        write(figure, name, left - ASIDE, top + i * step + (step - GAP) / 2, ha="right", va="center")


def name_columns(figure: Figure, word: str, left: int, top: int) -> None:
    """Write before the names over the columns of a mosaic what they name.

    Args:
        figure: of `canvas`.
        word: what they name, as `columns_of` gives it.
        left: the mosaic's left side, in pixels.
        top: its upper side, in pixels.
    """
    write(figure, word, left - ASIDE, top - 8, ha="right", va="bottom")


def columns_of(labels: Iterable[int]) -> str:
    """What the columns of a mosaic are named by: "class", or "number" where all images are of one class."""
    return "class" if len({int(label) for label in labels}) > 1 else "number"
