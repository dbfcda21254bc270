"""Main effects: what a value of one axis does to a metric, by cells that are equal in everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Comparison, Estimate, Gap, number, signed
from analysis.tables import protocol
from analysis.tables.filled import Entry, Filled, Row
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
    gap: Gap | None
    """to the axis's first value, over pairs of cells that are equal in all else, one value for each two trainings; None
    for the first value itself, and where there is no pair"""
    comparison: Comparison | None = None
    """among all effects of the metric; None without an interval or a direction"""

    @property
    def difference(self) -> Estimate | None:
        return None if self.gap is None else self.gap.estimate

    @property
    def unmoved(self) -> bool:
        """Whether every pair has the very same number: the metric does not depend on the axis."""
        return self.difference is not None and not any(self.difference.values)

    @property
    def settled(self) -> bool:
        """Whether a difference is shown."""
        return self.comparison is not None and self.comparison.shown

    def better(self, column: Column) -> bool:
        assert self.gap is not None
        return (self.gap.mean < 0) == (column.better == "lower")


def metrics(source: Source) -> list[Column]:
    """The columns of the table of points that any cell has a number for."""
    table = source.table_of_axes
    cells = [trial.cell for trial in source.trials]
    columns = table.measured if table else ()
    return [column for column in columns if any(source.number(cell, column.key) is not None for cell in cells)]


def effects(source: Source, column: Column) -> dict[str, list[Effect]]:
    """Axis -> its effects on a metric, with verdicts by Holm's method over all of them.

    UserError where the metric's numbers are of two protocols.
    """
    table = source.table_of_axes
    assert table is not None
    protocol.check(table, column, source.rows(table), source)
    found = {axis.key: _effects_on(source, axis, column) for axis in source.axes}
    # what an axis cannot move is no test
    tested = [each for effects in found.values() for each in effects if each.gap and not each.unmoved]
    verdicts = stats.compare([(each.gap, column.better) for each in tested if each.gap])
    compared = {id(each): verdict for each, verdict in zip(tested, verdicts, strict=True)}
    return {
        key: [replace(each, comparison=compared.get(id(each))) for each in effects] for key, effects in found.items()
    }


def effects_on(source: Source, axis: Axis, column: Column) -> list[Effect]:
    """One entry a value that has cells."""
    return effects(source, column)[axis.key]


def _effects_on(source: Source, axis: Axis, column: Column) -> list[Effect]:
    """Only places where every value ran count, so that all other axes are balanced; where there is none, all do."""
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
    gap = stats.gap_of([fmean(each) for each in gaps.values()], "pairs") if gaps else None
    return Effect(value, cells, fmean(value for _, value in cells), gap)


def over(source: Source, effect: Effect) -> str:
    """What the interval is over."""
    pairs = len(effect.gap.values) if effect.gap else 0
    how = f"{source.seeds} seeds" if source.seeds > 1 else "one seed"
    return f"{pairs} matched pairs, {how}" if pairs > 1 else f"one matched pair, {how}, so no interval"


def filled(source: Source) -> list[Filled]:
    """A table of main effects for each metric."""
    return [_filled(source, column) for column in metrics(source)]


def _filled(source: Source, column: Column) -> Filled:
    change = replace(column, key=f"{column.key} effect", title="effect", meaning="")
    rows = []
    for key, found in effects(source, column).items():
        for effect in found:
            count = None if effect.gap is None else len(effect.gap.values)
            pairs = Entry(reason="first value") if count is None else Entry(str(count), "", stats.estimate([count]))
            mean = Entry(number(effect.mean, column.decimals), "", stats.estimate([effect.mean]))
            entries = (mean, _change(effect, column), pairs)
            rows.append(Row(f"{key} = {plain(effect.value)}", "", (), entries, (), ()))
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
    comparison = effect.comparison
    best = comparison is not None and comparison.verdict == "better"
    # the effect is the difference: beside the word only its other interval
    other = f"corrected ± {number(comparison.corrected, column.decimals)}" if comparison else ""
    return Entry(signed(found.mean, column.decimals), "", found, half, best, comparison, other)


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
        " effect holds across the other axes. Better, worse, no difference shown: against the axis's first value, by"
        " the t test over these pairs, corrected by Holm's method for all effects of the table, at 5 %. The"
        " HTML and the CSV give the corrected interval, of the level at which Holm's method decided: it leaves out zero"
        " exactly where a difference is shown. Bold: better.",
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
