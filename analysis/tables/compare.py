"""All comparisons of a report, each with one verdict wherever it stands, and the best row of a column.

Two rows are known by the stages that measured them, so the same two rows in two tables, with the same seeds, are one
comparison: one test, one p value, one verdict. Bits are compared in equal bins: those of a row of levels with those of
a row of values made constant within the same bins; those of two rows of other levels not at all. One set of samples
that another program drew is taken as it is: its error is over its images, that of an own row over seeds. Claims are
corrected by Holm's method together, all others by their false-discovery rate (analysis.stats.multiple).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Comparison, Difference, Estimate, Gap, Spreads
from analysis.tables import protocol
from analysis.tables.claims import Pair, besides, claims
from analysis.tables.estimates import RowCells, follows_training, in_bins, measure, other_bins, scale_of, scaled
from experiments.paper import Column, Table
from tokenbridge.config import UserError

Position = tuple[str, int]
"""column key and row number"""
Stages = frozenset[str]
"""ids of the stages that measured a row's number, one for each seed"""
Side = tuple[str, Stages]
"""column key and stages: a row in one metric"""


@dataclass(frozen=True)
class Measured:
    """A row in one metric."""

    column: Column
    label: str
    value: Estimate
    """on the metric's scale"""
    cells: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Comparisons:
    """The comparisons of a report, and what is known for any other two of its rows."""

    source: Source
    rows: Mapping[Side, Measured]
    spreads: Mapping[str, Spreads]
    """column key -> the spread of each row over seeds"""
    verdicts: dict[tuple[Side, Side], Comparison] = field(default_factory=dict)

    def of(self, column: Column, cells: Sequence[str], others: Sequence[str]) -> Comparison | None:
        """The verdict of one row against another; None where there is no test.

        Args:
            column: the metric.
            cells: ids of the cells of the row from which the other is subtracted.
            others: ids of the other row's cells.
        """
        a, b = (side(column, ids, self.source) for ids in (cells, others))
        turned = self.verdicts.get((b, a))
        return self.verdicts.get((a, b)) or (turned and turned.turned)

    def beats(self, column: Column, cells: Sequence[str], others: Sequence[str]) -> bool:
        """Whether a row is better than another: by their verdict where they have one, else compared by themselves.

        Args:
            column: the metric.
            cells: ids of one row's cells.
            others: ids of the other row's cells.
        """
        a, b = (side(column, ids, self.source) for ids in (cells, others))
        if a not in self.rows or b not in self.rows:
            return False
        gap = self.gap(a, b)
        # over the seeds that both have, the row of the better mean may be the worse one
        if not gap.settled or (gap.mean < 0) != (column.better == "lower"):
            return False
        verdict = self.of(column, cells, others)
        return verdict is None or verdict.shown

    def difference(self, a: Side, b: Side) -> Difference:
        """The difference a - b with how it is told, tested or not."""
        column = self.rows[a].column
        return Difference(self.gap(a, b), column.better, scale_of(column), self.rows[b].value.mean)

    def gap(self, a: Side, b: Side) -> Gap:
        """The difference a - b on the metric's scale, by moderated variances where both are trainings of their own."""
        first, second = self.rows[a], self.rows[b]
        if other_bins(first.column, first.cells, second.cells, self.source):
            return _gap_in_equal_bins(first, second, self.source)
        if _same_trainings(first.cells, second.cells, self.source):
            return stats.gap(first.value, second.value)
        given = [self.source.is_given(row.cells[0]) for row in (first, second)]
        alone = [row.value.seeds == 1 for row in (first, second)]
        if sum(alone) == 1 and given[alone.index(True)]:  # known as it is; of one own training another is meant as well
            return stats.gap_to_set(first.value, second.value)
        gap = stats.moderated_gap(first.value, second.value, (a, b), self.spreads[a[0]])
        # images of one training each tell nothing of another training
        untold = follows_training(first.column) and not all(given)
        return replace(gap, error=None) if gap.over == "images" and untold else gap


@lru_cache(maxsize=4)
def comparisons(source: Source) -> Comparisons:
    """All comparisons of a report: its claims, and each row of each table with the table's base.

    A row of which some seeds are missing, or a column of two protocols, is left out; the table that holds it refuses.
    """
    rows = dict(_rows(source))
    keys = {key for key, _ in rows}
    of_column = {key: {at: row.value for at, row in rows.items() if at[0] == key} for key in keys}
    found = Comparisons(source, rows, {key: stats.spreads(values) for key, values in of_column.items()})
    claimed = _sides(claims(source), rows, source)
    others = _sides([*_with_bases(source), *besides(source)], rows, source)
    known = {frozenset(pair) for pair in claimed}
    explored = list({frozenset(pair): pair for pair in others if frozenset(pair) not in known}.values())
    families: tuple[tuple[stats.Family, list[tuple[Side, Side]]], ...] = (("claim", claimed), ("exploratory", explored))
    for family, pairs in families:
        differences = [found.difference(a, b) for a, b in pairs]
        for pair, comparison in zip(pairs, stats.compare(differences, family, source.looks), strict=True):
            if comparison is not None:
                found.verdicts[pair] = comparison
    return found


