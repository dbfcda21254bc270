"""Main effects: the change of a metric with the value of one axis, over cells that are equal in everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean
from typing import Any

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Comparison, Difference, Estimate, number
from analysis.tables import protocol
from analysis.tables.estimates import count, observation, other_bins, scale_of
from analysis.tables.filled import OTHER_BINS, Entry, FilledRow, FilledTable, effect_text, entry, interval_text
from experiments.axes import Axis
from experiments.paper import Column, Row, Table
from tokenbridge.metrics.catalogue import AGREEMENT, BITS, FD
from tokenbridge.overrides import plain

MATRIX = "effects"
"""id of the table of all effects: axes by metrics"""
PREFIX = "effects-"
"""before a metric's name in the id of the table of its means and effects"""
READ = (
    "Each entry: what the step from an axis's first value changes, over cells that are equal in all else, with its 95 %"
    " interval. In colour and named: a difference is shown; ≈: none is; °: exploratory."
)
PAIRS = Column(
    "pairs",
    "pairs",
    decimals=0,
    meaning="pairs with the axis's first value; those of the same two stages, or trainings, are one, with their mean",
)
MEANS = "Mean: over the cells with this value, each other axis at all its values equally often."
UNMOVED, EQUAL = "does not enter", "equal"
Numbers = dict[str, tuple[str, float]]
"""value of an axis -> a cell with this value and its number, for cells that are equal in all else"""


@dataclass(frozen=True)
class Effect:
    """One value of an axis and one metric, in the column's printed scale."""

    value: Any
    cells: tuple[tuple[str, float], ...]
    """id and number of each cell that counts"""
    mean: float
    difference: Difference | None
    """to the axis's first value, over pairs of cells that are equal in all else, one value for each two observations;
    None for the first value itself, and where there is no pair"""
    other_bins: bool = False
    """whether pairs have likelihoods by bins of two quantizers, so that their difference measures the bins as well"""
    same_stages: bool = False
    """whether both numbers of every pair come from one stage, which the axis does not enter"""
    comparison: Comparison | None = None
    """among all effects of the report; None without an interval or a direction"""

    @property
    def pairs(self) -> int:
        return len(self.difference.gap.values) if self.difference else 0

    @property
    def unmoved(self) -> bool:
        """Whether every pair has the very same number."""
        return self.difference is not None and not any(self.difference.gap.values)

    @property
    def settled(self) -> bool:
        """Whether a difference is shown."""
        return self.comparison is not None and self.comparison.shown


def metrics(source: Source) -> list[Column]:
    """The columns of the table of points that any cell has a number for."""
    table = source.table_of_axes
    cells = [trial.cell for trial in source.trials]
    columns = table.measured if table else ()
    return [column for column in columns if any(source.number(cell, column.key) is not None for cell in cells)]


def main_metrics(source: Source) -> list[Column]:
    """The metrics of the axes that a reader asks for first."""
    return [column for column in (source.by_scorer(FD), BITS, source.by_scorer(AGREEMENT)) if column in metrics(source)]


def effects(source: Source, column: Column) -> dict[str, list[Effect]]:
    """Axis -> its effects on a metric, with verdicts by the false-discovery rate of all effects of the report.

    Nothing is claimed beforehand of an axis, so all effects are exploratory. Their spreads are not moderated: pairs of
    models and pairs of samplings vary differently, and there are few axes.

    Args:
        source: a report of a grid over axes.
        column: the metric, one of `metrics(source)`.

    Raises:
        UserError: the metric's numbers are of two protocols.
    """
    _require_one_protocol(source, column)
    return _every_effect(source)[column.key]


@lru_cache(maxsize=32)  # metrics of a report or two
def _require_one_protocol(source: Source, column: Column) -> None:
    table = source.table_of_axes
    assert table is not None
    protocol.check(table, column, source.rows(table), source)


@lru_cache(maxsize=4)
def _every_effect(source: Source) -> dict[str, dict[str, list[Effect]]]:
    """Column key -> axis -> its effects."""
    every = {c.key: {axis.key: _effects_on(source, axis, c) for axis in source.axes} for c in metrics(source)}
    # what an axis cannot move is no test
    tested = {
        (column, axis, i): effect.difference
        for column, axes in every.items()
        for axis, row in axes.items()
        for i, effect in enumerate(row)
        if effect.difference and not effect.unmoved
    }
    found = stats.compare(list(tested.values()), "exploratory")
    for (column, axis, i), comparison in zip(tested, found, strict=True):
        every[column][axis][i] = replace(every[column][axis][i], comparison=comparison)
    return every


