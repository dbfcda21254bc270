"""The figure of the search for guidance and temperature: a metric at each point that was tried."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from analysis import stats
from analysis.figures.form import Drawing, charts, csv_of, grey, legend
from analysis.frame.source import Source
from analysis.stats import Comparison, Estimate, Setting
from analysis.tables import search as points
from analysis.tables.estimates import scale_of
from analysis.tables.search import Chosen
from experiments.paper import TABLE_HEADS, Column
from tokenbridge.config import TRAINED_TOKENS
from tokenbridge.metrics.catalogue import metric as metric_of

COLUMNS, FEWER = 3, 2
WIDE = 4
"""cells across a panel that COLUMNS of them have room for"""
NAMES = ("guidance", "temperature")
MOST = 12
"""panels that one figure holds"""
OPEN = "≈"
"""beside a point that is not shown to be worse than the one in use"""


@dataclass(frozen=True)
class Panel:
    """The search of one row."""

    name: str
    table: str
    """id of the first table that uses it"""
    column: Column
    values: Mapping[Setting, Estimate]
    """the metric over training seeds; lower is better"""
    chosen: Setting

    @cached_property
    def comparisons(self) -> dict[Setting, Comparison | None]:
        """Each other point against the chosen one, by pairs of training seeds."""
        scale = scale_of(self.column)
        on_scale = {setting: scale.of(value) for setting, value in self.values.items()}
        return stats.compare_with(self.chosen, on_scale, self.column.better, scale)

    def verdict(self, setting: Setting) -> str:
        """Of a point against the chosen one; empty for that itself and with one seed."""
        if setting == self.chosen or self.values[setting].seeds < 2:
            return ""
        comparison = self.comparisons[setting]
        return comparison.verdict if comparison else "no difference shown"


def search(source: Source) -> Drawing | None:
    """The metric at each point that was tried, for one row of each kind of token and head."""
    plan = source.plan.get("search") or {}
    searches = [(chosen, values) for chosen in points.chosen(source) if len(values := _values(source, chosen)) > 1]
    searches = [(chosen, values) for chosen, values in searches if source.cells(*chosen.rows[0].split(" ", 1))]
    panels = _panels(source, searches)
    if not panels:
        return None
    seeds = max(value.seeds for panel in panels for value in panel.values.values())
    metric = plan["metric"]
    caption = (
        f"{metric} (lower is better, lighter) at each guidance and temperature that was tried, before the images of the"
        f" tables were made{_images_text(plan.get('images'))}. Frame: the point that the row uses."
    )
    if seeds > 1:
        caption += (
            f" Values are means over {seeds} training seeds; ±: the 95 % Student t interval over them. {OPEN}: not"
            " shown to be worse than the framed point; all others are, by paired t tests over seeds of the ratio to it"
            " and the false-discovery rate of the row's points. The framed point was chosen by these numbers; the"
            " tables have new images, and so many more that their Fréchet distances compare with none of these."
        )
    else:
        caption += " One training seed: no point is shown to be worse than another."
    caption += _at_ends(searches)
    if len(panels) < len(searches):
        caption += f" {len(panels)} of {len(searches)} searches are shown; tables/search.csv has every point."
    alt = f"Heat maps of {metric} by guidance and temperature, one per row, with the chosen point framed"
    header = ["row", "guidance", "temperature", f"mean {metric}", "half-width", "seeds", "chosen", "verdict"]
    rows = [
        (
            panel.name,
            *setting,
            value.mean,
            value.half,
            value.seeds,
            "yes" if setting == panel.chosen else "",
            panel.verdict(setting),
        )
        for panel in panels
        for setting, value in panel.values.items()
    ]
    title = "The search for guidance and temperature"
    return Drawing("search", title, caption, alt, _heat_maps(panels), panels[0].table, csv_of(header, rows))


def _images_text(images: object) -> str:
    """How many images a point had, as the plan tells it: a number, or words that say of what."""
    return f" ({images} images)" if isinstance(images, int) else f" (images {images})" if images else ""


def _at_ends(searches: Sequence[tuple[Chosen, Mapping[Setting, dict[object, float]]]]) -> str:
    """Which rows use a point at an end of what was tried, as a sentence; empty where none does."""
    told = [f"{' and '.join(chosen.edges)} ({', '.join(chosen.rows)})" for chosen, _ in searches if chosen.edges]
    return f" At an end of what was tried, so that the best may lie beyond: {'; '.join(told)}." if told else ""


def _values(source: Source, chosen: Chosen) -> dict[Setting, dict[object, float]]:
    """Point of the search -> training seed -> the metric."""
    plan, values = source.plan["search"], dict[Setting, dict[object, float]]()
    for point in plan["points"]:
        if point["row"] == chosen.rows[0]:
            setting = (float(point["guidance"]), float(point["temperature"]))
            values.setdefault(setting, {})[point.get("train_seed")] = point[plan["metric"]]
    return values


def _panels(source: Source, searches: Sequence[tuple[Chosen, Mapping[Setting, dict[object, float]]]]) -> list[Panel]:
    """The searches to show: of table heads those at the base's levels, where there are any; else the first."""
    of_heads, panels = list[Panel](), list[Panel]()
    for chosen, values in searches:
        column = metric_of(f"score/{source.plan['search']['metric']}")
        table, setting = chosen.rows[0].partition(" ")[0], (float(chosen.guidance), float(chosen.temperature))
        estimates = {other: stats.estimate([*seeds.values()], [*seeds]) for other, seeds in values.items()}
        panels.append(Panel(chosen.rows[0], table, column, estimates, setting))
        labels = [label for id, _, label in (row.partition(" ") for row in chosen.rows) if id == TABLE_HEADS.id]
        if labels:
            cell = source.cells(TABLE_HEADS.id, labels[0])[0]
            kind, levels = source.setting(cell, "quantizer.kind"), source.setting(cell, "quantizer.levels")
            if kind in (*TRAINED_TOKENS, "identity") or levels == source.base["quantizer.levels"]:
                of_heads.append(replace(panels[-1], name=labels[0]))
    return (of_heads or panels)[:MOST]


