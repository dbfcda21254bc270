"""Tables 1a and 1b: what levels and range cost a reconstruction."""

from __future__ import annotations

from itertools import pairwise

from analysis.frame.source import Source
from analysis.stats import PANTER_DITE, number
from analysis.verdicts.form import Verdict, estimates
from experiments.paper import TABLE_1A, TABLE_1B, Column
from tokenbridge.metrics.catalogue import MSE, ORIGINALS_FD, PSNR


def levels(source: Source) -> list[Verdict | None]:
    costs = [_cost(source, column) for column in (PSNR, source.by_scorer(ORIGINALS_FD))]
    return [_falls_with_levels(source), _panter_dite(source), *costs]


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


def ranges(source: Source) -> list[Verdict | None]:
    values = {label: value for label, value in estimates(source, TABLE_1B, MSE).items() if label.startswith("±")}
    if len(values) < 2:
        return []
    published = {label: float(TABLE_1B.row(label).published["rfid"]) for label in values}
    least, theirs = (
        min(values, key=lambda label: values[label].mean),
        min(published, key=lambda label: published[label]),
    )
    listed = ", ".join(f"{number(value.mean, MSE.decimals)} at {label}" for label, value in values.items())
    agrees = "as in the paper (by rFID)" if least == theirs else f"not {theirs} as in the paper (by rFID)"
    text = f"Of the ranges, {least} has the least error at 64 levels, {agrees}: {MSE.title} {listed}."
    return [Verdict("holds" if least == theirs else "does not hold", text, "1b")]
