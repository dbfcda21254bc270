"""What a run says at its end: the few numbers that tell most, in words, and where its images are to be seen."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tokenbridge.metrics.catalogue import (
    AGREEMENT,
    ARROWS,
    BITS,
    FD,
    MSE,
    PRECISION,
    PSNR,
    RECALL,
    RECONSTRUCTION_FD,
    Metric,
    find,
)
from tokenbridge.metrics.catalogue import metric as metric_of
from tokenbridge.store.artifacts import Store, writable, write_atomic
from tokenbridge.store.runs import has_metrics, read_metrics

if TYPE_CHECKING:
    from experiments.pipeline import Cell

HEADLINE = (FD, AGREEMENT, PRECISION, RECALL, BITS, PSNR, RECONSTRUCTION_FD, MSE)
"""what tells most of a run, by the first of its scorers"""
MOST = 8
SHEETS = "sheets"
"""folder of pictures in the runs folder"""
TURNS = ", their classes in turn"
PICTURED = {"sample": f"samples{TURNS}", "reconstruct": "reconstructions, below their originals"}


def every_number(store: Store, cell: Cell) -> list[str]:
    """A line for each metric of a cell."""
    return [f"{key:<44} {value:.6g}" for key, value in _values(store, cell).items()]


def headline(store: Store, cell: Cell) -> list[str]:
    """At most MOST metrics of a finished cell, with their direction and meaning.

    Of a wanted stage that has none among them, such as a training alone, its own first ones stand in.
    """
    values = _values(store, cell)
    by_scorer = (each.by(cell.config.score.scorers[0]) for each in HEADLINE)
    told = [each for each in by_scorer if each is not None and each.key in values]
    for kind in cell.wanted:
        if not any(each.stage == kind for each in told):
            told += [metric_of(key) for key in values if key.partition("/")[0] == kind]
    told = told[:MOST]
    if not told:
        return []
    width = line_width()
    longest = max(len(each.key) for each in told)
    rows = [row for each in told for row in _row(each, values, cell, longest, width)]
    return [*rows, "↓ lower is better, ↑ higher; --all prints every number"]


def _row(each: Metric, values: Mapping[str, float], cell: Cell, longest: int, width: int) -> list[str]:
    number = f"{values[each.key] * each.scale:.{each.decimals}f} {each.unit}".rstrip()
    text = f"{each.title}: {each.meaning}" if each.meaning else each.title
    if (floor := f"{each.key}_floor") in values and (of_floor := find(floor)):
        text += f"; real images read {values[floor] * of_floor.scale:.{each.decimals}f}"
    if each.name.startswith("agreement"):
        text += f"; chance is {100 / cell.config.data.classes:.3g} %"
    return number_lines(f"{each.key:<{longest}}  {number:<10}", each.better, text, width)


def line_width() -> int:
    """Letters of a line: those of the terminal, within reason."""
    return max(60, min(120, shutil.get_terminal_size((120, 24)).columns))


def number_lines(number: str, better: str, text: str, width: int) -> list[str]:
    """Lines of a number, its direction, and what it is, beside it.

    Args:
        number: its name and value.
        better: "lower", "higher", or empty.
        text: what it is.
        width: letters of a line.
    """
    start = f"{number} {ARROWS[better] or ' '}  "
    indent = " " * len(start)
    lines = textwrap.wrap(text, width, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False)
    return lines or [start.rstrip()]


def sheets(store: Store, cell: Cell) -> Iterator[str]:
    """Write a picture of the cell's images, and of its reconstructions, into the runs folder; a line for each."""
    from experiments.tracking.records import picture

    for stage in reversed(cell.stages()):
        examples = store.folder(stage.id) / "examples.npz"
        if not stage.kind.pictures or not examples.exists():
            continue
        (arrays,) = stage.kind.pictures.values()
        path = store.root / SHEETS / f"{stage.id}.png"
        with writable(path.parent):
            write_atomic(path, picture(examples, arrays))
        told = PICTURED.get(stage.kind.name, stage.kind.name)
        yield f"{path}: {told if cell.config.data.classes > 1 else told.removesuffix(TURNS)}"


def _values(store: Store, cell: Cell) -> dict[str, float]:
    """Metrics of the finished stages by key, in the order of the stages."""
    values = {}
    for stage in cell.stages():
        if has_metrics(folder := store.folder(stage.id)):
            values |= {f"{stage.kind.name}/{name}": value for name, value in read_metrics(folder).metrics.items()}
    return values
