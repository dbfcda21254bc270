"""Claims at a glance: every comparison that a report's summary speaks of, with the interval that decided it.

`glance` gives the lines as they are drawn, panel by panel; a page draws them in its own type, `claims` as a figure.
What is claimed, explored and shown is decided in analysis.tables (claims, compare, effects), and nothing of it here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.form import WIDTH, Drawing, csv_of, face, grey, whole
from analysis.frame.source import Source
from analysis.stats import Comparison, Difference, signed
from analysis.tables.claims import besides
from analysis.tables.claims import claims as claimed
from analysis.tables.compare import comparisons, side
from analysis.tables.effects import MATRIX, effects_on, main_metrics
from analysis.tables.estimates import other_bins
from analysis.tables.filled import EXPLORATORY, Entry, change_text, effect_text
from experiments.paper import Column
from tokenbridge.metrics.catalogue import TOKEN_MS
from tokenbridge.overrides import plain

NAME = "claims"
UNTESTED, RATIO = "not tested", "%"
Kind = Literal["claim", "exploratory", "not tested"]
HEADINGS: dict[Kind, str] = {
    "claim": "Claims, named beforehand", "exploratory": f"Exploratory {EXPLORATORY}", "not tested": "Not tested",
}  # fmt: skip
"""kind of comparison -> the heading over its panels, in their order"""
POINTS = "Points: the first's difference to the second, of Fréchet distances and times in per cent of the second."
BARS = "Bars: its interval at the level that decided it, which leaves out zero exactly where a difference is shown."
SEEDS = "Seeds: so many would settle it in 80 % of cases, if the true difference is the one seen."
ONCE = "Not tested: measured once, or on the same images without the value of each."
NAMED = "Claims were named beforehand and are corrected together (Holm)."
OTHERS = f"{EXPLORATORY} Exploratory: what else the summary speaks of; all others stand in the tables."
OF_AXES = f"{EXPLORATORY} Exploratory: each axis's last value against its first; other values stand in the tables."
RATE = "Of the exploratory differences that a report shows, at most 5 % on average are wrong (false-discovery rate)."
MARKS = {"better": ("C0", "o"), "worse": ("C1", "D"), "no difference shown": ("", "o"), UNTESTED: ("", "x")}
"""verdict -> colour, grey where empty, and marker; that of no difference is open"""
TITLES = {TOKEN_MS: "time of a token"}
"""of metrics whose titles need their tables"""
HEADER = (
    "kind", "table", "first", "second", "metric", "effect", "in", "low", "high", "verdict", "seeds needed", "over",
)  # fmt: skip
RATIOS = (1.1, 1.25, 1.5, 2, 4, 10, 100)
"""one of them is a tick to the right of zero, its inverse one to the left"""
LONGEST = 700.0
"""on a logarithmic axis, for what is nothing beside the second: beyond every axis's end"""
LEFT, EDGE = 4.25, 0.03
"""inches of the figure's column of words, and before it"""
TEXT, APART, HEADING, AXIS, BELOW = 0.168, 0.045, 0.34, 0.3, 0.12
"""inches of a line of text, between a line's text and its ends, of a group's heading, over and below a panel's lines"""
CHARACTERS = 56
"""of a name on one line"""
TIMES = 3
"""an axis reaches at most so many times as far as its largest effect or its middle interval; a longer one has arrows"""


@dataclass(frozen=True)
class Line:
    """A comparison as it is drawn, in the units in which it is told."""

    first: str
    second: str
    table: str
    """id of the table that has it"""
    column: Column
    difference: Difference
    comparison: Comparison | None
    """None where nothing is tested"""

    @property
    def name(self) -> str:
        return f"{self.first} against {self.second}"

    @property
    def kind(self) -> Kind:
        return self.comparison.family if self.comparison else UNTESTED

    @property
    def unit(self) -> str:
        """What the effect is told in; effects of one unit share a scale."""
        if self.difference.scale.told_in_percent:
            return RATIO
        return "points" if self.column.unit == "%" else self.column.unit or self.column.title

    @property
    def ends(self) -> tuple[float, float] | None:
        """Ends of the interval of the level at which it was decided; None where it is not tested."""
        return self.comparison.corrected if self.comparison else None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.comparison is not None and self.comparison.shown

    @cached_property
    def entry(self) -> Entry:
        """The effect as tables print one, with its verdict."""
        text = effect_text(self.column, self.difference, self.shown)
        change = change_text(self.column, self.comparison) if self.comparison else text
        return Entry(text, comparison=self.comparison, change=change, remark=UNTESTED)

    @property
    def says(self) -> str:
        """Its verdict, and the seeds that would settle it."""
        return ", ".join(filter(None, [self.entry.word + self.entry.mark, self.entry.seeds_needed]))

    def along(self, told: float) -> float:
        """Where a told number lies on its axis, in the axis's own units: a ratio by its logarithm."""
        if not self.difference.scale.told_in_percent:
            return told
        return math.log1p(told / 100) if told > -100 else -LONGEST


