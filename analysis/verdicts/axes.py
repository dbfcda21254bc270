"""A grid over axes: which value of each axis is better than its first, and what the interval is over."""

from __future__ import annotations

from analysis.frame.source import Source
from analysis.tables.effects import PREFIX, Effect, effects_on, metrics, over
from analysis.tables.filled import effect_text, interval_text
from analysis.verdicts.form import NAMES, Verdict
from experiments.axes import Axis
from experiments.paper import Column
from tokenbridge.metrics.catalogue import AGREEMENT, BITS, FD
from tokenbridge.overrides import plain

WORDS = NAMES | {AGREEMENT: "agreement with the class asked for"}


def effects(source: Source) -> list[Verdict | None]:
    """A sentence for each axis and metric; none where the metric does not depend on the axis."""
    columns = [column for column in (source.by_scorer(FD), BITS, AGREEMENT) if column in metrics(source)]
    return [_verdict(source, axis, column) for column in columns for axis in source.axes]


def _verdict(source: Source, axis: Axis, column: Column) -> Verdict | None:
    compared = [effect for effect in effects_on(source, axis, column) if effect.difference]
    if not compared or all(effect.unmoved or effect.other_bins for effect in compared):
        return None
    parts = "; ".join(f"{plain(effect.value)} {_effect_text(effect, column)}" for effect in compared)
    first = plain(axis.values[0])
    intervals = [effect for effect in compared if effect.comparison]
    scope = f"exploratory, over {over(source, intervals[0])}" if intervals else over(source, compared[0])
    text = f"In {WORDS.get(column, column.title)}, {axis.key} against {first}: {parts} ({scope})."
    status = "one seed" if not intervals else "measured" if any(e.settled for e in compared) else "undecided"
    return Verdict(status, text, PREFIX + column.key.rpartition("/")[2])


def _effect_text(effect: Effect, column: Column) -> str:
    difference, comparison = effect.difference, effect.comparison
    assert difference is not None
    told = effect_text(column, difference)
    if comparison is None:
        return f"reads {difference.way}, {told}"
    needed = f", {comparison.seeds_needed} seeds would settle it" if comparison.seeds_needed else ""
    word = f"is {difference.way}" if effect.settled else "shows no difference"
    return f"{word}, {told} {interval_text(column, difference, comparison.level)}{needed}"
