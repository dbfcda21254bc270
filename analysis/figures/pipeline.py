"""The way from images to samples, in one picture: what discrete and continuous tokens share, and where they part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.form import WIDTH, Drawing, csv_of, grey, stages, whole
from analysis.figures.latents import stems
from analysis.figures.mosaic import Pixels, by_class, sheet
from analysis.frame.source import Source
from experiments.paper import TABLE_HEADS

HEIGHT = 3.0
TRACKS = (2.12, 0.78)
"""middle of the discrete and of the continuous track, inches from below"""
HALF = 0.5
"""half the height of what stands on a track"""
IMAGES = (0.02, 0.58)
LATENTS = (1.2, 2.5)
BACKBONE = (2.78, 3.98)
HEADS = (4.06, 5.26)
SAMPLES = (5.5, 6.38)
"""from where to where each column reaches, inches"""


def pipeline(source: Source) -> Drawing | None:
    """Real images, the values of one channel, and samples of one discrete and one continuous row of the heads table."""
    of = source.of_reconstructions
    quantizers, images = (stages(source, of, kind) for kind in ("quantizer", "reconstruct"))
    samples = stages(source, TABLE_HEADS, "sample")
    rows = ("B=16, autoregressive", "continuous, diffusion")
    if "B=16" not in quantizers or not images or not all(samples.get(row) for row in rows):
        return None
    levels = source.example(quantizers["B=16"])
    grids = [source.example(samples[row]) for row in rows]
    caption = (
        f"What is compared, with pictures of {source.measured_on}. An autoencoder that is not trained any further turns"
        " images into latents. Either each channel is quantized by itself, after training (above: values of channel 0,"
        " stems at its 16 levels), or values stay as they are (below). One backbone predicts hidden positions from the"
        " seen ones; the head on it gives the token's distribution. Right: the first samples of"
        f" “{rows[0]}” and of “{rows[1]}”, not chosen."
    )
    alt = (
        "Images, latents, backbone, heads and samples from left to right, with discrete tokens above and continuous"
        " ones below"
    )
    edges, before = levels["edges"], levels["before"][0]
    values = [(float(edges[i]), float(edges[i + 1]), int(count)) for i, count in enumerate(before)]
    data = csv_of(["from", "to", "values of channel 0"], values)
    figure = _picture(source.example(next(iter(images.values())))["original"], levels, [_first(g) for g in grids])
    return Drawing("pipeline", "One backbone, any head on any token", caption, alt, figure, TABLE_HEADS.id, data)


def _first(grid: Mapping[str, NDArray[Any]]) -> list[Pixels]:
    """Two rows of three images, of classes 0 to 2 or as many as there are."""
    classes = len(np.unique(grid["labels"]))
    return [row[:3] for row in by_class(grid["images"], classes)[:2]]


def _picture(images: Pixels, levels: Mapping[str, NDArray[Any]], samples: list[list[Pixels]]) -> Figure:
    figure = Figure(figsize=(WIDTH, whole(HEIGHT)))
    middle = sum(TRACKS) / 2
    _images(figure, [images[i : i + 1] for i in range(3)], IMAGES, middle, 0.97)
    _text(figure, sum(IMAGES) / 2, HEIGHT - 0.15, "images")
    _text(figure, sum(LATENTS) / 2, HEIGHT - 0.15, "latents, by channel")
    _text(figure, sum(SAMPLES) / 2, HEIGHT - 0.15, "samples")
    _box(figure, BACKBONE, (TRACKS[1] - HALF, TRACKS[0] + HALF), grey(), "one\nmasked\nautoregressive\nbackbone")
    words = (("quantized", "autoregressive\nor parallel,\ncross-entropy"),
             ("continuous", "diffusion,\nflow or\nmixture"))  # fmt: skip
    for i, (y, (of_latents, of_head)) in enumerate(zip(TRACKS, words, strict=True)):
        colour = f"C{i}"
        _values(figure, levels, y, colour, quantized=i == 0)
        _text(figure, sum(LATENTS) / 2, y - HALF - 0.14, of_latents, color=colour)
        _box(figure, HEADS, (y - HALF, y + HALF), colour, of_head)
        _images(figure, samples[i], SAMPLES, y, HALF)
        start = middle + (y - middle) / 3
        _arrow(figure, (IMAGES[1] + 0.06, start), (LATENTS[0] - 0.06, y), colour)
        _arrow(figure, (LATENTS[1] + 0.06, y), (BACKBONE[0] - 0.04, y), colour)
        _arrow(figure, (HEADS[1] + 0.04, y), (SAMPLES[0] - 0.04, y), colour)
    _text(figure, (IMAGES[1] + LATENTS[0]) / 2, middle, "frozen\nencoder", color=grey())
    _text(figure, (HEADS[1] + SAMPLES[0]) / 2, middle, "decoder", color=grey())
    return figure


def _place(x: tuple[float, float], y: tuple[float, float]) -> tuple[float, float, float, float]:
    """Left, bottom, width and height as parts of the figure, from inches."""
    return x[0] / WIDTH, y[0] / HEIGHT, (x[1] - x[0]) / WIDTH, (y[1] - y[0]) / HEIGHT


def _text(figure: Figure, x: float, y: float, text: str, **look: Any) -> None:
    figure.text(x / WIDTH, y / HEIGHT, text, ha="center", va="center", **look)


def _images(figure: Figure, rows: list[Pixels], x: tuple[float, float], y: float, half: float) -> None:
    axes = figure.add_axes(_place(x, (y - half, y + half)))
    axes.imshow(sheet(rows, 6, str(mpl.rcParams["figure.facecolor"])), interpolation="none")
    axes.set_axis_off()


def _values(figure: Figure, levels: Mapping[str, NDArray[Any]], y: float, colour: str, quantized: bool) -> None:
    """The distribution of channel 0: of its values, and of its levels where it is quantized."""
    axes = figure.add_axes(_place(LATENTS, (y - HALF, y + HALF)))
    edges, before = levels["edges"], levels["before"][0]
    density = before / before.sum() / np.diff(edges)
    places, heights = stems(edges, levels["after"][0], levels["centers"][0])
    reach = 1.03 * float(np.abs(places).max())
    axes.stairs(density, edges, fill=True, color=grey() if quantized else colour, alpha=0.3 if quantized else 0.6)
    if quantized:
        axes.vlines(places, 0, heights, color=colour, linewidth=0.9)
        axes.plot(places, heights, "o", color=colour, markersize=2)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(0, density.max() * 1.15)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _box(figure: Figure, x: tuple[float, float], y: tuple[float, float], colour: str, text: str) -> None:
    axes = figure.add_axes(_place(x, y))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.patch.set(facecolor=colour, alpha=0.12)
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor=colour, linewidth=1.2)
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def _arrow(figure: Figure, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes = figure.add_axes((0, 0, 1, 1), zorder=-1)
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, HEIGHT)
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.4})
