"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from analysis.figures import Drawing
from analysis.report.contents import Contents
from analysis.tables.html import template

COLUMN, LINE, LETTERS = 610, 19, 92
"""CSS pixels of one of two columns and of a caption's line, and letters of such a line"""


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: CSS pixels are half the PNG's, so it is sharp on fine screens."""

    drawing: Drawing
    light: bytes
    dark: bytes

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.drawing.figure.get_size_inches() * self.drawing.figure.dpi
        return int(width) // 2, int(height) // 2


def page(contents: Contents, pictures: Iterable[Picture]) -> str:
    """The report as one HTML page that needs nothing else.

    Args:
        contents: what it says.
        pictures: the report's figures, each in light and dark.
    """
    by_table: dict[str, list[Picture]] = {id: [] for id in contents.names}
    for picture in pictures:
        by_table.setdefault(picture.drawing.table, []).append(picture)
    return template("page.html.j2", Path(__file__).parent / "templates").render(
        contents=contents, pictures=by_table, embedded=_embedded, abreast=abreast
    )


def abreast(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Pictures in one or two columns, each in their order, so that the higher column is as low as it can be."""
    if len(pictures) < 2:
        return [list(pictures)]
    ways = ((0, *way) for way in product((0, 1), repeat=len(pictures) - 1))
    columns = [[[p for p, at in zip(pictures, way, strict=True) if at == side] for side in (0, 1)] for way in ways]
    return min(columns, key=lambda pair: max(sum(map(_height, column)) for column in pair))


def _height(picture: Picture) -> float:
    """Of a picture in one of two columns with its caption, in CSS pixels."""
    width, height = picture.size
    return height * min(1, COLUMN / width) + LINE * math.ceil(len(picture.drawing.caption) / LETTERS) + LINE


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
