import pytest
import torch

from tokenbridge.model.ordering import CUTOFF, channel_order, constant, low_frequency_share, radial_spectrum


def test_smooth_channels_come_first():
    i = torch.arange(8)
    smooth, rough = torch.cos(2 * torch.pi * i / 8), torch.cos(torch.pi * i)
    sign = torch.tensor([1.0, -1.0, 0.5])[:, None, None]  # images differ, so the maps are not a constant offset
    maps = torch.stack([(sign * row).expand(3, 8, 8) for row in (rough, smooth, smooth + rough)], dim=1)
    share = low_frequency_share(maps)
    torch.testing.assert_close(share, torch.tensor([0.0, 1.0, 1 / 3], dtype=torch.float64), atol=1e-6, rtol=0)
    assert share.argsort(descending=True).tolist() == [1, 2, 0]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_a_constant_channel_comes_last(value):
    maps = torch.randn((50, 3, 4, 4), generator=torch.Generator().manual_seed(1))
    before = low_frequency_share(maps)
    maps[:, 1] = value + torch.arange(16.0).view(4, 4) * value  # the same in all images, not at all places
    maps[::2, 1] *= 1 + 1e-7  # as rounding leaves it
    assert constant(maps).tolist() == [False, True, False]
    share = low_frequency_share(maps)
    assert share.tolist() == [before[0].item(), 0.0, before[2].item()]
    assert share.argsort(descending=True)[-1] == 1


def test_the_spectrum_holds_the_variance_and_the_share_at_low_frequencies():
    maps = torch.randn((50, 3, 4, 4), generator=torch.Generator().manual_seed(1)) + 5
    maps[:, 1] += torch.randn((50, 1, 1), generator=torch.Generator().manual_seed(2))  # moves as a whole
    frequencies, power = radial_spectrum(maps)
    torch.testing.assert_close(frequencies, torch.tensor([0, 1, 2**0.5, 2, 5**0.5, 8**0.5], dtype=torch.float64) / 4)
    count = torch.tensor([1, 4, 4, 2, 4, 1])  # places of a 4×4 transform with such a frequency
    around = maps.double() - maps.double().mean(0)
    torch.testing.assert_close((power * count).sum(1) / 16, around.square().mean((0, 2, 3)))
    low = (power * count)[:, frequencies <= CUTOFF].sum(1) / (power * count).sum(1)
    torch.testing.assert_close(low, low_frequency_share(maps))


def test_orders():
    assert channel_order("stored", 3, (2, 0, 1)) == (0, 1, 2)
    assert channel_order("reverse", 3, (2, 0, 1)) == (2, 1, 0)
    assert channel_order("frequency", 3, (2, 0, 1)) == (2, 0, 1)
    assert channel_order((1, 2, 0), 3, (2, 0, 1)) == (1, 2, 0)
    shuffled = channel_order("random", 11, tuple(range(11)), seed=3)
    assert sorted(shuffled) == list(range(11))
    assert (
        shuffled
        == channel_order("random", 11, tuple(range(11)), seed=3)
        != channel_order("random", 11, tuple(range(11)), seed=4)
    )
