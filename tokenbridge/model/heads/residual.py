"""The network of the diffusion and flow heads: a residual MLP with adaLN (MAR, arXiv 2406.11838, section 3.2).

N positions, C channel, O outputs, D width of the feature, W width of the network, S times computed at once; modulations
are shift, 1 + scale and gate (3W) of each block and shift and 1 + scale (2W) of the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbridge import config
from tokenbridge.model.backbone import EPSILON, initialize

FREQUENCIES = 128  # pairs of cosine and sine
MODULATION_BYTES = 64 * 2**20
"""of modulations that sampling holds at once"""


class ResidualBlock(nn.Module):
    """x + gate · MLP(modulated norm of x): x (..., W), modulation (..., 3W) or none -> (..., W)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        if modulation is None:
            return x + self.mlp(self.norm(x))
        shift, scale, gate = modulation.chunk(3, dim=-1)
        return torch.addcmul(x, gate, self.mlp(torch.addcmul(shift, self.norm(x), scale)))


class ResidualNet(nn.Module):
    """From noisy values of the channels at a time, given a feature, to outputs of the same position.

    One layer holds the modulations of all blocks, so that sampling can compute those of many times in one product.
    """

    one: Tensor

    def __init__(self, c: config.Head, width: int, channels: int, outputs: int):
        super().__init__()
        self.input = nn.Linear(channels, c.width)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, c.width), nn.SiLU(), nn.Linear(c.width, c.width))
        self.condition = nn.Linear(width, c.width)
        self.blocks = nn.ModuleList(ResidualBlock(c.width) for _ in range(c.depth))
        self.final_norm = nn.LayerNorm(c.width, eps=EPSILON, elementwise_affine=False)
        self.modulation = nn.Linear(c.width, (3 * c.depth + 2) * c.width)
        self.output = nn.Linear(c.width, outputs)
        self.parts = [3 * c.width] * c.depth + [2 * c.width]
        one = torch.zeros(3 * c.depth + 2, c.width)
        one[1::3] = 1
        self.register_buffer("one", one.flatten(), persistent=False)
        initialize(self)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(cast(nn.Linear, layer).weight, std=0.02)
        for layer in (self.modulation, self.output):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, time: Tensor, z: Tensor) -> Tensor:
        """The network's outputs, (..., N, O).

        Args:
            x: (..., N, C) noisy values.
            time: (..., N) or (), in [0, 1000].
            z: (N, D) features.
        """
        return self._run(x, self._one_by_one(F.silu(self.time(sinusoid(time)) + self.condition(z))))

    def at_each(self, z: Tensor, times: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
        """For times (S,) in turn, the network at that time: x (N, C) -> (N, O).

        Modulations depend on time and feature alone: those of as many times as MODULATION_BYTES hold are one product,
        which reads their weights (more than half of the network's) once, not once per time.
        """
        condition, embedded = self.condition(z), self.time(sinusoid(times))
        bias = self.modulation.bias + self.one
        at_once = MODULATION_BYTES // max(1, len(z) * self.modulation.out_features * z.element_size())
        for part in embedded.split(max(1, at_once)):
            active = F.silu(part[:, None] + condition)
            if at_once > 1:
                for modulations in F.linear(active, self.modulation.weight, bias).unbind():
                    yield partial(self._run, modulations=modulations.split(self.parts, dim=-1))
            else:
                yield partial(self._run, modulations=self._one_by_one(active[0]))

    def _one_by_one(self, active: Tensor) -> Iterator[Tensor]:
        # from parts of the weight, not of the product: in training no gradient (N, 3W · depth) is put together
        weights = self.modulation.weight.split(self.parts)
        biases = (self.modulation.bias + self.one).split(self.parts)
        for weight, bias in zip(weights, biases, strict=True):
            yield F.linear(active, weight, bias)

    def _run(self, x: Tensor, modulations: Iterable[Tensor]) -> Tensor:
        x, following = self.input(x), iter(modulations)
        for block in self.blocks:
            x = block(x, next(following))
        shift, scale = next(following).chunk(2, dim=-1)
        return self.output(torch.addcmul(shift, self.final_norm(x), scale))


def sinusoid(time: Tensor) -> Tensor:
    """Cosines and sines (..., 256) of times (...), wavelengths from 2π to 2π · 10,000."""
    steps = torch.arange(FREQUENCIES, dtype=torch.float32, device=time.device) / FREQUENCIES
    angle = time[..., None].float() * torch.exp(-math.log(10_000) * steps)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
