"""Mixture head: a Gaussian mixture over the C channels of a token (GIVT, arXiv 2312.02116).

N positions, K component, C channel, D width of the feature, W width of the trunk.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbridge import config
from tokenbridge.config import Sample
from tokenbridge.model.backbone import EPSILON, initialize
from tokenbridge.model.heads.contract import Head
from tokenbridge.model.heads.residual import ResidualBlock

SMALLEST = 1e-3
"""smallest deviation; latents have unit deviation"""
_START_SPREAD = 0.5
"""deviation of the components' means at the start"""


def log_interval(low: Tensor, high: Tensor) -> Tensor:
    """The log probability that a standard normal lies between low and high, low < high, each infinite at will.

    In float64, by the tails on the side where they are small: log(Φ(high) − Φ(low)) keeps its digits far out.
    """
    low, high = low.double(), high.double()
    mirrored = low > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    below, upto = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return upto + torch.log(-torch.expm1(below - upto))


class Mixture(NamedTuple):
    """log_weights (N, K); means, deviations (N, K, C); factors (N, K, C, C) or none where channels are independent.

    Standard normals are (I + factors)(x − mean) / deviation, factors strictly lower triangular: deviations are those of
    a channel given the channels before it, and L = (I + factors) / deviation has the precision LᵀL.
    """

    log_weights: Tensor
    means: Tensor
    deviations: Tensor
    factors: Tensor | None

    def log_prob(self, x: Tensor) -> Tensor:
        """(N) log density of x (N, C), nats."""
        nats, _ = self._each(x)
        return (self.log_weights + nats.sum(-1)).logsumexp(-1)

    def log_mass(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The log probability of each channel's interval given the values of the channels before it, summed.

        A channel given those before it is a mixture of normals in one dimension, whose weights those values have
        shifted: the probability of an interval is a difference of distribution functions.

        Args:
            x: (N, C) values.
            low: (N, C) lower ends of the intervals, minus infinity where open.
            high: (N, C) upper ends, infinity where open.

        Returns:
            (N) float64, nats.
        """
        nats, standard = (part.double() for part in self._each(x.double()))
        before = torch.cat([torch.zeros_like(nats[..., :1]), nats[..., :-1].cumsum(-1)], -1)
        weights = (self.log_weights.double()[..., None] + before).log_softmax(1)
        mass = log_interval(*(standard + (end.double() - x.double())[:, None] / self.deviations for end in (low, high)))
        return (weights + mass).logsumexp(1).sum(-1)

    def _each(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities of each channel given those before it, and the standard normals that they are of, (N, K, C)."""
        away = x[:, None] - self.means
        if self.factors is not None:
            away = away + (self.factors * away[..., None, :]).sum(-1)
        standard = away / self.deviations
        return -(0.5 * standard**2 + self.deviations.log() + 0.5 * math.log(2 * math.pi)), standard

    def of(self, component: Tensor) -> Mixture:
        """The mixture of one component (N) per position: K = 1."""
        at = torch.arange(len(component), device=component.device), component
        factors = None if self.factors is None else self.factors[at][:, None]
        return Mixture(self.log_weights[at][:, None], self.means[at][:, None], self.deviations[at][:, None], factors)


class MixtureHead(Head):
    """A residual MLP of the feature gives weights, means and covariances; the density is exact.

    A draw takes a component by its weight, then a value; temperature multiplies the deviation of that value and leaves
    the weights, but 0 takes the mean of the component with the largest weight.
    """

    noise = "normal"
    row: Tensor
    column: Tensor

    def __init__(self, c: config.Head, width: int, channels: int):
        super().__init__(c)
        self.channels, self.full = channels, c.covariance == "full"
        row, column = torch.tril_indices(channels, channels, offset=-1, device="cpu").unbind()
        self.register_buffer("row", row, persistent=False)
        self.register_buffer("column", column, persistent=False)
        self.parts = [1, channels, channels, len(row) if self.full else 0]
        self.input = nn.Linear(width, c.width)
        self.blocks = nn.ModuleList(ResidualBlock(c.width) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=EPSILON)
        self.output = nn.Linear(c.width, c.components * sum(self.parts))
        initialize(self)
        nn.init.zeros_(self.output.weight)
        with torch.no_grad():  # equal weights, means apart, unit deviations
            _, means, deviations, _ = self.output.bias.view(c.components, -1).split(self.parts, dim=-1)
            nn.init.normal_(means, std=_START_SPREAD)
            nn.init.constant_(deviations, math.log(math.expm1(1 - SMALLEST)))

    def noise_shape(self, how: Sample) -> tuple[int, ...]:
        return (1 + self.channels,)

    def mixture(self, z: Tensor) -> Mixture:
        """The mixture at features (N, D)."""
        x = self.input(z)
        for block in self.blocks:
            x = block(x)
        low = torch.amp.is_autocast_available(x.device.type)  # not where tensors have no values
        with torch.autocast(x.device.type, enabled=False) if low else nullcontext():  # 8 bits are too few for a mean
            outputs = self.output(self.norm(x.float()))
        weights, means, deviations, free = outputs.unflatten(-1, (-1, sum(self.parts))).split(self.parts, dim=-1)
        factors = None
        if self.full:
            factors = free.new_zeros(*means.shape, self.channels)
            factors[..., self.row, self.column] = free
        return Mixture(weights[..., 0].log_softmax(-1), means, F.softplus(deviations) + SMALLEST, factors)

    def log_prob(self, z: Tensor, target: Tensor) -> Tensor:
        return self.mixture(z).log_prob(target)

    def sample(
        self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Draw a component by inverse CDF of the first normal, and its value by the others."""
        assert not isinstance(how.temperature, tuple)
        z, _ = self.mixed(z, how, unconditional, guidance)
        mixture = self.mixture(z)
        if how.temperature == 0:
            return mixture.of(mixture.log_weights.argmax(-1)).means[:, 0]
        cumulative = mixture.log_weights.exp().cumsum(-1)
        threshold = torch.special.ndtr(noise[:, :1]) * cumulative[:, -1:]
        component = (cumulative <= threshold).sum(-1).clamp(max=cumulative.shape[-1] - 1)
        chosen = mixture.of(component)
        away = how.temperature * chosen.deviations[:, 0] * noise[:, 1:]
        if chosen.factors is not None:
            factors = chosen.factors[:, 0]  # its diagonal is read as ones
            away = torch.linalg.solve_triangular(factors, away[..., None], upper=False, unitriangular=True)[..., 0]
        return chosen.means[:, 0] + away
