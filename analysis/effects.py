"""Main effects: what a value of one axis does to a metric, by cells that are equal in everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from analysis import stats
from analysis.source import Source
from analysis.stats import Estimate, number
from analysis.tables import Entry, Filled, Row
from experiments.axes import Axis
from experiments.paper import Cell, Column, Table
from tokenbridge.overrides import plain

PREFIX = "effects-"
"""before a metric's name in the id of its table"""
PAIRS = Column(
    "pairs",
    "pairs",
    meaning="pairs with the axis's first value; those of the same two trainings are one, with their mean",
)
UNMOVED = "does not enter"


@dataclass(frozen=True)
class Effect:
    """One value of an axis and one metric, in the column's printed scale."""

    value: Any
    cells: tuple[tuple[str, float], ...]
    """id and number of each cell that counts"""
    mean: float
    difference: Estimate | None
    """to the axis's first value, over pairs of cells that are equal in all else, one value for each two trainings; None
    for the first value itself, and where there is no pair"""

    @property
    def unmoved(self) -> bool:
        """Whether every pair has the very same number: the metric does not depend on the axis."""
        return self.difference is not None and not any(self.difference.values)

    @property
    def settled(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        found = self.difference
        return found is not None and found.half is not None and abs(found.mean) > found.half

    def better(self, column: Column) -> bool:
        assert self.difference is not None
        return (self.difference.mean < 0) == (column.better == "lower")


def metrics(source: Source) -> list[Column]:
    """The columns of the table of points that any cell has a number for."""
    table = source.table_of_axes
    cells = [trial.cell for trial in source.trials]
    columns = table.measured if table else ()
    return [column for column in columns if any(source.number(cell, column.key) is not None for cell in cells)]


def effects_on(source: Source, axis: Axis, column: Column) -> list[Effect]:
    """One entry a value that has cells. Only places where every value ran count, so that all other axes are balanced;
    where there is none, all do."""
    places: dict[tuple[str, ...], dict[str, tuple[str, float]]] = {}
    for trial in source.trials:
        value = source.number(trial.cell, column.key)
        if value is not None:
            found = places.setdefault(trial.others(axis.key), {})
            found[plain(trial.values[axis.key])] = (trial.cell, value * column.scale)
    present = [value for value in axis.values if any(plain(value) in found for found in places.values())]
    whole = [found for found in places.values() if all(plain(value) in found for value in present)]
    return [_effect(source, value, present[0], whole or list(places.values())) for value in present]


def _effect(source: Source, value: Any, first: Any, places: Sequence[dict[str, tuple[str, float]]]) -> Effect:
    own, reference = plain(value), plain(first)
    cells = tuple(found[own] for found in places if own in found)
    gaps: dict[tuple[str, str], list[float]] = {}
    for found in places:
        if own in found and reference in found and own != reference:
            (a, with_value), (b, with_first) = found[own], found[reference]
            # pairs at two temperatures come from the same two trainings: two numbers, but one observation
            trainings = (source.stage(a, "train") or a, source.stage(b, "train") or b)
            gaps.setdefault(trainings, []).append(with_value - with_first)
    difference = stats.estimate([fmean(each) for each in gaps.values()]) if gaps else None
    return Effect(value, cells, fmean(value for _, value in cells), difference)


def over(source: Source, effect: Effect) -> str:
    """What the interval is over."""
    pairs = effect.difference.seeds if effect.difference else 0
    how = f"{source.seeds} seeds" if source.seeds > 1 else "one seed"
    return f"{pairs} matched pairs, {how}" if pairs > 1 else f"one matched pair, {how}, so no interval"


def filled(source: Source) -> list[Filled]:
    """A table of main effects for each metric."""
    return [_filled(source, column) for column in metrics(source)]


def _filled(source: Source, column: Column) -> Filled:
    change = replace(column, key=f"{column.key} effect", title="effect", meaning="")
    rows = []
    for axis in source.axes:
        for effect in effects_on(source, axis, column):
            gap = effect.difference
            pairs = (
                Entry(reason="first value") if gap is None else Entry(str(gap.seeds), "", stats.estimate([gap.seeds]))
            )
            mean = Entry(number(effect.mean, column.decimals), "", stats.estimate([effect.mean]))
            entries = (mean, _change(effect, column), pairs)
            rows.append(Row(f"{axis.key} = {plain(effect.value)}", "", (), entries, (), ()))
    cells = tuple(Cell(row.label, None) for row in rows)
    keys = tuple(axis.key for axis in source.axes)
    id = PREFIX + column.key.rpartition("/")[2]
    columns = (column, change, PAIRS)
    table = Table(id, f"Main effects on {column.title}", "effects", keys, cells, (), columns)
    heading = f"measured, {source.measured_on}"
    return Filled(table, columns, (), (), tuple(rows), heading, "", tuple(_notes(source)))


def _change(effect: Effect, column: Column) -> Entry:
    found = effect.difference
    if found is None:
        return Entry(reason="first value")
    if effect.unmoved:
        return Entry(reason=UNMOVED)
    half = "" if found.half is None else number(found.half, column.decimals)
    best = bool(column.better) and effect.settled and effect.better(column)
    return Entry(_signed(found.mean, column.decimals), "", found, half, best)


def _signed(value: float, decimals: int) -> str:
    if not round(value, decimals):
        return number(0.0, decimals)
    return ("+" if value > 0 else "") + number(value, decimals)


def _notes(source: Source) -> list[str]:
    seeds = (
        f"{source.seeds} training seeds are among the cells"
        if source.seeds > 1
        else "there is one training seed, so it is over matched cells and not over seeds"
    )
    return [
        "Mean: over the cells with this value, each other axis at all its values equally often. Effect: difference to"
        " the axis's first value, mean over pairs of cells that are equal in every other axis and the seed; pairs of"
        " the same two trainings, which differ in sampling only, are one pair with their mean.",
        f"± is the half-width of the paired 95 % Student t interval over these pairs; {seeds}. It says how far the"
        " effect holds across the other axes. Bold: better than the first value, and the interval leaves out zero.",
        f"{UNMOVED[0].upper()}{UNMOVED[1:]}: the numbers are the same with every value of the axis.",
        *_left_out(source),
    ]


def _left_out(source: Source) -> list[str]:
    """Which axes have cells that do not count, or are not balanced."""
    found = []
    for axis in source.axes:
        places: dict[tuple[str, ...], set[str]] = {}
        for trial in source.trials:
            places.setdefault(trial.others(axis.key), set()).add(plain(trial.values[axis.key]))
        wanted = {plain(value) for value in axis.values}
        whole = sum(values >= wanted for values in places.values())
        if not whole:
            found.append(f"{axis.key}: no place in the other axes has all values, so means are not balanced.")
        elif whole < len(places):
            found.append(
                f"{axis.key}: counted at {whole} of {len(places)} places in the other axes, which have all values."
            )
    return found
