"""The rows of a table against its base row: verdicts by Holm's method over the whole table, and which row is best."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Comparison, Estimate, Gap
from analysis.tables.measured import measure
from experiments.paper import Cell, Column, Table
from experiments.paper.scored import table_by

Rows = Sequence[tuple[Cell, Sequence[str]]]
"""each row with the ids of the cells that fill it"""
Estimates = dict[str, list[Estimate | None]]
"""key of a column -> one a row"""
Place = tuple[str, int]
"""key of a column, number of a row"""


def compare(
    table: Table, columns: Sequence[Column], rows: Rows, estimates: Estimates, source: Source
) -> dict[Place, Comparison]:
    """The verdict of each cell that can be tested against the base row."""
    gaps = _gaps(table, columns, rows, estimates, source)
    found = zip(gaps, stats.compare(list(gaps.values())), strict=True)
    return {place: comparison for place, comparison in found if comparison}


def between(table: Table, column: Column, first: str, second: str, source: Source) -> Comparison | None:
    """The first row against the second, by the verdict of the table where one of them is its base.

    Other two rows are one test more among those of the table. None where there is no test.
    """
    table, rows = table_by(table, source.scorers), source.rows(table)
    estimates = {c.key: [measure(c, cell.label, ids, source) for cell, ids in rows] for c in table.measured}
    gaps = _gaps(table, table.measured, rows, estimates, source)
    labels = [cell.label for cell, _ in rows]
    a, b = (estimates[column.key][labels.index(label)] for label in (first, second))
    if a is None or b is None:
        return None
    if table.base_label in (first, second):
        gaps.pop((column.key, labels.index(first if second == table.base_label else second)), None)
    return stats.compare([*gaps.values(), (stats.gap(a, b), column.better)])[-1]


def _gaps(
    table: Table, columns: Sequence[Column], rows: Rows, estimates: Estimates, source: Source
) -> dict[Place, tuple[Gap, str]]:
    base = base_row(table)
    found: dict[Place, tuple[Gap, str]] = {}
    for column in columns:
        values = estimates[column.key]
        reference = values[base]
        for i, value in enumerate(values):
            if i == base or value is None or reference is None or same_run(column, rows[i][1], rows[base][1], source):
                continue
            found[column.key, i] = (stats.gap(value, reference), column.better)
    return found


def base_row(table: Table) -> int:
    return [cell.label for cell in table.cells].index(table.base_label)


def same_run(column: Column, ids: Sequence[str], others: Sequence[str], source: Source) -> bool:
    """Whether two rows have a number from the same stages: one measurement, not two."""
    kind = column.key.partition("/")[0]
    return {source.stage(id, kind) for id in ids} == {source.stage(id, kind) for id in others}


def best(
    table: Table, column: Column, estimates: Sequence[Estimate | None], compared: Sequence[Comparison | None]
) -> int | None:
    """The row that beats every other one, and whose verdicts do not say otherwise; None where a training was not
    repeated, whose images' interval says nothing of another one."""
    trained = table.kind != "reconstruction"
    if trained and any(each and each.over == "images" for each in estimates):
        return None
    winner = stats.best(estimates, column.better)
    if winner is None:
        return None
    if winner == base_row(table):
        agree = all(each.verdict == "worse" for each in compared if each)
    else:
        own = compared[winner]
        agree = own is None or own.verdict == "better"
    return winner if agree else None
