"""False verdicts: of tables in which no row differs from the base, 5 % may show one, however uneven the rows are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.analysis.stats.simulated import UNEVEN, moderated, shown, table

TABLES = 1_000
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TABLES)
"""three standard errors of such a share"""


@pytest.mark.slow
@pytest.mark.parametrize("rows", [6, 17])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("how", UNEVEN)
def test_five_per_cent_of_tables_show_a_difference_that_is_none(how: str, seeds: int, rows: int) -> None:
    random, wrong = np.random.default_rng(7), {"claim": 0, "exploratory": 0}
    for _ in range(TABLES):
        gaps = moderated(table(random, UNEVEN[how](random, rows), seeds))
        for family in wrong:
            wrong[family] += any(shown(gaps, family))
    shares = {family: count / TABLES for family, count in wrong.items()}
    assert max(shares.values()) < LIMIT, shares


def test_of_even_rows_few_show_one() -> None:
    """A look at the same, small enough for every day."""
    random, tables = np.random.default_rng(3), 150
    wrong = sum(any(shown(moderated(table(random, np.ones(9), 3)), "claim")) for _ in range(tables))
    assert wrong / tables < 0.05
