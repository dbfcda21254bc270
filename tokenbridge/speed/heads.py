"""What one image token costs: heads with random weights draw in turn, and their slower ways with them.

N positions drawn together, C channel, D width of the feature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokenbridge.config import RunConfig, Sample
from tokenbridge.model.heads import Head, build_head
from tokenbridge.model.heads.autoregressive import AutoregressiveHead
from tokenbridge.model.heads.residual import ResidualNet
from tokenbridge.rng import generator, seed_of
from tokenbridge.speed.captured import capture, least_ms
from tokenbridge.speed.timing import Effort, reading_rate, summary, take_turns

Draw = Callable[[Tensor, Tensor], Tensor]


def random_head(config: RunConfig, device: torch.device) -> Head:
    """The configured head, for features of the backbone's width and the config's tokens, with weights as if trained."""
    config.require_pair()
    levels = config.token_levels
    channels = len(levels) or config.autoencoder.channels
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("speed"))
        head = build_head(config.head, config.backbone.width, channels, levels, tuple(range(channels)))
        open_gates(head)
    return head.eval().to(device)


def open_gates(module: nn.Module) -> None:
    """Small random values for weights that start at zero: a token must depend on every layer."""
    for parameter in module.parameters():
        if parameter.dim() > 1 and not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)


class StepByStep(nn.Module):
    """A residual network as released samplers run it: each step computes its own modulations.

    Our heads compute those of many steps in one product, as at_each of tokenbridge.model.heads.residual says.
    """

    def __init__(self, net: ResidualNet):
        super().__init__()
        self.net = net

    def at_each(self, z: Tensor, times: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
        for time in times:
            yield partial(self.net, time=time, z=z)


def step_by_step(head: Head, config: RunConfig) -> Head:
    """A head that shares this one's residual network and runs it step by step."""
    small = config.head.model_copy(update={"width": 1, "depth": 1, "heads": 1})
    other = build_head(small, config.backbone.width, config.autoencoder.channels, (), ())
    other.net = StepByStep(head.net)  # pyright: ignore[reportArgumentType]
    return other.eval().to(head.net.output.weight.device)  # pyright: ignore


def draws_of(head: Head, config: RunConfig) -> dict[str, Draw]:
    """Ways to draw tokens (N, C) from features (N, D) and noise, by name: `token`, and slower ones where there are.

    recomputing: without a cache of keys and values; stepwise: with modulations computed in each step. Both are what the
    released samplers do, and give the same tokens.
    """
    how = config.sample
    ways: dict[str, Draw] = {"token": partial(_sample, head, how)}
    if isinstance(head, AutoregressiveHead):
        ways["recomputing"] = lambda z, noise: head.tokens(head.draw_recomputing(z, noise, how))
    if isinstance(getattr(head, "net", None), ResidualNet):
        ways["stepwise"] = partial(_sample, step_by_step(head, config), how)
    return ways


def slower_at(ways: Iterable[str], positions: int) -> list[str]:
    """Slower ways that are worth a measurement: step by step costs more for few tokens only."""
    return [name for name in ways if name == "recomputing" or (name == "stepwise" and positions == 1)]


def _sample(head: Head, how: Sample, z: Tensor, noise: Tensor) -> Tensor:
    return head.sample(z, noise, how)


def inputs(head: Head, config: RunConfig, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features (N, D) and the noise that the head's draw reads."""
    own = generator("speed", positions)
    z = torch.randn(positions, config.backbone.width, generator=own)
    draw = {"uniform": torch.rand, "normal": torch.randn}[head.noise]
    noise = draw((positions, *head.noise_shape(config.sample)), generator=own)
    return z.to(device), noise.to(device)


@torch.inference_mode()
def measure_tokens(
    configs: Mapping[str, RunConfig], device: torch.device, effort: Effort
) -> dict[str, dict[str, float]]:
    """Milliseconds to draw the channels of N tokens together, N in effort.batches, for each config; all take turns.

    token_ms_N, unguided, with the config's sample settings; where N is in effort.slower also <way>_ms_N of the
    slower ways of draws_of. On a GPU, for an autoregressive head, graph_ms_1 (captured) and least_ms_1 (by memory
    bandwidth).
    """
    heads = {label: random_head(config, device) for label, config in configs.items()}
    draws = {label: draws_of(heads[label], config) for label, config in configs.items()}
    found: dict[str, dict[str, float]] = {label: {} for label in configs}
    for positions in sorted({*effort.batches, *effort.slower}):
        ways: dict[tuple[str, str], Callable[[], Any]] = {}
        for label, config in configs.items():
            z, noise = inputs(heads[label], config, positions, device)
            names = slower_at(draws[label], positions) if positions in effort.slower else []
            for name in ["token", *names] if names or positions in effort.batches else []:
                ways[label, f"{name}_ms_{positions}"] = partial(draws[label][name], z, noise)
            if device.type == "cuda" and positions == 1:
                ways |= _captured(label, heads[label], config, z, noise)
        for (label, name), seconds in take_turns(ways, effort.rounds, device).seconds.items():
            found[label] |= summary(name, seconds)
    for label, head in heads.items():
        if device.type == "cuda" and isinstance(head, AutoregressiveHead):
            found[label]["least_ms_1"] = least_ms(head, reading_rate(device))
    return found


def _captured(
    label: str, head: Head, config: RunConfig, z: Tensor, noise: Tensor
) -> dict[tuple[str, str], Callable[[], Any]]:
    if not isinstance(head, AutoregressiveHead):
        return {}
    return {(label, "graph_ms_1"): partial(capture(head, config.sample), z, noise)}
