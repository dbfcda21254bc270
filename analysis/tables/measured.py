"""The numbers of a row of a table: one estimate over training seeds, or over images where there is one measurement."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Estimate
from experiments.paper import EXTRAPOLATED, FD, Column
from tokenbridge.config import UserError

_EXTRAPOLATES = ("sample/images", FD.key, f"{FD.key}_floor_images", f"{FD.key}_at_floor_images")
"""N, the distance at N, and the same for as many images as the floor has"""


def measure(column: Column, label: str, ids: Sequence[str], source: Source, images: bool = True) -> Estimate | None:
    """The estimate of a row in the column's printed scale; None where no cell has the number.

    images: whether one measurement has an interval over images. UserError where some seeds have the number and others
    lack it.
    """
    asked = _asked(column, ids, source)
    found = {id: value * column.scale for id in asked if (value := number(source, id, column)) is not None}
    read = _EXTRAPOLATES if column == EXTRAPOLATED else (column.key,)
    if not found or any(source.odd(id, key) for id in asked for key in read):
        return None  # no mean of the others: absence() says why
    if len(found) < len(asked):
        raise UserError(
            f"column {column.key}: row {label!r} has it for {len(found)} of {len(asked)} seeds; finish the runs"
        )
    error = source.number(next(iter(found)), f"{column.key}_se") if images and len(found) == 1 else None
    keys = [source.setting(id, "train.seed") for id in found]
    return stats.estimate(list(found.values()), keys, None if error is None else error * column.scale)


def number(source: Source, cell: str, column: Column) -> float | None:
    """A metric of a cell as it is stored, or computed from those that are."""
    if column != EXTRAPOLATED:
        return source.number(cell, column.key)
    images, value, few_images, few = (source.number(cell, key) for key in _EXTRAPOLATES)
    if images is None or value is None or few_images is None or few is None or images <= few_images:
        return None
    return stats.extrapolated(value, images, few, few_images)


def _asked(column: Column, ids: Sequence[str], source: Source) -> Sequence[str]:
    """The cells that must have the number: all, but a time, which no seed changes, once where seeds share its stage."""
    if not column.key.startswith("speed/"):
        return ids
    return list({stage: id for id in reversed(ids) if (stage := source.stage(id, "speed"))}.values())[::-1]
