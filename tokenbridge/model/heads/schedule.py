"""Gaussian diffusion in discrete time: cosine schedule over 1,000 steps, respaced for sampling (arXiv 2102.09672).

t time step in [0, 1000), 0 is nearly clean; ᾱ the share of signal: x_t = √ᾱ_t · x + √(1 − ᾱ_t) · noise.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import accumulate, pairwise, repeat
from typing import NamedTuple

STEPS = 1000
_LARGEST_BETA = 0.999


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
    """ᾱ_t of all steps."""

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
