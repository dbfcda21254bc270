"""Figures of latents, channel by channel: values, levels in use, spectra.

C channel, V level, K bin of a histogram or radial frequency.
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
from scipy.optimize import isotonic_regression
from scipy.stats import norm

from analysis.figures.form import Drawing, charts, csv_of, grey, legend, spread, stages
from analysis.frame.source import Source
from analysis.stats import number
from experiments.paper import TABLE_2B

COLUMNS = 4
LABELS = 13
"""names of lines that fit above each other in the lowest panel"""


def latents(source: Source) -> Drawing | None:
    """Figure 3: each channel's values before and after quantization."""
    ids = stages(source, source.of_reconstructions, "quantizer")
    levels = {label: id for label, id in ids.items() if source.example(id)["centers"].size}
    if not levels:
        return None
    example = source.example(levels["B=16"] if "B=16" in levels else next(iter(levels.values())))
    count, edges = example["centers"].shape[-1], example["edges"]
    caption = (
        f"Figure 3 of the paper, on {source.measured_on}. Latent values of each channel before quantization (area) and"
        f" after it (stems), at {count} levels. A stem stands at a level; its height is the share of values that the"
        " level stands for, over the width of its interval. Where stems end at the outline of the area, quantization"
        " keeps the distribution. Dashed: the standard normal distribution, for comparison."
    )
    alt = f"Histograms of latent values, one panel per channel, before and after quantization to {count} levels"
    bins = [
        (channel, float(edges[i]), float(edges[i + 1]), int(before[i]), int(after[i]))
        for channel, (before, after) in enumerate(zip(example["before"], example["after"], strict=True))
        for i in range(len(edges) - 1)
    ]
    data = csv_of(["channel", "from", "to", "values before", "values after"], bins)
    title = "Latent values before and after quantization"
    return Drawing("figure-3-latents", title, caption, alt, _histograms(example), source.of_reconstructions.id, data)


