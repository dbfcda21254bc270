"""Charts of quantizers against theory and against each other, and of training. Points and frames in, figures out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from analysis.figures.look import Z, open_face, size
from analysis.stats import PANTER_DITE

ENTROPY_CODED = math.pi * math.e / 6
MARKERS = (("C0", "o"), ("C1", "s"), ("C2", "^"), ("C3", "D"), ("C4", "v"), ("C0", "P"), ("C1", "X"), ("C2", "*"))
"""colour and marker of the series of a chart, so that no two share both"""


@dataclass(frozen=True)
class Quantized:
    """What one quantizer does to unit latents."""

    series: str
    """its kind, and its range where that varies"""
    levels: int
    mse: float
    entropy: float | None
    """bits a channel"""


def distortion(points: Sequence[Quantized]) -> Figure:
    """Mean squared error against levels with Panter–Dite and Shannon; against entropy with πe/6·2^(−2H) and Shannon."""
    with_entropy = [point for point in points if point.entropy is not None]
    figure = Figure(figsize=size(4.3), layout="constrained")
    panels = figure.subplots(1, 2 if with_entropy else 1, sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(point.series for point in points))
    looks = dict(zip(names, MARKERS * len(names), strict=False))
    levels = sorted({point.levels for point in points})
    bits = np.log2([levels[0], levels[-1]]) + np.array([-0.3, 0.3])
    _limits(panels[0], bits, PANTER_DITE, "--", "C1")
    if with_entropy:
        entropies = [point.entropy for point in with_entropy if point.entropy is not None]
        _limits(panels[1], np.array([min(entropies) - 0.3, max(entropies) + 0.3]), ENTROPY_CODED, "-.", "C2")
        panels[1].set_xlabel("entropy H, bits a channel")
    for name, (colour, marker) in looks.items():
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 5.5, "zorder": 3}
        own = [point for point in points if point.series == name]
        panels[0].plot([math.log2(p.levels) for p in own], [p.mse for p in own], label=name, **look)
        if with_entropy:
            measured = [(p.entropy, p.mse) for p in own if p.entropy is not None]
            panels[1].plot([h for h, _ in measured], [error for _, error in measured], **look)
    panels[0].set_yscale("log")
    panels[0].set_xticks(np.log2(levels), labels=[str(level) for level in levels])
    panels[0].minorticks_off()
    panels[0].set_xlabel("levels B a channel (log scale)")
    panels[0].set_ylabel("mean squared error")
    handles = [*panels[0].get_legend_handles_labels()[0]]
    handles += (
        [] if not with_entropy else [Line2D([], [], color="C2", linestyle="-.", label="entropy-coded, πe/6·2⁻²ᴴ")]
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=2)
    return figure


def _limits(axes: Axes, bits: np.ndarray, factor: float, line: str, colour: str) -> None:
    """factor·2^(−2·bits) beside Shannon's 2^(−2·bits)."""
    ink = mpl.rcParams["ytick.color"]
    axes.plot(bits, factor * 4.0**-bits, line, color=colour, linewidth=1.3, label="Panter–Dite, π√3/2·B⁻²")
    axes.plot(bits, 4.0**-bits, ":", color=ink, linewidth=1.5, label="Shannon, 2⁻²ᵇ at b bits")


@dataclass(frozen=True)
class Rebuilt:
    """Quality of an autoencoder's images at a number of bits; bits None: continuous latents."""

    series: str
    name: str
    bits: float | None
    values: tuple[tuple[float, float | None] | None, ...]
    """(value, standard error over images) in each panel; None where not measured"""


