"""Channel orders for heads that predict one channel after another (paper, section 3.3 and table 2b)."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenbridge.rng import generator

CUTOFF = 0.25  # cycles a position: half of the Nyquist frequency


def low_frequency_share(maps: Tensor) -> Tensor:
    """(C,) share of each channel's spectral energy at radial frequencies up to CUTOFF, from maps (N, C, H, W).

    The mean over images is taken off first: a constant offset of a channel says nothing about its detail.
    """
    power = torch.fft.fft2((maps - maps.mean(0, keepdim=True)).double()).abs().square().mean(0)
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in maps.shape[-2:])
    low = (rows[:, None].square() + columns.square()).sqrt() <= CUTOFF + 1e-9
    return (power * low).sum((-2, -1)) / power.sum((-2, -1))


def channel_order(
    order: str | tuple[int, ...], channels: int, frequency: tuple[int, ...], seed: int = 0
) -> tuple[int, ...]:
    """Channels in the order of prediction. frequency: the order that the latents' statistics found."""
    if isinstance(order, tuple):
        return order
    if channels == 1:  # of a code of VQ, whose latents have more
        return (0,)
    if order == "random":
        return tuple(torch.randperm(channels, generator=generator(seed, "channel order")).tolist())
    orders = {"stored": tuple(range(channels)), "reverse": tuple(range(channels))[::-1], "frequency": frequency}
    return orders[order]
