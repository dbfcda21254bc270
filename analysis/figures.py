"""The paper's figures from a report's source: each a matplotlib figure with a caption for a reader new to the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure

from analysis import charts, mosaic
from analysis.mosaic import GAP, LINE, Pixels
from analysis.source import Source
from analysis.stats import number
from experiments.paper import BITS, FD, TABLE_1A, TABLE_2A, Column, Table

STYLE = Path(__file__).with_name("tokenbridge.mplstyle")
DARK: dict[str, Any] = {
    "axes.prop_cycle": cycler("color", ["#56b4e9", "#f0a33c", "#3ec49b", "#d896cb", "#a8a8a8"]),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), "e6e8eb"),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "8b949e"),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "15181d"),
    "grid.color": "343a42",
}
MARGIN = 8


@dataclass(frozen=True)
class Drawing:
    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    table: str
    """id of the table that it illustrates"""


def draw(source: Source, dark: bool = False) -> list[Drawing]:
    """Every figure that the source has the data for, in reading order."""
    used = {table.id for table in source.tables}
    makers: list[tuple[str, Callable[[Source], Drawing | None]]] = [
        ("1a", latents),
        ("1a", distortion),
        ("1a", reconstructions),
        ("2a", prediction),
        ("2a", samples),
        ("2a", training),
    ]
    with style(dark):
        drawings = [make(source) for table, make in makers if table in used]
    return [drawing for drawing in drawings if drawing is not None]


@contextmanager
def style(dark: bool = False) -> Iterator[None]:
    with mpl.rc_context(fname=STYLE):
        if dark:
            mpl.rcParams.update(DARK)  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield


def latents(source: Source) -> Drawing | None:
    """Figure 3: each channel's values before and after quantization."""
    stages = _stages(source, TABLE_1A, "quantizer")
    levels = {label: id for label, id in stages.items() if source.example(id)["centers"].size}
    if not levels:
        return None
    label = "B=16" if "B=16" in levels else next(iter(levels))
    example = source.example(levels[label])
    count = example["centers"].shape[-1]
    caption = (
        f"Figure 3 of the paper, on {source.measured_on}. Latent values of each channel before quantization (area) and"
        f" after it (stems), at {count} levels. A stem stands at a level; its height is the share of values that the"
        " level stands for, over the width of its interval. Where stems end at the outline of the area, quantization"
        " keeps the distribution. Dashed: the standard normal distribution, for comparison."
    )
    alt = f"Histograms of latent values, one panel a channel, before and after quantization to {count} levels"
    return Drawing("figure-3-latents", "Latent values before and after quantization", caption, alt,
                   charts.latent_histograms(example), "1a")  # fmt: skip


def distortion(source: Source) -> Drawing | None:
    """Mean squared error against levels, with the limits of theory."""
    points = []
    for _, ids in source.rows(TABLE_1A):
        for id in ids:
            error = source.number(id, "quantizer/mse")
            if error and source.setting(id, "quantizer.kind") != "identity":
                points.append((source.setting(id, "quantizer.levels"), error))
    if len(points) < 2:
        return None
    caption = (
        "Mean squared error of a quantized latent value (standard deviation 1); both axes are logarithmic. Panter–Dite:"
        " what the best quantizer of a normal distribution reaches with many levels; one bit more divides it by four."
        " Shannon: what no code with that many bits a value can go below."
    )
    alt = "Quantization error against the number of levels, beside the Panter–Dite and Shannon limits"
    return Drawing("distortion", "Quantization error against theory", caption, alt, charts.distortion(points), "1a")


def reconstructions(source: Source) -> Drawing | None:
    """Figure 6: ten digits through the autoencoder, continuous and at each number of levels, with error maps."""
    stages = _stages(source, TABLE_1A, "reconstruct")
    if not stages:
        return None
    # from the most exact to the coarsest
    order = [label for label in ("continuous", *reversed(stages)) if label in stages]
    order = list(dict.fromkeys(order))
    examples = {label: source.example(stages[label]) for label in order}
    original, names = examples[order[0]]["original"], [str(n) for n in examples[order[0]]["labels"]]
    rows = [examples[label]["reconstructed"] for label in order]
    errors = [np.abs(row.astype(np.int16) - original).mean(1, keepdims=True) for row in rows]
    figure, largest = _reconstruction_figure(original, rows, errors, names, [_spaced(label) for label in order])
    caption = (
        f"Figure 6 of the paper, on {source.measured_on}. The first held-out image of each class (top) and what comes"
        " back from the autoencoder with continuous latents and with ever fewer levels B. Right: absolute error of each"
        f" pixel, all maps on one square-root scale that ends at the largest error ({largest:.0f} of 255 grey levels)."
    )
    alt = "Reconstructed digits in rows from continuous latents to the fewest levels, with maps of their errors"
    return Drawing("figure-6-reconstructions", "Reconstructions", caption, alt, figure, "1a")


def _reconstruction_figure(
    original: Pixels, rows: Sequence[Pixels], errors: Sequence[np.ndarray], names: Sequence[str], labels: Sequence[str]
) -> tuple[Figure, float]:
    factor = mosaic.enlargement(original)
    tall, wide = (side * factor + GAP for side in original.shape[-2:])
    left, top = 190, 2 * LINE + MARGIN
    second = left + len(original) * wide + 36
    width, height = second + len(original) * wide + MARGIN, top + (len(rows) + 1) * tall + MARGIN
    figure = mosaic.canvas(width, height)
    mosaic.block(figure, [original, *rows], left, top, factor, "image", names)
    mosaic.row_names(figure, ["original", *labels], left - 16, top, tall)
    largest = max(float(error.max()) for error in errors) or 1.0
    colours = mpl.colormaps["inferno"]
    # with a linear scale the coarsest row leaves all others black
    mapped = [_coloured(np.sqrt(error / largest), colours) for error in errors]
    mosaic.block(figure, mapped, second, top + tall, factor, "absolute error", names)
    _colour_bar(figure, colours, largest, second + 10 * wide - 560, top - LINE, width, height)
    return figure, largest


