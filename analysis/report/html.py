"""The report's page, and a table as a page of its own: HTML that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.figures import Drawing
from analysis.report.contents import Contents
from analysis.tables.filled import Filled


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
    shown = list(pictures)
    return _template("page.html.j2").render(
        contents=contents,
        pictures={id: [each for each in shown if each.drawing.table == id] for id in contents.names},
        embedded=_embedded,
    )


def table_page(filled: Filled) -> str:
    """One table that a browser shows by itself and whose <table> can be pasted into any page."""
    return _template("table.html.j2").render(table=filled)


def _template(name: str):
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
