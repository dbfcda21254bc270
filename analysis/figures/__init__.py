"""The paper's figures from a report's source: each a matplotlib figure with a caption for a reader new to the field."""

from __future__ import annotations

from collections.abc import Callable

from analysis.figures import axes, generation, heads, reconstruction
from analysis.figures.form import Drawing, style
from analysis.source import Source

MAKERS: tuple[tuple[str, Callable[[Source], Drawing | None]], ...] = (
    ("1a", reconstruction.latents),
    ("1a", reconstruction.distortion),
    ("1a", reconstruction.reconstructions),
    ("1a", reconstruction.patches),
    ("2a", generation.prediction),
    ("2a", generation.samples),
    ("2a", generation.confidence),
    ("2a", generation.training),
    ("heads", heads.heads),
    ("axes", axes.effects),
)
"""table that a figure illustrates, and what draws it"""


def draw(source: Source, dark: bool = False) -> list[Drawing]:
    """Every figure that the source has the data for, in reading order."""
    used = {table.id for table in source.tables}
    with style(dark):
        drawings = [make(source) for table, make in MAKERS if table in used]
    return [drawing for drawing in drawings if drawing is not None]


__all__ = ["Drawing", "draw", "style"]
