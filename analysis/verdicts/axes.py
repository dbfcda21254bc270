"""A grid over axes: which value of each axis is better than its first."""

from __future__ import annotations

from analysis.frame.source import Source
from analysis.tables.effects import PREFIX, Effect, effects_on, main_metrics
from analysis.tables.filled import effect_text
from analysis.verdicts.form import Verdict
from experiments.axes import Axis
from experiments.paper import Column
from tokenbridge.overrides import plain


def effects(source: Source) -> list[Verdict | None]:
    """A sentence for each axis, with the metrics that depend on it."""
    return [_verdict(source, axis) for axis in source.axes]


def _verdict(source: Source, axis: Axis) -> Verdict | None:
    every = [(column, effect) for column in main_metrics(source) for effect in effects_on(source, axis, column)]
    found = [(column, e) for column, e in every if e.difference and not (e.unmoved or e.other_bins)]
    if not found:
        return None
    told: dict[str, list[str]] = {}
    for column, effect in found:
        told.setdefault(plain(effect.value), []).append(_effect_text(effect, column))
    parts = "; ".join(f"{value} {', '.join(texts)}" for value, texts in told.items())
    tested = any(effect.comparison for _, effect in found)
    status = "one seed" if not tested else "measured" if any(effect.settled for _, effect in found) else "undecided"
    text = f"{axis.key} against {plain(axis.values[0])}: {parts}."
    return Verdict(status, text, PREFIX + found[0][0].key.rpartition("/")[2])


def _effect_text(effect: Effect, column: Column) -> str:
    difference = effect.difference
    assert difference is not None
    verb = f"is {difference.way}" if effect.settled else "shows no difference"
    verb = verb if effect.comparison else f"reads {difference.way}"
    return f"{verb} in {column.title} ({effect_text(column, difference)})"
