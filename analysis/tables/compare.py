"""The estimates of a table's rows, the verdict of each against the base row, and the best row.

An estimate is over training seeds, or over images where there is one measurement. Verdicts are corrected by Holm's
method over the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Comparison, Estimate, Gap
from experiments.paper import Column, Row, Table
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import EXTRAPOLATED
from tokenbridge.stages import STAGES

RowCells = Sequence[tuple[Row, Sequence[str]]]
"""each row of a table with the ids of the cells that fill it"""
Estimates = dict[str, list[Estimate | None]]
"""column key -> one estimate per row"""
Position = tuple[str, int]
"""column key and row number"""
SHARED = ("reconstruct", "likelihood")
"""stages that measure the test images, the same in all rows; others have images of their own"""
_EXTRAPOLATES = ("sample/images", "score/fd_digits", "score/fd_digits_floor_images", "score/fd_digits_at_floor_images")
"""N, the distance at N, the number of images of the floor, and the distance at that number"""


def measure(column: Column, label: str, cells: Sequence[str], source: Source, images: bool = True) -> Estimate | None:
    """Estimate a row's number in the column's printed scale; None where no cell has it, or one has no finite number.

    Args:
        column: the metric; FD∞ is computed from four stored ones.
        label: the row's label, for the message of an error.
        cells: ids of the cells that fill the row.
        source: the report's source.
        images: whether a single measurement has an interval over images.

    Raises:
        UserError: where some seeds have the number and others lack it.
    """
    required = _required(column, cells, source)
    values = {id: value * column.scale for id in required if (value := number(source, id, column)) is not None}
    keys = _EXTRAPOLATES if column == EXTRAPOLATED else (column.key,)
    if not values or any(source.odd(id, key) for id in required for key in keys):
        return None  # no mean of the others: absence() says why
    if len(values) < len(required):
        raise UserError(
            f"column {column.key}: row {label!r} has it for {len(values)} of {len(required)} seeds; finish the runs"
        )
    seeds, cell = [source.setting(id, "train.seed") for id in values], next(iter(values))
    if not images or len(values) > 1:
        return stats.estimate(list(values.values()), seeds)
    error, shared = source.number(cell, f"{column.key}_se"), column.key.partition("/")[0] in SHARED
    left_out = source.left_out(cell, column.key) * column.scale
    scaled = None if error is None else error * column.scale
    return stats.estimate(list(values.values()), seeds, scaled, left_out=left_out.tolist(), shared=shared)


def number(source: Source, cell: str, column: Column) -> float | None:
    """A metric of a cell as it is stored, or computed from those that are; None where it cannot be."""
    if column != EXTRAPOLATED:
        return source.number(cell, column.key)
    images, value, few_images, few = (source.number(cell, key) for key in _EXTRAPOLATES)
    if images is None or value is None or few_images is None or few is None or images <= few_images:
        return None
    return stats.extrapolated(value, images, few, few_images)


def _required(column: Column, cells: Sequence[str], source: Source) -> Sequence[str]:
    """The cells that must have the number: one per stage that measured it, as no seed changes a time or a quantizer."""
    kind = column.key.partition("/")[0]
    stages = {source.stage(id, kind) or id: id for id in reversed(cells)}
    if kind == "speed":  # not every seed is timed
        stages = {stage: id for stage, id in stages.items() if source.stage(id, kind)}
    return list(stages.values())[::-1]


def observation(source: Source, cell: str, column: Column) -> str:
    """What a cell's number is one observation of: cells that share it are one, however many they are.

    The stage that measured the number; of a stage behind a training, the training, since two samplings of one training
    are no two trainings.

    Args:
        source: the report's source.
        cell: the cell's id.
        column: its key tells the stage, as "quantizer" in "quantizer/mse".
    """
    kind = column.key.partition("/")[0]
    measured = source.stage(cell, kind)
    return (source.stage(cell, "train") if _follows_training(kind) else "") or measured or cell


@cache
def _follows_training(kind: str) -> bool:
    return kind in STAGES and any(need == "train" or _follows_training(need) for need in STAGES[kind].needs)


def compare(
    table: Table, columns: Sequence[Column], rows: RowCells, estimates: Estimates, source: Source
) -> dict[Position, Comparison]:
    """The verdict of each entry that can be tested against the base row, all corrected together.

    Args:
        table: names the base row.
        columns: those to test, each with an entry in `estimates`.
        rows: the table's rows in its order, with their cells.
        estimates: one estimate per row for each column.
        source: tells which stages the numbers come from: rows of the same stages are one measurement and no test.
    """
    gaps = _gaps(table, columns, rows, estimates, source)
    comparisons = zip(gaps, stats.compare(list(gaps.values())), strict=True)
    return {position: comparison for position, comparison in comparisons if comparison}


def between(table: Table, column: Column, first: str, second: str, source: Source) -> Comparison | None:
    """Compare the row labelled first with the one labelled second; None where there is no test.

    Where one of them is the table's base row this is the table's own verdict; otherwise it is one more test among
    those of the table.

    Args:
        table: the table whose tests are corrected together.
        column: the metric, one of the table's measured columns as the report's scorers measure it.
        first: label of the row from which the other is subtracted.
        second: label of the other row.
        source: the report's source.

    Raises:
        UserError: a row of the table has a number for some of its seeds only.
    """
    table, rows = table.by(source.scorers), source.rows(table)
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
    table: Table, columns: Sequence[Column], rows: RowCells, estimates: Estimates, source: Source
) -> dict[Position, tuple[Gap, str]]:
    base = base_row(table)
    gaps: dict[Position, tuple[Gap, str]] = {}
    for column in columns:
        values = estimates[column.key]
        reference = values[base]
        for i, value in enumerate(values):
            if i == base or value is None or reference is None or same_run(column, rows[i][1], rows[base][1], source):
                continue
            gaps[column.key, i] = (stats.gap(value, reference), column.better)
    return gaps


def base_row(table: Table) -> int:
    """The number of the row that the others are compared with."""
    return [cell.label for cell in table.rows].index(table.base_label)


def same_run(column: Column, cells: Sequence[str], others: Sequence[str], source: Source) -> bool:
    """Whether two rows have a number from the same stages: one measurement, not two.

    Args:
        column: its key tells the kind of stage, as "score" in "score/fd_digits".
        cells: ids of one row's cells.
        others: ids of the other row's cells.
        source: the report's source.
    """
    kind = column.key.partition("/")[0]
    return {source.stage(id, kind) for id in cells} == {source.stage(id, kind) for id in others}


def best(
    table: Table, column: Column, estimates: Sequence[Estimate | None], comparisons: Sequence[Comparison | None]
) -> int | None:
    """The number of the row that beats every other one and whose verdicts agree.

    None where a training was not repeated: an interval over its images says nothing of another training.

    Args:
        table: its kind tells whether rows are trainings, and which row is the base.
        column: which way is better.
        estimates: one for each row.
        comparisons: each row's verdict against the base row, None where there was no test.
    """
    if table.kind != "reconstruction" and any(value and value.over == "images" for value in estimates):
        return None
    winner = stats.best(estimates, column.better)
    if winner is None:
        return None
    if winner == base_row(table):
        agree = all(comparison.verdict == "worse" for comparison in comparisons if comparison)
    else:
        verdict = comparisons[winner]
        agree = verdict is None or verdict.verdict == "better"
    return winner if agree else None
