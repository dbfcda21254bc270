"""The chart of main effects: a row a metric, a panel an axis; means with intervals before the single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.look import size
from analysis.tables.effects import Effect
from experiments.paper import Column
from tokenbridge.overrides import plain

HEIGHT = 2.1
"""inches of a panel"""
MOST = 4
"""panels in a line"""
WAYS = {"lower": "lower is better", "higher": "higher is better", "": ""}
SHARE = 0.36
"""of the distance between two values, that single cells spread over"""


@dataclass(frozen=True)
class Panel:
    key: str
    """of the axis"""
    effects: Sequence[Effect]
    places: Mapping[str, int]
    """cell id -> its place among those that are equal in all other axes"""


def main_effects(rows: Sequence[tuple[Column, Sequence[Panel]]]) -> Figure:
    """rows: each metric with a panel for each axis, the same axes in all; many axes take several lines a metric."""
    count = len(rows[0][1])
    lines = -(-count // MOST)
    columns = -(-count // lines)
    figure = Figure(figsize=size(HEIGHT * len(rows) * lines + 0.9), layout="constrained")
    grid = figure.subplots(len(rows) * lines, columns, squeeze=False)
    for i, (column, panels) in enumerate(rows):
        places = np.ravel(grid[i * lines : (i + 1) * lines])
        for k, (axes, panel) in enumerate(zip(places, panels, strict=False)):
            axes.sharey(places[0])
            _panel(axes, panel)
            if k % columns:
                axes.tick_params(labelleft=False)
            else:
                unit = f", {column.unit}" if column.unit else ""
                axes.set_ylabel(f"{column.title}{unit}\n{WAYS[column.better]}".strip())
            _across(axes, panel, columns, named=lines > 1 or i == len(rows) - 1)
        for axes in places[count:]:
            axes.set_axis_off()
    figure.legend(handles=_handles(), loc="outside upper center", ncols=2, columnspacing=2)
    return figure


def _across(axes: Axes, panel: Panel, columns: int, named: bool) -> None:
    """The axis's values and, below the last panel of a column, their words and its name."""
    values = [plain(effect.value) for effect in panel.effects]
    long = sum(map(len, values)) > 44 / columns
    look: dict[str, Any] = {"rotation": 90} if long else {}
    axes.set_xticks(range(len(values)), labels=values if named else [""] * len(values), **look)
    axes.set_xlim(-0.6, len(values) - 0.4)
    if named:
        axes.set_xlabel(panel.key.replace(".", ".\n") if columns > 2 else panel.key)


def _panel(axes: Axes, panel: Panel) -> None:
    grey, most = mpl.rcParams["ytick.color"], max(1, len(set(panel.places.values())) - 1)
    lines: dict[int, list[tuple[float, float]]] = {}
    for x, effect in enumerate(panel.effects):
        for cell, value in effect.cells:
            place = panel.places[cell]
            lines.setdefault(place, []).append((x + (place / most - 0.5) * SHARE, value))
    for points in lines.values():
        axes.plot(*zip(*points, strict=True), "-o", color=grey, alpha=0.35, linewidth=0.7, markersize=2.5)
    means = [effect.mean for effect in panel.effects]
    axes.plot(range(len(means)), means, color="C0", linewidth=1.2, zorder=3)
    for x, effect in enumerate(panel.effects):
        half = effect.comparison.corrected if effect.comparison else None
        face = "C0" if effect.settled else mpl.rcParams["axes.facecolor"]
        look = {"color": "C0", "marker": "o", "markersize": 6, "markerfacecolor": face, "markeredgewidth": 1.4}
        axes.errorbar(x, effect.mean, yerr=half or None, capsize=3, elinewidth=1.4, zorder=4, **look)
    axes.grid(axis="x", visible=False)


def _handles() -> list[Line2D]:
    grey, open_ = mpl.rcParams["ytick.color"], mpl.rcParams["axes.facecolor"]
    mark = {"color": "C0", "marker": "o", "markersize": 6, "markeredgewidth": 1.4, "linestyle": "none"}
    return [
        Line2D([], [], label="mean, difference shown", **mark),
        Line2D([], [], label="mean, none shown, or first value", markerfacecolor=open_, **mark),
        Line2D([], [], label="cells equal in all else", color=grey, alpha=0.5, marker="o", markersize=2.5),
    ]
