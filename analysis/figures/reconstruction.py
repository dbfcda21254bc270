"""Figures of table 1a that show images: reconstructions, their errors and details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures import mosaic
from analysis.figures.form import Drawing, csv_of, stages
from analysis.figures.mosaic import GAP, LINE, MARGIN, Pixels, columns_of, name_columns, name_rows, steps
from analysis.frame.source import Source
from experiments.paper import TABLE_HEADS
from tokenbridge.config import TRAINED_TOKENS

PATCHES = 6
"""most images whose patches are shown"""
PATCHED = 1280
"""most pixels of the canvas that they may take"""
BAR, HEADING = 560, 300
"""pixels of the colour bar, and of the heading beside it"""


def _examples(source: Source) -> dict[str, dict[str, np.ndarray]]:
    """Row name -> example arrays: continuous, then ever fewer levels, then the trained tokenizers that there are."""
    ids = stages(source, source.of_reconstructions, "reconstruct")
    order = dict.fromkeys(label for label in ("continuous", *reversed(ids)) if label in ids)
    examples = {label.replace("=", " = "): source.example(ids[label]) for label in order}
    for _, cells in source.rows(TABLE_HEADS) if examples else ():
        kind = source.setting(cells[0], "quantizer.kind") if cells else ""
        if kind in TRAINED_TOKENS and kind.upper() not in examples and source.stage(cells[0], "reconstruct"):
            example = source.example(source.stage(cells[0], "reconstruct"))
            if np.array_equal(example["original"], next(iter(examples.values()))["original"]):
                examples[kind.upper()] = example
    return examples


def _of_trained(examples: Mapping[str, object]) -> str:
    """A caption's sentence on the rows of trained tokenizers; empty where there are none."""
    names = [kind.upper() for kind in TRAINED_TOKENS if kind.upper() in examples]
    if not names:
        return ""
    return f" {', '.join(names)}: autoencoders of the same body, trained with their quantizer, for comparison."


def reconstructions(source: Source) -> Drawing | None:
    """Figure 6: images through the autoencoder, continuous and at each number of levels, with error maps."""
    examples = _examples(source)
    if not examples:
        return None
    first = next(iter(examples.values()))
    original, names = first["original"], mosaic.image_names(source, first["labels"])
    rows = [example["reconstructed"] for example in examples.values()]
    errors = [_errors(example) for example in examples.values()]
    over = columns_of(first["labels"]), names
    figure, largest = _reconstruction_figure(original, rows, errors, over, list(examples))
    one_each = len({*first["labels"].tolist()}) == len(names) > 1
    shown = "The first test image of each class" if one_each else "Test images"
    caption = (
        f"Figure 6 of the paper, on {source.measured_on}. {shown} (top) and what comes"
        " back from the autoencoder with continuous latents and with ever fewer levels B. Below: absolute error of each"
        f" pixel, all maps on one square-root scale that ends at the largest error ({largest:.0f} of 255 grey levels)."
        + _of_trained(examples)
    )
    alt = "Reconstructed images in rows from continuous latents to the fewest levels, with maps of their errors"
    data = csv_of(
        ["tokenizer", over[0], "mean absolute error", "largest absolute error"],
        [
            (label, name, float(error.mean()), float(error.max()))
            for label, maps in zip(examples, errors, strict=True)
            for name, error in zip(names, maps, strict=True)
        ],
    )
    return Drawing(
        "figure-6-reconstructions", "Reconstructions", caption, alt, figure, source.of_reconstructions.id, data
    )


def _errors(example: Mapping[str, np.ndarray]) -> np.ndarray:
    """(n, 1, h, w): absolute error of each pixel, mean over colours."""
    return np.abs(example["reconstructed"].astype(np.int16) - example["original"]).mean(1, keepdims=True)


def _reconstruction_figure(
    original: Pixels,
    rows: Sequence[Pixels],
    errors: Sequence[np.ndarray],
    named: tuple[str, Sequence[str]],
    labels: Sequence[str],
) -> tuple[Figure, float]:
    """named: what columns are named by, and their names."""
    word, names = named
    factor = mosaic.enlargement(original)
    tall, wide = steps(original, factor)
    over = mosaic.heads(names, wide)
    left, top = 190, LINE + over.height + MARGIN
    second = top + (len(rows) + 1) * tall + top + 3 * MARGIN
    columns = max(len(original) * wide, HEADING + BAR)
    width, height = left + columns, second + len(rows) * tall
    figure = mosaic.canvas(width, height)
    mosaic.block(figure, [original, *rows], left, top, factor, "image", over)
    name_rows(figure, ["original", *labels], left, top, tall)
    largest = max(float(error.max()) for error in errors) or 1.0
    colours = mpl.colormaps["inferno"]
    # with a linear scale the coarsest row leaves all others black
    mapped = [_coloured(np.sqrt(error / largest), colours) for error in errors]
    mosaic.block(figure, mapped, left, second, factor, "absolute error", over)
    name_rows(figure, labels, left, second, tall)
    for y in (top, second):
        name_columns(figure, word, left, y)
    bar = (left + columns - GAP - BAR, second - over.height - LINE - 28)
    _colour_bar(figure, colours, largest, bar, width, height)
    return figure, largest


