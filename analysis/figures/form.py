"""What all figures share: their form, one look in light and dark, axes that can be read, and the data behind them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
WIDTH = 6.4
"""inches of a chart: in a column of 3.3 inches its 10 point type is 5 points"""
PIXELS = 200
"""per inch, as the style file has it"""
Z = 1.959964
"""standard errors on either side of a mean that hold 95 % of a normal distribution"""
SPAN = 5
"""ratio of largest to smallest from which an axis is logarithmic"""
STEPS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 4, 6), (1, 2, 5), (1, 3), (1,))
"""ticks within a decade, from many to few"""
BETTER = {"lower": "lower is better", "higher": "higher is better", "": ""}
MARKERS = (("C0", "o"), ("C1", "s"), ("C2", "^"), ("C3", "D"), ("C4", "v"), ("C0", "P"), ("C1", "X"), ("C2", "*"))
"""colour and marker of the series of a chart, so that no two share both"""


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
    """The look of all figures, for as long as they are made."""
    with mpl.rc_context(fname=STYLE):
        if dark:
            mpl.rcParams.update(DARK)  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield


def stages(source: Source, table: Table, kind: str) -> dict[str, str]:
    """Row label -> stage id of the row's first seed, for rows that have such a stage."""
    ids = {cell.label: source.stage(cells[0], kind) for cell, cells in source.rows(table) if cells}
    return {label: id for label, id in ids.items() if id}


def csv_of(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The data behind a figure as CSV.

    Args:
        header: names of the columns.
        rows: one value for each column: floats are written with ten digits, None as an empty field.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.10g}" if isinstance(value, float) else value for value in row] for row in rows)
    return out.getvalue()


def charts(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the common width and its panels.

    Args:
        height: of the whole figure, in inches.
        rows: of panels.
        columns: of panels.
        options: of matplotlib's Figure.subplots.

    Returns:
        The figure, and its panels row by row.
    """
    figure = Figure(figsize=(WIDTH, whole(height)), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def whole(height: float) -> float:
    """A height in inches as one of whole pixels."""
    # a hundredth of a pixel more: 4.1 inches · 200 is just under 820, and whoever counts pixels rounds down
    return (round(height * PIXELS) + 0.01) / PIXELS


def legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Put a legend above the panels, with its handles in so many columns."""
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, columnspacing=2)


def grey() -> str:
    """Colour of lines that belong to no series."""
    return str(mpl.rcParams["ytick.color"])


def face(is_open: bool, colour: str) -> str:
    """Colour of a marker's inside: the background's for an open one, else the marker's own."""
    return str(mpl.rcParams["axes.facecolor"]) if is_open else colour


def spread(axes: Axes, which: str, label: str, values: Sequence[float], most: int = 7) -> None:
    """Name an axis; make it logarithmic where its values are positive and the largest is over SPAN times the smallest.

    Args:
        axes: the panel.
        which: "x" or "y".
        label: the axis's name, to which a logarithmic one adds that it is.
        values: all that the axis shows.
        most: at most so many ticks, if fewer steps per decade can reach it.
    """
    low, high = min(values), max(values)
    axis = axes.yaxis if which == "y" else axes.xaxis
    if not high > SPAN * low > 0:
        axis.set_label_text(label)
        return
    axis.set_label_text(f"{label}, log")
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in STEPS:
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if 0.95 * low <= tick <= 1.05 * high]
        if len(ticks) <= most:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
