"""A sentence about a claim, and two kinds of claims: a row beats another; a column has a trend."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def estimates(source: Source, table: Table, column: Column) -> dict[str, Estimate]:
    """Row label -> estimate over seeds in the column's printed scale, for the rows that have the metric, in the table's
    order; UserError where they are of two protocols."""
    rows = source.rows(table)
    protocol.check(table, column, rows, source)
    found = {cell.label: measure(column, cell.label, ids, source, images=False) for cell, ids in rows}
    return {label: value for label, value in found.items() if value is not None}


def show(value: Estimate, column: Column) -> str:
    text = number(value.mean, column.decimals)
    return text if value.half is None else f"{text} ± {number(value.half, column.decimals)}"


@dataclass(frozen=True)
class Difference:
    """Two rows of a table compared, with the correction for all its verdicts."""

    gap: Estimate
    """with the interval of the level at which Holm's method decided"""
    shown: bool

    def text(self, column: Column) -> str:
        return f"{show(self.gap, column)} (corrected)"


def difference(source: Source, table: Table, column: Column, first: str, second: str) -> Difference:
    """The first row minus the second; both have several seeds."""
    found = between(table, column, first, second, source)
    assert found is not None, (table.id, column.key, first, second)
    return Difference(replace(found.difference, half=found.corrected), found.shown)


def image_error(source: Source, table: Table, labels: Sequence[str], column: Column) -> float:
    """Standard error over images of a difference between two rows, in the column's printed scale; 0 if unknown."""
    cells = [id for label in labels for id in source.cells(table.id, label)]
    return math.hypot(*(source.number(id, f"{column.key}_se") or 0.0 for id in cells)) * column.scale


def claim(
    source: Source, table: Table, rows: tuple[str, str], column: Column, names: tuple[str, str] | None = None
) -> Verdict | None:
    """The paper says that the first row is better (lower) than the second; what the numbers say. names: for a text."""
    values = estimates(source, table, column)
    if not set(rows) <= values.keys():
        return None
    (ours, rival), (first, second) = (values[row] for row in rows), names or rows
    subject = first[0].upper() + first[1:]
    numbers = f"{NAMES.get(column, column.title)}: {show(ours, column)} against {show(rival, column)}"
    if min(ours.seeds, rival.seeds) < 2:
        error = image_error(source, table, rows, column)
        if abs(ours.mean - rival.mean) <= 2 * error:
            text = f"{subject} and {second} differ within the error over images in {numbers} ({ONE_SEED})."
            return Verdict("undecided", text, table.id)
        verb = "beats" if ours.mean < rival.mean else "does not beat"
        return Verdict("one seed", f"{subject} {verb} {second} in {numbers} ({_once(error, column)}).", table.id)
    gap = difference(source, table, column, *rows)
    if not gap.shown:
        text = f"{subject} and {second} cannot be told apart in {numbers}; the difference is {gap.text(column)}."
        return Verdict("undecided", text, table.id)
    verb, status = ("beats", "holds") if ours.mean < rival.mean else ("loses to", "does not hold")
    text = f"{subject} {verb} {second} in {numbers}; the difference is {gap.text(column)}."
    return Verdict(status, text, table.id)


def trend(
    source: Source, table: Table, column: Column, cause: str, expected: Literal["better", "worse"]
) -> Verdict | None:
    """The paper says that a column gets better (lower) or worse from the first row to the last.

    cause: what grows along the rows, such as "more levels". Settled where the two ends are; the rows between are told.
    """
    values = estimates(source, table, column)
    if len(values) < 2:
        return None
    (first, start), *_, (last, end) = values.items()
    name, change = NAMES.get(column, column.title), end.mean - start.mean
    chain = ", ".join(f"{label} {show(value, column)}" for label, value in values.items())
    way = "better" if change < 0 else "worse"
    steps = [b.mean < a.mean for a, b in pairwise(values.values())]
    also = "" if len(set(steps)) == 1 else ", though not at every step"
    if min(start.seeds, end.seeds) < 2:
        error = image_error(source, table, (first, last), column)
        if abs(change) > 2 * error:
            text = f"With {cause} the model gets {way} in {name}{also}: {chain} ({_once(error, column)})."
            return Verdict("one seed", text, table.id)
        text = f"{first} and {last} differ within the error over images in {name}: {chain} ({ONE_SEED})."
        return Verdict("undecided", text, table.id)
    gap = difference(source, table, column, last, first)
    ends = f"from first to last {gap.text(column)}"
    if not gap.shown:
        return Verdict("undecided", f"{first} and {last} cannot be told apart in {name}: {chain}; {ends}.", table.id)
    status: Status = "holds" if way == expected else "does not hold"
    return Verdict(status, f"With {cause} the model gets {way} in {name}{also}: {chain}; {ends}.", table.id)


def _once(error: float, column: Column) -> str:
    note = f"{ONE_SEED}, so no interval"
    return note + (f"; standard error over images {number(error, column.decimals)}" if error else "")
