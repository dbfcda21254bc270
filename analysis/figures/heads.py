"""The figures of table heads: every head on every token at a glance, and what a row costs.

A head has a colour and a marker, filled where it predicts levels and open where it predicts continuous values, so the
charts can be read without colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from analysis import stats
from analysis.figures.form import Drawing, charts, csv_of, face, grey, legend, spread
from analysis.frame.source import Source
from analysis.stats import Estimate, signed
from experiments.paper import TABLE_HEADS
from tokenbridge.config import TRAINED_TOKENS
from tokenbridge.metrics.catalogue import FD, IMAGE_TIME, PARAMETERS, TRAINING_FLOPS

GROUP_LOOKS: dict[str, tuple[str, str, bool]] = {
    "post-training quantized": ("C0", "o", False),
    "trained tokenizers": ("C1", "s", False),
    "continuous": ("C2", "D", True),
}
"""colour and marker of each group of rows, and whether it is open"""
GROUPS = tuple(GROUP_LOOKS)
UNQUANTIZED = "continuous"
"""token of the table's labels that has its group's name"""
LOOKS = {
    "autoregressive": ("C0", "o"),
    "parallel": ("C2", "^"),
    "diffusion": ("C3", "D"),
    "flow": ("C4", "v"),
    "mixture": ("C0", "P"),
    "mixture, full covariance": ("C1", "X"),
}
"""colour and marker of each head"""
OTHER_LOOK = ("C5", "*")
"""of heads that have none of their own yet"""
FRONTS: dict[bool, tuple[Any, str, str]] = {
    False: ("-", "C0", "front of discrete tokens"),
    True: ("--", "C2", "front of continuous ones"),
}
"""whether tokens are continuous -> line, colour and name of their front"""
STEP = 0.19
"""between the heads of one token, where tokens are 1 apart"""
COSTS = {"tflop": "training TFLOP", "parameters": "parameters, millions", "ms": "time per image, ms"}
"""what a row costs -> how an axis names it"""
MEANING = {
    "tflop": (
        "floating-point operations of the generator's training (all rows train for the same steps; training a"
        " tokenizer is not counted)"
    ),
    "parameters": "weights of the generator",
    "ms": "time to sample one image",
}
Place = tuple[tuple[int, int], Literal["left", "center", "right"], Literal["bottom", "top"]]
"""offset of a name from its point, in points, and the side of the name that is there"""
PLACES: tuple[Place, ...] = (
    ((7, 3), "left", "bottom"), ((0, -8), "center", "top"), ((7, -3), "left", "top"), ((-7, 3), "right", "bottom"),
    ((-7, -3), "right", "top"), ((0, 8), "center", "bottom"),
)  # fmt: skip
EQUAL = 1.1
"""ratio of the largest to the smallest up to which rows cost the same, as they do in parameters by design"""
MEASURED = {"tflop": (TRAINING_FLOPS, 1), "parameters": (PARAMETERS, 1e6), "ms": (IMAGE_TIME, 1)}
"""what a row costs -> its column, and by what that is divided"""


@dataclass(frozen=True)
class Point:
    """A row of the table."""

    token: str
    head: str
    group: str
    """one of GROUPS"""
    fd: Estimate
    costs: Mapping[str, float] = field(default_factory=dict)
    """those of COSTS that were measured"""

    @property
    def name(self) -> str:
        return f"{self.token}, {self.head}"

    @property
    def short(self) -> str:
        """What tells it from the others of its front."""
        return self.head if self.continuous else self.token

    @property
    def continuous(self) -> bool:
        return self.group == GROUPS[2]


def _points(source: Source) -> list[Point]:
    """The rows that have a Fréchet distance, in the table's order. A label is `token, head`."""
    points, key = [], source.by_scorer(FD).key
    for cell, ids in source.rows(TABLE_HEADS):
        if any(source.odd(id, key) for id in ids):
            continue  # as in its table: no mean of the others
        if distances := _values(source, ids, key):
            token, _, head = cell.label.partition(", ")
            quantizer = source.setting(ids[0], "quantizer.kind")
            group = GROUPS[2] if quantizer == "identity" else GROUPS[1] if quantizer in TRAINED_TOKENS else GROUPS[0]
            values = {cost: _values(source, ids, column.key) for cost, (column, _) in MEASURED.items()}
            costs = {cost: stats.estimate(v).mean / MEASURED[cost][1] for cost, v in values.items() if v}
            points.append(Point(token, head, group, stats.estimate(distances), costs))
    return points


