"""What the words and marks of a report mean, for a reader who is new to the field: said once, before all tables."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.tables.filled import EXPLORATORY, OTHER_BINS, SAME_RUN, UNPAIRED, FilledTable
from analysis.tables.notes import BOLD, IMAGES, UNREPEATED, VERDICTS
from analysis.verdicts import Verdict
from tokenbridge.metrics.catalogue import BITS, FD, SCORERS, by_scorers

Terms = list[tuple[str, str]]
"""word or mark -> a sentence without its full stop"""
CLAIMS: Terms = [
    ("holds", "a claim of the paper, tested here and confirmed"),
    ("does not hold", "a claim of the paper, tested here: the opposite is shown"),
    ("undecided", "a claim of the paper, tested here: the numbers do not settle it"),
    ("one seed", "seen in one training, so not tested"),
    ("measured", "a result beside which the paper has no claim to test"),
]
AXES: Terms = [
    ("measured", "a difference is shown for at least one value of the axis"),
    ("undecided", "a difference is shown for no value of the axis"),
    ("one seed", "seen once, without an interval"),
]
SAID = (BOLD, VERDICTS, IMAGES, UNREPEATED)
"""notes of single tables that a report with these terms need not repeat"""
COLUMNS = by_scorers((FD, BITS), tuple(SCORERS))
"""columns that the summary speaks of"""
VERDICT = (
    "the verdict on the difference to the base, or of an axis's value to the first one, at 5 %, over training seeds:"
    " Fréchet distances and times are compared as ratios, shares by their logits; the spread of a row over its few"
    " seeds is drawn towards that of all rows (moderated t test, Smyth 2004; paired t tests where there are fewer than"
    " 5 rows or 3 seeds, and of axes). No difference shown does not say that there is none: these runs do not settle"
    " it"
)
CLAIM = (
    "one of the comparisons that the tables name beforehand. They are corrected together by Holm's method, so that the"
    " chance of even one wrong verdict among them is at most 5 %. The best rows of two groups are those that the"
    " search found best, on other images than those that are reported, but of the same trainings, so that both share"
    " their luck"
)
EXPLORED = (
    "exploratory: any other comparison. A report asks many of these, and some look settled by chance: of those that are"
    " shown, 5 % are expected to be wrong (false-discovery rate, Benjamini and Hochberg 1995). A comparison has one"
    " verdict, in whichever table it stands"
)
CORRECTED = (
    "a corrected interval is of the level at which the comparison was decided among the others: it leaves out zero"
    " exactly where a difference is shown"
)
NEEDED = (
    "so many seeds would settle the comparison with a chance of 80 %, if the true difference is the one that is seen,"
    " from the spread that is known now"
)
BEST = (
    "better than every other row, each by a 95 % interval of the difference that leaves out zero, and by the verdict"
    " wherever the report has one; in a table of main effects: better"
)


def terms(filled: Sequence[FilledTable], verdicts: Sequence[Verdict], of_paper: bool) -> Terms:
    """The terms that a report uses, in the order in which a reader meets them.

    Args:
        of_paper: whether the verdicts are on claims of the paper, not on axes.
    """
    used = {verdict.status for verdict in verdicts}
    words = [(word, meaning) for word, meaning in (CLAIMS if of_paper else AXES) if word in used]
    columns = {column.key: column for table in filled for column in table.measured}
    told = [columns[column.key] for column in COLUMNS if used and column.key in columns]
    words += [(column.title, column.meaning) for column in told]
    if any(column.better for column in columns.values()):
        words.append(("↓, ↑", "lower is better, higher is better"))
    return words + _intervals(filled) + _comparisons(filled)


def _intervals(filled: Sequence[FilledTable]) -> Terms:
    over = {(entry.over, table.kind) for table in filled for row in table.rows for entry in row.measured}
    words = []
    if any(what == "seeds" for what, _ in over):
        words.append(("±", "half-width of the 95 % Student t interval over training seeds"))
    if kinds := {kind for what, kind in over if what == "images"}:
        trained = f" {UNREPEATED}" if kinds != {"reconstruction"} else ""
        words.append(("† behind ±", (IMAGES.removeprefix("† ") + trained).rstrip(".")))
    return words


def _comparisons(filled: Sequence[FilledTable]) -> Terms:
    entries = [entry for table in filled for row in table.rows for entry in row.measured]
    if not any(entry.comparison for entry in entries):
        return []
    words = []
    if any(table.compared for table in filled if table.kind != "effects"):
        words.append(("base", "the row with which the others of its table are compared"))
    words.append(("better, worse, no difference shown", VERDICT))
    families = {entry.comparison.family for entry in entries if entry.comparison}
    words += [("claim", CLAIM)] if "claim" in families else []
    words += [(EXPLORATORY, EXPLORED)] if "exploratory" in families else []
    words.append(("corrected", CORRECTED))
    if any(entry.seeds_needed for entry in entries):
        words.append(("12 seeds, behind a verdict", NEEDED))
    if any(entry.remark == SAME_RUN for entry in entries):
        words.append((SAME_RUN, "the number comes from the base's own stage: one measurement, not two"))
    if any(entry.remark == OTHER_BINS for entry in entries):
        words.append(
            (OTHER_BINS, "bits by bins of two quantizers: their difference measures the bins, so it is no test")
        )
    if any(entry.remark == UNPAIRED for entry in entries):
        words.append((UNPAIRED, "on the same images, but the source does not hold the values of each"))
    if any(entry.best for entry in entries):
        words.append(("bold", BEST))
    return words
