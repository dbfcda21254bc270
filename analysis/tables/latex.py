"""A filled table as LaTeX: booktabs, value ± half-width, bold best, and why a cell is empty under the table.

What the fragment needs: \\usepackage{booktabs,graphicx,textcomp}. A table that is wider than the line is set smaller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from textwrap import wrap

from analysis.tables.filled import Entry, Filled, Row
from analysis.tables.latex_text import escape
from experiments.paper import Column

ROWS = 40
"""rows that fit on a page; a longer table goes on in another"""
TITLE_WIDTH = 11
"""characters of a line of a column's title"""
MARKS = {"better": "$^{+}$", "worse": "$^{-}$", "no difference shown": r"$^{\approx}$"}
"""what a verdict against the table's base row looks like behind its number"""
TEXT_WIDTH = 24
"""characters of a line of a setting's text"""
ARROWS = {"lower": r"~$\downarrow$", "higher": r"~$\uparrow$", "": ""}


def to_latex(filled: Filled, notes: Sequence[str] | None = None) -> str:
    """One table float, or several where the rows do not fit on one page. notes: in place of the table's own."""
    if notes is not None:
        filled = replace(filled, notes=tuple(notes))
    most = ROWS // len(filled.panels)
    parts = [filled.rows[i : i + most] for i in range(0, max(1, len(filled.rows)), most)]
    reasons = _reasons(filled)
    floats = [_float(filled, rows, reasons, i, last=i == len(parts) - 1) for i, rows in enumerate(parts)]
    return "\n".join(floats)


def caption(filled: Filled) -> str:
    """The paper's number would read as this document's own, so it stands behind."""
    table = filled.table
    return escape(table.title if table.own else f"{table.title} (Table {table.id} of the paper)")


def label(id: str) -> str:
    return "tab:" + re.sub(r"[^A-Za-z0-9-]+", "-", id)


def _float(filled: Filled, rows: Sequence[Row], reasons: dict[str, str], part: int, last: bool) -> str:
    head = [rf"\caption{{{caption(filled)}}}", rf"\label{{{label(filled.table.id)}}}"]
    if part:
        head = [r"\addtocounter{table}{-1}", rf"\caption{{{caption(filled)} (continued)}}"]
    size = r"\centering\small" + (r"\setlength{\tabcolsep}{3.5pt}" if filled.dense else "")
    panels = [_fitted(_tabular(panel, reasons)) for panel in replace(filled, rows=tuple(rows)).panels]
    body = [r"\par\vspace{6pt}".join(panels)] if len(panels) > 1 else panels
    under = _notes(filled, reasons) if last else []
    return "\n".join([r"\begin{table}[htbp]", size, *head, *body, *under, r"\end{table}", ""])


def _fitted(tabular: str) -> str:
    """In its own size, or as wide as the line where it would be wider."""
    return (
        f"\\sbox0{{%\n{tabular}}}%\n"
        r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"
    )


def _tabular(filled: Filled, reasons: dict[str, str]) -> str:
    lines = []
    for row, begins in zip(filled.rows, filled.begins, strict=True):
        # a setting's text may take several lines
        lines += [r"\addlinespace"] if begins or (filled.table.kind == "settings" and lines) else []
        lines.append(_row(filled, row, reasons))
    head = [rf"\begin{{tabular}}{{{_columns(filled)}}}", r"\toprule", *_groups(filled), _titles(filled), r"\midrule"]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}"])


def _seeds(filled: Filled) -> bool:
    return filled.shows_seeds and bool(filled.measured)


def _columns(filled: Filled) -> str:
    """The label, then numbers to the right; ± and the half-width begin at one place in their column."""
    measured = "".join(r"r@{\,}l" if interval else "r" for interval in filled.intervals)
    others = ("l" if filled.table.kind == "settings" else "r") * (len(filled.chosen) + len(filled.published))
    return "l" + ("r" if _seeds(filled) else "") + measured + others


