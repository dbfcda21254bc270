"""The paper's figures from a report's source: each a matplotlib figure with a caption for a reader new to the field.

`draw(source)` gives those that the source has data for, each a `Drawing`; it is saved within `style()`. `form` has what
all share, `mosaic` places small images pixel by pixel; every other file holds the figures of one subject with their
charts. A figure is added by a function from a source to a `Drawing` and a line in `MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from analysis.figures import (
    axes,
    claims,
    generation,
    heads,
    latents,
    pipeline,
    quantization,
    reconstruction,
    search,
    training,
)
from analysis.figures.form import Drawing, style
from analysis.frame.source import Source

RECONSTRUCTIONS = "reconstructions"
"""for the table that has them: 1a, or that of own images"""
MAKERS: tuple[tuple[str, Callable[[Source], Drawing | None]], ...] = (
    ("", claims.claims),
    (RECONSTRUCTIONS, latents.latents),
    (RECONSTRUCTIONS, latents.levels_used),
    ("", quantization.distortion),
    (RECONSTRUCTIONS, quantization.quality),
    (RECONSTRUCTIONS, reconstruction.reconstructions),
    (RECONSTRUCTIONS, reconstruction.patches),
    ("2a", generation.prediction),
    ("2a", generation.samples),
    ("2a", generation.confidence),
    ("2a", training.training),
    ("2b", latents.spectra),
    ("heads", pipeline.pipeline),
    ("heads", heads.heads),
    ("heads", heads.costs),
    ("", search.search),
    ("axes", axes.effects),
    ("axes", generation.points),
    ("", generation.given),
)
"""table that a figure needs (none where it finds out), and what draws it"""


def draw(source: Source, dark: bool = False) -> Iterator[Drawing]:
    """Every figure that the source has the data for, in reading order, each drawn when it is asked for.

    Args:
        source: the report's source.
        dark: draw for a dark page.
    """
    tables = {"", *(table.id for table in source.tables)}
    tables |= {RECONSTRUCTIONS} if source.of_reconstructions.id in tables else set()
    for table, make in MAKERS:
        if table in tables:
            with style(dark):
                drawing = make(source)
            if drawing is not None:
                yield drawing


__all__ = ["Drawing", "draw", "style"]