def _values(source: Source, ids: Sequence[str], key: str) -> list[float]:
    return [value for id in ids if (value := source.number(id, key)) is not None]


def front(points: Sequence[Point], cost: str) -> list[Point]:
    """The points that no other beats in both cost and distance, the cheapest first.

    Args:
        points: those without such a cost are left out.
        cost: a key of COSTS.
    """
    members: list[Point] = []
    for _, mean, i in sorted((p.costs[cost], p.fd.mean, i) for i, p in enumerate(points) if cost in p.costs):
        if not members or mean < members[-1].fd.mean:
            members.append(points[i])
    return members


def rival(point: Point, points: Sequence[Point], cost: str) -> Point | None:
    """The best point of the other kind of token (discrete or continuous) that costs no more; None where there is none.

    Args:
        point: without such a cost it has no rival.
        points: all points of the table.
        cost: a key of COSTS.
    """
    limit = point.costs.get(cost, -math.inf)
    others = [p for p in points if p.continuous != point.continuous and p.costs.get(cost, math.inf) <= limit]
    return min(others, key=lambda other: other.fd.mean, default=None)


def heads(source: Source) -> Drawing | None:
    """Every head on every token, by token and against the time per image where at least two rows have one."""
    points, fd = _points(source), source.by_scorer(FD).title
    if len(points) < 2:
        return None
    timed, best = [point for point in points if "ms" in point.costs], front(points, "ms")
    caption = (
        f"Fréchet distance of generated {source.measured_on} images (lower is better) for each row of the table, with"
        " its 95 % interval over seeds where there are several. Filled markers: heads that predict levels; open ones:"
        " heads that predict continuous values."
    )
    if len(timed) > 1:
        caption += (
            " Below: the same against the time to sample one image. Dashed: what no other row beats in both time and"
            f" mean distance, from the fastest: {'; '.join(point.name for point in best)}."
        )
    alt = "Fréchet distance of every head on every token, by token and against the time per image"
    header = ["token", "head", "group", fd, "half-width", "seeds", "ms per image", "on the front"]
    rows = [
        (p.token, p.head, p.group, p.fd.mean, p.fd.half, p.fd.seeds, p.costs.get("ms"), "yes" if p in best else "")
        for p in points
    ]
    figure, title = _heads_chart(points, timed if len(timed) > 1 else (), fd), "Every head on every token"
    return Drawing("heads", title, caption, alt, figure, TABLE_HEADS.id, csv_of(header, rows))


def _heads_chart(points: Sequence[Point], timed: Sequence[Point], fd: str) -> Figure:
    count = 2 if timed else 1
    figure, panels = charts(0.7 + 3.1 * count, count, sharey=True)
    _by_token(panels[0], points)
    for axes in panels:
        spread(axes, "y", f"{fd} (lower is better)", [point.fd.mean for point in points])
    if timed:
        _by_time(panels[1], timed)
    continuous = {point.head for point in points if point.continuous}
    used = {point.head for point in points}
    shown = [head for head in dict.fromkeys([*LOOKS, *sorted(used)]) if head in used]
    legend(figure, [Line2D([], [], label=head, **_look_of(head, head in continuous)) for head in shown], 3)
    return figure


def _look_of(head: str, is_open: bool) -> dict[str, Any]:
    return _look(*LOOKS.get(head, OTHER_LOOK), is_open)


def _look(colour: str, marker: str, is_open: bool) -> dict[str, Any]:
    look = {"color": colour, "marker": marker, "markerfacecolor": face(is_open, colour), "markersize": 5.5}
    return look | {"markeredgewidth": 1.4, "linestyle": "none"}


def _by_token(axes: Axes, points: Sequence[Point]) -> None:
    """Tokens in columns, group by group; heads side by side within a token."""
    ordered = sorted(points, key=lambda point: GROUPS.index(point.group))
    tokens = list(dict.fromkeys(point.token for point in ordered))
    for column, token in enumerate(tokens):
        members = [point for point in ordered if point.token == token]
        for k, point in enumerate(members):
            x, look = column + (k - (len(members) - 1) / 2) * STEP, _look_of(point.head, point.continuous)
            axes.errorbar(x, point.fd.mean, yerr=point.fd.half, capsize=2, elinewidth=1, **look)
    axes.set_xticks(range(len(tokens)), labels=["latents" if token == UNQUANTIZED else token for token in tokens])
    axes.set_xlim(-0.6, len(tokens) - 0.4)
    axes.grid(axis="x", visible=False)
    for group in GROUPS:
        columns = [i for i, token in enumerate(tokens) if any(p.token == token and p.group == group for p in ordered)]
        if columns:
            middle, end = sum(columns) / len(columns), columns[-1] + 0.5
            axes.text(middle, 1.01, group, transform=axes.get_xaxis_transform(), ha="center", va="bottom")
            if end < len(tokens) - 0.5:
                axes.axvline(end, color=grey(), linewidth=0.8)


