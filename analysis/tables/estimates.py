"""The number of a row, with what its interval is over, in printed numbers or on the scale on which it is compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Estimate, Scale
from experiments.paper import Column, Row
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import BIN_BITS, BITS, EXTRAPOLATED, TOKEN_BITS_PER_DIM, metric, share_of
from tokenbridge.stages import STAGES

RowCells = Sequence[tuple[Row, Sequence[str]]]
"""each row of a table with the ids of the cells that fill it"""
Estimates = dict[str, list[Estimate | None]]
"""column key -> one estimate per row"""
SHARED = ("reconstruct", "likelihood")
"""stages that measure the test images, the same in all rows; others have images of their own"""
_ENDS = ("", "_floor_images", "_at_floor_images")
"""of the distance at N, the number of images of the floor, and the distance at that number"""
_BINS = ("quantizer.range", "quantizer.std_range", "quantizer.edges")
"""settings of a quantizer with the gaussian's levels, beside their number"""


def measure(column: Column, label: str, cells: Sequence[str], source: Source, images: bool = True) -> Estimate | None:
    """Estimate a row's number in the column's printed scale; None where no cell has it, or one has no finite number.

    Args:
        column: the metric, as it is stored or computed from others.
        label: the row's label, for the message of an error.
        cells: ids of the cells that fill the row.
        source: the report's source.
        images: whether a single measurement has an interval over images.

    Raises:
        UserError: where some seeds have the number and others lack it.
    """
    required = _required(column, cells, source)
    values = {id: value * column.scale for id in required if (value := number(source, id, column)) is not None}
    keys = _computed_from(column) or (column.key,)
    if not values or any(source.odd(id, key) for id in required for key in keys):
        return None  # no mean of the others: absence() says why
    if len(values) < len(required):
        raise UserError(
            f"column {column.key}: row {label!r} has it for {len(values)} of {len(required)} seeds; finish the runs"
        )
    seeds, cell = [source.repetition(id) for id in values], next(iter(values))
    if not images or len(values) > 1:
        return stats.estimate(list(values.values()), seeds)
    error, shared = source.number(cell, f"{column.key}_se"), column.stage in SHARED
    left_out = source.left_out(cell, column.key) * column.scale
    scaled = None if error is None else error * column.scale
    return stats.estimate(list(values.values()), seeds, scaled, left_out=left_out.tolist(), shared=shared)


def scaled(column: Column, value: Estimate, cells: Sequence[str], source: Source) -> Estimate:
    """An estimate on the scale on which the metric's spread is even, as comparisons take it.

    Args:
        column: the metric.
        value: in printed numbers, as `measure` gives it.
        cells: ids of the cells that it comes from.
        source: the report's source.
    """
    return scale_of(column).of(value, count(column, cells[0], source))


def scale_of(column: Column) -> Scale:
    """The scale that the catalogue declares for a metric."""
    return Scale(column.spread, column.scale)


def count(column: Column, cell: str, source: Source) -> float | None:
    """The number of images that a metric is a share of; None where it is no share, or its protocol does not say."""
    return share_of(column, source.protocol(cell, column.stage))


def number(source: Source, cell: str, column: Column) -> float | None:
    """A metric of a cell as it is stored, or computed from those that are; None where it cannot be."""
    if not (keys := _computed_from(column)):
        return source.number(cell, column.key)
    parts = [part for key in keys if (part := source.number(cell, key)) is not None]
    if len(parts) < len(keys):
        return None
    if column.key == BIN_BITS.key:
        return parts[0] - parts[1]
    images, value, few_images, few = parts
    return stats.extrapolated(value, images, few, few_images) if images > few_images else None


def _computed_from(column: Column) -> tuple[str, ...]:
    """Keys of those that a column is computed from; none for one that a stage stores.

    FD∞: the number of images, and three of the distance (_ENDS).
    """
    if column.key == BIN_BITS.key:
        return BITS.key, TOKEN_BITS_PER_DIM.key
    if not column.scorer or column != EXTRAPOLATED.by(column.scorer):
        return ()
    return ("sample/images", *(f"{column.key.removesuffix('_extrapolated')}{end}" for end in _ENDS))


def _required(column: Column, cells: Sequence[str], source: Source) -> Sequence[str]:
    """The cells that must have the number: one per stage that measured it, as no seed changes a time or a quantizer."""
    stages = {source.stage(id, column.stage) or id: id for id in reversed(cells)}
    if column.stage == "speed":  # not every seed is timed
        stages = {stage: id for stage, id in stages.items() if source.stage(id, column.stage)}
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
    trained = source.stage(cell, "train") if follows_training(column) else ""
    return trained or source.stage(cell, column.stage) or cell


def other_bins(column: Column, cells: Sequence[str], others: Sequence[str], source: Source) -> bool:
    """Whether two rows have likelihoods by bins of two quantizers: then their difference measures the bins as well.

    Args:
        column: the metric; of another stage than likelihood it has no bins.
        cells: ids of one row's cells.
        others: ids of the other row's cells.
        source: the report's source.
    """
    if column.stage != "likelihood":
        return False
    bins, theirs = ({source.stage(id, "quantizer") for id in ids} for ids in (cells, others))
    return bins != theirs


def in_bins(column: Column, label: str, cells: Sequence[str], others: Sequence[str], source: Source) -> Estimate | None:
    """A row's density of values made constant within the bins of a row of levels, which a likelihood stage measured.

    Args:
        column: bits per dimension; of any other metric there is none.
        label: the row's label, for the message of an error.
        cells: ids of the cells of the row of values.
        others: ids of the cells of the row of levels.
        source: the report's source.

    Returns:
        None where one row has no values, or the other no bins in which the first was measured: those of the gaussian
        quantizer, of the first one's own range, on the same latents.
    """
    if column.key != BITS.key:
        return None
    kinds = [{source.setting(id, "quantizer.kind") for id in ids} for ids in (cells, others)]
    spaces = [{source.stage(id, "latents") for id in ids} for ids in (cells, others)]
    if kinds != [{"identity"}, {"gaussian"}] or spaces[0] != spaces[1]:
        return None
    bins = {tuple(source.setting(id, key) for key in _BINS) for id in (*cells, *others)}
    levels = {source.setting(id, "quantizer.levels") for id in others}
    if len(bins) > 1 or len(levels) > 1 or source.setting(others[0], "quantizer.per") != "tensor":
        return None
    return measure(metric(f"{column.key}_b{levels.pop()}"), label, cells, source)


def follows_training(column: Column) -> bool:
    """Whether a metric is measured of a trained generator."""
    return _follows_training(column.stage)


@cache
def _follows_training(kind: str) -> bool:
    return kind in STAGES and any(need == "train" or _follows_training(need) for need in STAGES[kind].needs)
