"""A filled table: what stands in each entry, before any form of printing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from analysis.stats import LEVEL, Comparison, Difference, Estimate, Over, number, signed, visible
from experiments.paper import Column, Table
from tokenbridge.overrides import value_of

TEXTS = ("label", "here", "cells", "empty because")
"""columns of a CSV file that are no numbers, whatever they look like"""
WIDE = 12
"""columns that fit on a page at their full size, an interval counted as one"""
MOST_TOLD = 99_999.0
"""per cent up to which the upper end of an interval is told"""
BASE, SAME_RUN, UNPAIRED, OTHER_BINS = "base", "same run", "not paired over images", "other bins"
"""remarks: the row that others are compared with; a number that comes from the base's own stage; one whose difference
to the base, on the same images, has an error that the source does not tell; one whose difference measures bins"""
EXPLORATORY = "°"
"""behind the verdict of a comparison that is no claim"""
ROUNDING = 1e-5
"""of a number: an interval below it is that of float32 sums"""
EQUAL_BINS = "‡"
"""behind the verdict of a comparison of bits in equal bins, where those of the rows are not"""


@dataclass(frozen=True)
class Entry:
    """A printed number with its estimate, or the reason why there is none."""

    text: str = ""
    reason: str = ""
    estimate: Estimate | None = None
    half: str = ""
    """half-width of the interval, printed like text; empty where there is none"""
    best: bool = False
    comparison: Comparison | None = None
    """with the base row; None for it, without a direction, and where nothing can be tested"""
    range: str = ""
    """ends of an interval that is not even about the number, printed, in place of half"""
    change: str = ""
    """difference to the base with the interval that the verdict goes by, printed"""
    remark: str = ""
    """why there is no comparison, where that is worth a word"""
    binned: str = ""
    """where the base has other bins: which row's density was made constant within the other's bins, and its bits"""

    @property
    def over(self) -> Over:
        """What the interval is over."""
        return self.estimate.over if self.estimate and self.interval else ""

    @property
    def interval(self) -> str:
        """The interval as it is printed behind the number; empty where there is none."""
        return f"± {self.half}" if self.half else self.range

    @property
    def word(self) -> str:
        """The verdict, or the remark that stands in its place."""
        return self.comparison.verdict if self.comparison else self.remark

    @property
    def mark(self) -> str:
        """What stands behind the verdict of a comparison that is no claim, or is one in equal bins."""
        return (EXPLORATORY if self.explored else "") + (EQUAL_BINS if self.binned else "")

    @property
    def explored(self) -> bool:
        """Whether its comparison is no claim."""
        return self.comparison is not None and self.comparison.family == "exploratory"

    @property
    def seeds_needed(self) -> str:
        """The seeds that would settle it, as a few words; empty where that is settled or unknown."""
        needed = self.comparison.seeds_needed if self.comparison else None
        return f"{needed} seeds" if needed else ""


def entry(column: Column, value: Estimate, best: bool = False) -> Entry:
    """An estimate as it is printed in a column, without a verdict.

    Args:
        column: its decimals; one without a direction shows no ± where all seeds have the same value.
        value: in the column's printed scale.
        best: whether the entry is printed bold.
    """
    # a count without a direction, such as parameters, is the same for every seed: ± 0 would say nothing
    tied = value.half is not None and value.half <= ROUNDING * abs(value.mean)
    silent = value.half is None or (tied and value.seeds > 1 and not column.better)
    half = "" if silent else number(value.half or 0, column.decimals)
    return Entry(number(value.mean, column.decimals), "", value, half, best)


def effect_text(column: Column, difference: Difference, shown: bool = False) -> str:
    """A difference as it is told: in per cent of the base for a metric that varies in proportion, else in its unit.

    Args:
        column: its decimals.
        difference: as it is told.
        shown: whether a word says which way it goes, so that it must not be printed as zero.
    """
    text = signed(difference.effect, _decimals(column, difference, shown))
    return f"{text} %" if difference.scale.told_in_percent else text


def interval_text(column: Column, difference: Difference, level: float = LEVEL, shown: bool = False) -> str:
    """The interval of a difference behind its effect: "± 0.12", or its ends where they are uneven; empty without one.

    Args:
        column: its decimals.
        difference: as it is told.
        level: probability with which the interval misses the true difference.
        shown: as in `effect_text`.
    """
    decimals, half = _decimals(column, difference, shown), difference.gap.half(level)
    if half is None:
        return ""
    if difference.scale.kind == "plain":
        return f"± {number(half, decimals)}"
    low, high = difference.interval(level) or (0.0, 0.0)
    if high > MOST_TOLD:
        return f"({signed(low, decimals)} to over {signed(MOST_TOLD, 0)})"
    return f"({signed(low, decimals)} to {signed(high, decimals)})"


def change_text(column: Column, comparison: Comparison) -> str:
    """A difference with the interval that its verdict goes by."""
    difference, shown = comparison.difference, comparison.shown
    return f"{effect_text(column, difference, shown)} {interval_text(column, difference, comparison.level, shown)}"


def _decimals(column: Column, difference: Difference, shown: bool) -> int:
    decimals = column.decimals
    if difference.scale.told_in_percent:
        decimals = 0 if abs(difference.effect) >= 10 else 1
    half = difference.gap.half() if difference.scale.kind == "plain" else None
    return max(visible(number, decimals) for number in (difference.effect, half or 1)) if shown else decimals


def csv_text(lines: Iterable[Iterable[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def records(text: str) -> list[dict[str, Any]]:
    """Lines of a CSV file of a table by its headings, as JSON has them: numbers as numbers, None for empty fields."""
    return [
        {key: field if key in TEXTS and field else value_of(field) if field else None for key, field in line.items()}
        for line in csv.DictReader(io.StringIO(text))
    ]


@dataclass(frozen=True)
class FilledRow:
    label: str
    here: str = ""
    """what stands for the label in this report, where the base scales it: 16×3 for the paper's 256×3; else empty"""
    cells: tuple[str, ...] = ()
    """ids of the cells that the numbers come from, one per seed"""
    measured: tuple[Entry, ...] = ()
    chosen: tuple[Entry, ...] = ()
    published: tuple[Entry, ...] = ()
    further: tuple[Entry, ...] = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries that a page shows, from left to right."""
        return (*self.measured, *self.chosen, *self.published)


@dataclass(frozen=True)
class FilledTable:
    table: Table
    measured: tuple[Column, ...]
    chosen: tuple[Column, ...]
    """settings that were searched for each row by itself, or the axes"""
    published: tuple[Column, ...]
    rows: tuple[FilledRow, ...]
    measured_heading: str
    published_heading: str
    """used where the table has published columns"""
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    """those of the notes without which the numbers would mislead"""
    chosen_heading: str = "chosen by search"
    further: tuple[Column, ...] = ()
    """columns for which a page has no room: in the CSV, and told in a note"""

    @property
    def id(self) -> str:
        return self.table.id

    @property
    def kind(self) -> str:
        return self.table.kind

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that a page shows, from left to right."""
        return (*self.measured, *self.chosen, *self.published)

    @cached_property
    def ran(self) -> bool:
        """Whether any of its rows was run for this report."""
        return any(row.cells or entry.estimate for row in self.rows for entry in row.measured)

    @property
    def first_notes(self) -> tuple[str, ...]:
        """The notes that a page shows at once; it folds the others."""
        return (self.table.note, *self.cautions)

    @cached_property
    def intervals(self) -> list[bool]:
        """For each measured column, whether any of its numbers has an interval."""
        return [any(row.measured[i].interval for row in self.rows) for i in range(len(self.measured))]

    @cached_property
    def compared(self) -> list[int]:
        """Which of the measured columns have verdicts."""
        return [i for i in range(len(self.measured)) if any(row.measured[i].comparison for row in self.rows)]

    @cached_property
    def begins(self) -> list[bool]:
        """For each row, whether it is the first of its token, in a table whose labels read `token, head`."""
        tokens = [row.label.partition(", ")[0] for row in self.rows]
        named = self.table.own and self.kind == "generation"
        return [named and i > 0 and token != tokens[i - 1] for i, token in enumerate(tokens)]

    @cached_property
    def panels(self) -> list[FilledTable]:
        """A table with many columns as two for a narrow page: the measured ones, and all others below them."""
        if not (self.dense and self.measured and (self.chosen or self.published)):
            return [self]
        above = tuple(replace(row, chosen=(), published=()) for row in self.rows)
        below = tuple(replace(row, measured=()) for row in self.rows)
        return [replace(self, rows=above, chosen=(), published=()), replace(self, rows=below, measured=())]

    @property
    def dense(self) -> bool:
        """Whether there are so many columns that a page sets them smaller."""
        return len(self.columns) + sum(self.intervals) > WIDE

    @cached_property
    def shows_seeds(self) -> bool:
        """Whether a column tells the number of seeds of each row."""
        if self.kind in ("generation", "axes"):
            return any(row.cells for row in self.rows)
        # an entry of a pivot table has its own seeds
        return self.kind != "pivot" and any(entry.over == "seeds" for row in self.rows for entry in row.measured)
