"""Figures of generated images, and of the training behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis import charts, mosaic
from analysis.figures.form import MARGIN, Drawing, by_class, stages
from analysis.mosaic import GAP, LINE, Pixels
from analysis.source import Source
from analysis.stats import number
from experiments.paper import AGREEMENT, BITS, FD, TABLE_1A, TABLE_2A, Column

BETWEEN = 48
"""pixels between two blocks of images"""


def prediction(source: Source) -> Drawing | None:
    """Figure 7: samples of the parallel and of the autoregressive head, side by side."""
    found = stages(source, TABLE_2A, "sample")
    if len(found) < 2:
        return None
    grids = {label: source.example(id) for label, id in found.items()}
    titles = [label + _scores_of_row(source, label) for label in grids]
    figure = _blocks(titles, list(grids.values()), across=len(grids), most=6)
    caption = (
        f"Figure 7 of the paper, on {source.measured_on}. Generated images, not chosen: one column a class asked for."
        " The two models differ in how the channels of a token are predicted: all at once (parallel) or one after"
        " another (autoregressive)."
    )
    alt = "Generated digits of the parallel head beside those of the autoregressive head"
    return Drawing("figure-7-prediction", "Parallel against autoregressive prediction", caption, alt, figure, "2a")


def confidence(source: Source) -> Drawing | None:
    """Figure 8: one model, its positions revealed in random order and ever more by its own confidence."""
    sampled = [(strength, id) for strength, id in source.confidence if source.stage(id, "sample")]
    if len(sampled) < 2:
        return None
    grids = [source.example(source.stage(id, "sample")) for _, id in sampled]
    titles = [
        ("random order" if strength == 0 else f"strength {strength:g}") + _scores(source, id, (FD, AGREEMENT))
        for strength, id in sampled
    ]
    caption = (
        f"Figure 8 of the paper, on {source.measured_on}. Generated images of one model, not chosen, the same noise in"
        " each block. At each step the positions whose tokens the model finds most likely are kept: their log"
        " probability a channel times the strength, plus random noise, says which. High strengths draw what is certain"
        " first, in a random order nothing is preferred."
    )
    alt = "Generated digits in blocks, from a random order of positions to one by the model's confidence"
    return Drawing("figure-8-confidence", "Confidence-guided generation", caption, alt, _blocks(titles, grids), "2a")


def _blocks(titles: Sequence[str], grids: Sequence[Mapping[str, np.ndarray]], across: int = 2, most: int = 4) -> Figure:
    """Titled blocks of example images, one column a class, at most so many rows of images in each."""
    first = grids[0]
    classes = len(np.unique(first["labels"]))
    factor = mosaic.enlargement(first["images"])
    tall, wide = (side * factor + GAP for side in first["images"].shape[-2:])
    shown, top = min(most, len(first["images"]) // classes), 2 * LINE + MARGIN
    step, down = classes * wide + BETWEEN, top + shown * tall + BETWEEN // 2
    lines = -(-len(grids) // across)
    figure = mosaic.canvas(min(across, len(grids)) * step - BETWEEN, lines * down - BETWEEN // 2)
    for i, (title, grid) in enumerate(zip(titles, grids, strict=True)):
        names = [str(n) for n in grid["labels"][:classes]]
        images = by_class(grid["images"], classes)[:shown]
        mosaic.block(figure, images, i % across * step, i // across * down + top, factor, title, names)
    return figure


def samples(source: Source) -> Drawing | None:
    """All example samples of the autoregressive model under real images of the same classes."""
    found = stages(source, TABLE_2A, "sample")
    if "autoregressive" not in found:
        return None
    grid = source.example(found["autoregressive"])
    real = next((source.example(id)["original"] for id in stages(source, TABLE_1A, "reconstruct").values()), None)
    figure = _sample_figure(grid, real)
    caption = f"The first {len(grid['images'])} images of the autoregressive model, not chosen, one column a class." + (
        " The top row holds held-out images." if real is not None else ""
    )
    alt = "Grid of generated digits, one column a class"
    return Drawing("samples", "Generated images by class", caption, alt, figure, "2a")


def _sample_figure(grid: Mapping[str, np.ndarray], real: Pixels | None) -> Figure:
    classes = len(np.unique(grid["labels"]))
    rows = by_class(grid["images"], classes)
    factor = mosaic.enlargement(grid["images"])
    tall, wide = (side * factor + GAP for side in grid["images"].shape[-2:])
    left, top, gap = 150, LINE + MARGIN, 20
    above = tall + gap if real is not None else 0
    figure = mosaic.canvas(left + classes * wide + MARGIN, top + above + len(rows) * tall + MARGIN)
    names = [str(n) for n in grid["labels"][:classes]]
    if real is not None:
        mosaic.block(figure, [real], left, top, factor, "", names)
        mosaic.row_names(figure, ["real"], left - 16, top, tall)
    mosaic.block(figure, rows, left, top + above, factor, "", [] if real is not None else names)
    mosaic.row_names(figure, ["generated"], left - 16, top + above, tall)
    return figure


def training(source: Source) -> Drawing | None:
    """Loss and learning rate of the models of table 2a."""
    named = {source.stage(id, "train"): cell.label for cell, ids in source.rows(TABLE_2A) for id in ids}
    curves = source.curves[source.curves["stage"].isin(list(named))]
    if curves.empty:
        return None
    curves = curves.assign(model=[named[stage] for stage in curves["stage"]])
    caption = (
        "Negative log-likelihood of masked tokens during training, in nats a channel (lower is better); a random guess"
        " among B levels costs ln B. Held-out: the averaged weights, which are those that the tables measure, on images"
        " that training does not see."
    )
    alt = "Training and held-out loss and the learning rate against the training step"
    return Drawing("training", "Training", caption, alt, charts.training(curves), "2a")


def _scores_of_row(source: Source, label: str) -> str:
    """What the table says of the model whose samples are shown; nothing where the table has a mean over seeds."""
    ids = source.cells(TABLE_2A.id, label)
    return _scores(source, ids[0], (FD, BITS)) if len(ids) == 1 else ""


def _scores(source: Source, cell: str, columns: Sequence[Column]) -> str:
    found = ""
    for column in columns:
        value = source.number(cell, column.key)
        if value is not None:
            unit = f" {column.unit}" if column.unit else ""
            found += f"  ·  {column.title} {number(value * column.scale, column.decimals)}{unit}"
    return found
