"""Statistics that decide, and say only what they know. Each method names its source where it is defined.

estimates    a mean with its interval over seeds or images
scales       the scale on which a metric's spread is even, and how a difference on it is told
differences  two numbers compared: what pairs, the error, p; the one place that says when a difference is settled
moderated    variances of few seeds, made steadier by those of all other rows
multiple     verdicts on many comparisons: claims by Holm's method, all others by their false-discovery rate
power        how many seeds would settle a difference
formulas     laws that numbers are held against; ends of a search's grid
numbers      how a number is printed
"""

from analysis.stats.differences import Gap, gap, gap_of, pairs
from analysis.stats.estimates import CONFIDENCE, LEVEL, Estimate, Over, best, estimate, quantile
from analysis.stats.formulas import PANTER_DITE, Setting, edges, extrapolated
from analysis.stats.moderated import Prior, Spreads, moderated_gap, spreads
from analysis.stats.multiple import (
    Comparison,
    Difference,
    Family,
    Verdict,
    benjamini_hochberg,
    compare,
    compare_with,
    holm,
)
from analysis.stats.numbers import apart, number, signed, visible, worded
from analysis.stats.power import MOST_SEEDS, POWER, seeds_needed
from analysis.stats.scales import Scale

__all__ = [
    "CONFIDENCE", "LEVEL", "MOST_SEEDS", "PANTER_DITE", "POWER", "Comparison", "Difference", "Estimate",
    "Family", "Gap", "Over", "Prior", "Scale", "Setting", "Spreads", "Verdict", "apart", "benjamini_hochberg", "best",
    "compare", "compare_with", "edges", "estimate", "extrapolated", "gap", "gap_of", "holm", "moderated_gap", "number",
    "pairs", "quantile", "seeds_needed", "signed", "spreads", "visible", "worded",
]  # fmt: skip
