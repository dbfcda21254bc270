"""What a figure is, the look that all share, and how one finds its stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from analysis.figures.mosaic import Pixels
from analysis.frame.source import Source
from experiments.paper import Table

STYLE = Path(__file__).parent / "tokenbridge.mplstyle"
DARK: dict[str, Any] = {
    "axes.prop_cycle": cycler("color", ["#56b4e9", "#f0a33c", "#3ec49b", "#d896cb", "#a8a8a8"]),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), "e6e8eb"),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "8b949e"),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "15181d"),
    "grid.color": "343a42",
}
MARGIN = 8
"""pixels around a mosaic"""


@dataclass(frozen=True)
class Drawing:
    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    table: str
    """id of the table that it illustrates"""
    data: str = ""
    """CSV of what it shows, where no table has it"""


@contextmanager
def style(dark: bool = False) -> Iterator[None]:
    with mpl.rc_context(fname=STYLE):
        if dark:
            mpl.rcParams.update(DARK)  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield


def stages(source: Source, table: Table, kind: str) -> dict[str, str]:
    """Row label -> stage id of the row's first seed, for rows that have such a stage."""
    found = {cell.label: source.stage(ids[0], kind) for cell, ids in source.rows(table) if ids}
    return {label: id for label, id in found.items() if id}


def by_class(images: Pixels, classes: int) -> list[Pixels]:
    """Image i has class i modulo classes: rows of one image a class."""
    return [images[i : i + classes] for i in range(0, len(images) - classes + 1, classes)]
