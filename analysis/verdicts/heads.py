"""Table heads: discrete against continuous tokens, post-training against trained ones, on one backbone."""

from __future__ import annotations

from analysis.frame.source import Source
from analysis.stats import Estimate
from analysis.tables.claims import CONTINUOUS, POST_TRAINING, TRAINED, best_by_search, group
from analysis.verdicts.form import ONE_SEED, Verdict, estimates, outcome, show, shown
from experiments.paper import TABLE_HEADS
from tokenbridge.metrics.catalogue import FD

NOT_SETTLED = "(not settled) "
NO_CLAIM = "Without a search, so no claim: the lowest"
Group = dict[str, Estimate]
"""row label -> estimate"""


def heads(source: Source) -> list[Verdict | None]:
    return [
        _best_of(source, CONTINUOUS),
        _best_of(source, TRAINED),
        _against_continuous_heads(source),
    ]


def _among(source: Source, values: Group, tokens: str, head: str = "") -> Group:
    """The estimates of the rows that predict such tokens."""
    labels = group(TABLE_HEADS, tokens, source, head)
    return {label: value for label, value in values.items() if label in labels}


def _best_of(source: Source, tokens: str) -> Verdict | None:
    """The best post-training row against the best of other rows, both as the search found them.

    Without a search they are the lowest of what is reported, which is no claim: each was chosen by its own luck, too.
    """
    fd = source.by_scorer(FD)
    values = estimates(source, TABLE_HEADS, fd)
    groups = [_among(source, values, each) for each in (POST_TRAINING, tokens)]
    if not all(groups):
        return None
    searched = [best_by_search(TABLE_HEADS, each, source) for each in (POST_TRAINING, tokens)]
    if gone := [label for label in searched if label and label not in values]:
        text = f"The search's best rows are to be compared in {fd.title}, and {gone[0]} has no number"
        return Verdict("undecided", f"{text}.{_partly(values)}", TABLE_HEADS.id)
    by_search = all(searched)
    a, b = searched if by_search else [min(each, key=lambda label, g=each: g[label].mean) for each in groups]
    result = outcome(source, TABLE_HEADS, fd, values, a, b)
    if not result.apart:
        verb = f"{result.verb} from"
    else:
        verb = "beat" if result.change < 0 else "do not beat" if result.once else "lose to"
    ours, theirs = shown(result, fd, values[a], values[b])
    which, other = ("The search's best", "its best") if by_search else (NO_CLAIM, "the lowest")
    text = (
        f"{which} {POST_TRAINING} tokens {verb} {other} {tokens} ones in {fd.title}: {ours} ({a}) against {theirs}"
        f" ({b}){result.remark}.{_partly(values)}"
    )
    return Verdict(result.status(result.change < 0), text, TABLE_HEADS.id)


def _partly(ran: Group) -> str:
    """A sentence that says how many rows were there to be best; empty where all of the table ran."""
    count, every = sum(row.label in ran for row in TABLE_HEADS.rows), len(TABLE_HEADS.rows)
    return f" Of the table's {every} rows {count} ran." if count < every else ""


def _against_continuous_heads(source: Source) -> Verdict | None:
    """The best autoregressive model of post-training tokens beside each head of continuous ones."""
    fd = source.by_scorer(FD)
    values = estimates(source, TABLE_HEADS, fd)
    others, ours = _among(source, values, CONTINUOUS), _among(source, values, POST_TRAINING, "autoregressive")
    if not ours or not others:
        return None
    best = best_by_search(TABLE_HEADS, POST_TRAINING, source, head="autoregressive")
    best = best if best in ours else min(ours, key=lambda label: ours[label].mean)
    results = {label: outcome(source, TABLE_HEADS, fd, values, best, label) for label in others}
    listed = [
        f"{label.partition(', ')[2].replace(', ', ' with ')}"
        f" {'' if result.once or result.apart else NOT_SETTLED}{show(others[label], fd)}"
        for label, result in results.items()
    ]
    once = any(result.once for result in results.values())
    note = f" ({ONE_SEED})" if once else ""
    text = (
        f"{best} beside heads of continuous tokens: {fd.title} {show(values[best], fd)} against"
        f" {', '.join(listed)}{note}."
    )
    return Verdict("one seed" if once else "measured", text, TABLE_HEADS.id)
