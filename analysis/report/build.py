"""Build a report from its source folder alone: page, report.md, paper.tex, tables, figures; same source, same bytes."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from analysis import figures
from analysis.frame.source import Source, read
from analysis.report import html, latex, markdown
from analysis.report.contents import contents
from analysis.report.html import Picture
from analysis.tables import effects, search
from analysis.tables.fill import fill
from analysis.tables.latex import to_latex
from analysis.tables.text import to_csv

PAGE, MARKDOWN, PAPER = "index.html", "report.md", "paper.tex"
PARTS = {"tables": (".md", ".csv", ".tex", ".html"), "figures": (".png", ".pdf", ".csv")}
"""folders that a report owns, and the kinds of files in them that are its own to replace (of older builds also)"""
FORMS = {"csv": to_csv, "tex": to_latex}
"""ending of a table's file -> its writer"""


def build(folder: Path, mlflow: str = "") -> Path:
    """Build a report from its source: index.html, report.md, paper.tex, tables/, figures/. Returns the page.

    Args:
        folder: the report's folder, which holds source/; tables and figures that it no longer has are deleted.
        mlflow: address of the server that numbers link to; where it is empty, the one that the plan names, if any.

    Raises:
        UserError: the source lacks something or a table would mix protocols; then nothing is written.
    """
    with _collected_rarely():
        source = read(folder / "source")
        files = render(source, mlflow or source.plan.get("mlflow", ""))
    for name in PARTS:
        (folder / name).mkdir(exist_ok=True)
    write({folder / name: content for name, content in files.items()})
    for name, endings in PARTS.items():
        for path in (folder / name).iterdir():
            if path.suffix in endings and f"{name}/{path.name}" not in files:
                path.unlink()
    return folder / PAGE


@contextmanager
def _collected_rarely() -> Iterator[None]:
    """Looking for garbage takes a fifth of a large report's time, since most of what it makes stays to the end."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def render(source: Source, mlflow: str = "") -> dict[str, bytes]:
    """Every file of the report by its path within the report's folder.

    Args:
        source: the report's source.
        mlflow: address of the server that numbers link to; empty for none.

    Raises:
        UserError: a table would mix protocols, or an example that a figure needs is missing.
    """
    filled = [fill(table, source) for table in source.tables] + effects.matrix(source)
    points = search.to_csv(source)
    files: dict[str, bytes] = {"tables/search.csv": points.encode()} if points else {}
    for table in filled:
        for ending, form in FORMS.items():
            files[f"tables/table-{table.id}.{ending}"] = form(table).encode()
    for table in effects.filled(source):
        files[f"tables/table-{table.id}.csv"] = to_csv(table).encode()
    pictures = []
    for light, dark in zip(figures.draw(source), figures.draw(source, dark=True), strict=True):
        png = _image(light.figure, "png", dark=False)
        files[f"figures/{light.name}.png"] = png
        files[f"figures/{light.name}.pdf"] = _image(light.figure, "pdf", dark=False)
        if light.data:
            files[f"figures/{light.name}.csv"] = light.data.encode()
        pictures.append(Picture(light, png, _image(dark.figure, "png", dark=True)))
    report = contents(source, filled, [picture.drawing for picture in pictures], mlflow)
    files[PAGE] = html.page(report, pictures).encode()
    files[MARKDOWN] = markdown.report(report).encode()
    files[PAPER] = latex.paper(report).encode()
    return files


def _image(figure: Figure, format: str, dark: bool) -> bytes:
    """A figure as bytes that hold neither a date nor the program's name."""
    nothing = ("Software",) if format == "png" else ("Creator", "Producer", "CreationDate")
    out = io.BytesIO()
    with figures.style(dark):
        figure.savefig(out, format=format, metadata=dict.fromkeys(nothing))
    return out.getvalue()


def write(files: Mapping[Path, bytes]) -> None:
    """Write files, of which none takes its place before there was room for all."""
    temporary = {path: path.with_name(path.name + ".tmp") for path in files}
    try:
        for path, content in files.items():
            temporary[path].write_bytes(content)
        for path, written in temporary.items():
            written.replace(path)
    except BaseException:
        for written in temporary.values():
            written.unlink(missing_ok=True)
        raise