def effects_on(source: Source, axis: Axis, column: Column) -> list[Effect]:
    """The effects of one axis, one per value that has cells."""
    return effects(source, column)[axis.key]


def _effects_on(source: Source, axis: Axis, column: Column) -> list[Effect]:
    """Effects over the sets of cells that have every value, so that all other axes are balanced, or else over all."""
    sets: dict[tuple[str, ...], Numbers] = {}
    for trial in source.trials:
        value = source.number(trial.cell, column.key)
        if value is not None:
            numbers = sets.setdefault(trial.others(axis.key), {})
            numbers[trial.words[axis.key]] = (trial.cell, value * column.scale)
    present = [value for value in axis.values if any(plain(value) in numbers for numbers in sets.values())]
    whole = [numbers for numbers in sets.values() if all(plain(value) in numbers for value in present)]
    return [_effect(source, column, value, present[0], whole or list(sets.values())) for value in present]


def _effect(source: Source, column: Column, value: Any, first: Any, sets: Sequence[Numbers]) -> Effect:
    word, reference, scale = plain(value), plain(first), scale_of(column)
    cells = tuple(numbers[word] for numbers in sets if word in numbers)
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    binned, same = False, True
    for numbers in sets:
        if word in numbers and reference in numbers and word != reference:
            both = numbers[word], numbers[reference]
            a, b = (observation(source, id, column) for id, _ in both)
            x, y = (scale.to(printed, count(column, id, source)) for id, printed in both)
            pairs.setdefault((a, b), []).append((x, y))
            binned |= other_bins(column, [both[0][0]], [both[1][0]], source)
            same &= len({source.stage(id, column.stage) for id, _ in both}) == 1
    mean = fmean(value for _, value in cells)
    if not pairs:
        return Effect(value, cells, mean, None)
    gap = stats.gap_of([fmean(x - y for x, y in pair) for pair in pairs.values()], "pairs")
    gap = replace(gap, error=None) if binned else gap
    base = fmean(fmean(y for _, y in pair) for pair in pairs.values())
    return Effect(value, cells, mean, Difference(gap, column.better, scale, base), binned, same)


def over(source: Source, effect: Effect) -> str:
    """The number of pairs and seeds that the interval is over."""
    pairs = effect.pairs
    how = f"{source.seeds} seeds" if source.seeds > 1 else "one seed"
    return f"{pairs} matched pairs, {how}" if pairs > 1 else f"one matched pair, {how}, so no interval"


def matrix(source: Source) -> list[FilledTable]:
    """The table of all effects, a row for each step from an axis's first value, a column for each metric.

    None for a source without axes or numbers.
    """
    columns = metrics(source)
    if not columns:
        return []
    steps = [(axis, value) for axis in source.axes for value in axis.values[1:]]
    found = {(c.key, key): by_value for c in columns for key, by_value in effects(source, c).items()}
    rows = tuple(
        FilledRow(
            _step(source, axis, value),
            measured=tuple(_of_step(source, found[c.key, axis.key], axis, value, c) for c in columns),
        )
        for axis, value in steps
    )
    cells, keys = tuple(Row(row.label, None) for row in rows), tuple(axis.key for axis in source.axes)
    table = Table(MATRIX, "Main effects", "effects", keys, cells, (), tuple(columns), READ)
    heading = f"difference to the axis's first value, {source.measured_on}"
    return [FilledTable(table, tuple(columns), (), (), rows, heading, "", (READ, *_notes(source)))] if rows else []


def _step(source: Source, axis: Axis, value: Any) -> str:
    """The name of an axis without its section, where no other has it, and the step: levels 8 → 64."""
    last = [other.key.rpartition(".")[2] for other in source.axes]
    name = axis.key.rpartition(".")[2]
    return f"{name if last.count(name) == 1 else axis.key} {plain(axis.values[0])} → {plain(value)}"


def _of_step(source: Source, by_value: Sequence[Effect], axis: Axis, value: Any, column: Column) -> Entry:
    effects = {plain(effect.value): effect for effect in by_value}
    first, effect = effects.get(plain(axis.values[0])), effects.get(plain(value))
    if first is None or effect is None:
        return Entry(reason="not measured")
    if effect.difference is None:
        return Entry(reason="no pair")
    told = _change(effect, effect.difference, column)
    means = " → ".join(number(each.mean, column.decimals) for each in (first, effect))
    return replace(told, change=f"{means} over {over(source, effect)}{f', {told.change}' if told.change else ''}")


