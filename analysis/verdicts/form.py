"""A sentence about a claim, and two kinds of claims: a row beats another; a column has a trend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Estimate, number
from analysis.tables import protocol
from analysis.tables.compare import comparisons
from analysis.tables.estimates import measure
from analysis.tables.filled import change_text
from experiments.paper import Column, Table
from tokenbridge.metrics.catalogue import BITS

Status = Literal["holds", "does not hold", "undecided", "one seed", "measured"]
NAMES = {BITS: "bits per dimension"}
"""in words; others are called by their titles"""
ONE_SEED = "one seed each"


@dataclass(frozen=True)
class Verdict:
    status: Status
    """holds and does not hold: a claim of the paper, settled; one seed: seen once; measured: no claim to test"""
    text: str
    table: str


@dataclass(frozen=True)
class Outcome:
    """One row of a table minus another, and how far the difference is settled."""

    once: bool
    """whether one of them has a single training seed, so that nothing is settled"""
    apart: bool
    """whether a difference is shown; once: beyond its error over images, where that is known"""
    change: float
    """below 0 where the first row is lower"""
    text: str
    """the difference with the interval that its verdict goes by; once: why it has none"""
    claimed: bool = False
    """whether it is one of the report's claims"""

    def status(self, holds: bool) -> Status:
        """holds: whether the difference is the one that is claimed."""
        if not self.apart:
            return "undecided"
        if self.once:
            return "one seed"
        return "measured" if not self.claimed else "holds" if holds else "does not hold"


def estimates(source: Source, table: Table, column: Column) -> dict[str, Estimate]:
    """Row label -> estimate over seeds in the column's printed scale, in the table's order.

    Rows without the metric are left out.

    Args:
        source: the report's source.
        table: whose rows they are.
        column: the metric, as the report's scorer measures it.

    Raises:
        UserError: the numbers are of two protocols, or a row has one for some of its seeds only.
    """
    rows = source.rows(table)
    protocol.check(table, column, rows, source)
    values = {cell.label: measure(column, cell.label, ids, source, images=False) for cell, ids in rows}
    return {label: value for label, value in values.items() if value is not None}


def show(value: Estimate, column: Column) -> str:
    """A value as a verdict prints it, with ± where it has an interval."""
    text = number(value.mean, column.decimals)
    return text if value.half is None else f"{text} ± {number(value.half, column.decimals)}"


def outcome(
    source: Source, table: Table, column: Column, values: Mapping[str, Estimate], first: str, second: str
) -> Outcome:
    """The first row minus the second, and whether a difference is shown.

    Where either row has one seed there is no test: a change beyond its error over images counts.

    Args:
        source: the report's source.
        table: whose rows they are.
        column: the metric.
        values: row label -> estimate, as `estimates` gives them.
        first: label of the row from which the other is subtracted.
        second: label of the other row.
    """
    a, b = values[first], values[second]
    cells, others = (source.cells(table.id, label) for label in (first, second))
    if min(a.seeds, b.seeds) < 2:
        return _once(source, column, (first, cells), (second, others))
    comparison = comparisons(source).of(column, cells, others)
    if comparison is None:
        return Outcome(False, False, a.mean - b.mean, "without a test")
    family = "a claim" if comparison.family == "claim" else "exploratory"
    needed = f"; {comparison.seeds_needed} seeds would settle it" if comparison.seeds_needed else ""
    text = f"{change_text(column, comparison)} ({family}{needed})"
    change = comparison.difference.gap.mean
    return Outcome(False, comparison.shown, change, text, comparison.family == "claim")


def _once(source: Source, column: Column, *rows: tuple[str, list[str]]) -> Outcome:
    """Of rows of one seed: whether they differ by more than chance makes of their images."""
    a, b = (measure(column, label, ids, source) for label, ids in rows)
    assert a is not None, rows
    assert b is not None, rows
    gap = stats.gap(a, b)
    if gap.error is None:
        return Outcome(True, gap.mean != 0, gap.mean, ONE_SEED)
    images = f"; standard error over images {number(gap.error, column.decimals)}"
    return Outcome(True, gap.settled, gap.mean, f"{ONE_SEED}, so no interval{images}" if gap.settled else ONE_SEED)


def claim(
    source: Source, table: Table, rows: tuple[str, str], column: Column, names: tuple[str, str] | None = None
) -> Verdict | None:
    """Whether the first row is better (lower) than the second, as the paper says.

    Args:
        rows: labels of both; no verdict where one lacks the metric.
        names: what the sentence calls them, where that is not their labels.
    """
    values = estimates(source, table, column)
    if not set(rows) <= values.keys():
        return None
    result, (first, second) = outcome(source, table, column, values, *rows), names or rows
    subject, (ours, rival) = first[0].upper() + first[1:], (show(values[row], column) for row in rows)
    numbers = f"{NAMES.get(column, column.title)}: {ours} against {rival}"
    numbers += f" ({result.text})" if result.once else f"; the difference is {result.text}"
    if not result.apart:
        verb = "differ within the error over images" if result.once else "cannot be told apart"
        return Verdict("undecided", f"{subject} and {second} {verb} in {numbers}.", table.id)
    verb = "beats" if result.change < 0 else "does not beat" if result.once else "loses to"
    return Verdict(result.status(result.change < 0), f"{subject} {verb} {second} in {numbers}.", table.id)


def trend(
    source: Source, table: Table, column: Column, cause: str, expected: Literal["better", "worse"]
) -> Verdict | None:
    """Whether a column gets better (lower) or worse from the first row to the last, as the paper says.

    Settled where the two ends are; the rows between are listed.

    Args:
        cause: what grows along the rows, such as "more levels".
        expected: what the paper says.
    """
    values = estimates(source, table, column)
    if len(values) < 2:
        return None
    name, (first, *_, last) = NAMES.get(column, column.title), values
    result = outcome(source, table, column, values, last, first)
    chain = ", ".join(f"{label} {show(value, column)}" for label, value in values.items())
    chain += f" ({result.text})" if result.once else f"; from first to last {result.text}"
    if not result.apart:
        verb = "differ within the error over images" if result.once else "cannot be told apart"
        return Verdict("undecided", f"{first} and {last} {verb} in {name}: {chain}.", table.id)
    way = "better" if result.change < 0 else "worse"
    steps = {b.mean < a.mean for a, b in pairwise(values.values())}
    also = "" if len(steps) == 1 else ", though not at every step"
    text = f"With {cause} the model gets {way} in {name}{also}: {chain}."
    return Verdict(result.status(way == expected), text, table.id)
