"""Table 5: the time for one image token, autoregressive against diffusion."""

from __future__ import annotations

from analysis.frame.source import Source
from analysis.stats import number
from analysis.tables.notes import timed_on
from analysis.verdicts.form import Verdict, estimates
from experiments.paper import RECOMPUTING_MS, STEPWISE_MS, TABLE_5, TOKEN_MS

OURS, RIVAL = "autoregressive 1024×4", "diffusion 1280×8"


def speed(source: Source) -> list[Verdict | None]:
    return [_against_diffusion(source), _cache(source)]


def _against_diffusion(source: Source) -> Verdict | None:
    values = estimates(source, TABLE_5, TOKEN_MS)
    if not {OURS, RIVAL} <= values.keys():
        return None
    ours, theirs = values[OURS].mean, values[RIVAL].mean
    printed = {label: float(TABLE_5.cell(label).published["ms"]) for label in (OURS, RIVAL)}
    published = number(printed[RIVAL] / printed[OURS], 2)
    text = (
        f"One token at a time, {OURS} takes {number(ours, TOKEN_MS.decimals)} ms and {RIVAL}"
        f" {number(theirs, TOKEN_MS.decimals)} ms{_place(source)}: {number(theirs / ours, 2)} times as fast"
        f" (published: {published}, A100){_stepwise(source, ours)}."
    )
    return Verdict("holds" if theirs > ours else "does not hold", text, TABLE_5.id)


def _stepwise(source: Source, ours: float) -> str:
    """The same against diffusion as released samplers run it, which the published ratio is about."""
    value = estimates(source, TABLE_5, STEPWISE_MS).get(RIVAL)
    return f"; against diffusion step by step, as released, {number(value.mean / ours, 2)} times" if value else ""


def _cache(source: Source) -> Verdict | None:
    with_cache, without = (estimates(source, TABLE_5, column).get(OURS) for column in (TOKEN_MS, RECOMPUTING_MS))
    if with_cache is None or without is None:
        return None
    ratio = number(without.mean / with_cache.mean, 1)
    text = f"Keeping keys and values from channel to channel makes it {ratio} times as fast as recomputing them."
    return Verdict("measured", text, TABLE_5.id)


def _place(source: Source) -> str:
    place = next((text for id in source.cells(TABLE_5.id, OURS) if (text := timed_on(source, id))), "")
    return f" ({place})" if place else ""
