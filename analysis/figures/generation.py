"""Figures of generated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import mosaic
from analysis.figures.form import Drawing, csv_of, stages
from analysis.figures.mosaic import LINE, MARGIN, Pixels, by_class, name_classes, name_rows, steps
from analysis.frame.source import Source
from analysis.stats import number
from experiments.paper import TABLE_2A, Column
from tokenbridge.metrics.catalogue import AGREEMENT, BITS, FD
from tokenbridge.overrides import plain

SETTINGS = (
    "quantizer.kind", "quantizer.levels", "head.kind", "sample.guidance", "sample.temperature", "sample.iterations",
    "sample.confidence", "train.seed", "sample.seed",
)  # fmt: skip
"""what tells one block of images from another"""
MOST = 10
"""rows of a sheet of samples"""
BETWEEN = 30
"""pixels between two blocks of images"""
Grid = Mapping[str, np.ndarray]
"""example images, uint8 (n, ch, h, w), and their labels (n,), class by class in turn"""


def prediction(source: Source) -> Drawing | None:
    """Figure 7: samples of the parallel and of the autoregressive head."""
    ids = stages(source, TABLE_2A, "sample")
    if len(ids) < 2:
        return None
    cells = {label: source.cells(TABLE_2A.id, label) for label in ids}
    # the table has a mean over seeds where there are several, which is not what these images have
    columns = (source.by_scorer(FD), BITS)
    titles = [label + (_scores(source, row[0], columns) if len(row) == 1 else "") for label, row in cells.items()]
    first = {label: row[0] for label, row in cells.items()}
    caption = (
        f"Figure 7 of the paper, on {source.measured_on}. Generated images, not chosen: one column per class asked for."
        " The two models differ in how the channels of a token are predicted: all at once (parallel) or one after"
        f" another (autoregressive). {_models(source, first)}"
    )
    alt = "Generated images of the parallel head beside those of the autoregressive head"
    figure = _blocks(source, titles, [source.example(id) for id in ids.values()], most=5)
    title = "Parallel against autoregressive prediction"
    return Drawing("figure-7-prediction", title, caption, alt, figure, "2a", _data(source, first))


def confidence(source: Source) -> Drawing | None:
    """Figure 8: one model, its positions revealed in random order and ever more by its own confidence."""
    sampled = [(strength, id) for strength, id in source.confidence if source.stage(id, "sample")]
    if len(sampled) < 2:
        return None
    caption = (
        f"Figure 8 of the paper, on {source.measured_on}. Generated images of one model, not chosen, the same noise in"
        " each block. At each step the positions whose tokens the model finds most likely are kept: their log"
        " probability per channel times the strength of confidence (1, 4, …), plus random noise, says which. High"
        " strengths draw what is certain first, in a random order nothing is preferred. The scores above a block are of"
        f" this one model. {_models(source, {'': sampled[0][1]})}"
    )
    alt = "Generated images in blocks, from a random order of positions to one by the model's confidence"
    cells = {("random order" if strength == 0 else f"confidence × {strength:g}"): id for strength, id in sampled}
    titles = [
        name + _scores(source, id, (source.by_scorer(FD), source.by_scorer(AGREEMENT))) for name, id in cells.items()
    ]
    figure = _blocks(source, titles, [source.example(source.stage(id, "sample")) for id in cells.values()])
    title = "Confidence-guided generation"
    return Drawing("figure-8-confidence", title, caption, alt, figure, "2a", _data(source, cells))


def _blocks(source: Source, titles: Sequence[str], grids: Sequence[Grid], most: int = 4) -> Figure:
    """Titled blocks of example images below each other, one column per class, at most so many rows in each."""
    images, names = grids[0]["images"], _classes(source, grids[0])
    factor = mosaic.enlargement(images)
    tall, wide = steps(images, factor)
    over = mosaic.heads(names, wide)
    shown, top = min(most, len(images) // len(names)), LINE + over.height + MARGIN
    left, down = 100, top + shown * tall + BETWEEN
    columns = max(len(names) * wide, *(round(mosaic.text_width(title, "bold")) + 2 * MARGIN for title in titles))
    figure = mosaic.canvas(left + columns, len(grids) * down - BETWEEN)
    for i, (title, grid) in enumerate(zip(titles, grids, strict=True)):
        rows = by_class(grid["images"], len(names))[:shown]
        mosaic.block(figure, rows, left, i * down + top, factor, title, over)
        name_classes(figure, left, i * down + top)
    return figure


def samples(source: Source) -> Drawing | None:
    """Figures 2 and 9: all example samples of the autoregressive model under real images of the same classes."""
    id = stages(source, TABLE_2A, "sample").get("autoregressive")
    if id is None:
        return None
    grid, cell = source.example(id), source.cells(TABLE_2A.id, "autoregressive")[0]
    shown = stages(source, source.of_reconstructions, "reconstruct").values()
    real = next((_first_of_each(source.example(id), _labels(grid)) for id in shown), None)
    above = " The top row holds test images." if real is not None else ""
    rows = by_class(grid["images"], len(_classes(source, grid)))[:MOST]
    caption = (
        f"Figures 2 and 9 of the paper, on {source.measured_on}. The first {sum(map(len, rows))} images of the"
        f" autoregressive model, not chosen, one column per class.{above} {_models(source, {'': cell})}"
    )
    alt = "Grid of generated images, one column per class"
    title, data = "Generated images by class", _data(source, {"autoregressive": cell})
    return Drawing("samples", title, caption, alt, _sample_figure(rows, _classes(source, grid), real), "2a", data)


def _first_of_each(example: Mapping[str, np.ndarray], labels: Sequence[int]) -> Pixels | None:
    """A real image of each class; None where a class has none among those that were kept."""
    there = example["labels"].tolist()
    return example["original"][[there.index(label) for label in labels]] if {*labels} <= {*there} else None


def _sample_figure(rows: Sequence[Pixels], names: Sequence[str], real: Pixels | None) -> Figure:
    factor = mosaic.enlargement(rows[0])
    tall, wide = steps(rows[0], factor)
    over = mosaic.heads(names, wide)
    left, top, gap = 170, over.height + MARGIN, 20
    above = tall + gap if real is not None else 0
    figure = mosaic.canvas(left + len(names) * wide + MARGIN, top + above + len(rows) * tall + MARGIN)
    name_classes(figure, left, top)
    if real is not None:
        mosaic.block(figure, [real], left, top, factor, over=over)
        name_rows(figure, ["real"], left, top, tall)
    mosaic.block(figure, rows, left, top + above, factor, over=None if real is not None else over)
    name_rows(figure, ["generated"], left, top + above, tall)
    return figure


def _classes(source: Source, grid: Grid) -> list[str]:
    """Names of the classes in the order of the columns."""
    return mosaic.class_names(source, _labels(grid))


def _labels(grid: Grid) -> list[int]:
    """The classes in the order of the columns."""
    return [int(label) for label in grid["labels"][: len(np.unique(grid["labels"]))]]


def _scores(source: Source, cell: str, columns: Sequence[Column]) -> str:
    """A model's numbers beside the title of its images."""
    text = ""
    for column in columns:
        value = source.number(cell, column.key)
        if value is not None:
            unit = f" {column.unit}" if column.unit else ""
            text += f"  ·  {column.title} {number(value * column.scale, column.decimals)}{unit}"
    return text


def _models(source: Source, cells: Mapping[str, str]) -> str:
    """The models that made the images and how they were sampled; with their names where there are several."""
    models = []
    for name, cell in cells.items():
        guidance, heat, steps, seed, noise, levels = (
            plain(source.setting(cell, key))
            for key in (
                "sample.guidance", "sample.temperature", "sample.iterations", "train.seed", "sample.seed",
                "quantizer.levels",
            )
        )  # fmt: skip
        first = f"{name}: " if name else f"{str(source.setting(cell, 'head.kind')).capitalize()} head, "
        model = f"B={levels}, training seed {seed}, sampling seed {noise}, guidance {guidance}, temperature {heat}"
        models.append(f"{first}{model}, {steps} iterations")
    return "; ".join(models) + "."


def _data(source: Source, cells: Mapping[str, str]) -> str:
    """The cell of each block with its settings and scores: the images themselves are in the picture."""
    fd = source.by_scorer(FD)
    rows = [
        [name, cell, *(plain(source.setting(cell, key)) for key in SETTINGS), source.number(cell, fd.key)]
        for name, cell in cells.items()
    ]
    return csv_of(["images", "cell", *SETTINGS, fd.title], rows)
