"""Time to draw one image token: heads with random weights draw in turn, and their slower ways with them.

N positions drawn together, T steps, C channel, D width of the feature.
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
from tokenbridge.model.heads.captured import StaticDraw, capture
from tokenbridge.model.heads.residual import ResidualNet
from tokenbridge.rng import drawn_from, generator
from tokenbridge.speed.timing import Effort, reading_rate, summary, take_turns

Draw = Callable[[Tensor, Tensor], Tensor]
"""from features (N, D) and noise to tokens (N, C)"""


def random_head(config: RunConfig, device: torch.device) -> Head:
    """The configured head, for features of the backbone's width and the config's tokens, with weights as if trained."""
    config.require_pair()
    levels = config.token_levels
    channels = len(levels) or config.autoencoder.channels
    with drawn_from("speed"):
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
    """Ways to draw tokens, by name: `token`, and where there are, slower ones that give the same tokens.

    recomputing is without a cache of keys and values, stepwise with modulations computed in each step: as the released
    samplers do.
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


def weights_read(head: AutoregressiveHead) -> int:
    """Bytes of weights that drawing one token reads, which only smaller weights can lower at batch 1.

    Blocks once a step, modulations once (those of all steps are one product), the output layer of each step once.
    """
    once = [head.condition, head.final_modulation, *(block.modulation for block in head.layers)]
    weights = sum(p.numel() for layer in once for p in layer.parameters())
    blocks = sum(p.numel() for p in head.blocks.parameters())
    modulations = sum(p.numel() for block in head.layers for p in block.modulation.parameters())
    weights += head.steps * (blocks - modulations) + head.out_weight.numel() + head.out_bias.numel()
    return weights * head.position.element_size()


def least_ms(head: AutoregressiveHead, bytes_per_second: float) -> float:
    """Milliseconds per token at batch 1 that this memory bandwidth allows, where weights fit in no cache."""
    return 1000 * weights_read(head) / bytes_per_second


def inputs(head: Head, config: RunConfig, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features (N, D) and the noise (N, *noise_shape) that the head's draw reads."""
    g = generator("speed", positions)
    z = torch.randn(positions, config.backbone.width, generator=g)
    draw = {"uniform": torch.rand, "normal": torch.randn}[head.noise]
    noise = draw((positions, *head.noise_shape(config.sample)), generator=g)
    return z.to(device), noise.to(device)


@torch.inference_mode()
def measure_tokens(
    configs: Mapping[str, RunConfig], device: torch.device, effort: Effort
) -> dict[str, dict[str, float]]:
    """Milliseconds to draw the channels of N tokens together, for each config; all take turns.

    Returns:
        Label -> token_ms_N for N in effort.batches, unguided, with the config's sample settings; <way>_ms_N of the
        slower ways for N in effort.slower. On a GPU, for an autoregressive head, graph_ms_1 (captured) and least_ms_1
        (by memory bandwidth).
    """
    heads = {label: random_head(config, device) for label, config in configs.items()}
    draws = {label: draws_of(heads[label], config) for label, config in configs.items()}
    metrics: dict[str, dict[str, float]] = {label: {} for label in configs}
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
            metrics[label] |= summary(name, seconds)
    for label, head in heads.items():
        if device.type == "cuda" and isinstance(head, AutoregressiveHead):
            metrics[label]["least_ms_1"] = least_ms(head, reading_rate(device))
    return metrics


def _captured(
    label: str, head: Head, config: RunConfig, z: Tensor, noise: Tensor
) -> dict[tuple[str, str], Callable[[], Any]]:
    if not isinstance(head, AutoregressiveHead):
        return {}
    return {(label, "graph_ms_1"): partial(capture(StaticDraw(head, config.sample, z, noise)), z, noise)}