@dataclass(frozen=True)
class Panel:
    """Lines of one metric below one axis."""

    column: Column
    lines: tuple[Line, ...]
    reach: float
    """of the axis to either side of zero, the same for all panels of one unit"""

    @property
    def title(self) -> str:
        return TITLES.get(self.column, self.column.title)

    @property
    def unit(self) -> str:
        return "" if (unit := self.lines[0].unit) == self.column.title else unit

    @property
    def way(self) -> str:
        return f"{self.column.better} is better"

    def place(self, line: Line, told: float) -> float:
        """Where a told number lies, from 0 (left) through 0.5 (no difference) to 1; beyond for what has no room."""
        return 0.5 + line.along(told) / (2 * self.reach)

    def bar(self, line: Line) -> tuple[float, float] | None:
        """Where the ends of its interval lie."""
        return (self.place(line, line.ends[0]), self.place(line, line.ends[1])) if line.ends else None

    def point(self, line: Line) -> float:
        return self.place(line, line.difference.effect)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places of the axis with their labels: zero, and a round number on either side."""
        line = self.lines[0]
        ratio = line.difference.scale.told_in_percent
        if ratio and self.reach > math.log(RATIOS[0]):
            most = max(each for each in RATIOS if math.log(each) < self.reach)
            each = min(RATIOS[: RATIOS.index(most) + 1], key=lambda each: abs(math.log(each) - 0.6 * self.reach))
            low, high, decimals = 100 / each - 100, 100 * each - 100, 0
        else:
            high = _round(0.75 * self.reach * (100 if ratio else 1))
            low, decimals = -high, max(0, -math.floor(math.log10(high) + 1e-9))
        unit = f" {RATIO}" if ratio else ""
        ends = [(self.place(line, told), signed(told, decimals) + unit) for told in (low, high)]
        return [ends[0], (0.5, "0"), ends[1]]


def _round(most: float) -> float:
    """The largest number of 1, 2 or 5 times a power of ten up to this one."""
    step = 10 ** math.floor(math.log10(most))
    return max(step * k for k in (1, 2, 5) if step * k <= most)


@dataclass(frozen=True)
class Glance:
    """Everything that the picture of a report's claims holds."""

    panels: tuple[Panel, ...]
    title: str
    caption: str

    @property
    def groups(self) -> list[tuple[str, list[Panel]]]:
        """Heading and panels: claims before what is explored, what is not tested last."""
        groups = [(text, [p for p in self.panels if p.lines[0].kind == kind]) for kind, text in HEADINGS.items()]
        return [(text, panels) for text, panels in groups if panels]

    @property
    def lines(self) -> list[Line]:
        """In the order in which they are drawn."""
        return [line for _, panels in self.groups for panel in panels for line in panel.lines]


def glance(source: Source) -> Glance | None:
    """The lines of a report's picture; None where it compares nothing.

    Args:
        source: the report's source.

    Raises:
        UserError: a metric of the axes is of two protocols.
    """
    every = [line for line in (*_pairs(source), *_effects(source)) if math.isfinite(line.difference.effect)]
    reaches = {unit: _reach([line for line in every if line.unit == unit]) for unit in {line.unit for line in every}}
    panels: dict[tuple[Kind, str], list[Line]] = {}
    for line in every:
        panels.setdefault((line.kind, line.column.key), []).append(line)
    made = tuple(Panel(lines[0].column, tuple(lines), reaches[lines[0].unit]) for lines in panels.values())
    what = "Effects" if source.axes else "Claims" if any(line.kind == "claim" for line in every) else "Comparisons"
    return Glance(made, f"{what} at a glance", _caption(source, every)) if every else None


def _pairs(source: Source) -> Iterator[Line]:
    """The report's claims and the other pairs that its summary speaks of, each once."""
    known, drawn = comparisons(source), set[frozenset[Any]]()
    for pair in (*claimed(source), *besides(source)):
        cells, others = (source.cells(pair.table.id, label) for label in (pair.first, pair.second))
        a, b = (side(pair.column, ids, source) for ids in (cells, others))
        both = frozenset((a, b))
        if both in drawn or len(both) < 2 or not both <= known.rows.keys():
            continue
        drawn.add(both)
        comparison = known.of(pair.column, cells, others)
        if comparison or not other_bins(pair.column, cells, others, source):
            difference = comparison.difference if comparison else known.difference(a, b)
            yield Line(pair.first, pair.second, pair.table.id, pair.column, difference, comparison)


def _effects(source: Source) -> Iterator[Line]:
    """Of each axis its last value against its first, in the metrics that a reader asks for first."""
    for column in main_metrics(source):
        for axis in source.axes:
            by_value = effects_on(source, axis, column)
            last = by_value[-1] if by_value else None
            if last and last.difference and not (last.unmoved or last.other_bins):
                names = f"{axis.key} {plain(last.value)}", plain(by_value[0].value)
                yield Line(*names, MATRIX, column, last.difference, last.comparison)


