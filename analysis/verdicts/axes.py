"""A grid over axes: which value of each axis is better than its first, and what the interval is over."""

from __future__ import annotations

from analysis.frame.source import Source
from analysis.stats import number, signed
from analysis.tables.effects import PREFIX, Effect, effects_on, metrics, over
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
    if not compared or all(effect.unmoved for effect in compared):
        return None
    parts = "; ".join(f"{plain(effect.value)} {_effect_text(effect, column)}" for effect in compared)
    first = plain(axis.values[0])
    intervals = [effect for effect in compared if effect.difference and effect.difference.half is not None]
    scope = f"corrected, over {over(source, intervals[0])}" if intervals else over(source, compared[0])
    text = f"In {WORDS.get(column, column.title)}, {axis.key} against {first}: {parts} ({scope})."
    status = "one seed" if not intervals else "measured" if any(e.settled for e in compared) else "undecided"
    return Verdict(status, text, PREFIX + column.key.rpartition("/")[2])


def _effect_text(effect: Effect, column: Column) -> str:
    gap = effect.difference
    assert gap is not None
    word = "better" if effect.better(column) else "worse"
    if gap.half is None:
        return f"reads {word} by {number(abs(gap.mean), column.decimals)}"
    # the interval by which Holm's method decided; a metric of a direction always has it here
    half = number(effect.comparison.corrected if effect.comparison else gap.half, column.decimals)
    if effect.settled:
        return f"is {word} by {number(abs(gap.mean), column.decimals)} ± {half}"
    return f"shows no difference, {signed(gap.mean, column.decimals)} ± {half}"
