"""Figures of generated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import mosaic
from analysis.figures.form import MARGIN, Drawing, by_class, stages
from analysis.figures.look import table
from analysis.figures.mosaic import GAP, LINE, Pixels
from analysis.frame.source import Source
from analysis.stats import number
from experiments.paper import AGREEMENT, BITS, FD, TABLE_1A, TABLE_2A, Column
from tokenbridge.overrides import plain

SETTINGS = (
    "quantizer.kind", "quantizer.levels", "head.kind", "sample.guidance", "sample.temperature", "sample.iterations",
    "sample.confidence", "train.seed", "sample.seed",
)  # fmt: skip
"""what tells one block of images from another"""
BETWEEN = 30
"""pixels between two blocks of images"""


def prediction(source: Source) -> Drawing | None:
    """Figure 7: samples of the parallel and of the autoregressive head."""
    found = stages(source, TABLE_2A, "sample")
    if len(found) < 2:
        return None
    grids = {label: source.example(id) for label, id in found.items()}
    cells = {label: source.cells(TABLE_2A.id, label)[0] for label in grids}
    titles = [label + _scores_of_row(source, label) for label in grids]
    figure = _blocks(titles, list(grids.values()), most=5)
    caption = (
        f"Figure 7 of the paper, on {source.measured_on}. Generated images, not chosen: one column a class asked for."
        " The two models differ in how the channels of a token are predicted: all at once (parallel) or one after"
        f" another (autoregressive). {_models(source, cells)}"
    )
    alt = "Generated digits of the parallel head beside those of the autoregressive head"
    return Drawing("figure-7-prediction", "Parallel against autoregressive prediction", caption, alt, figure, "2a",
                   _data(source, cells))  # fmt: skip


def confidence(source: Source) -> Drawing | None:
    """Figure 8: one model, its positions revealed in random order and ever more by its own confidence."""
    sampled = [(strength, id) for strength, id in source.confidence if source.stage(id, "sample")]
    if len(sampled) < 2:
        return None
    grids = [source.example(source.stage(id, "sample")) for _, id in sampled]
    caption = (
        f"Figure 8 of the paper, on {source.measured_on}. Generated images of one model, not chosen, the same noise in"
        " each block. At each step the positions whose tokens the model finds most likely are kept: their log"
        " probability a channel times the strength, plus random noise, says which. High strengths draw what is certain"
        f" first, in a random order nothing is preferred. {_models(source, {'': sampled[0][1]})}"
    )
    alt = "Generated digits in blocks, from a random order of positions to one by the model's confidence"
    cells = {("random order" if strength == 0 else f"strength {strength:g}"): id for strength, id in sampled}
    titles = [name + _scores(source, id, (source.by_scorer(FD), AGREEMENT)) for name, id in cells.items()]
    return Drawing("figure-8-confidence", "Confidence-guided generation", caption, alt, _blocks(titles, grids), "2a",
                   _data(source, cells))  # fmt: skip


def _blocks(titles: Sequence[str], grids: Sequence[Mapping[str, np.ndarray]], most: int = 4) -> Figure:
    """Titled blocks of example images below each other, one column a class, at most so many rows of images in each."""
    first = grids[0]
    classes = len(np.unique(first["labels"]))
    factor = mosaic.enlargement(first["images"])
    tall, wide = (side * factor + GAP for side in first["images"].shape[-2:])
    shown, top = min(most, len(first["images"]) // classes), 2 * LINE + MARGIN
    left, down = 100, top + shown * tall + BETWEEN
    figure = mosaic.canvas(left + classes * wide, len(grids) * down - BETWEEN)
    for i, (title, grid) in enumerate(zip(titles, grids, strict=True)):
        names = [str(n) for n in grid["labels"][:classes]]
        images = by_class(grid["images"], classes)[:shown]
        mosaic.block(figure, images, left, i * down + top, factor, title, names)
        mosaic.write(figure, "class", left - 16, i * down + top - 8, ha="right", va="bottom")
    return figure


def samples(source: Source) -> Drawing | None:
    """Figures 2 and 9: all example samples of the autoregressive model under real images of the same classes."""
    found = stages(source, TABLE_2A, "sample")
    if "autoregressive" not in found:
        return None
    grid = source.example(found["autoregressive"])
    real = next((source.example(id)["original"] for id in stages(source, TABLE_1A, "reconstruct").values()), None)
    figure = _sample_figure(grid, real)
    cell = source.cells(TABLE_2A.id, "autoregressive")[0]
    above = " The top row holds held-out images." if real is not None else ""
    caption = (
        f"Figures 2 and 9 of the paper, on {source.measured_on}. The first {len(grid['images'])} images of the"
        f" autoregressive model, not chosen, one column a class.{above} {_models(source, {'': cell})}"
    )
    alt = "Grid of generated digits, one column a class"
    return Drawing("samples", "Generated images by class", caption, alt, figure, "2a",
                   _data(source, {"autoregressive": cell}))  # fmt: skip


def _sample_figure(grid: Mapping[str, np.ndarray], real: Pixels | None) -> Figure:
    classes = len(np.unique(grid["labels"]))
    rows = by_class(grid["images"], classes)
    factor = mosaic.enlargement(grid["images"])
    tall, wide = (side * factor + GAP for side in grid["images"].shape[-2:])
    left, top, gap = 170, LINE + MARGIN, 20
    above = tall + gap if real is not None else 0
    figure = mosaic.canvas(left + classes * wide + MARGIN, top + above + len(rows) * tall + MARGIN)
    names = [str(n) for n in grid["labels"][:classes]]
    mosaic.write(figure, "class", left - 16, top - 8, ha="right", va="bottom")
    if real is not None:
        mosaic.block(figure, [real], left, top, factor, "", names)
        mosaic.row_names(figure, ["real"], left - 16, top, tall)
    mosaic.block(figure, rows, left, top + above, factor, "", [] if real is not None else names)
    mosaic.row_names(figure, ["generated"], left - 16, top + above, tall)
    return figure


def _scores_of_row(source: Source, label: str) -> str:
    """What the table says of the model whose samples are shown; nothing where the table has a mean over seeds."""
    ids = source.cells(TABLE_2A.id, label)
    return _scores(source, ids[0], (source.by_scorer(FD), BITS)) if len(ids) == 1 else ""


def _scores(source: Source, cell: str, columns: Sequence[Column]) -> str:
    found = ""
    for column in columns:
        value = source.number(cell, column.key)
        if value is not None:
            unit = f" {column.unit}" if column.unit else ""
            found += f"  ·  {column.title} {number(value * column.scale, column.decimals)}{unit}"
    return found


def _models(source: Source, cells: Mapping[str, str]) -> str:
    """What the images were made with: model, then how it was sampled; names where there are several."""
    told = []
    for name, cell in cells.items():
        guidance, heat, steps, seed, levels = (
            plain(source.setting(cell, key))
            for key in ("sample.guidance", "sample.temperature", "sample.iterations", "train.seed", "quantizer.levels")
        )
        first = f"{name}: " if name else f"{str(source.setting(cell, 'head.kind')).capitalize()} head, "
        model = f"B={levels}, training seed {seed}, guidance {guidance}, temperature {heat}, {steps} iterations"
        told.append(first + model)
    return "; ".join(told) + "."


def _data(source: Source, cells: Mapping[str, str]) -> str:
    """Which cell each block shows, with its settings and scores: the images themselves are in the picture."""
    fd = source.by_scorer(FD)
    rows = [
        [name, cell, *(plain(source.setting(cell, key)) for key in SETTINGS), source.number(cell, fd.key)]
        for name, cell in cells.items()
    ]
    return table(["images", "cell", *SETTINGS, fd.title], rows)
