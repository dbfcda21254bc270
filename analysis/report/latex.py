"""paper.tex: a report as one document that pdflatex compiles beside the report's tables/ and figures/."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.figures import Drawing
from analysis.report.contents import Contents
from analysis.tables.filled import FilledTable
from analysis.tables.latex import escape, to_latex

PREAMBLE = r"""
% Compile in this folder with pdflatex, twice. The figures are figures/*.pdf; each table is also in tables/.
\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{lmodern,textcomp,amsmath,booktabs,graphicx}
\usepackage[a4paper,margin=20mm]{geometry}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt plus 1pt}
\setlength{\emergencystretch}{3em}
\renewcommand{\topfraction}{.95}
\renewcommand{\textfraction}{.05}
\renewcommand{\floatpagefraction}{.7}
\setcounter{topnumber}{4}
\setcounter{totalnumber}{6}
\date{}
"""
HEIGHT = 0.8
"""of a page's text, the most that a figure takes"""


def paper(contents: Contents) -> str:
    lines = [PREAMBLE.lstrip() + rf"\title{{{escape(contents.title)}}}", r"\begin{document}", r"\maketitle", ""]
    lines += _figure(contents.picture, "!htp") if contents.picture else []
    lines += [escape(contents.lead), "", *_summary(contents), ""]
    lines += [*_meanings(contents.terms), *(f"{escape(note)}\n" for note in contents.notes)]
    for heading, tables in contents.sections:
        lines += [rf"\section*{{{escape(heading)}}}", ""]
        for filled in tables:
            lines += _table(filled, contents)
        lines += [r"\clearpage", ""]
    lines += [r"\section*{Protocol}", *_facts(contents.protocols)]
    if contents.search:
        lines += _facts([("Search for guidance and temperature", contents.search)])
    lines += [r"\section*{Environment}", *_list(contents.environment), "", r"\end{document}", ""]
    return "\n".join(lines)


def _summary(contents: Contents) -> list[str]:
    items = [rf"\item[{escape(verdict.status)}] {escape(verdict.text)}" for verdict in contents.verdicts]
    return [r"\section*{Summary}", r"\begin{description}", *items, r"\end{description}"] if items else []


def _table(filled: FilledTable, contents: Contents) -> list[str]:
    figures = [line for drawing in contents.illustrating(filled.id) for line in _figure(drawing)]
    return [to_latex(filled, contents.table_notes[filled.id]), *_meanings(contents.glossary[filled.id]), *figures, ""]


def _meanings(terms: Sequence[tuple[str, str]]) -> list[str]:
    """A paragraph in small type; none without terms."""
    words = " ".join(rf"\textbf{{{escape(term)}}}: {escape(meaning)}." for term, meaning in terms)
    return [rf"{{\footnotesize {words}\par}}", ""] if words else []


def _figure(drawing: Drawing, place: str = "htbp") -> list[str]:
    size = rf"width=\linewidth,height={HEIGHT}\textheight,keepaspectratio"
    return [
        rf"\begin{{figure}}[{place}]",
        r"\centering",
        rf"\includegraphics[{_natural(drawing, size)}]{{figures/{drawing.name}.pdf}}",
        rf"\caption{{{escape(drawing.title)}. {escape(drawing.caption)}}}",
        rf"\label{{fig:{drawing.name}}}",
        r"\end{figure}",
    ]


def _natural(drawing: Drawing, size: str) -> str:
    """A figure that is smaller than the line keeps its size: its text is meant to be read at it."""
    width = drawing.figure.get_size_inches()[0]
    return f"width={width:.2f}in" if width < 6.6 and drawing.figure.get_size_inches()[1] < 7.5 else size


def _facts(groups: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> list[str]:
    return [line for heading, fields in groups for line in (rf"\subsection*{{{escape(heading)}}}", *_list(fields))]


def _list(fields: Sequence[tuple[str, str]]) -> list[str]:
    return [rf"\textbf{{{escape(name)}}} {escape(value)}\\" for name, value in fields[:-1]] + [
        rf"\textbf{{{escape(name)}}} {escape(value)}" for name, value in fields[-1:]
    ]
