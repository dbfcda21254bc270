"""The chart of main effects: a row a metric, a panel an axis; means with intervals before the single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.effects import Effect
from experiments.paper import Column
from tokenbridge.overrides import plain

WIDTH, HEIGHT = 2.5, 2.2
"""inches of a panel"""
NARROWEST = 6.4
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
    """rows: each metric with a panel for each axis, the same axes in all."""
    columns = len(rows[0][1])
    size = (max(NARROWEST, WIDTH * columns + 0.5), HEIGHT * len(rows) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), columns, sharey="row", sharex="col", squeeze=False)
    for axes_of_row, (column, panels) in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_of_row, panels, strict=True):
            _panel(axes, panel)
        unit = f", {column.unit}" if column.unit else ""
        axes_of_row[0].set_ylabel(f"{column.title}{unit}\n{WAYS[column.better]}".strip())
    for axes, panel in zip(grid[-1], rows[-1][1], strict=True):
        values = [plain(effect.value) for effect in panel.effects]
        long = sum(map(len, values)) > 24
        axes.set_xticks(range(len(values)), labels=values, rotation=30 if long else 0, ha="right" if long else "center")
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set_xlabel(panel.key)
    figure.legend(handles=_handles(), loc="outside upper center", ncols=3, columnspacing=2)
    return figure


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
        half = effect.difference.half if effect.difference else None
        face = "C0" if effect.settled else mpl.rcParams["axes.facecolor"]
        look = {"color": "C0", "marker": "o", "markersize": 6, "markerfacecolor": face, "markeredgewidth": 1.4}
        axes.errorbar(x, effect.mean, yerr=half or None, capsize=3, elinewidth=1.4, zorder=4, **look)
    axes.grid(axis="x", visible=False)


def _handles() -> list[Line2D]:
    grey, open_ = mpl.rcParams["ytick.color"], mpl.rcParams["axes.facecolor"]
    mark = {"color": "C0", "marker": "o", "markersize": 6, "markeredgewidth": 1.4, "linestyle": "none"}
    return [
        Line2D([], [], label="mean, interval leaves out zero", **mark),
        Line2D([], [], label="mean, not so, or first value", markerfacecolor=open_, **mark),
        Line2D([], [], label="cells equal in all else", color=grey, alpha=0.5, marker="o", markersize=2.5),
    ]
