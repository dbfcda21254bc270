"""The charts of table heads: Fréchet distance of every head on every token, and against what a row costs.

A head has a colour and a marker, filled where it predicts levels and open where it predicts continuous values, so the
chart can be read without colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.look import open_face, size, spread
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
STEP = 0.19
"""between the heads of one token, where tokens are 1 apart"""
COSTS = {
    "tflop": "training TFLOP",
    "parameters": "parameters, millions",
    "ms": "time an image, ms",
}
"""what a row costs -> how an axis names it"""


@dataclass(frozen=True)
class Point:
    token: str
    head: str
    group: str
    """one of GROUPS"""
    fd: Estimate
    ms: float | None = None
    """time an image"""
    tflop: float | None = None
    """of training the generator"""
    parameters: float | None = None
    """in millions"""

    @property
    def name(self) -> str:
        return f"{self.token}, {self.head}"

    @property
    def continuous(self) -> bool:
        return self.group == GROUPS[2]

    def cost(self, key: str) -> float | None:
        """One of COSTS."""
        return {"tflop": self.tflop, "parameters": self.parameters, "ms": self.ms}[key]


def front(points: Sequence[Point], key: str = "ms") -> list[Point]:
    """Those with such a cost that no other beats in both cost and distance, the cheapest first."""
    known = sorted((cost, p.fd.mean, i) for i, p in enumerate(points) if (cost := p.cost(key)) is not None)
    found: list[Point] = []
    for _, mean, i in known:
        if not found or mean < found[-1].fd.mean:
            found.append(points[i])
    return found


def comparison(points: Sequence[Point], fd: str) -> Figure:
    """One panel by token; a second one against time where at least two points have one."""
    timed = [point for point in points if point.ms is not None]
    count = 1 if len(timed) < 2 else 2
    figure = Figure(figsize=size(0.7 + 3.1 * count), layout="constrained")
    panels = list(figure.subplots(count, 1, sharey=True, squeeze=False)[:, 0])
    _by_token(panels[0], points)
    spread(panels[0], "y", [point.fd.mean for point in points])
    for axes in panels:
        axes.set_ylabel(f"{fd} (lower is better)")
    if len(panels) == 2:
        _by_time(panels[1], timed)
    heads = [head for head in MARKERS if any(point.head == head for point in points)]
    handles = [Line2D([], [], label=head, **_look(head, head in _continuous(points))) for head in heads]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, columnspacing=2)
    return figure


def costs(points: Sequence[Point], keys: Sequence[str], fd: str) -> Figure:
    """A panel a cost: discrete rows and continuous ones, each with its front."""
    figure = Figure(figsize=size(4.2), layout="constrained")
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    looks: dict[str, tuple[str, str, bool]] = dict(
        zip(GROUPS, (("C0", "o", False), ("C1", "s", False), ("C2", "D", True)), strict=True)
    )
    lines: dict[bool, tuple[Any, str, str]] = {
        False: ("-", "C0", "front of discrete tokens"),
        True: ("--", "C2", "front of continuous ones"),
    }
    for axes, key in zip(panels, keys, strict=True):
        known = [cost for point in points if (cost := point.cost(key)) is not None]
        for is_continuous, (line, colour, _) in lines.items():
            best = front([point for point in points if point.continuous == is_continuous], key)
            # what is reached at some cost is reached at any higher one
            x, y = [*(point.cost(key) or 0 for point in best), max(known)], [point.fd.mean for point in best]
            axes.step(x, [*y, y[-1]], where="post", linestyle=line, color=colour, linewidth=1.4, zorder=1)
        for point in points:
            if (cost := point.cost(key)) is not None:
                look = _marker(*looks[point.group])
                faint = to_rgba(looks[point.group][0], 0.45)
                axes.errorbar(cost, point.fd.mean, yerr=point.fd.half, ecolor=faint, elinewidth=1, **look)
        axes.set_xlabel(COSTS[key])
        axes.locator_params(axis="x", nbins=4)
        spread(axes, "x", known, most=4)
    spread(panels[0], "y", [point.fd.mean for point in points])
    panels[0].set_ylabel(f"{fd} (lower is better)")
    present = [group for group in GROUPS if any(point.group == group for point in points)]
    handles = [Line2D([], [], label=group, **_marker(*looks[group])) for group in present]
    handles += [Line2D([], [], color=c, linewidth=1.4, linestyle=line, label=name) for line, c, name in lines.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=2)
    return figure


def rival(point: Point, points: Sequence[Point], key: str) -> Point | None:
    """The best row of the other kind of token that costs no more."""
    limit = point.cost(key)
    others = [
        other
        for other in points
        if other.continuous != point.continuous and limit is not None and (other.cost(key) or math.inf) <= limit
    ]
    return min(others, key=lambda other: other.fd.mean, default=None)


def _continuous(points: Sequence[Point]) -> set[str]:
    return {point.head for point in points if point.continuous}


def _look(head: str, is_open: bool) -> dict[str, Any]:
    return _marker(*MARKERS[head], is_open)


def _marker(colour: str, marker: str, is_open: bool) -> dict[str, Any]:
    look = {"color": colour, "marker": marker, "markerfacecolor": open_face(is_open, colour), "markersize": 5.5}
    return look | {"markeredgewidth": 1.4, "linestyle": "none"}


def _by_token(axes: Axes, points: Sequence[Point]) -> None:
    """Tokens in columns, group by group; heads side by side within a token."""
    ordered = sorted(points, key=lambda point: GROUPS.index(point.group))
    tokens = list(dict.fromkeys(point.token for point in ordered))
    for column, token in enumerate(tokens):
        own = [point for point in ordered if point.token == token]
        for k, point in enumerate(own):
            x = column + (k - (len(own) - 1) / 2) * STEP
            look = _look(point.head, point.continuous)
            axes.errorbar(x, point.fd.mean, yerr=point.fd.half, capsize=2, elinewidth=1, **look)
    axes.set_xticks(range(len(tokens)), labels=tokens)
    axes.set_xlim(-0.6, len(tokens) - 0.4)
    axes.grid(axis="x", visible=False)
    for group in GROUPS[:2]:
        members = [i for i, token in enumerate(tokens) if any(p.token == token and p.group == group for p in ordered)]
        if members:
            middle, end = sum(members) / len(members), members[-1] + 0.5
            axes.text(middle, 1.01, group, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
            axes.axvline(end, color=mpl.rcParams["ytick.color"], linewidth=0.8)


def _by_time(axes: Axes, points: Sequence[Point]) -> None:
    """Time across, distance up; the dashed line joins what nothing beats in both."""
    best = front(points)
    line: dict[str, Any] = {"linestyle": "--", "linewidth": 0.9, "color": mpl.rcParams["ytick.color"], "zorder": 1}
    axes.step([p.ms or 0 for p in best], [p.fd.mean for p in best], where="post", **line)
    for point in points:
        look = _look(point.head, point.continuous)
        axes.plot([point.ms or 0], [point.fd.mean], **look)
    for k, point in enumerate(best):
        # the fastest stands at the left end, where there is room to its right only
        place: dict[str, Any] = {"xytext": (0, -7), "textcoords": "offset points", "va": "top"}
        name = point.head if point.continuous else point.token
        axes.annotate(name, (point.ms or 0, point.fd.mean), ha="center" if k else "left", **place)
    axes.margins(y=0.16)
    spread(axes, "x", [point.ms or 0 for point in points])
    axes.set_xlabel(COSTS["ms"])
