"""Table heads: discrete against continuous tokens, post-training against trained ones, on one backbone."""

from __future__ import annotations

from analysis.frame.source import Source
from analysis.stats import Estimate
from analysis.verdicts.form import ONE_SEED, Verdict, estimates, outcome, show
from experiments.paper import TABLE_HEADS
from tokenbridge.config import TRAINED_TOKENS
from tokenbridge.metrics.catalogue import BITS, FD

NOT_SETTLED = "(not settled) "
Group = dict[str, Estimate]
"""row label -> estimate"""


def heads(source: Source) -> list[Verdict | None]:
    return [
        _best_of(source, "continuous", "continuous tokens"),
        _best_of(source, "trained", "trained tokenizers"),
        _against_continuous_heads(source),
    ]


def _tokens(source: Source) -> dict[str, str]:
    """Row label -> the tokens that it predicts: post-training, trained or continuous."""
    kinds = {cell.label: source.setting(ids[0], "quantizer.kind") for cell, ids in source.rows(TABLE_HEADS) if ids}
    trained = {label: "trained" if kind in TRAINED_TOKENS else "post-training" for label, kind in kinds.items()}
    return {label: "continuous" if kinds[label] == "identity" else tokens for label, tokens in trained.items()}


def _among(source: Source, values: Group, tokens: str) -> Group:
    """The estimates of the rows that predict such tokens."""
    labels = _tokens(source)
    return {label: value for label, value in values.items() if labels[label] == tokens}


def _lowest(group: Group) -> str:
    return min(group, key=lambda label: group[label].mean)


def _best_of(source: Source, tokens: str, name: str) -> Verdict | None:
    """The best post-training row against the best of other rows, both chosen by the numbers that are compared."""
    fd = source.by_scorer(FD)
    values = estimates(source, TABLE_HEADS, fd)
    ours, others = _among(source, values, "post-training"), _among(source, values, tokens)
    if not ours or not others:
        return None
    a, b = _lowest(ours), _lowest(others)
    result = outcome(source, TABLE_HEADS, fd, values, a, b)
    if not result.apart:
        verb = "differ within the error over images from" if result.once else "cannot be told apart from"
    else:
        verb = "beat" if result.change < 0 else "do not beat" if result.once else "lose to"
    chosen = f"each is the lowest of its rows ({len(ours)} and {len(others)})"
    text = (
        f"The best post-training quantized tokens {verb} the best {name} in {fd.title}: {show(ours[a], fd)} ({a})"
        f" against {show(others[b], fd)} ({b});"
        + (f" {chosen}, {ONE_SEED}." if result.once else f" the difference is {result.text}; {chosen}.")
    )
    return Verdict(result.status(result.change < 0), text, TABLE_HEADS.id)


def _against_continuous_heads(source: Source) -> Verdict | None:
    """The best autoregressive model of post-training tokens beside each head of continuous ones."""
    parts, once = [], False
    for column in (source.by_scorer(FD), BITS):
        values = estimates(source, TABLE_HEADS, column)
        others, ours = _among(source, values, "continuous"), _among(source, values, "post-training")
        kinds = {label: source.setting(source.cells(TABLE_HEADS.id, label)[0], "head.kind") for label in ours}
        ours = {label: value for label, value in ours.items() if kinds[label] == "autoregressive"}
        if not ours or not others:
            continue
        best = _lowest(ours)
        results = {label: outcome(source, TABLE_HEADS, column, values, best, label) for label in others}
        listed = [
            f"{label.partition(', ')[2].replace(', ', ' with ')}"
            f" {'' if result.once or result.apart else NOT_SETTLED}{show(others[label], column)}"
            for label, result in results.items()
        ]
        parts.append(f"in {column.title} {show(ours[best], column)} ({best}) against {', '.join(listed)}")
        once |= any(result.once for result in results.values())
    if not parts:
        return None
    note = f" ({ONE_SEED})" if once else ""
    if not once and any(NOT_SETTLED in part for part in parts):
        note = "; where it says not settled, the corrected interval of the difference holds zero"
    text = f"Autoregressive prediction of quantized latents beside heads of continuous ones: {'; '.join(parts)}{note}."
    return Verdict("one seed" if once else "measured", text, TABLE_HEADS.id)
