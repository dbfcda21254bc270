"""A sentence about a claim, and two kinds of claims: a row beats another; a column has a trend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from analysis.frame.source import Source
from analysis.stats import Estimate, number
from analysis.tables import protocol
from analysis.tables.compare import between, measure
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
    """whether a difference is shown, with the correction for all the table's verdicts; once: beyond twice its error"""
    change: float
    text: str
    """the difference with its corrected interval; once: why it has none"""

    def status(self, holds: bool) -> Status:
        """holds: whether the difference is the one that is claimed."""
        if not self.apart:
            return "undecided"
        return "one seed" if self.once else "holds" if holds else "does not hold"


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

    Where either row has one seed there is no test: a change of more than twice its standard error over images counts.

    Args:
        source: the report's source.
        table: whose tests are corrected together.
        column: the metric.
        values: row label -> estimate, as `estimates` gives them.
        first: label of the row from which the other is subtracted.
        second: label of the other row.
    """
    a, b = values[first], values[second]
    if min(a.seeds, b.seeds) < 2:
        change, cells = a.mean - b.mean, [id for label in (first, second) for id in source.cells(table.id, label)]
        error = math.hypot(*(source.number(id, f"{column.key}_se") or 0.0 for id in cells)) * column.scale
        images = f"; standard error over images {number(error, column.decimals)}" if error else ""
        apart = abs(change) > 2 * error
        return Outcome(True, apart, change, f"{ONE_SEED}, so no interval{images}" if apart else ONE_SEED)
    comparison = between(table, column, first, second, source)
    assert comparison is not None, (table.id, column.key, first, second)
    gap = replace(comparison.difference, half=comparison.corrected)
    return Outcome(False, comparison.shown, gap.mean, f"{show(gap, column)} (corrected)")


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
