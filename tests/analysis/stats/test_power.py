"""Seeds that would settle a difference: with so many it is shown in 80 % of experiments, with one fewer in fewer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis import stats
from analysis.stats.power import power

EXPERIMENTS = 20_000


@pytest.mark.parametrize(("effect", "level"), [(0.8, 0.05), (1.5, 0.05), (1.5, 0.004), (3.0, 0.01)])
def test_so_many_seeds_show_the_difference_in_four_of_five_experiments(effect: float, level: float) -> None:
    """The spread of pairs is 1: a gap over three pairs that says so, with 2 degrees of freedom."""
    seeds = stats.seeds_needed(stats.Gap(effect, 1 / 3**0.5, 2, (effect,) * 3, "seeds"), level)
    assert seeds is not None
    random = np.random.default_rng(0)
    shown = {}
    for count in (seeds, seeds - 1):
        draws = random.normal(effect, 1, size=(EXPERIMENTS, count))
        shown[count] = (scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < level).mean()
    error = 3 * 0.4 / EXPERIMENTS**0.5
    assert shown[seeds] > 0.8 - error
    assert shown[seeds - 1] < 0.8 + error


def test_what_no_number_of_seeds_settles() -> None:
    assert stats.seeds_needed(stats.Gap(0.01, 1.0, 2, (0.0,) * 3, "seeds"), 0.05) is None
    assert stats.seeds_needed(stats.Gap(0.0, 1.0, 2, (0.0,) * 3, "seeds"), 0.05) is None
    assert stats.seeds_needed(stats.Gap(1.0, None, 2, (1.0,) * 3, "seeds"), 0.05) is None


def test_power_of_no_effect_is_the_level() -> None:
    assert power(1e-9, 7, 6, 0.05) == pytest.approx(0.05)
