"""What a report says and in which order: the same on its page, in report.md and in paper.tex."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from analysis import verdicts
from analysis.figures import Drawing
from analysis.frame.source import Source
from analysis.report import facts
from analysis.report import terms as reading
from analysis.report.terms import SAID
from analysis.tables.filled import Filled
from analysis.tables.notes import SEARCHED
from analysis.verdicts import Verdict
from experiments.paper import PAPER, PUBLISHED_ON, Column

SECTIONS = {
    "reconstruction": "What quantization costs",
    "generation": "What the generator makes of the tokens",
    "effects": "What each axis does",
    "axes": "Single points",
    "settings": "Settings",
    "speed": "Speed",
}
Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class Contents:
    title: str
    notes: list[str]
    measured_on: str
    published_on: str
    """data set of the published numbers; empty where none is shown"""
    verdicts: list[Verdict]
    reading: reading.Terms
    """what words and marks mean"""
    sections: list[tuple[str, list[Filled]]]
    table_notes: dict[str, list[str]]
    """table id -> its notes, without what is said of all tables before them or by another one"""
    glossary: dict[str, list[Column]]
    """table id -> those of its columns that no table before it explains"""
    drawings: list[Drawing]
    missing: list[str]
    """tables of the paper that the report does not hold"""
    protocols: list[tuple[str, Fields]]
    search: Fields
    metric: str
    """by which the search chose"""
    chosen: list[facts.Chosen]
    environment: Fields
    provenance: list[facts.Origin]
    runs: dict[str, str]
    """cell id -> address of its MLflow run, where there is a server"""

    @property
    def tables(self) -> list[Filled]:
        return [filled for _, tables in self.sections for filled in tables]

    @property
    def names(self) -> dict[str, str]:
        return {filled.table.id: filled.table.name for filled in self.tables}

    @property
    def lead(self) -> str:
        published = (
            " Published numbers stand beside for orientation only: they are the paper's (arXiv 2503.16430), measured on"
            f" {self.published_on}, which is another data set with other metrics."
        )
        return f"Measured on {self.measured_on}." + (published if self.published_on else "")

    def illustrating(self, table: str) -> list[Drawing]:
        return [drawing for drawing in self.drawings if drawing.table == table]


def contents(source: Source, filled: Sequence[Filled], drawings: Sequence[Drawing], mlflow: str = "") -> Contents:
    """mlflow: address of the server that has the runs; empty for a report without links to one."""
    shown = {table.table.id for table in filled}
    kinds = [kind for kind in SECTIONS if any(table.table.kind == kind for table in filled)]
    published_on = PUBLISHED_ON if any(table.published for table in filled) or not source.axes else ""
    found = verdicts.verdicts(source)
    terms = reading.terms(filled, found, of_paper=bool(published_on))
    return Contents(
        title=source.plan["title"],
        notes=source.plan.get("notes") or [],
        measured_on=source.measured_on if kinds != ["speed"] else "this machine with random weights",
        published_on=published_on,
        verdicts=found,
        reading=terms,
        sections=[(SECTIONS[kind], [table for table in filled if table.table.kind == kind]) for kind in kinds],
        table_notes=_table_notes(filled),
        glossary=_glossary(filled, {title for title, _ in terms}),
        drawings=list(drawings),
        missing=[table.id for table in PAPER if table.id not in shown],
        protocols=facts.protocols(source, filled),
        search=facts.search(source),
        metric=(source.plan.get("search") or {}).get("metric", ""),
        chosen=facts.chosen(source),
        environment=facts.environment(source),
        provenance=facts.provenance(source, filled),
        runs=_runs(source, mlflow),
    )


def _runs(source: Source, mlflow: str) -> dict[str, str]:
    if not mlflow:
        return {}
    ids = {str(cell): source.text(str(cell), "run_id") for cell in source.frame.index}
    return {cell: f"{mlflow.rstrip('/')}/#/runs/{id}" for cell, id in ids.items() if id}


def _in_page_order(filled: Iterable[Filled]) -> list[Filled]:
    return sorted(filled, key=lambda table: list(SECTIONS).index(table.table.kind))


def _table_notes(filled: Sequence[Filled]) -> dict[str, list[str]]:
    said = set(SAID)
    found = {}
    for table in _in_page_order(filled):
        found[table.table.id] = [note for note in table.notes if note not in said]
        said |= set(table.notes) if table.table.kind == "effects" else {SEARCHED}
    return found


def _glossary(filled: Sequence[Filled], told: Container[str]) -> dict[str, list[Column]]:
    """told: titles of those that are explained before all tables."""
    explained = {column.key for column in reading.COLUMNS if column.title in told}
    found = {}
    for table in _in_page_order(filled):
        columns = [*table.measured, *table.chosen]
        found[table.table.id] = [each for each in columns if each.meaning and each.key not in explained]
        explained |= {each.key for each in columns}
    return found
