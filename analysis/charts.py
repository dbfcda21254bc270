"""The charts among the figures: arrays and frames in, matplotlib figures out. Colours come from the style in use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.stats import norm

PANTER_DITE = math.pi * math.sqrt(3) / 2
COLUMNS = 4


def latent_histograms(example: Mapping[str, NDArray[np.float64]]) -> Figure:
    """One panel a channel: density before as an area, density of each level after as a stem.

    edges (K + 1,), before and after (C, K) counts, centers (1 or C, V).
    """
    edges, before, after = example["edges"], example["before"], example["after"]
    centers = np.broadcast_to(example["centers"], (len(before), example["centers"].shape[-1]))
    rows = -(-len(before) // COLUMNS)
    figure = Figure(figsize=(10.4, 0.5 + 2.1 * rows), layout="constrained")
    panels: list[Axes] = list(np.ravel(figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)))
    reach = _reach(edges, before)
    bell = np.linspace(-reach, reach, 201)
    grey = mpl.rcParams["ytick.color"]
    for channel, axes in enumerate(panels[: len(before)]):
        density = before[channel] / before[channel].sum() / np.diff(edges)
        axes.stairs(density, edges, fill=True, color="C4", alpha=0.55, linewidth=0)
        x, height = stems(edges, after[channel], centers[channel])
        axes.vlines(x, 0, height, color="C0", linewidth=1.0)
        axes.plot(x, height, "o", color="C0", markersize=2.5)
        axes.plot(bell, norm.pdf(bell), "--", color=grey, linewidth=0.9)
        axes.set_title(f"channel {channel}", fontweight="normal")
        axes.grid(axis="x", visible=False)
    for axes in panels[len(before) :]:
        axes.set_axis_off()
    panels[0].set_xlim(-reach, reach)
    panels[0].set_ylim(bottom=0)
    figure.supxlabel("latent value, in standard deviations", fontsize=9)
    figure.supylabel("density", fontsize=9)
    handles = [
        Patch(color="C4", alpha=0.55, label="before"),
        Line2D([], [], color="C0", marker="o", markersize=3, linewidth=1, label="after, one stem a level"),
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


def distortion(points: Sequence[tuple[int, float]]) -> Figure:
    """Mean squared error against levels, both logarithmic, with Panter–Dite π√3/2·B⁻² and Shannon B⁻²."""
    levels = np.array([levels for levels, _ in points], dtype=np.float64)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    ends = np.array([levels.min() / 1.15, levels.max() * 1.15])
    axes.plot(ends, PANTER_DITE * ends**-2, "--", color="C1", label="Panter–Dite, normal distribution")
    axes.plot(ends, ends**-2, ":", color="C2", label="Shannon bound, normal distribution")
    axes.plot(levels, [error for _, error in points], "o", color="C0", label="measured")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted(set(levels))
    axes.set_xticks(ticks, labels=[f"{tick:.0f}\n{math.log2(tick):.3g} bits" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("levels a channel (logarithmic)")
    axes.set_ylabel("mean squared error")
    axes.legend(loc="lower left")
    return figure


def training(curves: pd.DataFrame) -> Figure:
    """curves: stage, key, step, value, model. Loss at the left, learning rate at the right."""
    figure = Figure(figsize=(10.4, 3.6), layout="constrained")
    loss, rate = figure.subplots(1, 2, width_ratios=(2, 1))
    models = list(dict.fromkeys(curves["model"]))
    palette = dict(zip(models, mpl.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    options: dict[str, Any] = {
        "x": "step",
        "y": "value",
        "hue": "model",
        "palette": palette,
        "units": "stage",
        "estimator": None,
    }
    options |= {"linewidth": 1.2, "legend": False}
    groups = dict(iter(curves.groupby("key")))
    styles: dict[str, tuple[Any, str]] = {
        "loss": ("-", "training"),
        "held_out_loss": ("--", "held-out, averaged weights"),
    }
    handles = [Line2D([], [], color=palette[model], label=model) for model in models]
    for key, (line, name) in styles.items():
        if key in groups:
            sns.lineplot(groups[key], **options, ax=loss, linestyle=line)
            handles.append(Line2D([], [], color=mpl.rcParams["ytick.color"], linestyle=line, label=name))
    loss.set(xlabel="step", ylabel="loss, nats a channel")
    loss.legend(handles=handles, loc="upper right", ncols=2, columnspacing=2)
    rates = groups["learning_rate"]
    schedules = {tuple(each["value"]): stage for stage, each in rates.groupby("stage")}
    if len(schedules) == 1:  # one schedule for all: one line in no model's colour
        rates = rates.query("stage in @schedules.values()")
        options |= {"hue": None, "palette": None, "color": mpl.rcParams["ytick.color"]}
    sns.lineplot(rates, **options, ax=rate)
    rate.set(xlabel="step", ylabel="learning rate")
    for axes in (loss, rate):
        axes.set_xlim(0, curves["step"].max())
    return figure