def _by_time(axes: Axes, points: Sequence[Point]) -> None:
    """Time across, distance up; the dashed line joins what nothing beats in both."""
    best = front(points, "ms")
    line: dict[str, Any] = {"linestyle": "--", "linewidth": 0.9, "color": grey(), "zorder": 1}
    axes.step([p.costs["ms"] for p in best], [p.fd.mean for p in best], where="post", **line)
    for point in points:
        look = _look_of(point.head, point.continuous)
        axes.errorbar(point.costs["ms"], point.fd.mean, yerr=point.fd.half, capsize=2, elinewidth=1, **look)
    for k, point in enumerate(best):
        # the fastest stands at the left end, where there is room to its right only
        below: dict[str, Any] = {"xytext": (0, -7), "textcoords": "offset points", "va": "top"}
        axes.annotate(point.short, (point.costs["ms"], point.fd.mean), ha="center" if k else "left", **below)
    axes.margins(y=0.16)
    spread(axes, "x", COSTS["ms"], [point.costs["ms"] for point in points])


def costs(source: Source) -> Drawing | None:
    """Discrete against continuous tokens at equal cost: training, weights and time per image."""
    points, fd = _points(source), source.by_scorer(FD).title
    keys = [key for key in COSTS if len({p.continuous for p in points if key in p.costs}) == 2]
    equal = [key for key in keys if _ratio(points, key) <= EQUAL]
    if not (keys := [key for key in keys if key not in equal]):
        return None
    best = min((point for point in points if point.continuous), key=lambda point: point.fd.mean)
    rivals = "; ".join(_rival_text(best, points, key, fd) for key in keys)
    caption = (
        f"Discrete tokens beside continuous ones at what they cost: {' and '.join(MEANING[key] for key in keys)}. Each"
        " point is a row of the table, with its 95 % interval over seeds. Lines: what no row of the same kind beats in"
        " both, by name. At equal cost the lower line is better. Best discrete row that costs no more than the best"
        f" continuous one ({best.name}), both picked by these numbers and so without a test: {rivals}; more is worse."
    )
    caption += "".join(
        f" All rows have as many {COSTS[key].partition(',')[0]}, within {EQUAL - 1:.0%}." for key in equal
    )
    alt = f"Fréchet distance of discrete and continuous rows against {', '.join(COSTS[key] for key in keys)}"
    header = ["row", "group", *(COSTS[key] for key in keys), fd, "half-width"]
    header += [f"{text} ({k})" for k in keys for text in ("best of the other kind at no more", "difference")]
    rows = [
        [p.name, p.group, *(p.costs.get(key) for key in keys), p.fd.mean, p.fd.half]
        + [value for key in keys for value in _against_rival(p, points, key)]
        for p in points
    ]
    title, figure = "Discrete against continuous at equal cost", _costs_chart(points, keys, fd)
    return Drawing("cost", title, caption, alt, figure, TABLE_HEADS.id, csv_of(header, rows))


def _ratio(points: Sequence[Point], key: str) -> float:
    """Of the largest cost to the smallest."""
    values = [point.costs[key] for point in points if key in point.costs]
    return max(values) / min(values)


def _against_rival(point: Point, points: Sequence[Point], key: str) -> tuple[str | None, float | None]:
    """The row's rival at no more cost, and rival minus row."""
    other = rival(point, points, key)
    return (None, None) if other is None else (other.name, other.fd.mean - point.fd.mean)


def _rival_text(point: Point, points: Sequence[Point], key: str, fd: str) -> str:
    name, gap = _against_rival(point, points, key)
    if name is None or gap is None:
        return f"{COSTS[key]}: none"
    return f"{COSTS[key]}: {name}, {fd} {signed(gap, FD.decimals)}"


