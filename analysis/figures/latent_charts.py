"""Charts of latents, channel by channel: their values, their spectra, and how often each level occurs.

C channel, V level, K radial frequency. Arrays in, matplotlib figures out; colours come from the style in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.colors as mcolors
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.stats import norm

from analysis.figures.look import size, spread

COLUMNS = 4


def latent_histograms(example: Mapping[str, NDArray[np.float64]]) -> Figure:
    """One panel a channel: density before as an area, density of each level after as a stem.

    edges (K + 1,), before and after (C, K) counts, centers (1 or C, V).
    """
    edges, before, after = example["edges"], example["before"], example["after"]
    centers = np.broadcast_to(example["centers"], (len(before), example["centers"].shape[-1]))
    rows = -(-len(before) // COLUMNS)
    figure = Figure(figsize=size(0.7 + 1.7 * rows), layout="constrained")
    panels: list[Axes] = list(np.ravel(figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)))
    reach = _reach(edges, before)
    bell = np.linspace(-reach, reach, 201)
    grey = mpl.rcParams["ytick.color"]
    for channel, axes in enumerate(panels[: len(before)]):
        density = before[channel] / before[channel].sum() / np.diff(edges)
        axes.stairs(density, edges, fill=True, color="C4", alpha=0.55, linewidth=0)
        x, height = stems(edges, after[channel], centers[channel])
        axes.vlines(x, 0, height, color="C0", linewidth=0.9)
        axes.plot(x, height, "o", color="C0", markersize=2)
        axes.plot(bell, norm.pdf(bell), "--", color=grey, linewidth=0.9)
        axes.set_title(f"channel {channel}", fontweight="normal")
        axes.grid(axis="x", visible=False)
    for axes in panels[len(before) :]:
        axes.set_axis_off()
    panels[0].set_xlim(-reach, reach)
    panels[0].set_ylim(bottom=0)
    figure.supxlabel("latent value, in standard deviations")
    figure.supylabel("density")
    handles = [
        Patch(color="C4", alpha=0.55, label="before"),
        Line2D([], [], color="C0", marker="o", markersize=3, linewidth=1, label="after, a stem a level"),
        Line2D([], [], color=grey, linestyle="--", linewidth=0.9, label="standard normal"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def stems(
    edges: NDArray[np.float64], counts: NDArray[np.float64], centers: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where levels lie and how dense they are: share of values ÷ width of the interval that a level stands for.

    Levels closer than the histogram's bins share a stem, so the heights stay comparable with the density before.
    """
    centers = np.sort(centers)
    between = (centers[1:] + centers[:-1]) / 2
    first, last = 2 * between[0] - centers[0], 2 * between[-1] - centers[-1]
    # an outer interval has no end; it is taken as wide as twice its inner half
    bounds = np.concatenate([[2 * centers[0] - between[0]], between, [2 * centers[-1] - between[-1]]])
    assert first <= last
    widths = np.diff(bounds)
    bins = np.clip(np.searchsorted(edges, centers, side="right") - 1, 0, len(counts) - 1)
    used = np.unique(bins)
    x = np.array([centers[bins == b].mean() for b in used])
    height = np.array([counts[b] / widths[bins == b].sum() for b in used]) / counts.sum()
    return x, height


