"""A sentence about a claim, and two kinds of claims: a row beats another; a column has a trend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Estimate, number
from analysis.tables import protocol
from analysis.tables.compare import comparisons
from analysis.tables.estimates import measure
from experiments.paper import Column, Table

Status = Literal["holds", "does not hold", "undecided", "one seed", "measured"]
ONE_SEED = "one seed each"


@dataclass(frozen=True)
class Verdict:
    status: Status
    """holds and does not hold: a claim of the paper, settled; one seed: seen once; measured: no claim to test"""
    text: str
    table: str


@dataclass(frozen=True)
class Finding:
    """What a verdict says of one metric."""

    status: Status
    says: str
    """the same for each metric of one sentence: a beats b"""
    metric: str
    numbers: str
    table: str


def joined(findings: Iterable[Finding | None]) -> list[Verdict]:
    """A sentence for each thing that is said, with all metrics that it is said of."""
    alike: dict[tuple[Status, str, str], list[str]] = {}
    for each in filter(None, findings):
        alike.setdefault((each.status, each.says, each.table), []).append(f"in {each.metric}: {each.numbers}")
    return [Verdict(status, f"{says} {'; '.join(told)}.", table) for (status, says, table), told in alike.items()]


@dataclass(frozen=True)
class Outcome:
    """One row of a table minus another, and how far the difference is settled."""

    once: bool
    """whether one of them has a single training seed, so that nothing is settled"""
    apart: bool
    """whether a difference is shown; once: beyond its error over images, where that is known"""
    change: float
    """below 0 where the first row is lower"""
    note: str
    """why it has no test; empty where it has one: the picture of claims or a table has the interval"""
    claimed: bool = False
    """whether it is one of the report's claims"""

    @property
    def verb(self) -> str:
        """What two rows do of which no difference is shown."""
        return "differ within the error over images" if self.once else "cannot be told apart"

    @property
    def remark(self) -> str:
        """The note behind a number."""
        return f" ({self.note})" if self.note else ""

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
    """A value as a verdict prints it; its interval stands in its table."""
    return number(value.mean, column.decimals)


def shown(result: Outcome, column: Column, a: Estimate, b: Estimate) -> tuple[str, str]:
    """Two values as a verdict prints them: over the seeds that it is about, not alike where it says that they differ.

    Args:
        result: what it says.
        column: the metric.
        a: one value.
        b: the other.
    """
    common = stats.pairs(a, b)
    if a.seeds != b.seeds and len(common) > 1:
        a, b = (stats.estimate(values) for values in zip(*common, strict=True))
    return stats.apart(a.mean, b.mean, column.decimals) if result.apart else (show(a, column), show(b, column))


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
    return Outcome(False, comparison.shown, comparison.difference.gap.mean, "", comparison.family == "claim")


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
) -> Finding | None:
    """Whether the first row is better (lower) than the second, as the paper says.

    Args:
        rows: labels of both; no finding where one lacks the metric.
        names: what the sentence calls them, where that is not their labels.
    """
    values = estimates(source, table, column)
    if not set(rows) <= values.keys():
        return None
    result, (first, second) = outcome(source, table, column, values, *rows), names or rows
    subject, (ours, rival) = first[0].upper() + first[1:], shown(result, column, *(values[row] for row in rows))
    if not result.apart:
        says = f"{subject} and {second} {result.verb}"
    else:
        verb = "beats" if result.change < 0 else "does not beat" if result.once else "loses to"
        says = f"{subject} {verb} {second}"
    numbers = f"{ours} against {rival}{result.remark}"
    return Finding(result.status(result.change < 0), says, column.title, numbers, table.id)


def trend(
    source: Source, table: Table, column: Column, cause: str, expected: Literal["better", "worse"]
) -> Finding | None:
    """Whether a column gets better (lower) or worse from the first row to the last, as the paper says.

    Settled where the two ends are, which are told.

    Args:
        cause: what grows along the rows, such as "more levels".
        expected: what the paper says.
    """
    values = estimates(source, table, column)
    if len(values) < 2:
        return None
    first, *_, last = values
    result = outcome(source, table, column, values, last, first)
    ends = shown(result, column, values[first], values[last])
    if not result.apart:
        numbers = f"{' and '.join(ends)}{result.remark}"
        return Finding("undecided", f"{first} and {last} {result.verb}", column.title, numbers, table.id)
    way = "better" if result.change < 0 else "worse"
    steps = {b.mean < a.mean for a, b in pairwise(values.values())}
    also = "" if len(steps) == 1 else ", though not at every step"
    says = f"With {cause} ({first} to {last}) the model gets {way}"
    numbers = f"{' to '.join(ends)}{result.remark}"
    return Finding(result.status(way == expected), says, column.title + also, numbers, table.id)
