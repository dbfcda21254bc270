"""Flow head: rectified flow from noise to the C channels of a token (arXiv 2209.03003, 2210.02747).

N positions, M draws of time and noise per position in training, C channel, D width of the feature.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tokenbridge import config
from tokenbridge.config import Sample
from tokenbridge.model.heads.contract import Head, guide
from tokenbridge.model.heads.residual import ResidualNet

TIME_SCALE = 1000  # times in [0, 1] to those that the network's sinusoids tell apart


class FlowHead(Head):
    """A residual MLP estimates the velocity x − noise at x_t = (1 − t) · noise + t · x; a draw follows it from 0 to 1.

    Temperature multiplies the noise that a draw starts from. Guidance on the estimate mixes velocities.
    """

    noise = "normal"

    def __init__(self, c: config.Head, width: int, channels: int):
        super().__init__(c)
        self.channels = channels
        self.loss_noise_shape = (c.multiplier, 1 + channels)
        self.net = ResidualNet(c, width, channels, channels)

    def noise_shape(self, how: Sample) -> tuple[int, ...]:
        return (1, self.channels)

    def loss(self, z: Tensor, target: Tensor, noise: Tensor | None = None) -> Tensor:
        """Squared error of the velocity, the mean over M draws; times are logit-normal (arXiv 2403.03206)."""
        assert noise is not None
        noise = noise.transpose(0, 1)  # (M, N, 1 + C)
        time, start = noise[..., 0].sigmoid(), noise[..., 1:]
        at = torch.lerp(start, target.expand_as(start), time[..., None])
        velocity = self.net(at, TIME_SCALE * time, z).float()
        return ((velocity - (target - start)) ** 2).sum(-1).mean(0)

    def sample(
        self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        """Follow the velocity in how.head_steps equal steps of one evaluation (euler) or two (midpoint)."""
        assert not isinstance(how.temperature, tuple)
        z, unconditional = self.mixed(z, how, unconditional, guidance)
        evaluations = 2 if how.solver == "midpoint" else 1
        times = torch.arange(evaluations * how.head_steps, device=z.device) / (evaluations * how.head_steps)
        features = z if unconditional is None else torch.cat([z, unconditional])
        x = start = how.temperature * noise[:, 0]
        for i, net in enumerate(self.net.at_each(features, TIME_SCALE * times)):
            velocity = net(x if unconditional is None else x.repeat(2, 1)).float()
            velocity = velocity if unconditional is None else guide(*velocity.chunk(2), guidance)
            if i % evaluations < evaluations - 1:  # to the middle of the step, only to read the velocity there
                x = torch.add(start, velocity, alpha=0.5 / how.head_steps)
            else:
                x = start = torch.add(start, velocity, alpha=1 / how.head_steps)
        return x
