import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from tokenbridge.model.masking import (
    confidence_noise,
    guidance_weight,
    least_confident_first,
    mask_from_order,
    masked_after,
    masked_count,
)


@pytest.mark.parametrize("positions", [1, 2, 7, 16, 256])
def test_each_iteration_reveals_at_least_one_and_the_last_reveals_all(positions):
    for iterations in range(1, positions + 1):
        left = [positions, *masked_after(positions, iterations)]
        assert len(left) == iterations + 1
        assert left[-1] == 0
        assert all(before > after for before, after in pairwise(left))


def test_the_schedule_is_a_cosine():
    assert masked_after(256, 4) == [math.floor(256 * math.cos(math.pi / 2 * k / 4)) for k in (1, 2, 3)] + [0]


def test_mask_ratio_is_the_truncated_normal():
    """N(1, 0.25) cut to [0.7, 1]: the counts' distribution is that of SciPy's truncnorm (as in the released code)."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    counts = [masked_count(float(x), 1000, 0.7, 0.25) for x in u]
    expected = stats.truncnorm((0.7 - 1) / 0.25, 0, loc=1, scale=0.25)
    assert sum(counts) / len(counts) / 1000 == pytest.approx(expected.mean(), abs=1e-3)
    assert min(counts) == 701
    assert max(counts) == 1000


def test_the_first_of_the_order_are_masked():
    order = torch.tensor([[2, 0, 1, 3], [3, 1, 0, 2]])
    assert mask_from_order(order, 2).tolist() == [[True, False, True, False], [False, True, False, True]]


def test_guidance_grows_with_what_is_known():
    assert guidance_weight("constant", 3.0, 16, 5) == 3
    assert guidance_weight("linear", 3.0, 16, 16) == 1
    assert guidance_weight("linear", 3.0, 16, 8) == 2
    assert guidance_weight("cosine", 3.0, 16, 8) == pytest.approx(2)
    assert 1 < guidance_weight("cosine", 3.0, 16, 12) < guidance_weight("linear", 3.0, 16, 12)
    assert guidance_weight("linear", 3.0, 16, 0) == 1 + 2 * 15 / 16  # the released sampler counts one masked at the end


def revealed(order, masked, score, count):
    """Positions (B, count) that confidence reveals of the first `masked` of the order, scores in order of position."""
    at = order[:, :masked].sort(1).values
    rising = least_confident_first(score, confidence_noise(order).gather(1, at))
    return at.gather(1, rising[:, masked - count :])


def test_equal_scores_keep_the_random_order():
    own = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(11, generator=own) for _ in range(5)])
    assert torch.equal(revealed(order, 7, torch.zeros(5, 7), 3).sort(1).values, order[:, 4:7].sort(1).values)


def test_scores_beat_the_order_in_the_end():
    order = torch.tensor([[0, 1, 2, 3]])
    assert sorted(revealed(order, 4, torch.tensor([[0.0, 50.0, 0.0, 0.0]]), 2)[0].tolist()) == [1, 3]


def test_draws_in_proportion_to_the_exponential_of_the_score():
    """One of two positions: the odds are exp(score), over the orders of two that are left of many positions."""
    own, positions = torch.Generator().manual_seed(1), 200
    order = torch.stack([torch.randperm(positions, generator=own) for _ in range(4000)])
    at = torch.tensor([[0, 1]]).expand(4000, 2)
    rising = least_confident_first(torch.tensor([[1.0, 0.0]]), confidence_noise(order).gather(1, at))
    chosen = rising[:, -1]
    assert float((chosen == 0).float().mean()) == pytest.approx(math.e / (1 + math.e), abs=0.03)