def filled(source: Source) -> list[FilledTable]:
    """A table for each metric, with the mean at each value beside the effects: what files hold beside the matrix."""
    return [_filled(source, column) for column in metrics(source)]


def _filled(source: Source, column: Column) -> FilledTable:
    rows = tuple(
        FilledRow(f"{key} = {plain(effect.value)}", measured=_entries(effect, column))
        for key, by_value in effects(source, column).items()
        for effect in by_value
    )
    cells = tuple(Row(row.label, None) for row in rows)
    keys = tuple(axis.key for axis in source.axes)
    id = PREFIX + column.key.rpartition("/")[2]
    columns = (column, replace(column, key=f"{column.key} effect", title="effect", meaning=""), PAIRS)
    table = Table(id, f"Main effects on {column.title}", "effects", keys, cells, (), columns)
    heading = f"measured, {source.measured_on}"
    return FilledTable(table, columns, (), (), rows, heading, "", (MEANS, *_notes(source)))


def _entries(effect: Effect, column: Column) -> tuple[Entry, Entry, Entry]:
    """The mean, the effect and the number of pairs."""
    mean = entry(column, stats.estimate([effect.mean]))
    if effect.difference is None:
        return mean, Entry(reason="first value"), Entry(reason="first value")
    return mean, _change(effect, effect.difference, column), entry(PAIRS, stats.estimate([effect.pairs]))


def _change(effect: Effect, difference: Difference, column: Column) -> Entry:
    if effect.unmoved:
        return Entry(reason=UNMOVED if effect.same_stages else EQUAL)
    if not math.isfinite(difference.effect):
        return Entry(reason="a share of unknown number")
    comparison, shown = effect.comparison, effect.settled
    interval = interval_text(column, difference, shown=shown)
    half = difference.gap.half() if difference.scale.kind == "plain" else None
    told = Estimate(difference.effect, half, (difference.effect,), over="pairs" if interval else "")
    return Entry(
        effect_text(column, difference, shown),
        estimate=told,
        half=interval.removeprefix("± ") if interval.startswith("± ") else "",
        range="" if interval.startswith("± ") else interval,
        best=comparison is not None and comparison.verdict == "better",
        comparison=comparison,
        remark=OTHER_BINS if effect.other_bins else "",
        # the effect is the difference: beside the word only its other interval
        change=f"corrected {interval_text(column, difference, comparison.level, shown)}" if comparison else "",
    )


def _notes(source: Source) -> list[str]:
    seeds = (
        f"{source.seeds} training seeds are among the cells"
        if source.seeds > 1
        else "there is one training seed, so it is over matched cells and not over seeds"
    )
    return [
        "Effect: difference to the axis's first value, mean over pairs of cells that are equal in every other axis and"
        " the seed; pairs of the same two trainings, which differ in sampling only, are one pair with their mean,"
        " and so are pairs whose numbers come from the same two stages.",
        f"± is the half-width of the paired 95 % Student t interval over these pairs; {seeds}. It says how far the"
        " effect holds across the other axes. Fréchet distances and times are compared as ratios (in per cent, between"
        " the ends of the interval), shares by their logits. Better, worse, no difference shown: against the axis's"
        " first value, by the t test over these pairs. All effects are exploratory (°): of those that are shown, at"
        " most 5 % on average are wrong (Benjamini and Hochberg, over all effects of the report). The page and the CSV"
        " give the corrected interval, of the level at which that was decided: it leaves out zero exactly where a"
        " difference is shown. Bold: better.",
        f"{UNMOVED[0].upper()}{UNMOVED[1:]}: what is measured does not depend on the axis. Equal: the numbers of all"
        " pairs happen to be.",
        *_left_out(source),
    ]


def _left_out(source: Source) -> list[str]:
    """The axes that have cells which do not count, or that are not balanced."""
    lines = []
    for axis in source.axes:
        sets: dict[tuple[str, ...], set[str]] = {}
        for trial in source.trials:
            sets.setdefault(trial.others(axis.key), set()).add(plain(trial.values[axis.key]))
        wanted = {plain(value) for value in axis.values}
        whole = sum(values >= wanted for values in sets.values())
        if not whole:
            lines.append(f"{axis.key}: no place in the other axes has all values, so means are not balanced.")
        elif whole < len(sets):
            lines.append(
                f"{axis.key}: counted at {whole} of {len(sets)} places in the other axes, which have all values."
            )
    for column in metrics(source):
        if odd := sum(bool(source.odd(trial.cell, column.key)) for trial in source.trials):
            lines.append(f"{column.title}: cells that measured no finite number and do not count: {odd}.")
    return lines
