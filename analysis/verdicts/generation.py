"""Tables 2a to 2e and 5: prediction, order, levels, groups, the head's size, and the time for one image token."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.frame.source import Source
from analysis.stats import number
from analysis.tables.claims import TIMED
from analysis.verdicts.form import Verdict, claim, estimates, joined, trend
from experiments.paper import DUEL, TABLE_2A, TABLE_2B, TABLE_2C, TABLE_2D, TABLE_2E, TABLE_5, Column
from tokenbridge.metrics.catalogue import BITS, FD, RECOMPUTING_MS, STEPWISE_MS, TOKEN_MS

OURS, RIVAL = TIMED
Verdicts = Sequence[Verdict | None]


def _columns(source: Source) -> tuple[Column, Column]:
    return BITS, source.by_scorer(FD)


def prediction(source: Source) -> Verdicts:
    return joined(claim(source, TABLE_2A, ("autoregressive", "parallel"), column) for column in _columns(source))


def duel(source: Source) -> Verdicts:
    """The one comparison of a duel."""
    table = next(table for table in source.tables if table.id == DUEL)
    return joined(
        claim(source, table, (one.first, one.second), source.by_scorer(one.metrics[0])) for one in table.claims
    )


def order(source: Source) -> Verdicts:
    names = ("the frequency order of channels", "the stored one")
    return joined(claim(source, TABLE_2B, ("frequency", "as stored"), column, names) for column in _columns(source))


def levels(source: Source) -> Verdicts:
    # bits by bins of different widths measure the bins
    return joined([trend(source, TABLE_2C, source.by_scorer(FD), "more levels", "better")])


def groups(source: Source) -> Verdicts:
    cause = "more channels predicted together"
    return joined(trend(source, TABLE_2D, column, cause, "worse") for column in _columns(source))


def size(source: Source) -> Verdicts:
    return joined(trend(source, TABLE_2E, column, "a larger head", "better") for column in _columns(source))


def speed(source: Source) -> Verdicts:
    return [_against_diffusion(source), _cache(source)]


def _against_diffusion(source: Source) -> Verdict | None:
    times = estimates(source, TABLE_5, TOKEN_MS)
    if not {OURS, RIVAL} <= times.keys():
        return None
    ours, theirs = times[OURS].mean, times[RIVAL].mean
    printed = {label: float(TABLE_5.row(label).published["ms"]) for label in (OURS, RIVAL)}
    published = number(printed[RIVAL] / printed[OURS], 2)
    text = (
        f"For one token {OURS} takes {number(ours, TOKEN_MS.decimals)} ms, {RIVAL} {number(theirs, TOKEN_MS.decimals)}:"
        f" {number(theirs / ours, 2)} times as fast (published: {published}, A100)"
    )
    if stepwise := estimates(source, TABLE_5, STEPWISE_MS).get(RIVAL):  # what the published ratio is about
        text += f", {number(stepwise.mean / ours, 2)} times against diffusion step by step, as released"
    return Verdict("measured", f"{text}.", TABLE_5.id)  # one time of each, without a test


def _cache(source: Source) -> Verdict | None:
    with_cache, without = (estimates(source, TABLE_5, column).get(OURS) for column in (TOKEN_MS, RECOMPUTING_MS))
    if with_cache is None or without is None:
        return None
    ratio = number(without.mean / with_cache.mean, 1)
    text = f"Keeping keys and values makes it {ratio} times as fast as recomputing them."
    return Verdict("measured", text, TABLE_5.id)
