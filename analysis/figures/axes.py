"""The figure of a grid over axes: main effects on the metrics that a reader asks for first, with the single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.form import BETTER, Drawing, charts, csv_of, face, grey, legend
from analysis.frame.source import Source
from analysis.tables.effects import MATRIX, Effect, effects_on, main_metrics, over
from experiments.axes import Axis
from experiments.paper import Column
from tokenbridge.overrides import plain

HEADER = (
    "metric", "axis", "value", "cell", "number", "effect", "corrected low", "corrected high", "verdict",
    "interval over",
)  # fmt: skip
HEIGHT = 2.1
"""inches of a panel"""
MOST = 4
"""panels in a line"""
VECTORS = 200
"""lines of single cells of a panel that a PDF holds as vectors"""
MEAN: dict[str, Any] = {"color": "C0", "marker": "o", "markersize": 6, "markeredgewidth": 1.4, "linestyle": "none"}
"""marker of a mean"""
ROOM = 3
"""of a panel's numbers, how many times as far as they spread its bars may reach beyond them"""
SHARE = 0.36
"""of the distance between two values, that single cells spread over"""


@dataclass(frozen=True)
class Panel:
    """The effects of one axis on one metric."""

    key: str
    """of the axis"""
    effects: Sequence[Effect]
    groups: Mapping[str, int]
    """cell id -> number of its group: the cells that are equal in all other axes"""


Rows = Sequence[tuple[Column, Sequence[Panel]]]
"""each metric with a panel for each axis, the same axes in all"""


def effects(source: Source) -> Drawing | None:
    axes = [axis for axis in source.axes if len(axis.values) > 1]
    columns = main_metrics(source)
    if not axes or not columns:
        return None
    rows = [(column, [_panel(source, axis, column) for axis in axes]) for column in columns]
    pairs = sorted({e.pairs for _, panels in rows for panel in panels for e in panel.effects if e.difference})
    seeds = "one training seed, so not over seeds" if source.seeds < 2 else f"{source.seeds} training seeds"
    caption = (
        f"Mean of {', '.join(column.title for column in columns)} at each value of each axis, over the cells that are"
        " balanced in all others. Bars: the paired Student t interval of the difference to the axis's first value,"
        f" drawn around the mean, over {' or '.join(map(str, pairs))} matched pairs ({seeds}), at the level that the"
        " false-discovery rate of all effects asks for. A filled marker: it leaves out zero, so a difference is shown"
        " (exploratory). Effects on a Fréchet distance are ratios, in per cent in the data. Faint lines join cells"
        " that are equal in everything else."
    )
    alt = f"Main effects of {', '.join(axis.key for axis in axes)}"
    return Drawing("effects", "Main effects of the axes", caption, alt, _chart(rows), MATRIX, _data(source, rows))


def _panel(source: Source, axis: Axis, column: Column) -> Panel:
    others = {trial.cell: trial.others(axis.key) for trial in source.trials}
    order = {values: i for i, values in enumerate(dict.fromkeys(others.values()))}
    return Panel(axis.key, effects_on(source, axis, column), {cell: order[values] for cell, values in others.items()})


def _data(source: Source, rows: Rows) -> str:
    """One line per mean and one per cell, in printed units."""
    lines: list[Sequence[Any]] = []
    for column, panel, effect in ((c, p, e) for c, panels in rows for p in panels for e in p.effects):
        first, comparison = [column.key, panel.key, plain(effect.value)], effect.comparison
        difference: list[Any] = [""] * 5
        if effect.difference is not None:
            verdict = [*comparison.corrected, comparison.verdict] if comparison else ["", "", ""]
            difference = [effect.difference.effect, *verdict, over(source, effect)]
        lines.append([*first, "mean", effect.mean, *difference])
        lines += [[*first, cell, value, *[""] * 5] for cell, value in effect.cells]
    return csv_of(HEADER, lines)


