"""Tables 1a and 1b: what levels and range cost a reconstruction."""

from __future__ import annotations

from itertools import pairwise

from analysis.frame.source import Source
from analysis.stats import PANTER_DITE, SAME, number, worded
from analysis.tables.claims import COSTS, QUANTIZED
from analysis.tables.compare import comparisons
from analysis.verdicts.form import Verdict, estimates
from experiments.paper import RECONSTRUCT, TABLE_1A, TABLE_1B, Column, Table
from tokenbridge.metrics.catalogue import MSE, PSNR, RECONSTRUCTION_FD


def levels(source: Source) -> list[Verdict | None]:
    return [_falls_with_levels(source), _panter_dite(source), _distances(source), _costs(source)]


def _falls_with_levels(source: Source) -> Verdict | None:
    values = {label: value for label, value in estimates(source, TABLE_1A, MSE).items() if label.startswith("B=")}
    if len(values) < 2:
        return None
    told = {label: f"{number(value.mean, MSE.decimals)} ({label})" for label, value in values.items()}
    rising = [(a, b) for a, b in pairwise(values) if values[b].mean >= values[a].mean]
    if rising:
        text = f"Quantization error does not always fall: {MSE.title} {' to '.join(told[end] for end in rising[0])}."
        return Verdict("measured", text, "1a")
    first, *_, last = told.values()
    text = f"Quantization error falls with each doubling of the levels: {MSE.title} {first} to {last}."
    return Verdict("measured", text, "1a")


def _panter_dite(source: Source) -> Verdict | None:
    value = estimates(source, TABLE_1A, MSE).get("B=64")
    if value is None:
        return None
    ratio = value.mean / MSE.scale / (PANTER_DITE / 64**2)
    text = f"At 64 levels the error is {number(ratio, 2)} times Panter–Dite's, the best quantizer's on normal values."
    return Verdict("measured", text, "1a")


def _distances(source: Source) -> Verdict | None:
    """The Fréchet distance of each number of levels against that of continuous latents, as the table's verdicts are."""
    column, continuous = source.by_scorer(RECONSTRUCTION_FD), QUANTIZED[1]
    values = estimates(source, TABLE_1A, column)
    if continuous not in values or len(values) < 2:
        return None
    told: dict[str, list[str]] = {}
    for label, value in values.items():
        if label != continuous:
            cells = (source.cells(TABLE_1A.id, each) for each in (label, continuous))
            comparison = comparisons(source).of(column, *cells)
            says = "not tested" if comparison is None else comparison.verdict
            told.setdefault(says, []).append(f"{number(value.mean, column.decimals)} ({label})")
    listed = "; ".join(f"{says}: {', '.join(rows)}" for says, rows in told.items())
    text = (
        f"{column.title} of reconstructions against {number(values[continuous].mean, column.decimals)} of continuous"
        f" latents: {listed}. The paper's rFID falls with each doubling of the levels, to that of continuous latents."
    )
    return Verdict("measured", text, "1a")


def _costs(source: Source) -> Verdict | None:
    """What 64 levels cost a reconstruction."""
    told = []
    for column in map(source.by_scorer, COSTS):
        values = estimates(source, TABLE_1A, column)
        if set(QUANTIZED) <= values.keys():
            tokens, latents = (values[label].mean for label in QUANTIZED)
            change = worded(tokens - latents, column.better, column.decimals, column.unit)
            told.append(f"{change} in {column.title}{_doubt(source, TABLE_1A, column, *QUANTIZED, change)}")
    text = f"Reconstructions from 64 levels against those from continuous latents: {', '.join(told)}."
    return Verdict("measured", text, "1a") if told else None


def ranges(source: Source) -> list[Verdict | None]:
    """The range with the least quantization error, the one with the lowest Fréchet distance, and the paper's."""
    told = []
    for column in (MSE, source.by_scorer(RECONSTRUCTION_FD)):
        values = {label: value for label, value in estimates(source, TABLE_1B, column).items() if label[0] == "±"}
        if len(values) > 1:
            least = min(values, key=lambda label, of=values: of[label].mean)
            told.append(f"{column.title} is lowest at {least} ({number(values[least].mean, column.decimals)})")
    published = {row.label: float(row.published["rfid"]) for row in TABLE_1B.rows if row.label[0] == "±"}
    theirs = min(published, key=lambda label: published[label])
    text = f"Of the ranges, at 64 levels, {'; '.join(told)}. The paper's rFID is lowest at {theirs}."
    return [Verdict("measured", text, "1b")] if told else []


def own(source: Source) -> list[Verdict | None]:
    """Of own images: what each row costs against continuous latents, in PSNR."""
    rows = list(estimates(source, source.of_reconstructions, PSNR).items())
    if len(rows) < 2:
        return []
    continuous, *values = rows
    costs = []
    for label, value in values:
        change = worded(value.mean - continuous[1].mean, PSNR.better, PSNR.decimals, PSNR.unit)
        doubt = _doubt(source, source.of_reconstructions, PSNR, label, continuous[0], change)
        costs.append(f"{change} at {label}{doubt}")
    without = number(continuous[1].mean, PSNR.decimals)
    text = f"Quantizing costs: PSNR {without} dB without it, {', '.join(costs)}."
    return [Verdict("measured", text, RECONSTRUCT)]


def _doubt(source: Source, table: Table, column: Column, first: str, second: str, change: str) -> str:
    """What keeps a difference of two rows from being shown, as their table has it; empty where it is, or none is told.

    Args:
        source: the report's source.
        table: whose rows they are.
        column: the metric.
        first: label of the row from which the other is subtracted.
        second: label of the other row.
        change: the difference in words.
    """
    if change.startswith(SAME):
        return ""
    comparison = comparisons(source).of(column, *(source.cells(table.id, label) for label in (first, second)))
    return " (not tested)" if comparison is None else "" if comparison.shown else " (no difference shown)"
