"""A filled table as a page of its own, and the templates that pages are made of."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from analysis.tables.filled import FilledTable

TEMPLATES = Path(__file__).parent / "templates"


def to_html(filled: FilledTable) -> str:
    """One table that a browser shows by itself and whose <table> can be pasted into any page."""
    return template("table.html.j2").render(table=filled)


def template(name: str, *folders: Path) -> Template:
    """A template of these folders, which may include those of tables."""
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
