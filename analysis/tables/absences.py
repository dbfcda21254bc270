"""Why a measured cell of a table is empty."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.frame.source import Source
from experiments.paper import RECOMPUTING_MS, STEPWISE_MS, TOKEN_BITS, Cell, Column
from tokenbridge.config import CATEGORICAL, HEAD_KINDS, TRAINED_TOKENS


def absence(column: Column, cell: Cell, ids: Sequence[str], source: Source) -> str:
    """The reason, short enough for a cell; ids are those that fill the row, none of which has the number."""
    if not ids:
        return cell.reason if cell.overrides is None else cell.needs or "not run"
    if odd := next(filter(None, (source.odd(id, column.key) for id in ids)), ""):
        return odd
    kind = column.key.partition("/")[0]
    if reason := _impossible(column, source.setting(ids[0], "quantizer.kind"), source.setting(ids[0], "head.kind")):
        return reason
    if any(source.stage(id, kind) for id in ids):
        return "not reported"
    return "not run" if kind == "speed" else f"{kind} not run"


def _impossible(column: Column, quantizer: str, head: str) -> str:
    """Why no run of such a row could have the number; empty where one could."""
    kind = column.key.partition("/")[0]
    if kind == "quantizer" and quantizer == "identity":
        return "continuous" if column == TOKEN_BITS else "no levels"
    if kind == "likelihood" and quantizer in TRAINED_TOKENS:
        return "another latent space"
    if kind == "likelihood" and head in HEAD_KINDS and not HEAD_KINDS[head].density:
        return "no exact density"
    if column == RECOMPUTING_MS and head != "autoregressive":
        return "no cache to leave out"
    if column == STEPWISE_MS and head in CATEGORICAL:
        return "no such network"
    return ""
