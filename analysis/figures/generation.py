"""Figures of generated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import mosaic
from analysis.figures.form import Drawing, csv_of, stages
from analysis.figures.mosaic import LINE, MARGIN, Pixels, by_class, columns_of, name_columns, name_rows, steps
from analysis.frame.source import AXES, POINTS, Source
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
"""rows of a sheet of samples, and images in a row of it where all are of one class"""
ACROSS, DOWN = 10, 2
"""images in a row and rows of a set whose labels need not be known"""
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
    grids = [source.example(id) for id in ids.values()]
    caption = (
        f"Figure 7 of the paper, on {source.measured_on}. Generated images, not chosen"
        f"{_told(grids[0], ': one column per class asked for')}. The two models differ in how the channels of a token"
        f" are predicted: all at once (parallel) or one after another (autoregressive). {_models(source, first)}"
    )
    alt = "Generated images of the parallel head beside those of the autoregressive head"
    figure = _blocks(source, titles, grids, most=5)
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
        " this one model, at the guidance and temperature of random order; others may suit other strengths better."
        f" {_models(source, {'': sampled[0][1]})}"
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
    """Titled blocks of example images below each other, a column for each class, at most so many rows in each."""
    images, names = grids[0]["images"], _columns(source, grids[0])
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
        name_columns(figure, columns_of(grid["labels"]), left, i * down + top)
    return figure


def samples(source: Source) -> Drawing | None:
    """Figures 2 and 9: all example samples of the autoregressive model under real images of the same classes."""
    id = stages(source, TABLE_2A, "sample").get("autoregressive")
    if id is None:
        return None
    grid, cell = source.example(id), source.cells(TABLE_2A.id, "autoregressive")[0]
    shown = stages(source, source.of_reconstructions, "reconstruct").values()
    names = _columns(source, grid)
    real = next((_first_of_each(source.example(id), _labels(grid)) for id in shown), None)
    above = " The top row holds test images." if real is not None else ""
    rows = by_class(grid["images"], len(names))[:MOST]
    caption = (
        f"Figures 2 and 9 of the paper, on {source.measured_on}. The first {sum(map(len, rows))} images of the"
        f" autoregressive model, not chosen{_told(grid, ', one column per class')}.{above}"
        f" {_models(source, {'': cell})}"
    )
    alt = f"Grid of generated images{_told(grid, ', one column per class')}"
    title = f"Generated images{_told(grid, ' by class')}"
    data = _data(source, {"autoregressive": cell})
    figure = _sample_figure(["generated"], rows, columns_of(grid["labels"]), names, real)
    return Drawing("samples", title, caption, alt, figure, "2a", data)


def points(source: Source) -> Drawing | None:
    """Images of each point of a grid over axes, a row for each, of the same classes."""
    first: dict[str, str] = {}
    for trial in source.trials:
        first.setdefault(trial.label, trial.cell)
    shown = dict([(label, cell) for label, cell in first.items() if _drawn(source, cell)][:POINTS])
    if not shown:
        return None
    grids = [source.example(_drawn(source, cell)) for cell in shown.values()]
    classes = len(_labels(grids[0]))
    order = np.argsort(grids[0]["labels"][: MOST // min(classes, MOST) * min(classes, MOST)], kind="stable")
    labels = grids[0]["labels"][order]
    caption = (
        f"Generated {source.measured_on} images of {'the first ' if len(shown) < len(first) else 'each of the '}"
        f"{len(shown)} points, not chosen, a row for each{_told(grids[0], ', with the same classes in all rows')}; of"
        " several training seeds, the first."
    )
    names, rows = mosaic.image_names(source, labels), [grid["images"][order] for grid in grids]
    figure = _sample_figure(list(shown), rows, columns_of(labels), names, None)
    alt = "Generated images, a row for each point of the axes"
    return Drawing("samples-axes", "Images of each point", caption, alt, figure, AXES, _data(source, shown))


def _drawn(source: Source, cell: str) -> str:
    """The sample stage of a cell that left images to look at; empty where it has none."""
    id = source.stage(cell, "sample")
    return id if id and source.has_example(id) else ""


def _told(grid: Grid, words: str) -> str:
    """Words that are true where images are of several classes; else none."""
    return words if columns_of(grid["labels"]) == "class" else ""


def given(source: Source) -> Drawing | None:
    """Samples of other programs below those of the row that they are compared with."""
    labels = {*source.given}
    table = next((table for table in source.tables if labels & {row.label for row in table.rows}), None)
    if table is None:
        return None
    cells = {label: ids for label in (table.base_label, *source.given) if (ids := source.cells(table.id, label))}
    cells = {label: ids for label, ids in cells.items() if _drawn(source, ids[0])}
    first, fd = {label: ids[0] for label, ids in cells.items()}, source.by_scorer(FD)
    titles = [label + (_scores(source, ids[0], [fd]) if len(ids) == 1 else "") for label, ids in cells.items()]
    grids = [source.example(_drawn(source, cell))["images"] for cell in first.values()]
    if not grids:
        return None
    own = {label: cell for label, cell in first.items() if not source.is_given(cell)}
    caption = (
        f"The first {ACROSS * DOWN} images of each set, not chosen; where labels are known, their classes come in turn."
        f" Samples of other programs: {'; '.join(source.given)}. {_models(source, own) if own else ''}"
    )
    alt = "Generated images in blocks: those of a row of this report and samples of other programs"
    title, data = "Samples of other programs", _data(source, first)
    return Drawing("given-samples", title, caption.strip(), alt, _sets_figure(titles, grids), table.id, data)


def _sets_figure(titles: Sequence[str], grids: Sequence[Pixels]) -> Figure:
    """Titled blocks of images below each other, in rows of so many."""
    factor = mosaic.enlargement(grids[0])
    tall, wide = steps(grids[0], factor)
    top = LINE + 2 * MARGIN
    rows = [[part for i in range(DOWN) if len(part := grid[i * ACROSS : (i + 1) * ACROSS])] for grid in grids]
    tops = [top + sum(top + len(above) * tall for above in rows[:i]) for i in range(len(rows) + 1)]
    columns = max(ACROSS * wide, *(round(mosaic.text_width(title, "bold")) for title in titles))
    figure = mosaic.canvas(columns + 2 * MARGIN, tops[-1] - top + MARGIN)
    for title, block, down in zip(titles, rows, tops, strict=False):
        mosaic.block(figure, block, MARGIN, down, factor, title, mosaic.Heads(height=0))
    return figure


def _first_of_each(example: Mapping[str, np.ndarray], labels: Sequence[int]) -> Pixels | None:
    """A real image of each class, or some of a single one; None where a class has none among those that were kept."""
    if len(labels) == 1:
        return example["original"][:MOST]
    there = example["labels"].tolist()
    return example["original"][[there.index(label) for label in labels]] if {*labels} <= {*there} else None


def _sample_figure(
    labels: Sequence[str], rows: Sequence[Pixels], word: str, names: Sequence[str], real: Pixels | None
) -> Figure:
    """Rows of generated images under one of real images.

    Args:
        labels: names of the first rows, or of all.
        rows: uint8 (n, ch, h, w) each.
        word: what the columns are named by.
        names: of the columns.
        real: uint8 (n, ch, h, w); None for no such row.
    """
    widest = round(max(map(mosaic.text_width, labels)))
    left, gap = max(170, widest + mosaic.ASIDE + MARGIN), 20
    factor = mosaic.enlargement(rows[0], columns=len(names), beside=left + MARGIN)
    tall, wide = steps(rows[0], factor)
    over = mosaic.heads(names, wide)
    top = over.height + MARGIN
    above = tall + gap if real is not None else 0
    figure = mosaic.canvas(left + len(names) * wide + MARGIN, top + above + len(rows) * tall + MARGIN)
    name_columns(figure, word, left, top)
    if real is not None:
        mosaic.block(figure, [real], left, top, factor, over=over)
        name_rows(figure, ["real"], left, top, tall)
    mosaic.block(figure, rows, left, top + above, factor, over=None if real is not None else over)
    name_rows(figure, labels, left, top + above, tall)
    return figure


def _columns(source: Source, grid: Grid) -> list[str]:
    """Names of the classes in the order of the columns; numbers of images of a single class."""
    labels = _labels(grid)
    if len(labels) > 1:
        return mosaic.class_names(source, labels)
    return [str(number) for number in range(1, min(MOST, len(grid["images"])) + 1)]


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