def quality(points: Sequence[Rebuilt], labels: Sequence[str]) -> Figure:
    """A panel a metric against bits an image; continuous latents are a line with a band."""
    figure = Figure(figsize=size(0.7 + 2.5 * len(labels)), layout="constrained")
    panels = figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
    names = list(dict.fromkeys(point.series for point in points if point.bits is not None))
    looks = dict(zip(names, MARKERS, strict=False))
    for i, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        for k, (name, (colour, marker)) in enumerate(looks.items()):
            # single tokenizers of nearly the same number of bits stand side by side, so that their bars are seen
            points_aside = 3 * (k - len(looks) / 2) if k else 0
            aside = axes.transData + ScaledTranslation(points_aside / 72, 0, figure.dpi_scale_trans)
            own = [(p, p.bits, p.values[i]) for p in points if p.series == name]
            known = sorted((bits, *value) for _, bits, value in own if bits is not None and value is not None)
            x, y = [each[0] for each in known], [each[1] for each in known]
            look = {"color": colour, "marker": marker, "markersize": 5.5, "linewidth": 1.0, "capsize": 3}
            look |= {"transform": aside}
            halves = [Z * (each[2] or 0) for each in known]
            axes.errorbar(x, y, yerr=halves, elinewidth=1.2, **look)
            # what is moved aside does not count for the limits by itself
            ends = [
                (bits, value + sign * half) for bits, value, half in zip(x, y, halves, strict=True) for sign in (-1, 1)
            ]
            axes.update_datalim(ends)
        _continuous(axes, [p.values[i] for p in points if p.bits is None])
        axes.autoscale_view()
        axes.set_ylabel(label)
    for point in points if len(labels) > 1 else ():
        value = point.values[-1]
        if point.name and point.bits is not None and value is not None:
            place: dict[str, Any] = {"xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top"}
            panels[-1].annotate(point.name, (point.bits, value[0]), **place)
    panels[-1].margins(y=0.16)
    panels[-1].set_xlabel("bits an image, after entropy coding")
    handles = [Line2D([], [], color=c, marker=m, markersize=5.5, label=name) for name, (c, m) in looks.items()]
    if any(point.bits is None for point in points):
        ink = mpl.rcParams["ytick.color"]
        handles.append(Line2D([], [], color=ink, linestyle="--", linewidth=1.2, label="continuous latents"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=2)
    return figure


def _continuous(axes: Axes, values: Sequence[tuple[float, float | None] | None]) -> None:
    ink = mpl.rcParams["ytick.color"]
    for value in values:
        if value is not None:
            half = Z * (value[1] or 0)
            axes.axhspan(value[0] - half, value[0] + half, color=ink, alpha=0.18, linewidth=0)
            axes.axhline(value[0], color=ink, linestyle="--", linewidth=1.2)


def training(bands: pd.DataFrame) -> Figure:
    """bands: model, key, step, mean, low, high over seeds. Loss above, learning rate below."""
    figure = Figure(figsize=size(5.2), layout="constrained")
    loss, rate = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    models = list(dict.fromkeys(bands["model"]))
    looks = dict(zip(models, MARKERS, strict=False))
    ink = mpl.rcParams["ytick.color"]
    lines: dict[str, tuple[Any, str]] = {
        "loss": ("-", "training"),
        "held_out_loss": ("--", "held-out, averaged weights"),
    }
    present = [key for key in lines if key in set(bands["key"])]
    for model, (colour, marker) in looks.items():
        for key in present:
            own = bands[(bands["model"] == model) & (bands["key"] == key)]
            every = max(1, len(own) // 8)  # markers tell the models apart where colours do not
            look = {"marker": marker, "markevery": every, "markersize": 4, "linewidth": 1.3}
            face = open_face(key != "loss", colour)
            loss.plot(own["step"], own["mean"], color=colour, linestyle=lines[key][0], markerfacecolor=face, **look)
            loss.fill_between(own["step"], own["low"], own["high"], color=colour, alpha=0.25, linewidth=0)
    handles = [Line2D([], [], color=c, marker=m, markersize=4, label=model) for model, (c, m) in looks.items()]
    handles += [Line2D([], [], color=ink, linestyle=lines[key][0], label=lines[key][1]) for key in present]
    loss.set_ylabel("loss, nats a channel")
    loss.legend(handles=handles, loc="upper right", ncols=2, columnspacing=2)
    _rates(rate, bands.query("key == 'learning_rate'"), looks)
    rate.set(xlabel="step", ylabel="learning rate", xlim=(0, bands["step"].max()))
    return figure


def _rates(axes: Axes, rates: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    schedules = {tuple(own["mean"]): str(model) for model, own in rates.groupby("model", sort=False)}
    ink = mpl.rcParams["ytick.color"]
    # one schedule for all: one line in no model's colour
    colours = {model: ink if len(schedules) == 1 else looks[model][0] for model in schedules.values()}
    shown = rates.query("model in @colours")
    sns.lineplot(shown, x="step", y="mean", hue="model", palette=colours, ax=axes, legend=False, linewidth=1.3)
