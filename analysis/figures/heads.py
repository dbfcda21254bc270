"""The figure of table heads: every head on every token at a glance."""

from __future__ import annotations

from analysis import comparison, stats
from analysis.comparison import GROUPS, Point
from analysis.figures.form import Drawing
from analysis.source import Source
from experiments.paper import FD, IMAGE_TIME, TABLE_HEADS
from tokenbridge.config import TRAINED_TOKENS


def points(source: Source) -> list[Point]:
    """The rows that have a Fréchet distance, in the table's order. A label is `token, head`."""
    found = []
    for cell, ids in source.rows(TABLE_HEADS):
        distances, times = (
            [value for id in ids if (value := source.number(id, key)) is not None] for key in (FD.key, IMAGE_TIME.key)
        )
        if not distances:
            continue
        token, _, head = cell.label.partition(", ")
        quantizer = source.setting(ids[0], "quantizer.kind")
        group = GROUPS[2] if quantizer == "identity" else GROUPS[1] if quantizer in TRAINED_TOKENS else GROUPS[0]
        ms = stats.estimate(times).mean if times else None
        found.append(Point(token, head, group, stats.estimate(distances), ms))
    return found


def heads(source: Source) -> Drawing | None:
    found = points(source)
    if len(found) < 2:
        return None
    caption = (
        f"Fréchet distance of generated {source.measured_on} images (lower is better) for each row of the table, with"
        " its 95 % interval over seeds where there are several. Filled markers: heads that predict levels; open ones:"
        " heads that predict continuous values."
    )
    best = comparison.front(found)
    if len([point for point in found if point.ms is not None]) > 1:
        caption += (
            " Right: the same against the time to sample one image. Dashed: what no other row beats in both time and"
            f" distance, from the fastest: {'; '.join(point.name for point in best)}."
        )
    alt = "Fréchet distance of every head on every token, by token and against the time an image takes"
    return Drawing("heads", "Every head on every token", caption, alt, comparison.comparison(found), TABLE_HEADS.id)
