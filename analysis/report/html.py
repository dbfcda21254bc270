"""A report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analysis.figures import Drawing
from analysis.report.contents import Contents
from analysis.tables.html import template


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
        contents=contents, pictures=by_table, embedded=_embedded
    )


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
