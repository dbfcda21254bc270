"""The paper's tables, filled: own numbers ± interval, and the published ones in columns of their own.

A column holds numbers of one protocol; where two meet, the table refuses and names the field. An empty cell says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis import protocol, stats
from analysis.absences import absence
from analysis.notes import notes
from analysis.source import Source
from analysis.stats import Estimate, number
from experiments.paper import PUBLISHED_ON, Cell, Column, Table
from tokenbridge.config import UserError
from tokenbridge.overrides import plain

WIDE = 9
"""columns that fit on a page at their full size"""
MEANINGS = {
    "sample.guidance": "how far samples are pushed towards their class (1 is off); searched for each row by itself",
    "sample.temperature": "spread of the draws (1 is what the model says); searched for each row by itself",
}


@dataclass(frozen=True)
class Entry:
    """One cell of a filled table: text to print, or the reason for its absence."""

    text: str = ""
    reason: str = ""
    estimate: Estimate | None = None
    half: str = ""
    """half-width of the interval, printed like text; empty with one seed"""
    best: bool = False


@dataclass(frozen=True)
class Row:
    label: str
    here: str
    """what stands for the label in this report, where the base scales it: 16×3 for the paper's 256×3; else empty"""
    cells: tuple[str, ...]
    """ids of the cells that the numbers come from, one a seed"""
    measured: tuple[Entry, ...]
    chosen: tuple[Entry, ...]
    published: tuple[Entry, ...]


@dataclass(frozen=True)
class Filled:
    table: Table
    measured: tuple[Column, ...]
    chosen: tuple[Column, ...]
    """settings that were searched for each row by itself, or the axes"""
    published: tuple[Column, ...]
    rows: tuple[Row, ...]
    measured_heading: str
    published_heading: str
    """used where the table has published columns"""
    notes: tuple[str, ...]
    chosen_heading: str = "chosen by search"

    @property
    def intervals(self) -> list[bool]:
        """For each measured column, whether any of its numbers has an interval."""
        return [any(row.measured[i].half for row in self.rows) for i in range(len(self.measured))]

    @property
    def begins(self) -> list[bool]:
        """For each row, whether it is the first of its token, in a table whose labels read `token, head`."""
        tokens = [row.label.partition(", ")[0] for row in self.rows]
        named = self.table.own and self.table.kind == "generation"
        return [named and i > 0 and token != tokens[i - 1] for i, token in enumerate(tokens)]

    @property
    def dense(self) -> bool:
        """Whether there are so many columns that a page sets them smaller."""
        return len(self.measured) + len(self.chosen) + len(self.published) > WIDE

    @property
    def shows_seeds(self) -> bool:
        """Whether how many seeds a row has is worth a column."""
        if self.table.kind in ("generation", "axes"):
            return True
        return self.table.kind != "effects" and any(self.intervals)


def fill(table: Table, source: Source) -> Filled:
    """Fill a table; UserError where a column would mix two protocols."""
    rows = source.rows(table)
    for column in table.measured:
        protocol.check(table, column, rows, source)
    columns = {column.key: _column(column, rows, source) for column in table.measured}
    settings = {"generation": source.tuned_in(table), "axes": table.varies}.get(table.kind, ())
    chosen = tuple(_chosen_column(key, table.kind == "generation") for key in settings)
    filled = tuple(
        Row(
            cell.label,
            _here(table, cell, ids, source),
            tuple(ids),
            tuple(columns[column.key][i] for column in table.measured),
            tuple(_setting(column.key, ids, source) for column in chosen),
            tuple(_published(column, cell) for column in table.published),
        )
        for i, (cell, ids) in enumerate(rows)
    )
    headings = (f"measured, {source.measured_on}", f"published, {PUBLISHED_ON}")
    if table.kind == "speed":  # of heads alone, on no images
        headings = ("measured here", "published, A100")
    found = Filled(table, table.measured, chosen, table.published, filled, *headings, tuple(notes(table, source)))
    return replace(found, chosen_heading="axes") if table.kind == "axes" else found


def _here(table: Table, cell: Cell, ids: Sequence[str], source: Source) -> str:
    """What a scaled row ran, read from its first cell; empty where its label says it or holds no size."""
    if not ids or not cell.overrides or not table.scaled or table.own:
        return ""
    ran = {key: source.setting(ids[0], key) for key in table.varies}
    asked = {key: cell.overrides[key] for key in table.scaled if key in cell.overrides}
    return "" if all(ran[key] == value for key, value in asked.items()) else "×".join(map(str, ran.values()))


def _column(column: Column, rows: list[tuple[Cell, list[str]]], source: Source) -> list[Entry]:
    estimates: list[Estimate | None] = []
    reasons: list[str] = []
    for cell, ids in rows:
        asked = _asked(column, ids, source)
        values = [source.number(id, column.key) for id in asked]
        present = [value * column.scale for value in values if value is not None]
        if present and len(present) < len(asked):
            raise UserError(
                f"column {column.key}: row {cell.label!r} has it for {len(present)} of {len(asked)} seeds;"
                " finish the runs"
            )
        estimates.append(stats.estimate(present) if present else None)
        reasons.append("" if present else absence(column, cell, ids, source))
    winner = stats.best(estimates, column.better)
    return [
        Entry(reason=reason) if value is None else _entry(column, value, i == winner)
        for i, (value, reason) in enumerate(zip(estimates, reasons, strict=True))
    ]


def _asked(column: Column, ids: Sequence[str], source: Source) -> Sequence[str]:
    """The cells that must have the number: all, but a time, which no seed changes, once where seeds share its stage."""
    if not column.key.startswith("speed/"):
        return ids
    return list({stage: id for id in reversed(ids) if (stage := source.stage(id, "speed"))}.values())[::-1]


def _entry(column: Column, value: Estimate, best: bool) -> Entry:
    # a count without a direction, such as parameters, is the same for every seed: ± 0 would say nothing
    silent = value.half is None or (len(set(value.values)) == 1 and not column.better)
    half = "" if silent else number(value.half or 0, column.decimals)
    return Entry(number(value.mean, column.decimals), "", value, half, best)


def _chosen_column(key: str, searched: bool) -> Column:
    meaning = MEANINGS.get(key, "searched for each row by itself") if searched else ""
    return Column(key, key.rpartition(".")[2] if searched else key, meaning=meaning)


def _setting(key: str, ids: Sequence[str], source: Source) -> Entry:
    values = [source.setting(id, key) for id in ids]
    if not values:
        return Entry(reason="not run")
    return Entry(" / ".join(dict.fromkeys(map(_shown, values))))


def _shown(value: object) -> str:
    """A number, or one a step of the channel order, or a name."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else plain(value)


def _published(column: Column, cell: Cell) -> Entry:
    value = cell.published.get(column.key)
    if value is None:
        return Entry(reason=cell.reason if cell.reason and not cell.published else "not given")
    if isinstance(value, str):
        return Entry(value)
    # as printed in the paper: 15.7 stands in one column with 1.94
    short = value >= 10 and round(value, 1) == value
    return Entry(number(value, min(column.decimals, 1) if short else column.decimals))
