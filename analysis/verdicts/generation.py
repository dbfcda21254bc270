"""Tables 2a to 2e: what the paper says of prediction, order, levels, groups and the head's size, and what we see."""

from __future__ import annotations

from analysis.frame.source import Source
from analysis.verdicts.form import Verdict, claim, trend
from experiments.paper import BITS, FD, TABLE_2A, TABLE_2B, TABLE_2C, TABLE_2D, TABLE_2E, Column

Found = list[Verdict | None]


def _columns(source: Source) -> tuple[Column, Column]:
    return BITS, source.by_scorer(FD)


def prediction(source: Source) -> Found:
    return [claim(source, TABLE_2A, ("autoregressive", "parallel"), column) for column in _columns(source)]


def order(source: Source) -> Found:
    names = ("the frequency order of channels", "the stored one")
    return [claim(source, TABLE_2B, ("frequency", "as stored"), column, names) for column in _columns(source)]


def levels(source: Source) -> Found:
    return [trend(source, TABLE_2C, column, "more levels", "better") for column in _columns(source)]


def groups(source: Source) -> Found:
    return [trend(source, TABLE_2D, column, "more channels predicted together", "worse") for column in _columns(source)]


def size(source: Source) -> Found:
    return [trend(source, TABLE_2E, column, "a larger head", "better") for column in _columns(source)]
