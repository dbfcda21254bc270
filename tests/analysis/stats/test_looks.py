"""Looking again with more seeds costs what it should: false verdicts over all looks, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis import stats
from experiments.grid.looks import looks
from tests.analysis.stats.simulated import UNEVEN, moderated, table

TABLES = 1_000


def test_each_look_has_an_even_share_of_the_level() -> None:
    adjusted, levels = stats.holm([0.002, 0.01], looks=4)
    assert adjusted == pytest.approx([0.002 * 2 * 4, 0.01 * 1 * 4])
    assert levels == pytest.approx([0.05 / 8, 0.05 / 4])


def wrong(gaps: list[stats.Gap], times: int) -> bool:
    found = stats.compare([stats.Difference(gap, "lower") for gap in gaps], "claim", times)
    return any(each is not None and each.shown for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["even", "log-normal", "one row ×5"])
@pytest.mark.parametrize("first", [2, 3])
def test_five_per_cent_of_tables_ever_show_a_difference_that_is_none(how: str, first: int) -> None:
    """Four rows against a base, seeds added up to twelve; without the correction more than twice as many do."""
    random, counts, ever = np.random.default_rng(11), looks(first, 12), {"corrected": 0, "naive": 0}
    for _ in range(TABLES):
        deviations = UNEVEN[how](random, 5)
        rows = np.array([estimate.values for estimate in table(random, deviations, 12)])
        gaps = [moderated([stats.estimate(row[:seeds], range(seeds)) for row in rows.tolist()]) for seeds in counts]
        ever["corrected"] += any(wrong(each, len(counts)) for each in gaps)
        ever["naive"] += any(wrong(each, 1) for each in gaps)
    assert ever["corrected"] / TABLES < 0.05 + 3 * math.sqrt(0.05 * 0.95 / TABLES), ever
    assert ever["naive"] > 1.5 * ever["corrected"], ever
