"""What a report compares beside each row with its table's base: its tables' claims, and pairs of its sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from analysis.frame.source import Source
from analysis.tables.search import chosen
from experiments.paper import TABLE_1A, TABLE_5, TABLE_HEADS, Claim, Column, Table
from experiments.paper.plan import ranked
from tokenbridge.config import TRAINED_TOKENS
from tokenbridge.metrics.catalogue import FD, ORIGINALS_FD, PSNR, TOKEN_MS, metric

POST_TRAINING, CONTINUOUS, TRAINED = "post-training", "continuous", "trained"
TIMED = ("autoregressive 1024×4", "diffusion 1280×8")
"""rows of table 5 that the paper compares"""
QUANTIZED, COSTS = ("B=64", "continuous"), (PSNR, ORIGINALS_FD)
"""rows of table 1a, and what quantization costs in"""


@dataclass(frozen=True)
class Pair:
    """Two rows of a table in one metric; the first is said to be better."""

    table: Table
    column: Column
    first: str
    second: str


def claims(source: Source) -> Iterator[Pair]:
    """The primary comparisons of a report: those that its tables claim, in their order.

    A claim about the best rows of two groups is one between the rows that the search found best, on images apart from
    those that are reported; where there was no search there is no such claim.
    """
    for table in source.tables:
        for claim in table.claims:
            labels = rows_of(claim, table, source)
            if labels is not None:
                for column in claim.metrics:
                    yield Pair(table.by(source.scorers), source.by_scorer(column), *labels)


def rows_of(claim: Claim, table: Table, source: Source) -> tuple[str, str] | None:
    """The labels of both rows of a claim; None where no search chose them."""
    if not claim.chosen:
        return claim.first, claim.second
    first, second = (best_by_search(table, group, source) for group in (claim.first, claim.second))
    return (first, second) if first and second else None


def besides(source: Source) -> Iterator[Pair]:
    """Pairs that the summary speaks of and no table claims.

    Each head of continuous tokens beside the best autoregressive row, the time of a token, what 64 levels cost.
    """
    tables = {table.id for table in source.tables}
    if TABLE_HEADS.id in tables:
        best = best_by_search(TABLE_HEADS, POST_TRAINING, source, head="autoregressive")
        for label in group(TABLE_HEADS, CONTINUOUS, source) if best else ():
            yield Pair(TABLE_HEADS.by(source.scorers), source.by_scorer(FD), best, label)
    if TABLE_5.id in tables:
        yield Pair(TABLE_5, TOKEN_MS, *TIMED)
    if TABLE_1A.id in tables:
        for column in COSTS:
            yield Pair(TABLE_1A.by(source.scorers), source.by_scorer(column), *QUANTIZED)


def group(table: Table, tokens: str, source: Source, head: str = "") -> list[str]:
    """The labels of the rows that predict such tokens.

    Args:
        table: whose rows they are.
        tokens: post-training, trained or continuous.
        source: the report's source.
        head: the kind of head that they must have; empty for any.
    """
    kinds = {cell.label: ids[0] for cell, ids in source.rows(table) if ids and not source.is_given(ids[0])}
    return [
        label
        for label, cell in kinds.items()
        if tokens_of(source, cell) == tokens and head in ("", source.setting(cell, "head.kind"))
    ]


def tokens_of(source: Source, cell: str) -> str:
    """The tokens that a cell predicts: post-training, trained or continuous."""
    kind = source.setting(cell, "quantizer.kind")
    return CONTINUOUS if kind == "identity" else TRAINED if kind in TRAINED_TOKENS else POST_TRAINING


def best_by_search(table: Table, tokens: str, source: Source, head: str = "") -> str:
    """The row of a group whose chosen point the search found best; empty where it did not search each of them.

    Args:
        table: whose rows they are.
        tokens: of the group.
        source: the report's source.
        head: the kind of head that the rows must have; empty for any.
    """
    rows = group(table, tokens, source, head)
    found = {row: point.value for point in chosen(source) for row in point.rows}
    values = [value for label in rows if (value := found.get(f"{table.id} {label}")) is not None]
    if not rows or len(values) < len(rows):
        return ""
    name = str((source.plan.get("search") or {}).get("metric", ""))
    return rows[ranked(values, metric(f"score/{name.rpartition('/')[2]}").better)[0]]
