"""What charts have in common: their width, how series differ without colour, axes that a reader can read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

WIDTH = 6.4
"""inches of a chart: in a column of 3.3 inches its 10 point type is 5 points"""
PIXELS = 200
"""an inch, as the style file has it"""
Z = 1.959964
"""standard errors on either side of a mean that hold 95 % of a normal distribution"""
SPAN = 5
"""ratio of largest to smallest from which an axis is logarithmic"""
STEPS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 4, 6), (1, 2, 5), (1, 3), (1,))
"""ticks within a decade, from many to few"""


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The data behind a figure as CSV; floats with ten digits, None empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return out.getvalue()


def _plain(value: Any) -> Any:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else value


def size(height: float) -> tuple[float, float]:
    """Width and height of a chart in inches."""
    # a hundredth of a pixel more: 4.1 inches · 200 is just under 820, and whoever counts pixels rounds down
    return WIDTH, (round(height * PIXELS) + 0.01) / PIXELS


def open_face(is_open: bool, colour: str) -> str:
    """Colour of a marker's inside."""
    return str(mpl.rcParams["axes.facecolor"]) if is_open else colour


def spread(axes: Axes, which: str, values: Sequence[float], most: int = 7) -> None:
    """A logarithmic axis with at most so many plain numbers as ticks, where values span much."""
    low, high = min(values), max(values)
    if not high > SPAN * low > 0:
        return
    axis = axes.yaxis if which == "y" else axes.xaxis
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
