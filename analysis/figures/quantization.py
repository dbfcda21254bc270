"""Figures of what quantization costs: error against theory, and images against bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from analysis.figures.form import MARKERS, Drawing, Z, charts, csv_of, grey, legend
from analysis.frame.source import AXES, Source
from analysis.stats import PANTER_DITE
from experiments.paper import RECONSTRUCT, TABLE_HEADS
from tokenbridge.config import TRAINED_TOKENS
from tokenbridge.metrics.catalogue import PSNR, RECONSTRUCTION_FD

ENTROPY_CODED = math.pi * math.e / 6
KINDS = {"gaussian": "Gaussian (the paper's)", "uniform": "uniform", "quantile": "quantile", "lloyd-max": "Lloyd–Max"}


@dataclass(frozen=True)
class Quantized:
    """What one quantizer does to unit latents."""

    series: str
    """its kind, and its range where that varies"""
    levels: int
    mse: float
    entropy: float | None
    """bits per channel"""

    @property
    def limits(self) -> list[float | None]:
        """Panter–Dite at its levels; entropy-coded and Shannon's limit at its entropy."""
        coded = [None, None] if self.entropy is None else [ENTROPY_CODED * 4**-self.entropy, 4**-self.entropy]
        return [PANTER_DITE / self.levels**2, *coded]


def _quantized(source: Source) -> list[Quantized]:
    """Post-training quantizers of the base's latents; of those with a range, the base's unless range is an axis."""
    own = source.of_reconstructions.id == RECONSTRUCT
    varies = own or any(axis.key == "quantizer.range" for axis in source.axes)
    autoencoder = {key: value for key, value in source.base.items() if key.startswith("autoencoder.")}
    quantizers: dict[str, Quantized] = {}
    for cell in map(str, source.frame.index):
        if any(source.setting(cell, key) != value for key, value in autoencoder.items()):
            continue  # errors of other latents are of another spread
        kind, reach = source.setting(cell, "quantizer.kind"), source.setting(cell, "quantizer.range")
        error, id = source.number(cell, "quantizer/mse"), source.stage(cell, "quantizer")
        ranged = kind in ("gaussian", "uniform")
        if kind not in KINDS or not error or (ranged and not varies and reach != source.base["quantizer.range"]):
            continue
        series = KINDS[kind] + (f", ±{reach:g}" if ranged and varies else "")
        levels, entropy = source.setting(cell, "quantizer.levels"), source.number(cell, "quantizer/entropy_bits")
        quantizers.setdefault(id, Quantized(series, levels, error, entropy))
    return sorted(quantizers.values(), key=lambda quantizer: (quantizer.series, quantizer.levels))


def distortion(source: Source) -> Drawing | None:
    """Mean squared error against levels and entropy, with the limits of theory."""
    points = _quantized(source)
    used = [table.id for table in source.tables if table.id in (source.of_reconstructions.id, AXES)]
    if len({point.levels for point in points}) < 2 or not used:
        return None
    caption = (
        "Mean squared error of a quantized latent value of test images (standard deviation 1), on a logarithmic scale."
        " Left: against the number of levels B; Panter–Dite is what the best quantizer of a normal distribution reaches"
        " as B grows, where a bit more divides it by four; of few levels the best lies below it (0.117 at B = 4, 0.035"
        " at B = 8). Right: against the entropy H of the level, the bits that it takes after lossless coding;"
        " πe/6·2^(−2H) is what evenly spaced levels reach with such a code, as H grows. Shannon: what no code with that"
        " many bits per value goes below for normal values; latents are not quite normal, so points may."
    )
    alt = "Quantization error against levels and against entropy, beside Panter–Dite, entropy-coded and Shannon limits"
    data = csv_of(
        ["quantizer", "levels", "entropy, bits", "mean squared error", "Panter-Dite", "entropy-coded", "Shannon"],
        [(p.series, p.levels, p.entropy, p.mse, *p.limits) for p in points],
    )
    title = "Quantization error against theory"
    return Drawing("distortion", title, caption, alt, _distortion_chart(points), used[0], data)


