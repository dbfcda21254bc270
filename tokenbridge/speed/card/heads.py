"""Part (a): tokens of a head drawn at once: the released way, ours, captured in a graph, and in bfloat16.

N positions drawn together, D width of the feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from tokenbridge.model.heads.autoregressive import AutoregressiveHead
from tokenbridge.model.heads.captured import StaticDraw
from tokenbridge.speed.card.rows import (
    Clock,
    Row,
    Size,
    graph,
    in_float32,
    least_equal,
    medians,
    products,
    released_autocast,
    require_equal,
)  # fmt: skip
from tokenbridge.speed.heads import inputs, random_head

GRAPH_MS = 3
"""goal for one token in a graph"""


def rows(size: Size, device: torch.device, clock: Clock) -> Iterator[Row]:
    """Milliseconds for N tokens and ratios to the released way, for each N of the size."""
    head = random_head(size.config, device)
    assert isinstance(head, AutoregressiveHead), "tables of sizes name autoregressive heads"
    how = size.config.sample

    def recomputing(z: Tensor, noise: Tensor) -> Tensor:
        return head.tokens(head.draw_recomputing(z, noise, how))

    def released(z: Tensor, noise: Tensor) -> Tensor:
        with released_autocast(device):
            return recomputing(z, noise)

    with torch.no_grad():
        z, noise = inputs(head, size.config, max(size.tokens), device)
        require_equal(head.sample(z, noise, how), recomputing(z, noise), "tokens of the head", least_equal(device))
        for positions in size.tokens:
            name = f"{positions} token{'s' if positions > 1 else ''} of the head at once"
            if reason := clock.too_long(0):
                yield Row(name, why=reason)
                continue
            z, noise = inputs(head, size.config, positions, device)
            eager = partial(head.sample, z, noise, how)
            ways = {"released": partial(released, z, noise), "float32": in_float32(device, eager)}
            captured = partial(graph(device)(StaticDraw(head, how, z, noise)), z, noise)
            ways["float32, captured"] = in_float32(device, captured)
            with products(device, "bfloat16"):  # a graph reads copies of weights that end with this block
                ways["bfloat16, captured"] = partial(graph(device)(StaticDraw(head, how, z, noise)), z, noise)
                seconds = medians(ways, size.rounds, device)
            for way, each in seconds.items():
                goal = f"≤ {GRAPH_MS} ms" if positions == 1 and way == "float32, captured" and size.name == "L" else ""
                yield Row(f"{name}, {way}", 1000 * each, "ms", goal)
            best = min(each for way, each in seconds.items() if way != "released")
            yield Row(f"{name}, best of ours against released", seconds["released"] / best, "times")