def _rows(source: Source) -> Iterator[tuple[Side, Measured]]:
    """Every row of every table in every metric that has a direction."""
    for table in source.tables:
        table, cells = table.by(source.scorers), source.rows(table)
        for column in (column for column in table.measured if column.better):
            try:
                protocol.check(table, column, cells, source)
            except UserError:
                continue
            for row, ids in cells:
                value = _measured(column, row.label, ids, source)
                if value is not None:
                    yield side(column, ids, source), Measured(column, row.label, value, tuple(ids))


def _measured(column: Column, label: str, cells: Sequence[str], source: Source) -> Estimate | None:
    try:
        value = measure(column, label, cells, source)
    except UserError:
        return None
    return None if value is None else scaled(column, value, cells, source)


def _with_bases(source: Source) -> Iterator[Pair]:
    for table in source.tables:
        table = table.by(source.scorers)
        for column in (column for column in table.measured if column.better):
            for row in table.rows:
                yield Pair(table, column, row.label, table.base_label)


def _sides(
    pairs: Sequence[Pair] | Iterator[Pair], rows: Mapping[Side, Measured], source: Source
) -> list[tuple[Side, Side]]:
    """Each pair that was measured by its stages, once."""
    found: dict[frozenset[Side], tuple[Side, Side]] = {}
    for pair in pairs:
        a, b = (side(pair.column, source.cells(pair.table.id, label), source) for label in (pair.first, pair.second))
        if a in rows and b in rows and a != b:
            found.setdefault(frozenset((a, b)), (a, b))
    return list(found.values())


def _gap_in_equal_bins(a: Measured, b: Measured, source: Source) -> Gap:
    """The difference a - b of bits of unequal bins; no test where neither was measured in the other's."""
    values = [a.value, b.value]
    for i, (row, other) in enumerate(((a, b), (b, a))):
        with suppress(UserError):  # some seeds lack it
            values[i] = in_bins(row.column, row.label, row.cells, other.cells, source) or values[i]
    if values == [a.value, b.value]:
        return Gap(a.value.mean - b.value.mean, None, 1, (), "seeds")
    return stats.gap(*values)


def _same_trainings(cells: Sequence[str], others: Sequence[str], source: Source) -> bool:
    """Whether two rows are samplings of the same trainings, seed by seed."""
    ours, theirs = ({source.repetition(id): source.stage(id, "train") for id in ids} for ids in (cells, others))
    common = ours.keys() & theirs.keys()
    return bool(common) and all(ours[seed] and ours[seed] == theirs[seed] for seed in common)


def side(column: Column, cells: Sequence[str], source: Source) -> Side:
    """A row in one metric, by the stages that measured it.

    Args:
        column: its key tells the kind of stage, as "score" in "score/fd_digits".
        cells: ids of the row's cells.
        source: the report's source.
    """
    return column.key, frozenset(source.stage(id, column.stage) for id in cells)


def compare(table: Table, columns: Sequence[Column], rows: RowCells, source: Source) -> dict[Position, Comparison]:
    """The verdict of each entry of a table that can be tested against the base row.

    Args:
        table: names the base row.
        columns: those to look at.
        rows: the table's rows in its order, with their cells.
        source: the report that they are of.
    """
    known, base, found = comparisons(source), rows[base_row(table)][1], dict[Position, Comparison]()
    for column in columns:
        for i, (_, cells) in enumerate(rows):
            comparison = known.of(column, cells, base)
            if comparison is not None:
                found[column.key, i] = comparison
    return found


def base_row(table: Table) -> int:
    """The number of the row that the others are compared with."""
    return [cell.label for cell in table.rows].index(table.base_label)


def best(column: Column, rows: RowCells, estimates: Sequence[Estimate | None], source: Source) -> int | None:
    """The number of the row that beats every other one.

    Args:
        column: which way is better.
        rows: the table's rows in its order, with their cells.
        estimates: one for each row, in printed numbers.
        source: the report that they are of.
    """
    known, cells = comparisons(source), [ids for _, ids in rows]
    means = [None if value is None else value.mean for value in estimates]
    return stats.best(means, column.better, lambda i, k: known.beats(column, cells[i], cells[k]))
