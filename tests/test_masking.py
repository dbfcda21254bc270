import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from tokenbridge.masking import guidance_weight, mask_from_order, masked_after, masked_count


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
    assert guidance_weight("linear", 3.0, 16, 0) == 1 + 2 * 15 / 16  # the released sampler counts one masked at the end
