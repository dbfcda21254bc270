"""Heat maps of a search: a metric at each guidance and temperature, a panel a row, the point in use framed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from analysis.figures.look import size
from analysis.stats import Estimate, Place

COLUMNS = 3
OPEN = "≈"
"""beside a point that is not settled to be worse than the one in use"""


@dataclass(frozen=True)
class Panel:
    name: str
    values: Mapping[Place, Estimate]
    chosen: Place
    unsettled: frozenset[Place]


def heat_maps(panels: Sequence[Panel]) -> Figure:
    """Guidance upwards, temperature across; one scale of colour for all panels."""
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    tall = max(len({place[0] for place in panel.values}) for panel in panels)
    figure = Figure(figsize=size(rows * (0.75 + 0.4 * tall) + 0.4), layout="constrained")
    grid = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    means = [each.mean for panel in panels for each in panel.values.values()]
    norm = LogNorm(min(means), max(means)) if 0 < min(means) < max(means) else None
    for axes, panel in zip(grid, panels, strict=False):
        strengths, heats = (sorted({place[i] for place in panel.values}, reverse=i == 0) for i in (0, 1))
        table, texts = np.full((len(strengths), len(heats)), np.nan), np.full((len(strengths), len(heats)), "", object)
        for (guidance, heat), each in panel.values.items():
            place = strengths.index(guidance), heats.index(heat)
            table[place], texts[place] = each.mean, _text(panel, (guidance, heat), each)
        colours = sns.color_palette("Blues", as_cmap=True)
        sns.heatmap(table, cmap=colours, norm=norm, ax=axes, linewidths=1, cbar=False)
        for (row, column), text in np.ndenumerate(texts):
            ink = _ink(colours(norm(table[row, column]) if norm else 0.0))
            place = {"ha": "center", "va": "center", "color": ink, "fontsize": 10, "linespacing": 0.95}
            axes.text(column + 0.5, row + 0.5, text, **place)
        corner = heats.index(panel.chosen[1]), strengths.index(panel.chosen[0])
        frame = Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=2, clip_on=False, zorder=4)
        frame.set_path_effects([withStroke(linewidth=4.5, foreground="white")])  # seen on light and on dark cells
        axes.add_patch(frame)
        axes.set_xticks(np.arange(len(heats)) + 0.5, labels=[f"{heat:g}" for heat in heats], rotation=0)
        axes.set_yticks(np.arange(len(strengths)) + 0.5, labels=[f"{s:g}" for s in strengths], rotation=0)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title("\n".join(textwrap.wrap(panel.name, 23)), fontweight="normal", fontsize=10)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel("temperature")
    figure.supylabel("guidance")
    return figure


def _ink(ground: Sequence[float] | NDArray[np.float64]) -> str:
    """Black or white, whichever has more contrast (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in ground[:3]]
    return "black" if float(np.dot(linear, (0.2126, 0.7152, 0.0722))) > 0.18 else "white"


def _text(panel: Panel, place: Place, value: Estimate) -> str:
    if place == panel.chosen:
        return f"{value.mean:.2f}" + ("" if value.half is None else f"\n±{value.half:.2f}")
    return f"{value.mean:.2f}" + (f"\n{OPEN}" if place in panel.unsettled else "")
