"""Table heads: discrete against continuous tokens, post-training against trained ones, on one backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.frame.source import Source
from analysis.stats import Estimate
from analysis.verdicts.form import ONE_SEED, Difference, Status, Verdict, difference, estimates, image_error, show
from experiments.paper import TABLE_HEADS, Column
from tokenbridge.config import TRAINED_TOKENS
from tokenbridge.metrics.catalogue import BITS, FD

NOT_SETTLED = "(not settled) "
Group = dict[str, Estimate]
"""row label -> estimate"""


@dataclass(frozen=True)
class Rows:
    """Labels of the table's rows by the tokens that they predict; autoregressive: those of the post-training rows."""

    post_training: tuple[str, ...]
    trained: tuple[str, ...]
    continuous: tuple[str, ...]
    autoregressive: tuple[str, ...]


def heads(source: Source) -> list[Verdict | None]:
    rows, fd = _rows(source), estimates(source, TABLE_HEADS, source.by_scorer(FD))
    return [
        _best_of(source, _among(fd, rows.post_training), _among(fd, rows.continuous), "continuous tokens"),
        _best_of(source, _among(fd, rows.post_training), _among(fd, rows.trained), "trained tokenizers"),
        _against_each(source, rows),
    ]


def _rows(source: Source) -> Rows:
    found: dict[str, list[str]] = {"post-training": [], "trained": [], "continuous": [], "autoregressive": []}
    for cell, ids in source.rows(TABLE_HEADS):
        if not ids:
            continue
        quantizer = source.setting(ids[0], "quantizer.kind")
        discrete = "trained" if quantizer in TRAINED_TOKENS else "post-training"
        tokens = "continuous" if quantizer == "identity" else discrete
        found[tokens].append(cell.label)
        if tokens == "post-training" and source.setting(ids[0], "head.kind") == "autoregressive":
            found["autoregressive"].append(cell.label)
    return Rows(*(tuple(labels) for labels in found.values()))


def _among(values: Mapping[str, Estimate], labels: Sequence[str]) -> Group:
    return {label: values[label] for label in labels if label in values}


def _lowest(group: Group) -> str:
    return min(group, key=lambda label: group[label].mean)


def _best_of(source: Source, ours: Group, others: Group, name: str) -> Verdict | None:
    """The best post-training row against the best of other rows, both chosen by the numbers that are compared."""
    if not ours or not others:
        return None
    a, b, fd = _lowest(ours), _lowest(others), source.by_scorer(FD)
    numbers = f"{fd.title}: {show(ours[a], fd)} ({a}) against {show(others[b], fd)} ({b})"
    chosen = f"each is the lowest of its rows ({len(ours)} and {len(others)})"
    subject = "The best post-training quantized tokens"
    if min(ours[a].seeds, others[b].seeds) < 2:
        status, word = _seen(source, (a, b), ours[a].mean - others[b].mean, fd)
        return Verdict(status, f"{subject} {word} the best {name} in {numbers}; {chosen}, {ONE_SEED}.", TABLE_HEADS.id)
    gap = difference(source, TABLE_HEADS, fd, a, b)
    status, word = _settled(gap)
    text = f"{subject} {word} the best {name} in {numbers}; the difference is {gap.text(fd)}; {chosen}."
    return Verdict(status, text, TABLE_HEADS.id)


def _settled(gap: Difference) -> tuple[Status, str]:
    if not gap.shown:
        return "undecided", "cannot be told apart from"
    return ("holds", "beat") if gap.gap.mean < 0 else ("does not hold", "lose to")


def _seen(source: Source, labels: Sequence[str], gap: float, column: Column) -> tuple[Status, str]:
    if abs(gap) <= 2 * image_error(source, TABLE_HEADS, labels, column):
        return "undecided", "differ within the error over images from"
    return "one seed", "beat" if gap < 0 else "do not beat"


def _against_each(source: Source, rows: Rows) -> Verdict | None:
    """The best autoregressive model of post-training tokens beside each head of continuous ones."""
    parts, once = [], False
    for column in (source.by_scorer(FD), BITS):
        values = estimates(source, TABLE_HEADS, column)
        ours, others = _among(values, rows.autoregressive), _among(values, rows.continuous)
        if not ours or not others:
            continue
        label = _lowest(ours)
        listed = [
            f"{_head(each)} {_verb(source, column, label, each, values)}{show(value, column)}"
            for each, value in others.items()
        ]
        parts.append(f"in {column.title} {show(ours[label], column)} ({label}) against {', '.join(listed)}")
        once |= min(value.seeds for value in (ours[label], *others.values())) < 2
    if not parts:
        return None
    note = ""
    if once:
        note = f" ({ONE_SEED})"
    elif any(NOT_SETTLED in part for part in parts):
        note = "; where it says not settled, the corrected interval of the difference holds zero"
    text = f"Autoregressive prediction of quantized latents beside heads of continuous ones: {'; '.join(parts)}{note}."
    return Verdict("one seed" if once else "measured", text, TABLE_HEADS.id)


def _head(label: str) -> str:
    return label.partition(", ")[2].replace(", ", " with ")


def _verb(source: Source, column: Column, ours: str, other: str, values: Group) -> str:
    if min(values[ours].seeds, values[other].seeds) < 2:
        return ""
    return "" if difference(source, TABLE_HEADS, column, ours, other).shown else NOT_SETTLED