def _name_points(axes: Axes, named: Sequence[Point], points: Sequence[Point], key: str) -> None:
    """Name the points of a front, each in the first of PLACES that lies on the fewest markers, lines and names.

    Args:
        axes: the panel, laid out.
        named: those to name.
        points: all that it shows.
        key: the panel's cost.
    """
    markers = axes.transData.transform([(point.costs[key], point.fd.mean) for point in points])
    steps = [line.get_xydata() for line in axes.get_lines() if line.get_drawstyle() != "default"]
    lines = np.concatenate([_along_steps(axes.transData.transform(each)) for each in steps])
    taken: list[Bbox] = []
    for point in named:
        alone = sum(other.short == point.short for other in named) == 1
        name = point.short if alone else point.name
        at, ground = (point.costs[key], point.fd.mean), withStroke(linewidth=2.5, foreground=face(True, ""))
        text = axes.annotate(name, at, (0, 0), textcoords="offset points", path_effects=[ground], zorder=1.5)
        text.set_in_layout(False)  # the panels stay as they lie
        if text.get_window_extent().width > (0.6 if alone else 0.3) * axes.bbox.width:
            text.set_text(name.replace(", ", ",\n"))

        def lies_on(place: Place, text: Annotation = text) -> float:
            box = _put(text, place).get_window_extent().padded(4)
            outside = not axes.bbox.contains(box.x0, box.y0) or not axes.bbox.contains(box.x1, box.y1)
            over = sum(box.overlaps(other) for other in taken) + 2 * outside
            return over + _inside(box.padded(6), markers) + 0.5 * bool(_inside(box, lines))

        taken.append(_put(text, min(PLACES, key=lies_on)).get_window_extent())


def _put(text: Annotation, place: Place) -> Annotation:
    offset, across, up = place
    text.set(position=offset, ha=across, va=up)
    return text


def _inside(box: Bbox, places: NDArray[np.float64]) -> int:
    """How many of these places (n, 2) lie in a box, all in pixels."""
    return int(((places > box.min) & (places < box.max)).all(1).sum())


def _along_steps(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places along a line (n, 2) that steps at the next one's x, in pixels."""
    along = np.linspace(0, 1, 200)[:, None]
    turned = np.stack([corners[1:, 0], corners[:-1, 1]], 1)
    pairs = [*zip(corners[:-1], turned, strict=True), *zip(turned, corners[1:], strict=True)]
    return np.concatenate([a + along * (b - a) for a, b in pairs]) if pairs else corners


def _costs_chart(points: Sequence[Point], keys: Sequence[str], fd: str) -> Figure:
    """One panel per cost: discrete rows and continuous ones, each with its front."""
    figure, panels = charts(4.2, 1, len(keys), sharey=True)
    fronts: list[list[Point]] = []
    for axes, key in zip(panels, keys, strict=True):
        fronts.append([])
        measured = [point for point in points if key in point.costs]
        values = [point.costs[key] for point in measured]
        for is_continuous, (line, colour, _) in FRONTS.items():
            best = front([point for point in measured if point.continuous == is_continuous], key)
            # what is reached at some cost is reached at any higher one
            x, y = [*(point.costs[key] for point in best), max(values)], [point.fd.mean for point in best]
            axes.step(x, [*y, y[-1]], where="post", linestyle=line, color=colour, linewidth=1.4, zorder=1)
            fronts[-1] += best
        for point in measured:
            faint = to_rgba(GROUP_LOOKS[point.group][0], 0.45)
            look = _look(*GROUP_LOOKS[point.group])
            axes.errorbar(point.costs[key], point.fd.mean, yerr=point.fd.half, ecolor=faint, elinewidth=1, **look)
        axes.locator_params(axis="x", nbins=4)
        spread(axes, "x", COSTS[key], values, most=4)
    panels[0].margins(y=0.16)  # room for names below the lowest
    spread(panels[0], "y", f"{fd} (lower is better)", [point.fd.mean for point in points])
    present = [group for group in GROUPS if any(point.group == group for point in points)]
    handles = [Line2D([], [], label=group, **_look(*GROUP_LOOKS[group])) for group in present]
    handles += [Line2D([], [], color=c, linewidth=1.4, linestyle=line, label=name) for line, c, name in FRONTS.values()]
    legend(figure, handles, 2)
    figure.draw_without_rendering()  # what lies where is known then
    for axes, key, named in zip(panels, keys, fronts, strict=True):
        _name_points(axes, named, [point for point in points if key in point.costs], key)
    return figure
