"""The chart of table heads: Fréchet distance of every head on every token, and against the time an image takes.

A head has a colour and a marker, filled where it predicts levels and open where it predicts continuous values, so the
chart can be read without colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.stats import Estimate

GROUPS = ("post-training quantized", "trained tokenizers", "continuous")
MARKERS = {
    "autoregressive": ("C0", "o"),
    "parallel": ("C2", "^"),
    "diffusion": ("C3", "D"),
    "flow": ("C4", "v"),
    "mixture": ("C0", "P"),
    "mixture, full covariance": ("C1", "X"),
}
SPAN = 5
"""ratio of largest to smallest from which an axis is logarithmic"""
STEP = 0.19
"""between the heads of one token, where tokens are 1 apart"""


@dataclass(frozen=True)
class Point:
    token: str
    head: str
    group: str
    """one of GROUPS"""
    fd: Estimate
    ms: float | None = None
    """time an image"""

    @property
    def name(self) -> str:
        return f"{self.token}, {self.head}"


def front(points: Sequence[Point]) -> list[Point]:
    """Those with a time that no other beats in both time and distance, the fastest first."""
    timed = sorted((p.ms, p.fd.mean, i) for i, p in enumerate(points) if p.ms is not None)
    found: list[Point] = []
    for _, mean, i in timed:
        if not found or mean < found[-1].fd.mean:
            found.append(points[i])
    return found


def comparison(points: Sequence[Point]) -> Figure:
    """One panel by token; a second one against time where at least two points have one."""
    timed = [point for point in points if point.ms is not None]
    figure = Figure(figsize=(10.4, 4.6), layout="constrained")
    count = 1 if len(timed) < 2 else 2
    panels = list(figure.subplots(1, count, sharey=True, squeeze=False, width_ratios=(8, 5)[:count])[0])
    _by_token(panels[0], points)
    ends = [point.fd.mean for point in points]
    if max(ends) > SPAN * min(ends) > 0:
        _logarithmic(panels[0], "y")
    panels[0].set_ylabel("fd_digits (lower is better)")
    if len(panels) == 2:
        _by_time(panels[1], timed)
    heads = [head for head in MARKERS if any(point.head == head for point in points)]
    handles = [Line2D([], [], label=head, **_look(head, head in _continuous(points))) for head in heads]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, columnspacing=2.5)
    return figure


def _continuous(points: Sequence[Point]) -> set[str]:
    return {point.head for point in points if point.group == GROUPS[2]}


def _look(head: str, is_open: bool) -> dict[str, Any]:
    colour, marker = MARKERS[head]
    face = mpl.rcParams["axes.facecolor"] if is_open else colour
    look = {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 5.5, "markeredgewidth": 1.4}
    return look | {"linestyle": "none"}


def _by_token(axes: Axes, points: Sequence[Point]) -> None:
    """Tokens in columns, group by group; heads side by side within a token."""
    ordered = sorted(points, key=lambda point: GROUPS.index(point.group))
    tokens = list(dict.fromkeys(point.token for point in ordered))
    for column, token in enumerate(tokens):
        own = [point for point in ordered if point.token == token]
        for k, point in enumerate(own):
            x = column + (k - (len(own) - 1) / 2) * STEP
            look = _look(point.head, point.group == GROUPS[2])
            axes.errorbar(x, point.fd.mean, yerr=point.fd.half, capsize=2, elinewidth=1, **look)
    axes.set_xticks(range(len(tokens)), labels=tokens)
    axes.set_xlim(-0.6, len(tokens) - 0.4)
    axes.grid(axis="x", visible=False)
    for group in GROUPS[:2]:
        members = [i for i, token in enumerate(tokens) if any(p.token == token and p.group == group for p in ordered)]
        if members:
            middle, end = sum(members) / len(members), members[-1] + 0.5
            axes.text(middle, 1.01, group, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
            axes.axvline(end, color=mpl.rcParams["ytick.color"], linewidth=0.8)


def _by_time(axes: Axes, points: Sequence[Point]) -> None:
    """Time across, distance up; the dashed line joins what nothing beats in both."""
    best = front(points)
    line: dict[str, Any] = {"linestyle": "--", "linewidth": 0.9, "color": mpl.rcParams["ytick.color"], "zorder": 1}
    axes.step([p.ms or 0 for p in best], [p.fd.mean for p in best], where="post", **line)
    for point in points:
        look = _look(point.head, point.group == GROUPS[2])
        axes.plot([point.ms or 0], [point.fd.mean], **look)
    times = [point.ms or 0 for point in points]
    if max(times) > SPAN * min(times) > 0:
        _logarithmic(axes, "x")
    axes.set_xlabel("time an image, ms")


def _logarithmic(axes: Axes, which: str) -> None:
    """A logarithmic axis whose ticks are plain numbers."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