def _coloured(share: np.ndarray, colours: Colormap) -> Pixels:
    """(n, 1, h, w) in [0, 1] -> uint8 (n, 3, h, w)."""
    return np.round(colours(share[:, 0])[..., :3] * 255).astype(np.uint8).transpose(0, 3, 1, 2)


def _colour_bar(figure: Figure, colours: Colormap, largest: float, x: int, y: int, width: int, height: int) -> None:
    axes = figure.add_axes((x / width, 1 - (y + 20) / height, 540 / width, 20 / height))
    bar = figure.colorbar(ScalarMappable(PowerNorm(0.5, 0, largest), colours), cax=axes, orientation="horizontal")
    ticks = [0, largest / 16, largest / 4, largest]
    bar.set_ticks(ticks, labels=[*(f"{tick:.0f}" for tick in ticks[:-1]), f"{largest:.0f} of 255"])
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    axes.tick_params(length=3)
    axes.get_xticklabels()[-1].set_horizontalalignment("right")


def prediction(source: Source) -> Drawing | None:
    """Figure 7: samples of the parallel and of the autoregressive head, side by side."""
    stages = _stages(source, TABLE_2A, "sample")
    if len(stages) < 2:
        return None
    grids = {label: source.example(id) for label, id in stages.items()}
    first = next(iter(grids.values()))
    classes = len(np.unique(first["labels"]))
    factor = mosaic.enlargement(first["images"])
    tall, wide = (side * factor + GAP for side in first["images"].shape[-2:])
    shown = min(6, len(first["images"]) // classes)
    top, step = 2 * LINE + MARGIN, classes * wide + 48
    figure = mosaic.canvas(len(grids) * step - 48, top + shown * tall)
    for i, (label, grid) in enumerate(grids.items()):
        title = label + _scores(source, label)
        names = [str(n) for n in grid["labels"][:classes]]
        mosaic.block(figure, _by_class(grid["images"], classes)[:shown], i * step, top, factor, title, names)
    caption = (
        f"Figure 7 of the paper, on {source.measured_on}. Generated images, not chosen: one column a class asked for."
        " The two models differ in how the channels of a token are predicted: all at once (parallel) or one after"
        " another (autoregressive)."
    )
    alt = "Generated digits of the parallel head beside those of the autoregressive head"
    return Drawing("figure-7-prediction", "Parallel against autoregressive prediction", caption, alt, figure, "2a")


def samples(source: Source) -> Drawing | None:
    """All example samples of the autoregressive model under real images of the same classes."""
    stages = _stages(source, TABLE_2A, "sample")
    if "autoregressive" not in stages:
        return None
    grid = source.example(stages["autoregressive"])
    classes = len(np.unique(grid["labels"]))
    rows = _by_class(grid["images"], classes)
    factor = mosaic.enlargement(grid["images"])
    tall, wide = (side * factor + GAP for side in grid["images"].shape[-2:])
    real = next((source.example(id)["original"] for id in _stages(source, TABLE_1A, "reconstruct").values()), None)
    left, top, gap = 150, LINE + MARGIN, 20
    above = tall + gap if real is not None else 0
    figure = mosaic.canvas(left + classes * wide + MARGIN, top + above + len(rows) * tall + MARGIN)
    names = [str(n) for n in grid["labels"][:classes]]
    if real is not None:
        mosaic.block(figure, [real], left, top, factor, "", names)
        mosaic.row_names(figure, ["real"], left - 16, top, tall)
    mosaic.block(figure, rows, left, top + above, factor, "", [] if real is not None else names)
    mosaic.row_names(figure, ["generated"], left - 16, top + above, tall)
    caption = f"The first {len(grid['images'])} images of the autoregressive model, not chosen, one column a class." + (
        " The top row holds held-out images." if real is not None else ""
    )
    alt = "Grid of generated digits, one column a class"
    return Drawing("samples", "Generated images by class", caption, alt, figure, "2a")


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


def _stages(source: Source, table: Table, kind: str) -> dict[str, str]:
    """Row label -> stage id of the row's first seed, for rows that have such a stage."""
    found = {cell.label: source.stage(ids[0], kind) for cell, ids in source.rows(table) if ids}
    return {label: id for label, id in found.items() if id}


def _by_class(images: Pixels, classes: int) -> list[Pixels]:
    """Image i has class i modulo classes: rows of one image a class."""
    return [images[i : i + classes] for i in range(0, len(images) - classes + 1, classes)]


def _scores(source: Source, label: str) -> str:
    """What the table says of the model whose samples are shown; nothing where the table has a mean over seeds."""
    ids = source.cells("2a", label)
    if len(ids) > 1:
        return ""
    columns: tuple[Column, ...] = (FD, BITS)
    values = [(column.title, column.decimals, source.number(ids[0], column.key)) for column in columns]
    return "".join(f"  ·  {title} {number(value, decimals)}" for title, decimals, value in values if value is not None)


def _spaced(label: str) -> str:
    return label.replace("=", " = ")