def _heat_maps(panels: Sequence[Panel]) -> Figure:
    """What has more values upwards, guidance or temperature, the other across; one scale of colour for all panels."""
    counts = [max(len({setting[i] for setting in panel.values}) for panel in panels) for i in range(2)]
    up, across = (1, 0) if counts[1] > counts[0] else (0, 1)
    columns = min(COLUMNS if counts[across] <= WIDE else FEWER, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = charts(rows * (0.75 + 0.38 * counts[up]) + 0.7, rows, columns)
    means = [value.mean for panel in panels for value in panel.values.values()]
    norm = LogNorm(min(means), max(means)) if 0 < min(means) < max(means) else None
    for axes, panel in zip(grid, panels, strict=False):
        upward = sorted({setting[up] for setting in panel.values}, reverse=True)
        along = sorted({setting[across] for setting in panel.values})
        places = {setting: (upward.index(setting[up]), along.index(setting[across])) for setting in panel.values}
        table = np.full((len(upward), len(along)), np.nan)
        for setting, value in panel.values.items():
            table[places[setting]] = value.mean
        colours = sns.color_palette("Blues", as_cmap=True)
        axes.pcolormesh(table, cmap=colours, norm=norm, edgecolors="white", linewidth=1)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        for setting, (row, column) in places.items():
            ink = _ink(colours(norm(table[row, column]) if norm else 0.0))
            look = {"ha": "center", "va": "center", "color": ink, "fontsize": 10, "linespacing": 0.95}
            axes.text(column + 0.5, row + 0.5, _text(panel, setting), **look)
        row, column = places[panel.chosen]
        frame = Rectangle((column, row), 1, 1, fill=False, edgecolor="black", linewidth=2, clip_on=False, zorder=4)
        frame.set_path_effects([withStroke(linewidth=4.5, foreground="white")])  # seen on light and on dark cells
        axes.add_patch(frame)
        axes.set_xticks(np.arange(len(along)) + 0.5, labels=[f"{value:g}" for value in along], rotation=0)
        axes.set_yticks(np.arange(len(upward)) + 0.5, labels=[f"{value:g}" for value in upward], rotation=0)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title("\n".join(textwrap.wrap(panel.name, 23)), fontweight="normal", fontsize=10)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    frame = Line2D([], [], label="in use", marker="s", color="none", markeredgecolor=grey(), markeredgewidth=2)
    several = any(value.seeds > 1 for panel in panels for value in panel.values.values())
    alike = Line2D([], [], label="not shown to be worse", marker=f"${OPEN}$", color=grey(), linestyle="none")
    legend(figure, [frame, *([alike] if several else [])], 2)
    figure.supxlabel(NAMES[across])
    figure.supylabel(NAMES[up])
    return figure


def _ink(ground: Sequence[float] | NDArray[np.float64]) -> str:
    """Black or white, whichever has more contrast (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in ground[:3]]
    return "black" if float(np.dot(linear, (0.2126, 0.7152, 0.0722))) > 0.18 else "white"


def _text(panel: Panel, setting: Setting) -> str:
    value = panel.values[setting]
    if setting == panel.chosen:
        return f"{value.mean:.2f}" + ("" if value.half is None else f"\n±{value.half:.1g}")
    return f"{value.mean:.2f}" + (f"\n{OPEN}" if panel.verdict(setting) not in ("", "worse") else "")