def _distortion_chart(points: Sequence[Quantized]) -> Figure:
    """Error against levels with Panter–Dite and Shannon; against entropy with πe/6·2^(−2H) and Shannon."""
    entropies = [point.entropy for point in points if point.entropy is not None]
    figure, panels = charts(4.3, 1, 2 if entropies else 1, sharey=True)
    names = list(dict.fromkeys(point.series for point in points))
    levels = sorted({point.levels for point in points})
    bits = np.log2([levels[0], levels[-1]]) + np.array([-0.3, 0.3])
    _draw_limits(panels[0], bits, PANTER_DITE, "--", "C1")
    if entropies:
        _draw_limits(panels[1], np.array([min(entropies) - 0.3, max(entropies) + 0.3]), ENTROPY_CODED, "-.", "C2")
        panels[1].set_xlabel("entropy H, bits per channel")
    for name, (colour, marker) in zip(names, MARKERS * len(names), strict=False):
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 5.5, "zorder": 3}
        members = [point for point in points if point.series == name]
        panels[0].plot([math.log2(p.levels) for p in members], [p.mse for p in members], label=name, **look)
        if entropies:
            measured = [(p.entropy, p.mse) for p in members if p.entropy is not None]
            panels[1].plot([h for h, _ in measured], [error for _, error in measured], **look)
    panels[0].set_yscale("log")
    panels[0].set_xticks(np.log2(levels), labels=[str(level) for level in levels])
    panels[0].minorticks_off()
    panels[0].set_xlabel("levels B per channel (log scale)")
    panels[0].set_ylabel("mean squared error")
    handles = [*panels[0].get_legend_handles_labels()[0]]
    handles += [Line2D([], [], color="C2", linestyle="-.", label="entropy-coded, πe/6·2⁻²ᴴ")] if entropies else []
    legend(figure, handles, 2)
    return figure


def _draw_limits(axes: Axes, bits: np.ndarray, factor: float, line: str, colour: str) -> None:
    """factor·2^(−2·bits) beside Shannon's 2^(−2·bits)."""
    axes.plot(bits, factor * 4.0**-bits, line, color=colour, linewidth=1.3, label="Panter–Dite, π√3/2·B⁻²")
    axes.plot(bits, 4.0**-bits, ":", color=grey(), linewidth=1.5, label="Shannon, 2⁻²ᵇ at b bits")


Value = tuple[float, float | None]
"""a mean over images and its standard error"""


@dataclass(frozen=True)
class Rebuilt:
    """Quality of an autoencoder's images at a number of bits per image; bits None: continuous latents."""

    series: str
    name: str
    bits: float | None
    values: tuple[Value | None, ...]
    """one for each panel; None where not measured"""


def _rebuilt(source: Source, keys: Sequence[str]) -> list[Rebuilt]:
    """Tokenizers with reconstructed images: of table 1a, then the trained ones of table heads."""
    points: dict[str, Rebuilt] = {}
    for table, trained in ((source.of_reconstructions, False), (TABLE_HEADS, True)):
        for cell, ids in source.rows(table):
            id = source.stage(ids[0], "reconstruct") if ids else ""
            kind = source.setting(ids[0], "quantizer.kind") if ids else ""
            if not id or (kind in TRAINED_TOKENS) != trained:
                continue
            values = tuple(_value(source, ids[0], key) for key in keys)
            bits = source.number(ids[0], "reconstruct/effective_bits")
            if (bits is None and kind != "identity") or not any(values):
                continue
            series = f"{kind.upper()}, trained" if trained else "post-training levels" if bits else "continuous"
            points.setdefault(id, Rebuilt(series, "" if trained else cell.label, bits, values))
    return list(points.values())


def _value(source: Source, cell: str, key: str) -> Value | None:
    value = source.number(cell, key)
    return None if value is None else (value, source.number(cell, f"{key}_se"))


