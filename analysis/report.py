"""A report from its source folder alone: one self-contained page, tables and figures. Same source, same bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from analysis import effects, facts, figures, table_files, tables, verdicts
from analysis.figures import Drawing
from analysis.notes import ONCE
from analysis.source import Source, read
from analysis.tables import Filled
from experiments.paper import PAPER, PUBLISHED_ON, Column

PAGE = "index.html"
PARTS = {"tables": (".md", ".csv"), "figures": (".png", ".pdf", ".csv")}
"""folders that a report owns, and the kinds of files in them that are its own to replace"""
SECTIONS = {
    "reconstruction": "What quantization costs",
    "generation": "What the generator makes of the tokens",
    "effects": "What each axis does",
    "axes": "Single points",
    "settings": "Settings",
    "speed": "Speed",
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: CSS pixels are half the PNG's, so it is sharp on fine screens."""

    drawing: Drawing
    light: str
    dark: str
    width: int
    height: int


def build(folder: Path) -> Path:
    """Build `folder` from `folder/source`: index.html, tables/*.md, *.csv, figures/*.png, *.pdf. Returns the page.

    UserError where the source lacks something or a table would mix protocols; then nothing is written.
    """
    files = render(read(folder / "source"))
    for name, endings in PARTS.items():
        (folder / name).mkdir(exist_ok=True)
        for path in (folder / name).iterdir():
            if path.suffix in endings and f"{name}/{path.name}" not in files:
                path.unlink()
    for name, content in files.items():
        _write(folder / name, content)
    return folder / PAGE


def render(source: Source) -> dict[str, bytes]:
    """Every file of the report by its path within the report's folder."""
    filled = [tables.fill(table, source) for table in source.tables] + effects.filled(source)
    points = facts.search_csv(source)
    files: dict[str, bytes] = {"tables/search.csv": points.encode()} if points else {}
    for table in filled:
        files[f"tables/table-{table.table.id}.md"] = table_files.to_markdown(table).encode()
        files[f"tables/table-{table.table.id}.csv"] = table_files.to_csv(table).encode()
    pictures = []
    for light, dark in zip(figures.draw(source), figures.draw(source, dark=True), strict=True):
        png = _image(light.figure, "png", dark=False)
        files[f"figures/{light.name}.png"] = png
        files[f"figures/{light.name}.pdf"] = _image(light.figure, "pdf", dark=False)
        if light.data:
            files[f"figures/{light.name}.csv"] = light.data.encode()
        width, height = (int(side) // 2 for side in light.figure.get_size_inches() * light.figure.dpi)
        pictures.append(Picture(light, _embedded(png), _embedded(_image(dark.figure, "png", dark=True)), width, height))
    files[PAGE] = page(source, filled, pictures).encode()
    return files


def page(source: Source, filled: Iterable[Filled], pictures: Iterable[Picture]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    filled, pictures = list(filled), list(pictures)
    shown = {table.table.id for table in filled}
    kinds = [kind for kind in SECTIONS if any(table.table.kind == kind for table in filled)]
    return environment.get_template("report.html.j2").render(
        title=source.plan["title"],
        notes=source.plan.get("notes") or [],
        measured_on=source.measured_on if kinds != ["speed"] else "this machine with random weights",
        published_on=PUBLISHED_ON if any(table.published for table in filled) or not source.axes else "",
        verdicts=verdicts.verdicts(source),
        sections=[(SECTIONS[kind], [table for table in filled if table.table.kind == kind]) for kind in kinds],
        pictures={id: [picture for picture in pictures if picture.drawing.table == id] for id in shown},
        names={table.table.id: table.table.name for table in filled},
        glossary=glossary(filled),
        table_notes=table_notes(filled),
        missing=[table for table in PAPER if table.id not in shown],
        protocols=facts.protocols(source, filled),
        search=facts.search(source),
        chosen=facts.chosen(source),
        metric=(source.plan.get("search") or {}).get("metric", ""),
        environment=facts.environment(source),
        provenance=facts.provenance(source, filled),
    )


def in_page_order(filled: Sequence[Filled]) -> list[Filled]:
    return sorted(filled, key=lambda table: list(SECTIONS).index(table.table.kind))


def table_notes(filled: Sequence[Filled]) -> dict[str, list[str]]:
    """Table id -> its notes, without what a table before it has said for all."""
    said: set[str] = set()
    found = {}
    for table in in_page_order(filled):
        found[table.table.id] = [note for note in table.notes if note not in said]
        said |= set(table.notes) & (set(table.notes) if table.table.kind == "effects" else set(ONCE))
    return found


def glossary(filled: Sequence[Filled]) -> dict[str, list[Column]]:
    """Table id -> those of its columns that no table before it explains."""
    explained: set[str] = set()
    found = {}
    for table in in_page_order(filled):
        columns = [*table.measured, *table.chosen]
        found[table.table.id] = [each for each in columns if each.meaning and each.key not in explained]
        explained |= {each.key for each in columns}
    return found


def _image(figure: Figure, format: str, dark: bool) -> bytes:
    """A figure as bytes that hold neither a date nor the program's name."""
    nothing = ("Software",) if format == "png" else ("Creator", "Producer", "CreationDate")
    out = io.BytesIO()
    with figures.style(dark):
        figure.savefig(out, format=format, metadata=dict.fromkeys(nothing))
    return out.getvalue()


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
