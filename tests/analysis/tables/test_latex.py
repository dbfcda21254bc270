"""Tables and the whole report as LaTeX: pdflatex takes them, nothing stands beyond the margin."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import figures
from analysis.frame.source import read
from analysis.report import build as report
from analysis.report import latex as latex_document
from analysis.report.contents import contents
from analysis.tables import latex
from analysis.tables.fill import fill
from analysis.tables.filled import FilledTable
from analysis.tables.latex import escape
from experiments.axes import Axis
from experiments.paper import TABLES
from tests.helpers.machine import missing
from tests.helpers.report_axes import write_axes
from tests.helpers.report_source import write_source

BEYOND = 3.0
"""points that a line may stand over the margin before a reader sees it"""
MINIMAL = r"\documentclass{article}\usepackage{booktabs,graphicx,textcomp}\begin{document}%s\end{document}"


def compiled(folder: Path, name: str = "paper") -> str:
    """What pdflatex wrote to its log; without pdflatex a failure in CI, elsewhere a skip."""
    if shutil.which("pdflatex") is None:
        missing("pdflatex is not installed")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    return (folder / f"{name}.log").read_text(errors="replace")


def overfull(log: str) -> list[float]:
    return [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", log)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FilledTable]:
    """Every table of the paper and ours; those of whole systems without a measured number."""
    ran = tuple(id for id in TABLES if id not in ("3", "4"))
    source = read(write_source(tmp_path_factory.mktemp("latex") / "all", 3, ran, examples=False) / "source")
    return {table.id: fill(table, source) for table in TABLES.values()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fd_digits 95 % & more", r"fd\_digits 95 \% \& more"),
        ("16×16 ± 0.2, log₂ 10³", r"16$\times$16 $\pm$ 0.2, log\textsubscript{2} 10\textsuperscript{3}"),
        ("−1\N{NARROW NO-BREAK SPACE}234", r"$-$1\,234"),
        (
            r"C:\runs {a}~^<b>",
            r"C:\textbackslash{}runs \{a\}\textasciitilde{}\textasciicircum{}\textless{}b\textgreater{}",
        ),
        ("--only π Σ é", r"-{}-only $\pi$ $\Sigma$ é"),
        ("Panter–Dite at ∞", r"Panter\textendash{}Dite at $\infty$"),
        ("数", "{[}U+6570]"),
        ("a" * 30, r"aaaaaaaa\allowbreak{}aaaaaaaa\allowbreak{}aaaaaaaa\allowbreak{}aaaaaa"),
    ],
)
def test_any_text_is_text(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_a_table_reads_as_in_its_other_forms(tables: dict[str, FilledTable]) -> None:
    filled = tables["2a"]
    text = latex.to_latex(filled)
    assert r"\caption{Prediction of the channels of a token (Table 2a of the paper)}" in text
    assert r"\label{tab:2a}" in text
    assert r"\multicolumn{12}{c}{measured, digits 16$\times$16}" in text
    assert r"published, ImageNet\\256$\times$256\end{tabular}" in text
    assert text.count(r"\cmidrule") == 3  # measured, chosen, published
    assert r"fd\_digits~$\downarrow$" in text
    assert r"precision~$\uparrow$" in text
    for row in filled.rows:
        for entry in row.measured:
            number = escape(entry.text)
            assert (rf"\textbf{{{number}}} &" if entry.best else f"{number} &") in text, (row.label, entry)
            assert rf"$\pm$\,{entry.half}" in text
    assert any(entry.best for row in filled.rows for entry in row.measured)


def test_an_empty_cell_has_a_letter_and_its_reason_stands_below(tables: dict[str, FilledTable]) -> None:
    text = latex.to_latex(tables["heads"])
    assert r"\multicolumn{2}{c}{--\textsuperscript{b}}" in text
    assert r"\textsuperscript{b}\,density not computed; \textsuperscript{c}\,another latent space." in text


def test_each_table_fits_into_a_plain_article(tables: dict[str, FilledTable], tmp_path: Path) -> None:
    """With the packages that the table's text names and no others."""
    body = "\n".join(latex.to_latex(filled) + r"\clearpage" for filled in tables.values())
    (tmp_path / "tables.tex").write_text(MINIMAL % body)
    log = compiled(tmp_path, "tables")
    assert max(overfull(log), default=0) < BEYOND
    assert "Missing character" not in log


def test_a_table_that_is_longer_than_a_page_goes_on(tables: dict[str, FilledTable], tmp_path: Path) -> None:
    filled = tables["heads"]
    many = replace(filled, rows=filled.rows * 5)
    text = latex.to_latex(many)
    parts = -(-len(many.rows) // (latex.ROWS // 2))  # what was searched stands below
    assert text.count(r"\begin{table}") == parts > 1
    assert text.count("(continued)") == parts - 1
    assert text.count(r"\label") == 1
    (tmp_path / "long.tex").write_text(MINIMAL % text)
    assert "Float too large" not in compiled(tmp_path, "long")


@pytest.mark.slow
def test_the_paper_of_a_report_compiles_with_its_figures(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", seeds=2, strengths=(0.0, 4.0))
    (folder / "figures").mkdir()
    source = read(folder / "source")
    drawings = list(figures.draw(source))
    for drawing in drawings:  # the page's PNG, in two colour schemes, would take twice as long again
        drawing.figure.savefig(folder / "figures" / f"{drawing.name}.pdf")
    found = contents(source, [fill(table, source) for table in source.tables], drawings)
    (folder / "paper.tex").write_text(latex_document.paper(found))
    text = (folder / "paper.tex").read_text()
    assert len(re.findall(r"\\includegraphics", text)) == len(list((folder / "figures").glob("*.pdf")))
    for id in ("1a", "1b", "2a"):
        assert rf"\label{{tab:{id}}}" in text
    assert r"\item[holds]" in text
    log = compiled(folder)
    assert max(overfull(log), default=0) < BEYOND
    assert "Missing character" not in log
    assert not re.search("Float too large|multiply defined|undefined", log)


def test_the_paper_of_a_grid_compiles_whatever_its_title(tmp_path: Path) -> None:
    axes = (Axis("quantizer.levels", (8, 64)), Axis("head.depth", (1, 3)))
    folder = write_axes(tmp_path / "axes", axes, lambda trial: {})
    plan = folder / "source" / "plan.json"
    plan.write_text(plan.read_text().replace("Synthetic numbers", r"100 % of_it & #1 \\input{x} 数"))
    report.build(folder)
    assert max(overfull(compiled(folder)), default=0) < BEYOND