def quality(source: Source) -> Drawing | None:
    """Reconstructed images against bits: post-training levels, trained tokenizers, continuous latents."""
    fd = source.by_scorer(RECONSTRUCTION_FD)
    labels = {fd.key: f"{fd.title} (lower is better)", PSNR.key: "PSNR, dB (higher is better)"}
    points = _rebuilt(source, list(labels))
    shown = [i for i in range(len(labels)) if any(point.values[i] for point in points)]
    points = [replace(point, values=tuple(point.values[i] for i in shown)) for point in points]
    if sum(point.bits is not None for point in points) < 2:
        return None
    names = [list(labels.values())[i] for i in shown]
    caption = (
        f"Reconstructed {source.measured_on} test images against the bits that an image takes: the entropies of its"
        " tokens' channels, summed. Bars and band: 95 % over images (1.96 standard errors); all tokenizers see the same"
        f" images, so differences between them are surer than the bars suggest. {fd.title} compares the images"
        " with the training set, so it does not reach zero even for originals. B: levels per channel."
    )
    if any(point.series.endswith(", trained") for point in points):
        caption += (
            " Trained: an autoencoder of the same body, trained with its quantizer; drawn a little apart where bits are"
            " nearly the same."
        )
    alt = "Fréchet distance and PSNR of reconstructed images against bits per image, by tokenizer"
    header = ["tokenizer", "name", "bits per image"]
    header += [f"{name}{more}" for name in names for more in ("", ", 95 % half")]
    rows = [(p.series, p.name, p.bits, *(part for value in p.values for part in _interval(value))) for p in points]
    title, figure = "Reconstruction quality against bits", _quality_chart(points, names)
    return Drawing("quality-bits", title, caption, alt, figure, source.of_reconstructions.id, csv_of(header, rows))


def _interval(value: Value | None) -> tuple[float | None, float | None]:
    if value is None:
        return None, None
    return value[0], None if value[1] is None else Z * value[1]


def _quality_chart(points: Sequence[Rebuilt], labels: Sequence[str]) -> Figure:
    """One panel per metric against bits per image; continuous latents are a line with a band."""
    figure, panels = charts(0.7 + 2.5 * len(labels), len(labels), sharex=True)
    names = dict.fromkeys(point.series for point in points if point.bits is not None)
    looks = dict(zip(names, MARKERS, strict=False))
    for i, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        for k, (name, (colour, marker)) in enumerate(looks.items()):
            # single tokenizers of nearly the same number of bits stand side by side, so that their bars are seen
            points_aside = 3 * (k - len(looks) / 2) if k else 0
            aside = axes.transData + ScaledTranslation(points_aside / 72, 0, figure.dpi_scale_trans)
            look = {"color": colour, "marker": marker, "markersize": 5.5, "linewidth": 1.0, "transform": aside}
            _draw_series(axes, [(p.bits, p.values[i]) for p in points if p.series == name], look)
        for value in (p.values[i] for p in points if p.bits is None):
            if value is not None:
                half = Z * (value[1] or 0)
                axes.axhspan(value[0] - half, value[0] + half, color=grey(), alpha=0.18, linewidth=0)
                axes.axhline(value[0], color=grey(), linestyle="--", linewidth=1.2)
        axes.autoscale_view()
        axes.set_ylabel(label)
    below: dict[str, Any] = {"xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top"}
    for point in points if len(labels) > 1 else ():
        if point.name and point.bits is not None and (value := point.values[-1]) is not None:
            panels[-1].annotate(point.name, (point.bits, value[0]), **below)
    panels[-1].margins(y=0.16)
    panels[-1].set_xlabel("bits per image, after entropy coding")
    handles = [Line2D([], [], color=c, marker=m, markersize=5.5, label=name) for name, (c, m) in looks.items()]
    if any(point.bits is None for point in points):
        handles.append(Line2D([], [], color=grey(), linestyle="--", linewidth=1.2, label="continuous latents"))
    legend(figure, handles, 3)
    return figure


def _draw_series(axes: Axes, values: Sequence[tuple[float | None, Value | None]], look: dict[str, Any]) -> None:
    """Bits and value of each tokenizer with its 95 % interval over images."""
    measured = sorted((bits, *value) for bits, value in values if bits is not None and value is not None)
    x, y, halves = ([row[0] for row in measured], [row[1] for row in measured], [Z * (row[2] or 0) for row in measured])
    axes.errorbar(x, y, yerr=halves, elinewidth=1.2, capsize=3, **look)
    # what is moved aside does not count for the limits by itself
    ends = [(bits, value + sign * half) for bits, value, half in zip(x, y, halves, strict=True) for sign in (-1, 1)]
    axes.update_datalim(ends)
