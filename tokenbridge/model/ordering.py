"""Channel orders for heads that predict one channel after another (paper, section 3.3 and table 2b).

N images, C channel, H and W sides of the latent grid, K radial frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenbridge.rng import generator

CUTOFF = 0.25
"""cycles per position: half of the Nyquist frequency"""
ROUNDING = 1e-6
"""of a channel's root mean square: a smaller deviation from the mean image is rounding of float32"""


def low_frequency_share(maps: Tensor) -> Tensor:
    """(C) share of each channel's spectral energy at radial frequencies up to CUTOFF, from maps (N, C, H, W).

    The mean over images is taken off first: a constant offset of a channel says nothing about its detail. A constant
    channel, which has no energy to share, gets 0.
    """
    power, frequency = _spectrum(maps)
    low = frequency <= CUTOFF + 1e-9
    share = (power * low).sum((-2, -1)) / power.sum((-2, -1))
    return share.masked_fill(constant(maps), 0.0)


def constant(maps: Tensor) -> Tensor:
    """(C) whether a channel is the same in all images, up to rounding, from maps (N, C, H, W)."""
    x = maps.double()
    spread, size = (x - x.mean(0, keepdim=True)).square().mean((0, 2, 3)), x.square().mean((0, 2, 3))
    return spread <= ROUNDING**2 * size


def radial_spectrum(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Radial frequencies (K) that occur, in cycles per position, and mean power (C, K) at each, of maps (N, C, H, W).

    The mean over images is taken off first, as for the share. The mean of the power over all coefficients of the
    transform is the channel's variance, so noise of variance 1 without correlation has power 1 everywhere.
    """
    power, frequency = _spectrum(maps)
    frequencies, index = torch.unique(frequency.mul(1e9).round(), return_inverse=True)
    at = index.flatten() == torch.arange(len(frequencies))[:, None]
    return frequencies / 1e9, power.flatten(1) @ at.double().T / at.sum(1) / frequency.numel()


def _spectrum(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared magnitude (C, H, W) over images around their mean, and radial frequency (H, W) of each entry."""
    power = torch.fft.fft2((maps - maps.mean(0, keepdim=True)).double()).abs().square().mean(0)
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in maps.shape[-2:])
    return power, (rows[:, None].square() + columns.square()).sqrt()


def channel_order(
    order: str | tuple[int, ...], channels: int, frequency: tuple[int, ...], seed: int = 0
) -> tuple[int, ...]:
    """Channels in the order of prediction.

    Args:
        order: the configured one, head.order.
        frequency: channels by falling share of low-frequency energy.
        seed: of a random order.
    """
    if isinstance(order, tuple):
        return order
    if channels == 1:  # a code of VQ, whose latents have more
        return (0,)
    if order == "random":
        return tuple(torch.randperm(channels, generator=generator(seed, "channel order")).tolist())
    orders = {"stored": tuple(range(channels)), "reverse": tuple(range(channels))[::-1], "frequency": frequency}
    return orders[order]