def _chart(rows: Rows) -> Figure:
    """One row per metric; many axes take several lines per metric."""
    count = len(rows[0][1])
    lines = -(-count // MOST)
    columns = -(-count // lines)
    figure, grid = charts(HEIGHT * len(rows) * lines + 0.9, len(rows) * lines, columns)
    for i, (column, panels) in enumerate(rows):
        places = grid[i * lines * columns : (i + 1) * lines * columns]
        for k, (axes, panel) in enumerate(zip(places, panels, strict=False)):
            axes.sharey(places[0])
            _draw(axes, panel)
            if k % columns:
                axes.tick_params(labelleft=False)
            else:
                unit = f", {column.unit}" if column.unit else ""
                axes.set_ylabel(f"{column.title}{unit}\n{BETTER[column.better]}".strip())
            _label_values(axes, panel, columns, named=lines > 1 or i == len(rows) - 1)
        for axes in places[count:]:
            axes.set_axis_off()
        _keep_numbers_apart(places[:count], panels)
    shown = Line2D([], [], label="mean, differs from the first", **MEAN)
    none = Line2D([], [], label="mean, first or no difference shown", markerfacecolor=face(True, ""), **MEAN)
    cells = Line2D(
        [],
        [],
        label="cells equal in all else",
        color=grey(),
        alpha=0.5,
        marker="o",
        markersize=2.5,
    )
    bar = Line2D([], [], label="interval of the difference", color="C0", marker="_", markersize=8, linewidth=1.4)
    legend(figure, [shown, none, bar, cells], 2)
    return figure


def _keep_numbers_apart(places: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Let bars run out of panels, of one y axis, where they are so long that the numbers would lie on one line."""
    numbers = [value for panel in panels for effect in panel.effects for _, value in effect.cells]
    room = ROOM * (max(numbers) - min(numbers))
    least, most = min(numbers) - room, max(numbers) + room
    low, high = min(axes.dataLim.y0 for axes in places), max(axes.dataLim.y1 for axes in places)
    if room and (low < least or high > most):
        low, high = max(low, least), min(high, most)
        margin = 0.05 * (high - low)
        places[0].set_ylim(low - margin, high + margin)


def _label_values(axes: Axes, panel: Panel, columns: int, named: bool) -> None:
    """The axis's values across and, below the last panel of a column, their words and its name."""
    values = [plain(effect.value) for effect in panel.effects]
    look: dict[str, Any] = {"rotation": 90} if sum(map(len, values)) > 44 / columns else {}
    axes.set_xticks(range(len(values)), labels=values if named else [""] * len(values), **look)
    axes.set_xlim(-0.6, len(values) - 0.4)
    if named:
        axes.set_xlabel(panel.key.replace(".", ".\n") if columns > 2 else panel.key)


def _draw(axes: Axes, panel: Panel) -> None:
    most = max(1, len(set(panel.groups.values())) - 1)
    lines: dict[int, list[tuple[float, float]]] = {}
    for x, effect in enumerate(panel.effects):
        for cell, value in effect.cells:
            group = panel.groups[cell]
            lines.setdefault(group, []).append((x + (group / most - 0.5) * SHARE, value))
    # thousands of lines would take minutes, and a PDF of megabytes
    look: dict[str, Any] = {"alpha": 0.35, "rasterized": len(lines) > VECTORS}
    axes.add_collection(LineCollection(list(lines.values()), colors=grey(), linewidths=0.7, **look))
    points = [point for line in lines.values() for point in line]
    axes.plot(*zip(*points, strict=True), "o", color=grey(), markersize=2.5, **look)
    means = [effect.mean for effect in panel.effects]
    axes.plot(range(len(means)), means, color="C0", linewidth=1.2, zorder=3)
    for x, effect in enumerate(panel.effects):
        bar = _bar(effect)
        marker: dict[str, Any] = MEAN | {"markerfacecolor": face(not effect.settled, "C0"), "linestyle": "-"}
        axes.errorbar(x, effect.mean, yerr=bar, capsize=3, elinewidth=1.4, zorder=4, **marker)
    axes.grid(axis="x", visible=False)


def _bar(effect: Effect) -> list[list[float]] | None:
    """How far the interval that the verdict goes by reaches below and above the mean, as errorbar takes it."""
    comparison = effect.comparison
    half = comparison.difference.gap.half(comparison.level) if comparison else None
    if comparison is None or half is None:
        return None
    difference = comparison.difference
    below, above = difference.scale.around(effect.mean, half, difference.base + difference.gap.mean)
    return [[below], [above]]
