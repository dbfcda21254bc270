"""A filled table as LaTeX: booktabs, value ± half-width, bold best, and why a cell is empty under the table.

What the fragment needs: \\usepackage{booktabs,graphicx,textcomp}. A table that is wider than the line is set smaller.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from analysis.tables.filled import Entry, FilledRow, FilledTable
from experiments.paper import Column

ROWS = 40
"""rows that fit on a page; a longer table goes on in another"""
TITLE_WIDTH = 11
"""characters of a line of a column's title"""
MARKS = {"better": "$^{+}$", "worse": "$^{-}$", "no difference shown": r"$^{\approx}$"}
"""what a verdict against the table's base row looks like behind its number"""
EXPLORED, EQUALLY_BINNED = r"$^{\circ}$", r"\textsuperscript{\textdaggerdbl}"
"""behind the mark of an exploratory verdict, and of one in equal bins"""
TEXT_WIDTH = 24
"""characters of a line of a setting's text"""
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", "\N{RIGHT SINGLE QUOTATION MARK}": "'", "“": "``", "”": "''",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\dots{}", "\N{NO-BREAK SPACE}": "~",
    "\N{NARROW NO-BREAK SPACE}": r"\,", "∞": r"$\infty$",
    "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "−": "$-$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    "→": r"$\rightarrow$", "≈": r"$\approx$", "≥": r"$\geq$", "≤": r"$\leq$", "≠": r"$\neq$", "√": r"$\surd$",
    "†": r"\textdagger{}", "‡": r"\textdaggerdbl{}", "°": r"$^{\circ}$",
}  # fmt: skip
CAPITALS = {"Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"}
"""Greek capitals that do not look like Latin ones"""
LONG = 24
"""characters of a word that may have to be broken: hashes and paths"""
PIECE = 8
ARROWS = {"lower": r"~$\downarrow$", "higher": r"~$\uparrow$", "": ""}


def to_latex(filled: FilledTable, notes: Sequence[str] | None = None) -> str:
    """One table float, or several where the rows do not fit on one page.

    Args:
        filled: the table.
        notes: the sentences under it, in place of its own.
    """
    if notes is not None:
        filled = replace(filled, notes=tuple(notes))
    most = ROWS // len(filled.panels)
    parts = [filled.rows[i : i + most] for i in range(0, max(1, len(filled.rows)), most)]
    reasons = _reasons(filled)
    floats = [_float(filled, rows, reasons, i, last=i == len(parts) - 1) for i, rows in enumerate(parts)]
    return "\n".join(floats)


def caption(filled: FilledTable) -> str:
    """The paper's number would read as this document's own, so it stands behind."""
    table = filled.table
    return escape(table.title if table.own else f"{table.title} (Table {table.id} of the paper)")


def label(id: str) -> str:
    return "tab:" + re.sub(r"[^A-Za-z0-9-]+", "-", id)


def _float(filled: FilledTable, rows: Sequence[FilledRow], reasons: dict[str, str], part: int, last: bool) -> str:
    head = [rf"\caption{{{caption(filled)}}}", rf"\label{{{label(filled.id)}}}"]
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


def _tabular(filled: FilledTable, reasons: dict[str, str]) -> str:
    lines = []
    for row, begins in zip(filled.rows, filled.begins, strict=True):
        # a setting's text may take several lines
        lines += [r"\addlinespace"] if begins or (filled.kind == "settings" and lines) else []
        lines.append(_row(filled, row, reasons))
    head = [rf"\begin{{tabular}}{{{_columns(filled)}}}", r"\toprule", *_groups(filled), _titles(filled), r"\midrule"]
    return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}"])


def _seeds(filled: FilledTable) -> bool:
    return filled.shows_seeds and bool(filled.measured)


def _columns(filled: FilledTable) -> str:
    """The label, then numbers to the right; ± and the half-width begin at one place in their column."""
    measured = "".join(r"r@{\,}l" if interval else "r" for interval in filled.intervals)
    others = ("l" if filled.kind == "settings" else "r") * (len(filled.chosen) + len(filled.published))
    return "l" + ("r" if _seeds(filled) else "") + measured + others


def _groups(filled: FilledTable) -> list[str]:
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
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_stacked(_lines(heading, room), 'c')}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
            first += width
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _titles(filled: FilledTable) -> str:
    cells = ["", *(["seeds"] if _seeds(filled) else [])]
    for column, interval in zip(filled.measured, filled.intervals, strict=True):
        title = _title(column, "c" if interval else "r")
        cells.append(rf"\multicolumn{{2}}{{c}}{{{title}}}" if interval else title)
    cells += [
        _title(column, "l" if filled.kind == "settings" else "r") for column in (*filled.chosen, *filled.published)
    ]
    return " & ".join(cells) + r" \\"


def _title(column: Column, align: str) -> str:
    lines = _lines(column.title.replace(".", ". "), TITLE_WIDTH)
    lines = [line.replace(". ", ".") for line in lines]
    return _stacked(lines, align, ARROWS[column.better], f"({column.unit})" if column.unit else "")