def _coloured(share: np.ndarray, colours: Colormap) -> Pixels:
    """(n, 1, h, w) in [0, 1] -> uint8 (n, 3, h, w)."""
    return np.round(colours(share[:, 0])[..., :3] * 255).astype(np.uint8).transpose(0, 3, 1, 2)


def _colour_bar(
    figure: Figure, colours: Colormap, largest: float, corner: tuple[int, int], width: int, height: int
) -> None:
    x, y = corner
    axes = figure.add_axes((x / width, 1 - (y + 20) / height, BAR / width, 20 / height))
    bar = figure.colorbar(ScalarMappable(PowerNorm(0.5, 0, largest), colours), cax=axes, orientation="horizontal")
    ticks = [0, largest / 16, largest / 4, largest]
    bar.set_ticks(ticks, labels=[*(f"{tick:.0f}" for tick in ticks[:-1]), f"{largest:.0f} of 255"])
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    axes.tick_params(length=3)
    axes.get_xticklabels()[-1].set_horizontalalignment("right")


def patches(source: Source) -> Drawing | None:
    """Figure 5: the part of an image that the coarsest levels change most, enlarged."""
    examples = _examples(source)
    coarse = next((name for name in reversed(examples) if name.startswith("B = ")), "")
    if not coarse:
        return None
    original, errors = examples[coarse]["original"], _errors(examples[coarse])
    side, factor = _patch_side(original.shape[-1]), mosaic.enlargement(original, 128)
    most = max(1, min(PATCHES, PATCHED // steps(original, factor)[1]))
    chosen = np.sort(np.argsort(-errors.mean((1, 2, 3)), kind="stable")[:most])
    corners = [worst(errors[i, 0], side) for i in chosen]
    classes = examples[coarse]["labels"]
    labels = mosaic.image_names(source, classes)
    figure = _patch_figure({"original": original} | {n: e["reconstructed"] for n, e in examples.items()},
                           {labels[i]: int(i) for i in chosen}, columns_of(classes), corners, side, factor)  # fmt: skip
    caption = (
        f"Figure 5 of the paper, on {source.measured_on}. Top: the {len(chosen)} images of figure 6 that have the"
        f" largest error at {coarse.replace(' ', '')}, the autoencoder's own included; the frame holds the"
        f" {side}×{side} pixels where it is largest. Below: these pixels, enlarged, from each tokenizer."
        f"{_of_trained(examples)}"
    )
    alt = f"Enlarged parts of {len(chosen)} images, from the original and from each tokenizer"
    rows = [
        (name, labels[i], x, y, side, float(_errors(example)[i, 0, y : y + side, x : x + side].mean()))
        for name, example in examples.items()
        for i, (y, x) in zip(chosen.tolist(), corners, strict=True)
    ]
    data = csv_of(["tokenizer", columns_of(classes), "left", "top", "side", "mean absolute error"], rows)
    return Drawing(
        "figure-5-patches", "Details of reconstructions", caption, alt, figure, source.of_reconstructions.id, data
    )


def _patch_side(side: int) -> int:
    """Half of a small image, a quarter of a large one; the whole where it has no such part."""
    parts = 2 if side <= 32 else 4
    return side if side % parts else side // parts


def worst(error: np.ndarray, side: int) -> tuple[int, int]:
    """Where an image was reconstructed worst.

    Args:
        error: (h, w), the error of each pixel.
        side: of the square, in pixels; at most h and w.

    Returns:
        Top and left, in pixels, of the square with the largest sum of error; the first of equals.
    """
    total = np.lib.stride_tricks.sliding_window_view(error, (side, side)).sum((-2, -1))
    top, left = np.unravel_index(total.argmax(), total.shape)
    return int(top), int(left)


def _patch_figure(
    images: Mapping[str, Pixels],
    chosen: Mapping[str, int],
    word: str,
    corners: Sequence[tuple[int, int]],
    side: int,
    factor: int,
) -> Figure:
    """One column per image: the whole, then the patch from each tokenizer.

    Args:
        images: original and tokenizers -> uint8 (n, ch, h, w).
        chosen: name of a column -> number of its image.
        word: what columns are named by.
        corners: top and left of the patch of each chosen image.
        side: of a patch, in pixels of an image.
    """
    whole = images["original"][list(chosen.values())]
    # both on the same pixels of the canvas: a patch is enlarged more
    size, more = whole.shape[-1] * factor, whole.shape[-1] * factor // side
    step, left = size + GAP, 190
    over = mosaic.heads(list(chosen), step)
    top = over.height + MARGIN
    second = top + step + 20
    figure = mosaic.canvas(left + len(whole) * step, second + len(images) * step)
    axes = mosaic.block(figure, [whole], left, top, factor, over=over)
    name_columns(figure, word, left, top)
    name_rows(figure, ["whole"], left, top, step)
    for i, (y, x) in enumerate(corners):
        left_top = (i * step + x * factor - 0.5, y * factor - 0.5)
        axes.add_patch(Rectangle(left_top, side * factor, side * factor, fill=False, edgecolor="C1", linewidth=1.5))
    patches = list(zip(chosen.values(), corners, strict=True))
    rows = [np.stack([row[i, :, y : y + side, x : x + side] for i, (y, x) in patches]) for row in images.values()]
    mosaic.block(figure, rows, left, second, more)
    name_rows(figure, list(images), left, second, step)
    return figure
