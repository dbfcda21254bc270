"""Diffusion head: denoises the C channels of a token, conditioned on its feature (MAR, arXiv 2406.11838).

Gaussian diffusion in discrete time on a cosine schedule of 1,000 steps, respaced for sampling (arXiv 2102.09672).

N positions, M draws of time and noise per position in training, C channel, D width of the feature; t time step in
[0, 1000), 0 is nearly clean; ᾱ share of signal: x_t = √ᾱ_t · x + √(1 − ᾱ_t) · noise.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import accumulate, pairwise, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from tokenbridge import config
from tokenbridge.config import Sample
from tokenbridge.model.heads.contract import Head, guide
from tokenbridge.model.heads.residual import ResidualNet

STEPS = 1000
"""time steps of training"""
LIMIT = 5.0
"""deviations within which the estimate of the clean value is held"""
_LARGEST_BETA = 0.999
_HALF_BIN = 1 / 255


class Step(NamedTuple):
    """One step back, x_t -> x_s, s the next lower time step kept (s < 0: clean).

    x_t = signal · x + noise · n, so signal = √ᾱ_t. Given x, the mean of x_s is pull · x + hold · x_t and its log
    variance is low; high is log β, the variance where nothing is known of x.
    """

    time: int
    signal: float
    noise: float
    pull: float
    hold: float
    low: float
    high: float


@cache
def _signal_shares() -> list[float]:
    """ᾱ_t of all time steps."""

    def share(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    shares = [share(i / STEPS) for i in range(STEPS + 1)]
    kept = [1 - min(1 - after / before, _LARGEST_BETA) for before, after in pairwise(shares)]
    return list(accumulate(kept, lambda a, b: a * b))


def spaced(count: int) -> list[int]:
    """Time steps to sample with, rising: evenly spaced from 0 to 999 and rounded; one step is step 0."""
    stride = (STEPS - 1) / (count - 1) if count > 1 else 1.0
    return [round(at) for at in accumulate(repeat(stride, count - 1), initial=0.0)]


@cache
def steps_back(count: int) -> tuple[Step, ...]:
    """Steps of a diffusion that visits only `count` of the 1,000 time steps, rising; β and the rest recomputed."""
    shares, times = _signal_shares(), spaced(count)
    before = [1.0] + [shares[time] for time in times[:-1]]
    steps = []
    for time, previous in zip(times, before, strict=True):
        share, beta = shares[time], 1 - shares[time] / previous
        pull, hold = beta * math.sqrt(previous) / (1 - share), (1 - previous) * math.sqrt(1 - beta) / (1 - share)
        high = math.log(beta)
        low = high + math.log((1 - previous) / (1 - share)) if previous < 1 else high
        steps.append(Step(time, math.sqrt(share), math.sqrt(1 - share), pull, hold, low, high))
    if count > 1:  # the first one's posterior has no variance: it takes the second one's
        steps[0] = steps[0]._replace(low=steps[1].low)
    return tuple(steps)


class DiffusionHead(Head):
    """A residual MLP estimates the noise and, between the two bounds of arXiv 2102.09672, the variance of each step.

    Temperature multiplies the noise of each step; at 0 a draw still depends on the noise that it starts from. Guidance
    on the estimate mixes noise estimates and takes the conditional variance.

    Each step's estimate of the clean value is held within ±LIMIT deviations, the range of the paper's quantizer. The
    released sampler does not (start=released): its first step divides by a signal of 5e-5, so that a noise estimate off
    by 0.01 makes a value of 200, and all but very long trained heads never come back.
    """

    noise = "normal"
    table: Tensor

    def __init__(self, c: config.Head, width: int, channels: int):
        super().__init__(c)
        self.channels = channels
        self.loss_noise_shape = (c.multiplier, 1 + channels)
        self.limit = math.inf if c.start == "released" else LIMIT
        self.net = ResidualNet(c, width, channels, 2 * channels)
        table = torch.tensor(steps_back(STEPS))[:, 1:]  # a Step's numbers behind its time
        self.register_buffer("table", table, persistent=False)
        self._kept_times: dict[tuple[int, torch.device], Tensor] = {}

    def noise_shape(self, how: Sample) -> tuple[int, ...]:
        return (how.head_steps + 1, self.channels)

    def loss(self, z: Tensor, target: Tensor, noise: Tensor | None = None) -> Tensor:
        """Squared error of the noise estimate plus the variational bound, in bits, of the step's variance.

        The mean over M draws; the first normal of each gives its time step.
        """
        assert noise is not None
        noise = noise.transpose(0, 1)  # (M, N, 1 + C)
        step = (torch.special.ndtr(noise[..., 0]) * STEPS).long().clamp(max=STEPS - 1)
        return self.loss_at(z, target, step, noise[..., 1:]).mean(0)

    def loss_at(self, z: Tensor, target: Tensor, step: Tensor, noise: Tensor) -> Tensor:
        """The loss (..., N), summed over channels, at time steps (..., N) int64 and with normals (..., N, C)."""
        signal, share, pull, _, low, high = self.table[step][..., None].unbind(-2)
        noisy = signal * target + share * noise
        estimate, fraction = self.net(noisy, step, z).float().chunk(2, dim=-1)
        squared = (estimate - noise) ** 2
        # the bound trains the variance alone: the estimate is taken as it is
        estimate = estimate.detach()
        error = pull * share / signal * (estimate - noise)
        log_variance = low + (fraction + 1) / 2 * (high - low)
        divergence = (low - log_variance).exp() + error**2 * (-log_variance).exp()
        divergence = 0.5 * (log_variance - low - 1 + divergence)
        last = (step == 0)[..., None]
        mean = (noisy - share * estimate) / signal
        # other steps' deviations would overflow here and spoil the gradient
        clean = _bin_nats(target, mean, torch.where(last, log_variance, 0))
        return (squared + torch.where(last, clean, divergence) / math.log(2)).sum(-1)

    def _times(self, count: int, device: torch.device) -> Tensor:
        """The time steps that a draw visits, falling: copied to the device once, since a copy waits for a GPU."""
        if (count, device) not in self._kept_times:
            with torch.inference_mode(False):
                times = torch.tensor([step.time for step in steps_back(count)[::-1]], device=device)
            self._kept_times[count, device] = times
        return self._kept_times[count, device]

    def sample(
        self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Visit how.head_steps of the 1,000 steps; a single one is step 0, which returns about its first noise."""
        assert not isinstance(how.temperature, tuple)
        z, unconditional = self.mixed(z, how, unconditional, guidance)
        steps = steps_back(how.head_steps)[::-1]
        times = self._times(how.head_steps, z.device)
        x = noise[:, 0]
        nets = self.net.at_each(z if unconditional is None else torch.cat([z, unconditional]), times)
        for i, (step, net) in enumerate(zip(steps, nets, strict=True)):
            estimate, fraction = net(x if unconditional is None else x.repeat(2, 1)).float().chunk(2, dim=-1)
            if unconditional is not None:
                estimate, fraction = guide(*estimate.chunk(2), guidance), fraction[: len(x)]
            clean = torch.sub(x / step.signal, estimate, alpha=step.noise / step.signal).clamp(-self.limit, self.limit)
            x = torch.add(step.pull * clean, x, alpha=step.hold)
            if step.time > 0 and how.temperature > 0:
                slope = 0.25 * (step.high - step.low)
                deviation = (slope * fraction + (0.5 * step.low + slope)).exp()
                x = torch.addcmul(x, deviation, noise[:, i + 1], value=how.temperature)
        return x


def _bin_nats(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Minus log probability of a bin of 2/255 around x, open-ended beyond ±0.999: the bound's last term.

    Made for pixels; MAR takes it for latents as it is, and so do we.
    """
    scale = (-0.5 * log_variance).exp()
    above, below = _cdf(scale * (x - mean + _HALF_BIN)), _cdf(scale * (x - mean - _HALF_BIN))
    inside = torch.where(x > 0.999, 1 - below, above - below)
    return -torch.where(x < -0.999, above, inside).clamp(min=1e-12).log()


def _cdf(x: Tensor) -> Tensor:
    """The distribution function of the standard normal, approximated by tanh."""
    return 0.5 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())
