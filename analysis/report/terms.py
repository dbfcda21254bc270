"""What the words and marks of a report mean, for a reader who is new to the field: each where it is used first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from analysis.tables.filled import EXPLORATORY, OTHER_BINS, SAME_RUN, UNPAIRED, Entry, FilledTable
from analysis.tables.notes import BOLD, IMAGES, UNREPEATED, VERDICTS, VERDICTS_OF_IMAGES
from analysis.verdicts import Verdict
from experiments.paper import Column
from tokenbridge.metrics.catalogue import BITS, FD, SCORERS, by_scorers

Terms = list[tuple[str, str]]
"""word or mark -> a sentence without its full stop"""
CLAIMS: Terms = [
    ("holds", "a claim{}, tested here by the metrics at hand and confirmed"),
    ("does not hold", "a claim{}, tested here by the metrics at hand: the opposite is shown"),
    ("undecided", "a claim{} that these numbers do not settle"),
    ("one seed", "seen in one training, so not tested"),
    ("measured", "no claim{} to test"),
]
SAID = (BOLD, VERDICTS, VERDICTS_OF_IMAGES, IMAGES, UNREPEATED)
"""notes of single tables that a report with these terms need not repeat"""
COLUMNS = by_scorers((FD, BITS), tuple(SCORERS))
"""columns that the summary speaks of"""
WAYS = ("↓, ↑", "lower is better, higher is better")
SEEDS = ("±", "half-width of the 95 % Student t interval over training seeds")
BEHIND = ("† behind ±", IMAGES.removeprefix("† ").rstrip("."))
BASE = ("base", "the row with which the others of its table are compared")
VERDICT = (
    "better, worse, no difference shown",
    "the verdict on the difference to the base, or of an axis's value to the first one, at 5 %, over training seeds:"
    " Fréchet distances and times are compared as ratios, shares by their logits; the spread of a row over its few"
    " seeds is drawn towards that of all rows (moderated t test, Smyth 2004; paired t tests where there are fewer than"
    " 5 rows or 3 seeds, and of axes). No difference shown does not say that there is none: these runs do not settle"
    " it",
)
OF_IMAGES = (
    f"{VERDICT[0]} beside †",
    "the verdict on the difference to the base, at 5 %, over the test images, which all rows have in common: rows are"
    " compared image by image, Fréchet distances as ratios (jackknife over groups of images). No difference shown does"
    " not say that there is none: these images do not settle it",
)
CLAIM = (
    "claim",
    "one of the comparisons that the tables name beforehand. They are corrected together by Holm's method, so that the"
    " chance of even one wrong verdict among them is at most 5 %. The best rows of two groups are those that the"
    " search found best, on other images than those that are reported, but of the same trainings, so that both share"
    " their luck",
)
EXPLORED = (
    EXPLORATORY,
    "exploratory: any other comparison. A report asks many of these, and some look settled by chance: of those that are"
    " shown, at most 5 % on average are wrong (false-discovery rate, Benjamini and Hochberg 1995). A comparison has one"
    " verdict, in whichever table it stands",
)
CORRECTED = (
    "corrected",
    "a corrected interval is of the level at which the comparison was decided among the others: it leaves out zero"
    " exactly where a difference is shown",
)
NEEDED = (
    "12 seeds, behind a verdict",
    "so many seeds would settle the comparison with a chance of 80 %, if the true difference is the one that is seen,"
    " from the spread that is known now",
)
BEST = (
    "bold",
    "better than every other row, each by a 95 % interval of the difference that leaves out zero, and by the verdict"
    " wherever the report has one; in a table of main effects: better",
)
REMARKS: Terms = [
    (SAME_RUN, "the number comes from the base's own stage: one measurement, not two"),
    (OTHER_BINS, "bits by bins of two quantizers: their difference measures the bins, so it is no test"),
    (UNPAIRED, "on the same images, but the source does not hold the values of each"),
]


def of_summary(verdicts: Sequence[Verdict], columns: Iterable[Column], of_paper: bool) -> Terms:
    """The terms of the summary, in the order in which a reader meets them.

    Args:
        verdicts: its sentences.
        columns: the metrics of all tables.
        of_paper: whether the claims are the paper's.
    """
    used, keys = {verdict.status for verdict in verdicts}, {column.key for column in columns}
    whose = " of the paper" if of_paper else ""
    words = [(word, meaning.format(whose)) for word, meaning in CLAIMS if word in used]
    return words + [(column.title, column.meaning) for column in COLUMNS if used and column.key in keys]


def of_tables(filled: Iterable[FilledTable], told: Terms) -> dict[str, Terms]:
    """Table id -> the terms that no table before it explains.

    Args:
        filled: the tables, in the order of the page.
        told: terms that are explained before all tables.
    """
    words, by_table = {word for word, _ in told}, dict[str, Terms]()
    for table in filled:
        new = {word: meaning for word, meaning in _used(table) if word not in words}
        by_table[table.id] = [*new.items()]
        words |= new.keys()
    return by_table


def _entries(tables: Iterable[FilledTable]) -> list[Entry]:
    return [entry for table in tables for row in table.rows for entry in row.measured]


def _used(table: FilledTable) -> Iterator[tuple[str, str]]:
    """Every term of a table: its columns, then its marks."""
    yield from ((column.title, column.meaning) for column in (*table.measured, *table.chosen) if column.meaning)
    if any(column.better for column in table.measured):
        yield WAYS
    entries = _entries([table])
    over, remarks = {entry.over for entry in entries}, {entry.remark for entry in entries}
    if "seeds" in over:
        yield SEEDS
    if "images" in over:
        yield BEHIND
        if table.kind != "reconstruction":
            yield "† of a training", f"{UNREPEATED[0].lower()}{UNREPEATED[1:]}".rstrip(".")
    if table.kind != "effects":  # whose notes say it
        yield from _of_verdicts(table)
    yield from (term for term in REMARKS if term[0] in remarks)


def _of_verdicts(table: FilledTable) -> Iterator[tuple[str, str]]:
    entries = _entries([table])
    families = {entry.comparison.family for entry in entries if entry.comparison}
    if families:
        yield BASE
        overs = {entry.comparison.difference.gap.over for entry in entries if entry.comparison}
        yield from [VERDICT] if overs - {"images"} else []
        yield from [OF_IMAGES] if "images" in overs and table.kind == "reconstruction" else []
        yield from (term for term, family in ((CLAIM, "claim"), (EXPLORED, "exploratory")) if family in families)
        yield CORRECTED
    if any(entry.seeds_needed for entry in entries):
        yield NEEDED
    if any(entry.best for entry in entries):
        yield BEST