def _reach(lines: Sequence[Line]) -> float:
    """How far the axis of these lines goes to either side of zero."""
    effect = max(abs(line.along(line.difference.effect)) for line in lines)
    bars = [[line.along(end) for end in line.ends] for line in lines if line.ends]
    half = median((high - low) / 2 for low, high in bars) if bars else 0.0
    most = max([effect, *(abs(end) for bar in bars for end in bar)])
    return 1.06 * (min(most, TIMES * max(effect, half)) or 1.0)


def _caption(source: Source, lines: Sequence[Line]) -> str:
    kinds = {line.kind for line in lines}
    parts = {
        POINTS: True, BARS: kinds != {UNTESTED}, NAMED: "claim" in kinds,
        OF_AXES if source.axes else OTHERS: "exploratory" in kinds, RATE: "exploratory" in kinds,
        SEEDS: any(line.entry.seeds_needed for line in lines), ONCE: UNTESTED in kinds,
    }  # fmt: skip
    return " ".join(text for text, told in parts.items() if told)


def claims(source: Source) -> Drawing | None:
    """The picture as a figure, which belongs to no table."""
    found = glance(source)
    if found is None:
        return None
    alt = "Forest plot: " + "; ".join(
        f"{line.name} in {TITLES.get(line.column, line.column.title)}: {line.says}" for line in found.lines
    )
    return Drawing(NAME, found.title, found.caption, alt, _chart(found), "", _data(found))


def _data(found: Glance) -> str:
    """One line per comparison, in the units in which it is told."""
    rows = [
        (
            line.kind, line.table, line.first, line.second, line.column.key, line.difference.effect,
            "per cent of the second" if line.unit == RATIO else line.unit, *(line.ends or ("", "")), line.entry.word,
            (line.comparison and line.comparison.seeds_needed) or "",
            line.difference.gap.over if line.comparison else "",
        )
        for line in found.lines
    ]  # fmt: skip
    return csv_of(HEADER, rows)


def _chart(found: Glance) -> Figure:
    """Names and verdicts on the left, one panel below the other on the right."""
    height = sum(HEADING + sum(map(_panel_height, panels)) for _, panels in found.groups)
    figure = Figure(figsize=(WIDTH, whole(height)))
    y = height
    for heading, panels in found.groups:
        y -= HEADING
        figure.text(EDGE / WIDTH, (y + 0.08) / height, heading, weight="bold", va="baseline")
        for panel in panels:
            _draw(figure, panel, y, height)
            y -= _panel_height(panel)
    return figure


def _panel_height(panel: Panel) -> float:
    return AXIS + sum(map(_line_height, panel.lines)) + BELOW


def _line_height(line: Line) -> float:
    return TEXT * (len(_wrapped(line)) + 1) + 2 * APART


def _wrapped(line: Line) -> list[str]:
    of = "" if line.table == MATRIX else f" ({line.table})"
    return textwrap.wrap(line.name + of, CHARACTERS)


def _draw(figure: Figure, panel: Panel, top: float, height: float) -> None:
    """A panel whose upper edge lies so many inches above the figure's lower one."""
    tall = sum(map(_line_height, panel.lines))
    title = ", ".join(filter(None, [panel.title, panel.unit]))
    figure.text(EDGE / WIDTH, (top - 0.2) / height, f"{title} ({panel.way})", va="baseline", style="italic")
    box = (LEFT / WIDTH, (top - AXIS - tall) / height, 1 - (LEFT + 0.06) / WIDTH, tall / height)
    axes = figure.add_axes(box, xlim=(0, 1), ylim=(tall, 0))
    axes.set_xticks([at for at, _ in panel.ticks], labels=[label for _, label in panel.ticks])
    axes.tick_params(top=False, bottom=False, labeltop=True, labelbottom=False, pad=1)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.axvline(0.5, color=grey(), linewidth=1)
    y = 0.0
    for line in panel.lines:
        tall_line = _line_height(line)
        _mark(axes, panel, line, y + tall_line / 2)
        text = [*_wrapped(line), f"{line.entry.change}   {line.says}"]
        for i, words in enumerate(text):
            at = (top - AXIS - y - APART - TEXT * (i + 0.8)) / height
            bold = line.shown and i == len(text) - 1
            figure.text(EDGE / WIDTH, at, words, va="baseline", weight="bold" if bold else "normal")
        y += tall_line


def _mark(axes: Axes, panel: Panel, line: Line, y: float) -> None:
    """The interval with its caps, arrows where it goes on, and the point."""
    colour, marker = MARKS[line.entry.word]
    colour = colour or grey()
    for end in panel.bar(line) or ():
        inside = min(max(end, 0.0), 1.0)
        cap = "|" if inside == end else "<" if end < 0 else ">"
        axes.plot([panel.point(line), inside], [y, y], color=colour, linewidth=1.6)
        axes.plot([inside], [y], color=colour, marker=cap, markersize=6, clip_on=False)
    look: dict[str, Any] = {"markerfacecolor": face(line.entry.word == "no difference shown", colour)}
    axes.plot([panel.point(line)], [y], color=colour, marker=marker, markersize=6, zorder=4, **look)
