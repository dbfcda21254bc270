"""Filled tables as text: Markdown for reading, CSV with full precision for computing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.frame.source import Source
from analysis.stats import Comparison
from analysis.tables import effects
from analysis.tables.fill import fill
from analysis.tables.filled import Entry, FilledTable, csv_text, records
from experiments.paper import Column
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import ARROWS

ALIKE = "≈"
"""behind an effect of which no difference is shown"""
DAGGER = " †"
"""marks an interval over images"""
PARTS = (
    "", " half-width", " over", " difference", " difference is", " difference low", " difference high",
    " difference corrected low", " difference corrected high", " p", " adjusted p", " family", " verdict",
    " seeds needed",
)  # fmt: skip
"""endings of the CSV's columns of one measured column"""


def to_markdown(filled: FilledTable) -> str:
    """A table with its heading and its notes."""
    return f"# {filled.table.heading}\n\n{pipe_table(filled)}\n\n" + "\n".join(f"{note}\n" for note in filled.notes)


def pipe_table(filled: FilledTable) -> str:
    """A table alone; each heading repeats which data it is about, because Markdown has no grouped headings."""
    heads = ["", "seeds"] if filled.shows_seeds else [""]
    where = f" ({filled.measured_heading})" if filled.kind != "effects" else ""
    heads += [f"{_title(column)}{where}" for column in filled.measured]
    heads += [f"{_title(column)} ({filled.chosen_heading})" for column in filled.chosen]
    heads += [f"{_title(column)} ({filled.published_heading})" for column in filled.published]
    listed = filled.kind == "axes"
    lines = [[*heads, "cells"] if listed else heads]
    for row in filled.rows:
        label = f"{row.label} (here {row.here})" if row.here else row.label
        first = [label, str(len(row.cells))] if filled.shows_seeds else [label]
        last = [" ".join(row.cells)] if listed else []
        lines.append([*first, *(_markdown(entry, filled.kind) for entry in row.entries), *last])
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """A pipe table that can be read as it stands: the first column to the left, numbers to the right."""
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], ruler, *padded[1:]])


def tables_text(source: Source, ids: Sequence[str]) -> str:
    """These tables of a report as Markdown, for a terminal; ids and errors as of `chosen`."""
    return "\n".join(to_markdown(filled) for filled in chosen(source, ids))


def tables_json(source: Source, ids: Sequence[str]) -> list[dict[str, Any]]:
    """These tables of a report, or without ids all, for programs: id, heading, and rows by the headings of their CSV.

    The numbers are in the units that the stages store. ids and errors are as of `chosen`.
    """
    tables = chosen(source, ids) if ids else [fill(table, source) for table in source.tables] + effects.filled(source)
    return [{"id": each.id, "heading": each.table.heading, "rows": records(to_csv(each))} for each in tables]


def chosen(source: Source, ids: Sequence[str]) -> list[FilledTable]:
    """Some tables of a report.

    Args:
        source: the report's source.
        ids: of tables, or of main effects, such as "2a" or "effects-fd_digits".

    Raises:
        UserError: the report does not hold one of them, or it would mix protocols.
    """
    tables = {table.id: table for table in source.tables}
    main_effects = {filled.id: filled for filled in (*effects.matrix(source), *effects.filled(source))}
    for id in ids:
        if id not in tables and id not in main_effects:
            held = ", ".join((*tables, *main_effects)) or "none"
            raise UserError(f"table {id} is not in this report; it holds {held}")
    return [main_effects.get(id) or fill(tables[id], source) for id in ids]


def effects_text(source: Source) -> str:
    """All main effects as Markdown, for a terminal; empty for a report without axes."""
    return "".join(map(to_markdown, effects.matrix(source)))


def to_csv(filled: FilledTable) -> str:
    """Full precision, in the units that the stages store; the cells that a row comes from; why fields are empty."""
    traced = filled.kind != "effects"  # whose rows come from too many cells to name
    measured = [(c, _parts([row.measured[i] for row in filled.rows])) for i, c in enumerate(filled.measured)]
    measured += [(c, PARTS[:2]) for c in filled.further]
    heads = ["label", *(["here"] if filled.table.scaled else []), *(["seeds", "cells"] if traced else [])]
    heads += [f"measured {column.key}{part}" for column, parts in measured for part in parts]
    heads += [f"chosen {column.key}" for column in filled.chosen]
    heads += [f"published {column.key}" for column in filled.published]
    lines = [[*heads, "empty because"]]
    for row in filled.rows:
        published = filled.table.row(row.label).published
        line: list[Any] = [row.label, *([row.here] if filled.table.scaled else [])]
        line += [len(row.cells), " ".join(row.cells)] if traced else []
        for (column, parts), entry in zip(measured, (*row.measured, *row.further), strict=True):
            values = _exact(column, entry)
            line += [values[part] for part in parts]
        line += [entry.text for entry in row.chosen]
        line += [published.get(column.key, "") for column in filled.published]
        pairs = zip(filled.columns, row.entries, strict=True)
        empty = [f"{column.key}: {entry.reason}" for column, entry in pairs if entry.reason]
        lines.append([*line, "; ".join(empty)])
    return csv_text(lines)


def _parts(entries: Sequence[Entry]) -> Sequence[str]:
    """The columns of the file that one measured column of the table takes."""
    if any(entry.comparison for entry in entries):
        return PARTS
    return PARTS[:3] if any(entry.over for entry in entries) else PARTS[:2]


def _exact(column: Column, entry: Entry) -> dict[str, str]:
    """Every part in stored units; empty where there is no number."""
    parts: dict[str, str] = dict.fromkeys(PARTS, "")
    if (value := entry.estimate) is None:
        return parts
    parts |= {"": _plain(value.mean, column), " half-width": _plain(value.half, column), " over": value.over}
    if comparison := entry.comparison:
        parts |= _compared(column, comparison)
    return parts | {" verdict": entry.word}


def _compared(column: Column, comparison: Comparison) -> dict[str, str]:
    """A difference in stored units, or in per cent of the base where it is told so."""
    difference, needed = comparison.difference, comparison.seeds_needed
    factor = 1.0 if difference.scale.told_in_percent else column.scale
    ends = [*(difference.interval() or ()), *comparison.corrected]
    effect, low, high, *corrected = (f"{value / factor:.10g}" for value in (difference.effect, *ends))
    return {
        " difference": effect,
        " difference is": "per cent of the base" if difference.scale.told_in_percent else "difference",
        " difference low": low,
        " difference high": high,
        " difference corrected low": corrected[0],
        " difference corrected high": corrected[1],
        " p": f"{comparison.p:.10g}",
        " adjusted p": f"{comparison.adjusted:.10g}",
        " family": comparison.family,
        " seeds needed": str(needed or ""),
    }


def _plain(value: float | None, column: Column) -> str:
    return "" if value is None else f"{value / column.scale:.10g}"


def _title(column: Column) -> str:
    title = f"{column.title}, {column.unit}" if column.unit else column.title
    return f"{title} {ARROWS[column.better]}".rstrip()


def _markdown(entry: Entry, kind: str) -> str:
    if entry.reason:
        return f"*{entry.reason}*"
    text = f"{entry.text} {entry.interval}{DAGGER if entry.over == 'images' else ''}" if entry.interval else entry.text
    needed = f", {entry.seeds_needed}" if entry.seeds_needed else ""
    text = f"**{text}**" if entry.best else text
    if kind == "effects" and entry.comparison:
        return f"{text} {entry.word if entry.comparison.shown else ALIKE}{entry.mark}"
    return text + (f" ({entry.word}{entry.mark}{needed})" if entry.word else "")
