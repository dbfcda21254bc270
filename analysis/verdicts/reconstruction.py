"""Tables 1a and 1b: what levels and range cost a reconstruction."""

from __future__ import annotations

from itertools import pairwise

from analysis.frame.source import Source
from analysis.stats import PANTER_DITE, number, worded
from analysis.tables.claims import COSTS, QUANTIZED
from analysis.verdicts.form import Verdict, estimates
from experiments.paper import RECONSTRUCT, TABLE_1A, TABLE_1B
from tokenbridge.metrics.catalogue import MSE, PSNR


def levels(source: Source) -> list[Verdict | None]:
    return [_falls_with_levels(source), _panter_dite(source), _costs(source)]


def _falls_with_levels(source: Source) -> Verdict | None:
    values = {label: value for label, value in estimates(source, TABLE_1A, MSE).items() if label.startswith("B=")}
    if len(values) < 2:
        return None
    told = {label: f"{number(value.mean, MSE.decimals)} ({label})" for label, value in values.items()}
    rising = [(a, b) for a, b in pairwise(values) if values[b].mean >= values[a].mean]
    if rising:
        text = f"Quantization error does not always fall: {MSE.title} {' to '.join(told[end] for end in rising[0])}."
        return Verdict("does not hold", text, "1a")
    first, *_, last = told.values()
    text = f"Quantization error falls with each doubling of the levels: {MSE.title} {first} to {last}."
    return Verdict("holds", text, "1a")


def _panter_dite(source: Source) -> Verdict | None:
    value = estimates(source, TABLE_1A, MSE).get("B=64")
    if value is None:
        return None
    ratio = value.mean / MSE.scale / (PANTER_DITE / 64**2)
    text = f"At 64 levels the error is {number(ratio, 2)} times Panter–Dite's, the best quantizer's on normal values."
    return Verdict("measured", text, "1a")


def _costs(source: Source) -> Verdict | None:
    """What 64 levels cost a reconstruction."""
    told = []
    for column in map(source.by_scorer, COSTS):
        values = estimates(source, TABLE_1A, column)
        if set(QUANTIZED) <= values.keys():
            tokens, latents = (values[label].mean for label in QUANTIZED)
            told.append(f"{worded(tokens - latents, column.better, column.decimals, column.unit)} in {column.title}")
    text = f"Reconstructions from 64 levels against those from continuous latents: {', '.join(told)}."
    return Verdict("measured", text, "1a") if told else None


def ranges(source: Source) -> list[Verdict | None]:
    values = {label: value for label, value in estimates(source, TABLE_1B, MSE).items() if label.startswith("±")}
    if len(values) < 2:
        return []
    published = {label: float(TABLE_1B.row(label).published["rfid"]) for label in values}
    least, theirs = (
        min(values, key=lambda label: values[label].mean),
        min(published, key=lambda label: published[label]),
    )
    agrees = "as in the paper (by rFID)" if least == theirs else f"not {theirs} as in the paper (by rFID)"
    error = number(values[least].mean, MSE.decimals)
    text = f"Of the ranges, {least} has the least error at 64 levels, {agrees}: {MSE.title} {error}."
    return [Verdict("holds" if least == theirs else "does not hold", text, "1b")]


def own(source: Source) -> list[Verdict | None]:
    """Of own images: what each row costs against continuous latents, in PSNR."""
    rows = list(estimates(source, source.of_reconstructions, PSNR).items())
    if len(rows) < 2:
        return []
    continuous, *values = rows
    costs = ", ".join(
        f"{worded(value.mean - continuous[1].mean, PSNR.better, PSNR.decimals, PSNR.unit)} at {label}"
        for label, value in values
    )
    without = number(continuous[1].mean, PSNR.decimals)
    text = f"Quantizing costs: PSNR {without} dB without it, {costs}."
    return [Verdict("measured", text, RECONSTRUCT)]
