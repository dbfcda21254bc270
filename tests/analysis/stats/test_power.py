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


def test_power_is_a_number_for_any_effect() -> None:
    """SciPy's lower tail of a noncentral t is NaN where it is nearly 0; a simulation knows better."""
    draws = np.random.default_rng(1).normal(20, 1, size=(EXPERIMENTS, 2))
    shown = (scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert power(20, 2, 1, 0.05) == pytest.approx(shown, abs=0.005)
    effects = [power(effect, seeds, seeds - 1, 0.01) for effect in (3, 8, 30, 100) for seeds in (2, 5, 10, 100)]
    assert all(0 < value <= 1 for value in effects)


def test_the_fewest_seeds_are_those_of_asking_one_after_another() -> None:
    random = np.random.default_rng(2)
    for _ in range(40):
        now, level = int(random.integers(2, 11)), float(10 ** random.uniform(-5, -1.3))
        mean, error, freedom = (
            random.normal() * 10 ** random.uniform(-1, 1),
            random.uniform(0.05, 1.5),
            random.uniform(1, 4),
        )
        found = stats.seeds_needed(stats.Gap(mean, error, freedom * (now - 1), (mean,) * now, "seeds"), level)
        effect = abs(mean) / (error * now**0.5)
        enough = (n for n in range(2, 101) if power(effect, n, freedom * (n - 1), level) >= 0.8)
        assert found == next(enough, None)
