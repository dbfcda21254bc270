"""The paper's tables, filled: own numbers ± interval, and the published ones in columns of their own.

A column holds numbers of one protocol; where two meet, the table refuses and names the field. An empty cell says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis import stats
from analysis.notes import notes
from analysis.source import Source
from analysis.stats import Estimate, number
from experiments.paper import PUBLISHED_ON, Cell, Column, Table
from tokenbridge.config import UserError

REPLICATES = {"seed", "sample.seed"}
"""protocol fields that tell the repetitions of one row apart"""


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
    """settings that were searched for each row by itself"""
    published: tuple[Column, ...]
    rows: tuple[Row, ...]
    measured_heading: str
    published_heading: str
    notes: tuple[str, ...]

    @property
    def intervals(self) -> list[bool]:
        """For each measured column, whether any of its numbers has an interval."""
        return [any(row.measured[i].half for row in self.rows) for i in range(len(self.measured))]

    @property
    def shows_seeds(self) -> bool:
        """Whether how many seeds a row has is worth a column."""
        return self.table.kind != "reconstruction" or any(self.intervals)


def fill(table: Table, source: Source) -> Filled:
    """Fill a table; UserError where a column would mix two protocols."""
    rows = source.rows(table)
    for column in table.measured:
        check_protocol(table, column, rows, source)
    columns = {column.key: _column(column, rows, source) for column in table.measured}
    chosen = tuple(_chosen_column(key) for key in source.tuned) if table.kind == "generation" else ()
    filled = tuple(
        Row(
            cell.label,
            tuple(ids),
            tuple(columns[column.key][i] for column in table.measured),
            tuple(_setting(column.key, ids, source) for column in chosen),
            tuple(_published(column, cell) for column in table.published),
        )
        for i, (cell, ids) in enumerate(rows)
    )
    headings = f"measured, {source.measured_on}", f"published, {PUBLISHED_ON}"
    return Filled(table, table.measured, chosen, table.published, filled, *headings, tuple(notes(table, source)))


def check_protocol(table: Table, column: Column, rows: list[tuple[Cell, list[str]]], source: Source) -> None:
    """Refuse a column whose numbers were not made in the same way.

    What the table varies, what was searched for each cell by itself and the seed may differ; nothing else.
    """
    kind = column.key.partition("/")[0]
    free = REPLICATES.union(*(_names(key) for key in (*table.varies, *source.tuned)))
    first: tuple[str, dict[str, Any]] | None = None
    for cell, ids in rows:
        for id in ids:
            if source.number(id, column.key) is None:
                continue
            protocol = source.protocol(id, kind)
            if first is None:
                first = cell.label, protocol
            for field in sorted((protocol.keys() | first[1].keys()) - free):
                here, there = protocol.get(field, "absent"), first[1].get(field, "absent")
                if here != there:
                    raise UserError(
                        f"table {table.id}, column {column.key}: {field}={there} in row {first[0]!r} but {here} in row"
                        f" {cell.label!r}; one column holds one protocol: run both rows with the same {field}"
                    )


def _names(key: str) -> set[str]:
    """What protocols call a setting: head.kind is also `kind`, `head` and, in what was sampled from, `sample.head`."""
    short = {key, key.rpartition(".")[2], key.removesuffix(".kind")}
    return short | {f"sample.{name}" for name in short}


def _column(column: Column, rows: list[tuple[Cell, list[str]]], source: Source) -> list[Entry]:
    estimates: list[Estimate | None] = []
    reasons: list[str] = []
    for cell, ids in rows:
        values = [source.number(id, column.key) for id in ids]
        present = [value * column.scale for value in values if value is not None]
        if present and len(present) < len(ids):
            raise UserError(
                f"table {column.key}: row {cell.label!r} has it for {len(present)} of {len(ids)} seeds; finish the runs"
            )
        estimates.append(stats.estimate(present) if present else None)
        reasons.append("" if present else _absence(column, cell, ids, source))
    winner = stats.best(estimates, column.better)
    return [
        Entry(reason=reason) if value is None else _entry(column, value, i == winner)
        for i, (value, reason) in enumerate(zip(estimates, reasons, strict=True))
    ]


def _entry(column: Column, value: Estimate, best: bool) -> Entry:
    half = "" if value.half is None else number(value.half, column.decimals)
    return Entry(number(value.mean, column.decimals), "", value, half, best)


def _absence(column: Column, cell: Cell, ids: Sequence[str], source: Source) -> str:
    """Why a measured cell is empty."""
    kind = column.key.partition("/")[0]
    if not ids:
        return cell.reason if cell.overrides is None else "not run"
    if kind == "quantizer" and all(source.setting(id, "quantizer.kind") == "identity" for id in ids):
        return "no levels"
    if not any(source.stage(id, kind) for id in ids):
        return f"{kind} not run"
    return "not reported"


def _chosen_column(key: str) -> Column:
    return Column(key, key.rpartition(".")[2], meaning=MEANINGS.get(key, "searched for each row by itself"))


def _setting(key: str, ids: Sequence[str], source: Source) -> Entry:
    values = [source.setting(id, key) for id in ids]
    if not values:
        return Entry(reason="not run")
    return Entry(" / ".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values)))


def _published(column: Column, cell: Cell) -> Entry:
    value = cell.published.get(column.key)
    if value is None:
        return Entry(reason=cell.reason if cell.reason and not cell.published else "not given")
    if isinstance(value, str):
        return Entry(value)
    # as printed in the paper: 15.7 stands in one column with 1.94
    short = value >= 10 and round(value, 1) == value
    return Entry(number(value, min(column.decimals, 1) if short else column.decimals))
