"""What a report says and in which order: the same on its page, in report.md and in paper.tex."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis import verdicts
from analysis.figures import Drawing
from analysis.figures.claims import NAME, Glance, glance
from analysis.frame.source import Source
from analysis.report import facts, terms
from analysis.report.terms import Terms
from analysis.tables import search
from analysis.tables.filled import FilledTable
from analysis.tables.notes import ALONE, SEARCHED
from analysis.verdicts import Verdict
from experiments.paper import PAPER, PUBLISHED_ON

SECTIONS = {
    "reconstruction": "What quantization costs",
    "generation": "What the generator makes of the tokens",
    "effects": "What each axis does",
    "axes": "Single points",
    "settings": "Settings",
    "speed": "Speed",
}
Fields = list[tuple[str, str]]
NO_VALIDATION = (
    "These runs had no validation images: learning rates were chosen by the loss on the test images, which reported"
    " numbers are measured on as well. Guidance and temperature were chosen on images of their own against the training"
    " images."
)
"""of sources that are older than data.validation_fraction"""


@dataclass(frozen=True)
class Contents:
    title: str
    notes: list[str]
    measured_on: str
    published_on: str
    """data set of the published numbers; empty where none is shown"""
    verdicts: list[Verdict]
    terms: Terms
    """the meaning of the summary's words"""
    glance: Glance | None
    """the picture before all words; None where nothing is compared"""
    sections: list[tuple[str, list[FilledTable]]]
    table_notes: dict[str, list[str]]
    """table id -> its notes, without those that stand before all tables or under an earlier one"""
    glossary: dict[str, Terms]
    """table id -> those of its columns and marks that are not explained before it"""
    drawings: list[Drawing]
    missing: list[str]
    """tables of the paper that the report does not hold"""
    protocols: list[tuple[str, Fields]]
    search: Fields
    metric: str
    """the search chose by it"""
    chosen: list[search.Chosen]
    environment: Fields
    provenance: list[facts.Origin]
    runs: dict[str, str]
    """cell id -> address of its MLflow run, where there is a server"""

    @property
    def tables(self) -> list[FilledTable]:
        return [filled for _, tables in self.sections for filled in tables]

    @property
    def names(self) -> dict[str, str]:
        return {filled.id: filled.table.name for filled in self.tables}

    @property
    def lead(self) -> str:
        published = (
            " Published numbers stand beside for orientation only: they are the paper's (arXiv 2503.16430), measured on"
            f" {self.published_on}, which is another data set with other metrics."
        )
        return f"Measured on {self.measured_on}." + (published if self.published_on else "")

    @property
    def picture(self) -> Drawing | None:
        """The figure of the claims, where there is one."""
        return next((drawing for drawing in self.drawings if drawing.name == NAME), None)

    def illustrating(self, table: str) -> list[Drawing]:
        return [drawing for drawing in self.drawings if drawing.table == table]


def contents(source: Source, filled: Sequence[FilledTable], drawings: Sequence[Drawing], mlflow: str = "") -> Contents:
    """Gather what a report says, in its order.

    Args:
        source: the report's source.
        filled: its tables.
        drawings: its figures.
        mlflow: address of the server that has the runs; empty for a report without links to one.
    """
    shown = {table.id for table in filled}
    kinds = [kind for kind in SECTIONS if any(table.kind == kind for table in filled)]
    filled = sorted(filled, key=lambda table: kinds.index(table.kind))
    alone = source.plan.get("duel") or source.of_reconstructions.id in shown - {*(table.id for table in PAPER)}
    published_on = PUBLISHED_ON if any(table.published for table in filled) else ""
    claims = verdicts.verdicts(source)
    measured = [column for table in filled for column in table.measured]
    words = terms.of_summary(claims, measured, of_paper=not (source.axes or alone))
    return Contents(
        title=source.plan["title"],
        notes=[
            *(source.plan.get("notes") or []),
            *([] if "data.validation_fraction" in source.base else [NO_VALIDATION]),
        ],
        measured_on=source.measured_on if kinds != ["speed"] else "this machine with random weights",
        published_on=published_on,
        verdicts=claims,
        terms=words,
        glance=glance(source),
        sections=[(SECTIONS[kind], [table for table in filled if table.kind == kind]) for kind in kinds],
        table_notes=_table_notes(filled),
        glossary=terms.of_tables(filled, words),
        drawings=list(drawings),
        missing=[] if alone or source.own_images else [table.id for table in PAPER if table.id not in shown],
        protocols=[*facts.protocols(source, filled), ("settings of the base", facts.settings(source))],
        search=facts.search(source),
        metric=(source.plan.get("search") or {}).get("metric", ""),
        chosen=search.chosen(source),
        environment=facts.environment(source),
        provenance=facts.provenance(source, filled),
        runs=_runs(source, mlflow),
    )


def _runs(source: Source, mlflow: str) -> dict[str, str]:
    if not mlflow:
        return {}
    ids = {str(cell): source.text(str(cell), "run_id") for cell in source.frame.index}
    return {cell: f"{mlflow.rstrip('/')}/#/runs/{id}" for cell, id in ids.items() if id}


def _table_notes(filled: Sequence[FilledTable]) -> dict[str, list[str]]:
    said, notes = set(terms.SAID), {}
    for table in filled:
        notes[table.id] = [note for note in table.notes if note not in said]
        said |= {note for note in table.notes if table.kind == "effects" or note.startswith((SEARCHED, ALONE))}
    return notes