def _reach(edges: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Symmetric limit that leaves out less than one value in two thousand on either side of any channel."""
    share = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    low = edges[np.argmax(share > 0.0005, axis=1)].min()
    high = edges[np.argmax(share > 0.9995, axis=1) + 1].max()
    return float(max(-low, high))


def spectra(example: Mapping[str, NDArray[Any]]) -> Figure:
    """Left: power of each channel by frequency. Right: the share at low frequencies, in the order that it gives.

    frequencies (K,), power (C, K), share (C,), order (C,), cutoff (). A channel has one shade in both panels.
    """
    order, share, cutoff = example["order"], example["share"], float(example["cutoff"])
    figure = Figure(figsize=size(max(3.4, 0.9 + 0.27 * len(order))), layout="constrained")
    lines, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    shades = _shades(len(order))
    for place, channel in enumerate(order):
        end = place in (0, len(order) - 1)  # the two that the eye compares
        look = {"color": shades[place], "linewidth": 2.2 if end else 1.2, "markersize": 5 if end else 3}
        marker = "o" if place == 0 else "s" if end else "."
        lines.plot(example["frequencies"], example["power"][channel], marker=marker, label=f"channel {channel}", **look)
    lines.axvline(cutoff, color=mpl.rcParams["ytick.color"], linestyle="--", linewidth=0.9)
    spread(lines, "y", example["power"].ravel().tolist())
    lines.set_xlabel("frequency, cycles a position")
    lines.set_ylabel("power, unit latents")
    handles, names = lines.get_legend_handles_labels()
    ends = [f"{names[0]}, first in the order", f"{names[-1]}, last"]
    figure.legend([handles[0], handles[-1]], ends, loc="outside upper center", ncols=2, columnspacing=2)
    percent = 100 * share[order]
    bars.barh(range(len(order)), percent, color=shades, height=0.72)
    for place, value in enumerate(percent):
        bars.text(value + 1, place, f"{value:.0f}", va="center")
    bars.set_yticks(range(len(order)), labels=[str(channel) for channel in order])
    bars.set_ylim(len(order) - 0.4, -0.6)
    bars.set_xlim(0, max(percent) * 1.2)
    bars.set_ylabel("channel, in the order found")
    bars.set_xlabel("share up to the line, %")
    bars.grid(axis="y", visible=False)
    return figure


def _shades(count: int) -> NDArray[np.float64]:
    """Colours of a row from strong to weak on the background in use, distinct in grey too."""
    dark = sum(mcolors.to_rgb(mpl.rcParams["figure.facecolor"])) < 1.5
    colours = mpl.colormaps["viridis"](np.linspace(0.08, 0.82, count))
    return 0.75 * colours[::-1] + 0.25 if dark else colours


def levels_used(counts: NDArray[np.int64]) -> Figure:
    """Share of values at each level of each channel, counts (C, V), as multiples of an even share.

    Empty where a level never occurs. Beside each channel the number of its levels in use.
    """
    channels, levels = counts.shape
    times = levels * counts / counts.sum(1, keepdims=True)
    figure = Figure(figsize=size(max(2.4, 1.5 + 0.27 * channels)), layout="constrained")
    axes = figure.subplots()
    colours = sns.color_palette("crest", as_cmap=True)
    bar = {"label": "times an even share", "orientation": "horizontal", "aspect": 40, "shrink": 0.6, "pad": 0.03}
    ink = mpl.rcParams["ytick.color"]
    sns.heatmap(times, mask=counts == 0, cmap=colours, vmin=0, ax=axes, cbar_kws=bar, linewidths=0)
    axes.set_facecolor(mpl.rcParams["axes.facecolor"])
    for channel, level in np.argwhere(counts == 0):
        axes.plot(level + 0.5, channel + 0.5, "x", color=ink, markersize=4, markeredgewidth=0.9)
    step = max(1, levels // 8)
    axes.set_xticks(
        np.arange(0, levels, step) + 0.5, labels=[str(level) for level in range(0, levels, step)], rotation=0
    )
    axes.set_yticks(np.arange(channels) + 0.5, labels=[str(channel) for channel in range(channels)], rotation=0)
    right = axes.secondary_yaxis("right")
    used = (counts > 0).sum(1)
    right.set_yticks(np.arange(channels) + 0.5, labels=[f"{n} of {levels}" for n in used])
    for each in (axes, right):
        each.tick_params(length=0, pad=6)
        for spine in each.spines.values():
            spine.set_visible(False)
    axes.grid(visible=False)
    axes.set_xlabel("level, from the lowest value to the highest")
    axes.set_ylabel("channel")
    right.set_ylabel("levels in use")
    return figure
