"""What the numbers say, in sentences computed from them: the summary at the top of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from analysis import stats
from analysis.charts import PANTER_DITE
from analysis.source import Source
from analysis.stats import Estimate, number
from experiments.paper import BITS, FD, MSE, ORIGINALS_FD, PSNR, TABLE_1A, TABLE_1B, TABLE_2A, Column, Table

Status = Literal["holds", "does not hold", "undecided", "one seed", "measured"]


@dataclass(frozen=True)
class Verdict:
    status: Status
    """holds and does not hold: a claim of the paper, settled; one seed: seen once; measured: no claim to test"""
    text: str
    table: str


def verdicts(source: Source) -> list[Verdict]:
    """One sentence a claim, for the tables that the report has; what lacks its numbers is left out."""
    used = {table.id for table in source.tables}
    found: list[Verdict | None] = []
    if "2a" in used:
        found += [_prediction(source, BITS, "bits per dimension"), _prediction(source, FD, FD.title)]
    if "1a" in used:
        found += [_falls_with_levels(source), _panter_dite(source)]
        found += [_cost(source, PSNR), _cost(source, ORIGINALS_FD)]
    if "1b" in used:
        found.append(_range(source))
    return [verdict for verdict in found if verdict is not None]


def estimates(source: Source, table: Table, column: Column) -> dict[str, Estimate]:
    """Row label -> estimate in the column's printed scale, for the rows that have the metric, in the table's order."""
    values = {}
    for cell, ids in source.rows(table):
        numbers = [source.number(id, column.key) for id in ids]
        present = [value * column.scale for value in numbers if value is not None]
        if present:
            values[cell.label] = stats.estimate(present)
    return values


def _prediction(source: Source, column: Column, name: str) -> Verdict | None:
    values = estimates(source, TABLE_2A, column)
    if not {"autoregressive", "parallel"} <= values.keys():
        return None
    ours, rival = values["autoregressive"], values["parallel"]
    numbers = f"{name}: {_show(ours, column)} against {_show(rival, column)}"
    if min(ours.seeds, rival.seeds) < 2:
        return _seen_once(ours.mean - rival.mean, numbers, column, source)
    gap = f"the difference is {_show(stats.difference(ours, rival), column)}"
    if not stats.settled(ours, rival):
        text = f"Autoregressive and parallel cannot be told apart in {numbers}; {gap}."
        return Verdict("undecided", text, "2a")
    verb, status = ("beats", "holds") if ours.mean < rival.mean else ("loses to", "does not hold")
    return Verdict(status, f"Autoregressive {verb} parallel in {numbers}; {gap}.", "2a")


def _seen_once(gap: float, numbers: str, column: Column, source: Source) -> Verdict:
    """One seed: a difference beyond the error over images is reported as seen, never as settled."""
    errors = [source.number(id, f"{column.key}_se") or 0.0 for _, ids in source.rows(TABLE_2A) for id in ids]
    error = math.hypot(*errors) * column.scale
    if abs(gap) <= 2 * error:
        text = f"Autoregressive and parallel differ within the error over images in {numbers} (one seed each)."
        return Verdict("undecided", text, "2a")
    verb = "beats" if gap < 0 else "does not beat"
    note = "one seed each, so no interval"
    note += f"; standard error over images {number(error, column.decimals)}" if error else ""
    return Verdict("one seed", f"Autoregressive {verb} parallel in {numbers} ({note}).", "2a")


def _falls_with_levels(source: Source) -> Verdict | None:
    values = {label: value for label, value in estimates(source, TABLE_1A, MSE).items() if label.startswith("B=")}
    if len(values) < 2:
        return None
    chain = " → ".join(number(value.mean, MSE.decimals) for value in values.values())
    rising = [(a, b) for a, b in pairwise(values) if values[b].mean >= values[a].mean]
    if rising:
        text = f"Quantization error does not fall from {rising[0][0]} to {rising[0][1]}: {MSE.title} {chain}."
        return Verdict("does not hold", text, "1a")
    ends = f"{next(iter(values))} to {next(reversed(values))}"
    text = f"Quantization error falls with each doubling of the levels, from {ends}: {MSE.title} {chain}."
    return Verdict("holds", text, "1a")


def _panter_dite(source: Source) -> Verdict | None:
    value = estimates(source, TABLE_1A, MSE).get("B=64")
    if value is None:
        return None
    ratio = value.mean / MSE.scale / (PANTER_DITE / 64**2)
    text = (
        f"At 64 levels the error is {number(ratio, 2)} times the Panter–Dite value, which the best quantizer reaches on"
        " normally distributed values."
    )
    return Verdict("measured", text, "1a")


def _cost(source: Source, column: Column) -> Verdict | None:
    """What 64 levels cost a reconstruction."""
    values = estimates(source, TABLE_1A, column)
    if not {"continuous", "B=64"} <= values.keys():
        return None
    tokens, latents = values["B=64"].mean, values["continuous"].mean
    change = tokens - latents if column.better == "lower" else latents - tokens
    worse, unit = "worse" if change >= 0 else "better", f" {column.unit}" if column.unit else ""
    by, *both = (number(value, column.decimals) for value in (abs(change), tokens, latents))
    text = (
        f"Reconstructions from 64 levels are {by}{unit} {worse} in {column.title} than those from continuous latents:"
        f" {both[0]} against {both[1]}."
    )
    return Verdict("measured", text, "1a")


def _range(source: Source) -> Verdict | None:
    values = {label: value for label, value in estimates(source, TABLE_1B, MSE).items() if label.startswith("±")}
    if len(values) < 2:
        return None
    published = {label: float(TABLE_1B.cell(label).published["rfid"]) for label in values}
    least, theirs = (
        min(values, key=lambda label: values[label].mean),
        min(published, key=lambda label: published[label]),
    )
    listed = ", ".join(f"{number(value.mean, MSE.decimals)} at {label}" for label, value in values.items())
    agrees = "as in the paper (by rFID)" if least == theirs else f"not {theirs} as in the paper (by rFID)"
    text = f"Of the ranges, {least} has the least error at 64 levels, {agrees}: {MSE.title} {listed}."
    return Verdict("holds" if least == theirs else "does not hold", text, "1b")


def _show(value: Estimate, column: Column) -> str:
    text = number(value.mean, column.decimals)
    return text if value.half is None else f"{text} ± {number(value.half, column.decimals)}"