def _histograms(example: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Density before as an area, density of each level after as a stem, one panel per channel.

    example: edges (K + 1,), before and after (C, K) counts, centers (1 or C, V).
    """
    edges, before, after = example["edges"], example["before"], example["after"]
    centers = np.broadcast_to(example["centers"], (len(before), example["centers"].shape[-1]))
    rows = -(-len(before) // COLUMNS)
    figure, panels = charts(0.7 + 1.7 * rows, rows, COLUMNS, sharex=True, sharey=True)
    reach = _reach(edges, before)
    bell = np.linspace(-reach, reach, 201)
    for channel, axes in enumerate(panels[: len(before)]):
        density = before[channel] / before[channel].sum() / np.diff(edges)
        axes.stairs(density, edges, fill=True, color="C4", alpha=0.55, linewidth=0)
        x, height = stems(edges, after[channel], centers[channel])
        axes.vlines(x, 0, height, color="C0", linewidth=0.9)
        axes.plot(x, height, "o", color="C0", markersize=2)
        axes.plot(bell, norm.pdf(bell), "--", color=grey(), linewidth=0.9)
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
        Line2D([], [], color="C0", marker="o", markersize=3, linewidth=1, label="after, one stem per level"),
        Line2D([], [], color=grey(), linestyle="--", linewidth=0.9, label="standard normal"),
    ]
    legend(figure, handles, 3)
    return figure


def stems(
    edges: NDArray[np.float64], counts: NDArray[np.float64], centers: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where levels lie and how dense they are: share of values ÷ width of the interval that a level stands for.

    Levels closer than the histogram's bins share a stem, so the heights stay comparable with the density before.

    Args:
        edges: (K + 1,) of the bins.
        counts: (K,) values in each bin.
        centers: (V,) of the levels.
    """
    centers = np.sort(centers)
    between = (centers[1:] + centers[:-1]) / 2
    # an outer interval has no end; it is taken as wide as twice its inner half
    bounds = np.concatenate([[2 * centers[0] - between[0]], between, [2 * centers[-1] - between[-1]]])
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


def levels_used(source: Source) -> Drawing | None:
    """How often each level of each channel occurs, at the most levels that the source knows it for."""
    examples = [source.example(id) for id in stages(source, source.of_reconstructions, "quantizer").values()]
    counted = [example["counts"] for example in examples if "counts" in example]
    if not counted:
        return None
    counts = max(counted, key=lambda counts: counts.shape[1])
    levels, total = counts.shape[1], int(counts[0].sum())
    caption = (
        f"How often each of {levels} levels occurs among {number(total, 0)} test values per channel, as a"
        " multiple of a uniform share: 1 where all levels occur equally often. Crosses: levels that never occur. The"
        " range of the levels is the same for all channels, so a channel of small standard deviation leaves the outer"
        " levels to the others."
    )
    alt = f"Use of each of {levels} levels in each channel, with the number of levels in use"
    rows = [
        (c, level, int(n), float(levels * n / total)) for c, row in enumerate(counts) for level, n in enumerate(row)
    ]
    data = csv_of(["channel", "level", "values", "times a uniform share"], rows)
    return Drawing(
        "levels-used", "Levels in use", caption, alt, _levels_chart(counts), source.of_reconstructions.id, data
    )


def _levels_chart(counts: NDArray[np.int64]) -> Figure:
    """Share of values at each level of each channel, counts (C, V), as multiples of a uniform share.

    Empty where a level never occurs. Beside each channel the number of its levels in use.
    """
    channels, levels = counts.shape
    times = levels * counts / counts.sum(1, keepdims=True)
    figure, (axes,) = charts(max(2.4, 1.5 + 0.27 * channels))
    colours = sns.color_palette("crest", as_cmap=True)
    bar = {"label": "times a uniform share", "orientation": "horizontal", "aspect": 40, "shrink": 0.6, "pad": 0.03}
    sns.heatmap(times, mask=counts == 0, cmap=colours, vmin=0, ax=axes, cbar_kws=bar, linewidths=0)
    axes.set_facecolor(mpl.rcParams["axes.facecolor"])
    for channel, level in np.argwhere(counts == 0):
        axes.plot(level + 0.5, channel + 0.5, "x", color=grey(), markersize=4, markeredgewidth=0.9)
    ticks = range(0, levels, max(1, levels // 8))
    axes.set_xticks(np.array(ticks) + 0.5, labels=[str(level) for level in ticks], rotation=0)
    axes.set_yticks(np.arange(channels) + 0.5, labels=[str(channel) for channel in range(channels)], rotation=0)
    right = axes.secondary_yaxis("right")
    right.set_yticks(np.arange(channels) + 0.5, labels=[f"{n} of {levels}" for n in (counts > 0).sum(1)])
    for side in (axes, right):
        side.tick_params(length=0, pad=6)
        for spine in side.spines.values():
            spine.set_visible(False)
    axes.grid(visible=False)
    axes.set_xlabel("level, from the lowest value to the highest")
    axes.set_ylabel("channel")
    right.set_ylabel("levels in use")
    return figure


def spectra(source: Source) -> Drawing | None:
    """Power of each channel by frequency, and the order of prediction that follows (section 3.3)."""
    ids = [id for id in stages(source, TABLE_2B, "latents").values() if source.has_example(id)]
    if not ids:
        return None
    example = source.example(ids[0])
    order, share = example["order"], example["share"]
    caption = (
        f"Section 3.3 of the paper, on {source.measured_on}. Left: mean power of each channel's maps at each radial"
        " frequency that they have, in latents of unit deviation; a flat line is noise. Right: the share of a channel's"
        f" power at no more than {float(example['cutoff']):g} cycles per position (dashed), half of the highest"
        " frequency along an axis. The order “frequency” predicts the channel with the largest share first:"
        f" {' '.join(str(channel) for channel in order)}. Shades follow this order in both panels."
    )
    alt = "Spectra of the latent channels beside the share of each at low frequencies, in the order of prediction"
    ranks = {int(channel): rank for rank, channel in enumerate(order)}
    rows = [
        (channel, ranks[channel], float(share[channel]), float(frequency), float(power))
        for channel in range(len(order))
        for frequency, power in zip(example["frequencies"], example["power"][channel], strict=True)
    ]
    data = csv_of(["channel", "place in order", "low-frequency share", "frequency", "power"], rows)
    title = "Spectra of the channels and their order"
    return Drawing("spectra", title, caption, alt, _spectra_chart(example), "2b", data)


def _spectra_chart(example: Mapping[str, NDArray[Any]]) -> Figure:
    """Left: power of each channel by frequency. Right: the share at low frequencies, in the order that it gives.

    example: frequencies (K,), power (C, K), share (C,), order (C,), cutoff (). A channel has one shade in both panels.
    """
    order, share = example["order"], example["share"]
    figure, (lines, bars) = charts(max(3.4, 0.9 + 0.27 * len(order)), 1, 2, width_ratios=(3, 2))
    shades = _shades(len(order))
    for rank, channel in enumerate(order):
        end = rank in (0, len(order) - 1)  # the two that the eye compares
        look = {"color": shades[rank], "linewidth": 2.2 if end else 1.2, "markersize": 5 if end else 3}
        marker = "o" if rank == 0 else "s" if end else "."
        lines.plot(example["frequencies"], example["power"][channel], marker=marker, label=f"channel {channel}", **look)
    lines.axvline(float(example["cutoff"]), color=grey(), linestyle="--", linewidth=0.9)
    spread(lines, "y", "power, unit latents", example["power"].ravel().tolist())
    _name_lines(
        lines, example["frequencies"][0], example["power"][:, 0], dict(zip(order.tolist(), shades, strict=True))
    )
    lines.set_xlabel("frequency, cycles per position")
    handles, names = lines.get_legend_handles_labels()
    ends = [f"{names[0]}, first in the order", f"{names[-1]}, last"]
    figure.legend([handles[0], handles[-1]], ends, loc="outside upper center", ncols=2, columnspacing=2)
    percent = 100 * share[order]
    bars.barh(range(len(order)), percent, color=shades, height=0.72)
    for rank, value in enumerate(percent):
        bars.text(value + 1, rank, f"{value:.0f}", va="center")
    bars.set_yticks(range(len(order)), labels=[str(channel) for channel in order])
    bars.set_ylim(len(order) - 0.4, -0.6)
    bars.set_xlim(0, max(percent) * 1.2)
    bars.set_ylabel("channel, in the order found")
    bars.set_xlabel("share up to the line, %")
    bars.grid(axis="y", visible=False)
    return figure


def _name_lines(axes: Axes, x: float, starts: NDArray[np.float64], colours: Mapping[int, Any]) -> None:
    """The channel of each line left of its start, moved as little as keeps one from lying on another."""
    to, back = (np.log, np.exp) if axes.get_yscale() == "log" else (np.array, np.array)
    order, steps = np.argsort(starts), np.ptp(to(axes.get_ylim())) / LABELS * np.arange(len(starts))
    places = isotonic_regression(to(starts)[order] - steps).x + steps
    for channel, place in zip(order.tolist(), places, strict=True):
        look: dict[str, Any] = {"color": colours[channel], "ha": "right", "va": "center"}
        axes.annotate(str(channel), (x, back(place)), (-7, 0), textcoords="offset points", **look)
    axes.margins(x=0.09)


def _shades(count: int) -> NDArray[np.float64]:
    """Colours of a row from strong to weak on the background in use, distinct in grey too."""
    dark = sum(mcolors.to_rgb(mpl.rcParams["figure.facecolor"])) < 1.5
    colours = mpl.colormaps["viridis"](np.linspace(0.08, 0.82, count))
    return 0.75 * colours[::-1] + 0.25 if dark else colours
