"""The figure of a grid over axes: main effects on the metrics that a reader asks for first."""

from __future__ import annotations

import csv
import io

from analysis.figures import effect_charts
from analysis.figures.effect_charts import Panel
from analysis.figures.form import Drawing
from analysis.frame.source import Source
from analysis.tables.effects import PREFIX, effects_on, metrics, over
from experiments.axes import Axis
from experiments.paper import AGREEMENT, BITS, FD, Column
from tokenbridge.overrides import plain

HEADS = (
    "metric", "axis", "value", "cell", "number", "effect", "half-width", "corrected half-width", "verdict",
    "interval over",
)  # fmt: skip


def effects(source: Source) -> Drawing | None:
    axes = [axis for axis in source.axes if len(axis.values) > 1]
    columns = [column for column in (source.by_scorer(FD), BITS, AGREEMENT) if column in metrics(source)]
    if not axes or not columns:
        return None
    rows = [(column, [_panel(source, axis, column) for axis in axes]) for column in columns]
    gaps = [e.difference for _, panels in rows for panel in panels for e in panel.effects if e.difference]
    pairs = sorted({gap.seeds for gap in gaps})
    how = "one training seed, so not over seeds" if source.seeds < 2 else f"{source.seeds} training seeds"
    caption = (
        f"Mean of {', '.join(column.title for column in columns)} at each value of each axis, over the cells that are"
        " balanced in all others. Bars: the paired Student t interval of the difference to the axis's first value,"
        f" drawn around the mean, over {' or '.join(map(str, pairs))} matched pairs ({how}), corrected by Holm's"
        " method for all effects on the metric. A filled marker: it leaves out zero, so a difference is shown. Faint"
        " lines join cells that are equal in everything else."
    )
    alt = f"Main effects of {', '.join(axis.key for axis in axes)}"
    table = PREFIX + columns[0].key.rpartition("/")[2]
    chart = effect_charts.main_effects(rows)
    return Drawing("effects", "Main effects of the axes", caption, alt, chart, table, _data(source, rows))


def _panel(source: Source, axis: Axis, column: Column) -> Panel:
    others = {trial.cell: trial.others(axis.key) for trial in source.trials}
    order = {place: i for i, place in enumerate(dict.fromkeys(others.values()))}
    places = {cell: order[place] for cell, place in others.items()}
    return Panel(axis.key, effects_on(source, axis, column), places)


def _data(source: Source, rows: list[tuple[Column, list[Panel]]]) -> str:
    """One line a mean and one a cell, in printed units."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADS)
    for column, panels in rows:
        for panel in panels:
            for effect in panel.effects:
                first, gap = [column.key, panel.key, plain(effect.value)], effect.difference
                told = [""] * 5
                if gap is not None:
                    half = "" if gap.half is None else f"{gap.half:.10g}"
                    each = effect.comparison
                    verdict = [f"{each.corrected:.10g}", each.verdict] if each else ["", ""]
                    told = [f"{gap.mean:.10g}", half, *verdict, over(source, effect)]
                writer.writerow([*first, "mean", f"{effect.mean:.10g}", *told])
                writer.writerows([*first, cell, f"{value:.10g}", *[""] * 5] for cell, value in effect.cells)
    return out.getvalue()