def _stacked(lines: Sequence[str], align: str, mark: str = "", unit: str = "", place: str = "b") -> str:
    """Lines over one another; place: b has the last one on the row's baseline, t the first."""
    shown = [*map(escape, lines[:-1]), escape(lines[-1]) + mark, *([escape(unit)] if unit else [])]
    if len(shown) == 1:
        return shown[0]
    return rf"\begin{{tabular}}[{place}]{{@{{}}{align}@{{}}}}" + r"\\".join(shown) + r"\end{tabular}"


def _row(filled: FilledTable, row: FilledRow, reasons: dict[str, str]) -> str:
    name = escape(row.label) + (f" (here {escape(row.here)})" if row.here else "")
    cells = [name, *([str(len(row.cells) or "")] if _seeds(filled) else [])]
    for entry, interval in zip(row.measured, filled.intervals, strict=True):
        cells.append(_entry(entry, interval, reasons))
    others = (*row.chosen, *row.published)
    in_words = filled.kind == "settings"
    cells += [_text(entry, reasons) if in_words else _entry(entry, False, reasons) for entry in others]
    return " & ".join(cells) + r" \\"


def _entry(entry: Entry, interval: bool, reasons: dict[str, str]) -> str:
    if entry.reason:
        empty = rf"--\textsuperscript{{{reasons[entry.reason]}}}"
        return rf"\multicolumn{{2}}{{c}}{{{empty}}}" if interval else empty
    value, half = escape(entry.text), rf"$\pm$\,{escape(entry.half)}" if entry.half else escape(entry.range)
    if entry.best:
        value, half = rf"\textbf{{{value}}}", rf"\textbf{{{half}}}" if half else ""
    mark = (r"\textsuperscript{\textdagger}" if entry.over == "images" else "") + _mark(entry)
    return f"{value} & {half}{mark}" if interval else value + mark


def _text(entry: Entry, reasons: dict[str, str]) -> str:
    return _entry(entry, False, reasons) if entry.reason else _stacked(_lines(entry.text, TEXT_WIDTH), "l", place="t")


def _mark(entry: Entry) -> str:
    if entry.comparison is None:
        return ""
    needed = rf"\textsuperscript{{{entry.comparison.seeds_needed}}}" if entry.comparison.seeds_needed else ""
    marks = (EXPLORED if entry.explored else "") + (EQUALLY_BINNED if entry.binned else "")
    return MARKS[entry.comparison.verdict] + needed + marks


def _legend(filled: FilledTable) -> list[str]:
    """What the marks of verdicts mean, where there are any."""
    if not filled.compared:
        return []
    meanings = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    base = "the axis's first value" if filled.kind == "effects" else f"the row {escape(filled.table.base_label)}"
    needed = any(entry.seeds_needed for row in filled.rows for entry in row.measured)
    seeds = f"; a number behind {MARKS['no difference shown']}, the seeds that would settle it" if needed else ""
    return [f"Against {base}: {meanings}{seeds}; {EXPLORED} exploratory."]


def _reasons(filled: FilledTable) -> dict[str, str]:
    """Why cells are empty -> the letter that stands in them, in reading order."""
    entries = (entry for row in filled.rows for entry in row.entries)
    reasons = dict.fromkeys(entry.reason for entry in entries if entry.reason)
    return {reason: _letters(i) for i, reason in enumerate(reasons)}


def _letters(index: int) -> str:
    """a to z, then aa, ab …"""
    more, last = divmod(index, 26)
    return (_letters(more - 1) if more else "") + "abcdefghijklmnopqrstuvwxyz"[last]


def _notes(filled: FilledTable, reasons: dict[str, str]) -> list[str]:
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


def escape(text: str) -> str:
    """Text as LaTeX; a character that no font of a usual TeX has is told by its code, so that the document compiles."""
    return " ".join(_word(word) for word in text.split(" "))


def _word(word: str) -> str:
    if len(word) <= LONG:
        return _characters(word)
    pieces = re.findall(rf".{{1,{PIECE}}}", word, re.DOTALL)
    return r"\allowbreak{}".join(_characters(piece) for piece in pieces)


def _lines(text: str, width: int) -> list[str]:
    """Lines of at most so many letters, but for a word that is longer."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _characters(text: str) -> str:
    return "".join(map(_character, text)).replace("--", "-{}-") if text != "–" else "--"


def _character(char: str) -> str:
    if char in SPECIAL:
        return SPECIAL[char]
    if " " <= char <= "~" or "\N{LATIN CAPITAL LETTER A WITH GRAVE}" <= char <= "ÿ":
        return char
    form, name = unicodedata.decomposition(char), unicodedata.name(char, "")
    for tag, command in (("<super> ", "textsuperscript"), ("<sub> ", "textsubscript")):
        if form.startswith(tag):
            plain = "".join(chr(int(code, 16)) for code in form.removeprefix(tag).split())
            return rf"\{command}{{{escape(plain)}}}"
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name):
        word = greek[2].replace("LAMDA", "LAMBDA")
        letter = word.lower() if greek[1] == "SMALL" else word.capitalize()
        if (greek[1] == "SMALL" and letter not in ("omicron", "final")) or letter in CAPITALS:
            return rf"$\{letter}$"
    return f"{{[}}U+{ord(char):04X}]"  # behind a line's end a bare [ is the space below it