def _groups(filled: Filled) -> list[str]:
    """Which data the columns below are about, each group with a rule of its own."""
    before = 2 if _seeds(filled) else 1
    groups = [
        (filled.measured_heading, len(filled.measured) + sum(filled.intervals)),
        (filled.chosen_heading, len(filled.chosen)),
        (filled.published_heading, len(filled.published)),
    ]
    cells, rules, first = [""] * before, [], before + 1
    for heading, width in groups:
        if width:
            # a heading must not widen the columns that it stands over
            room = max(TITLE_WIDTH, width * TITLE_WIDTH // (2 if heading == filled.measured_heading else 1))
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_stacked(wrap(heading, room), 'c')}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
            first += width
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _titles(filled: Filled) -> str:
    cells = ["", *(["seeds"] if _seeds(filled) else [])]
    for column, interval in zip(filled.measured, filled.intervals, strict=True):
        title = _title(column, "c" if interval else "r")
        cells.append(rf"\multicolumn{{2}}{{c}}{{{title}}}" if interval else title)
    cells += [
        _title(column, "l" if filled.table.kind == "settings" else "r")
        for column in (*filled.chosen, *filled.published)
    ]
    return " & ".join(cells) + r" \\"


def _title(column: Column, align: str) -> str:
    lines = wrap(column.title.replace(".", ". "), TITLE_WIDTH)
    lines = [line.replace(". ", ".") for line in lines]
    return _stacked(lines, align, ARROWS[column.better], f"({column.unit})" if column.unit else "")


def _stacked(lines: Sequence[str], align: str, mark: str = "", unit: str = "", place: str = "b") -> str:
    """Lines over one another; place: b has the last one on the row's baseline, t the first."""
    shown = [*map(escape, lines[:-1]), escape(lines[-1]) + mark, *([escape(unit)] if unit else [])]
    if len(shown) == 1:
        return shown[0]
    return rf"\begin{{tabular}}[{place}]{{@{{}}{align}@{{}}}}" + r"\\".join(shown) + r"\end{tabular}"


def _row(filled: Filled, row: Row, reasons: dict[str, str]) -> str:
    name = escape(row.label) + (f" (here {escape(row.here)})" if row.here else "")
    cells = [name, *([str(len(row.cells) or "")] if _seeds(filled) else [])]
    for entry, interval in zip(row.measured, filled.intervals, strict=True):
        cells.append(_entry(entry, interval, reasons))
    others = (*row.chosen, *row.published)
    in_words = filled.table.kind == "settings"
    cells += [_text(entry, reasons) if in_words else _entry(entry, False, reasons) for entry in others]
    return " & ".join(cells) + r" \\"


def _entry(entry: Entry, interval: bool, reasons: dict[str, str]) -> str:
    if entry.reason:
        empty = rf"--\textsuperscript{{{reasons[entry.reason]}}}"
        return rf"\multicolumn{{2}}{{c}}{{{empty}}}" if interval else empty
    value, half = escape(entry.text), rf"$\pm$\,{escape(entry.half)}" if entry.half else ""
    if entry.best:
        value, half = rf"\textbf{{{value}}}", rf"\textbf{{{half}}}" if half else ""
    mark = (r"\textsuperscript{\textdagger}" if entry.over == "images" else "") + _mark(entry)
    return f"{value} & {half}{mark}" if interval else value + mark


def _text(entry: Entry, reasons: dict[str, str]) -> str:
    return _entry(entry, False, reasons) if entry.reason else _stacked(wrap(entry.text, TEXT_WIDTH), "l", place="t")


def _mark(entry: Entry) -> str:
    return MARKS[entry.comparison.verdict] if entry.comparison else ""


def _legend(filled: Filled) -> list[str]:
    """What the marks of verdicts mean, where there are any."""
    if not filled.compared:
        return []
    meanings = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    base = "the axis's first value" if filled.table.kind == "effects" else f"the row {escape(filled.table.base_label)}"
    return [f"Against {base}: {meanings}."]


def _reasons(filled: Filled) -> dict[str, str]:
    """Why cells are empty -> the letter that stands in them, in reading order."""
    entries = (e for row in filled.rows for e in (*row.measured, *row.chosen, *row.published))
    found = dict.fromkeys(entry.reason for entry in entries if entry.reason)
    return {reason: _letters(i) for i, reason in enumerate(found)}


def _letters(index: int) -> str:
    """a to z, then aa, ab …"""
    more, last = divmod(index, 26)
    return (_letters(more - 1) if more else "") + "abcdefghijklmnopqrstuvwxyz"[last]


def _notes(filled: Filled, reasons: dict[str, str]) -> list[str]:
    marks = "; ".join(rf"\textsuperscript{{{letter}}}\,{escape(reason)}" for reason, letter in reasons.items())
    notes = [*([f"{marks}."] if marks else []), *_legend(filled), *map(escape, filled.notes)]
    if not notes:
        return []
    inside = "\n\n".join(notes)
    return [
        r"\par\vspace{4pt}",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        inside,
        r"\end{minipage}",
    ]
