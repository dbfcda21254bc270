"""The autoregressive head's whole loop over steps as one CUDA graph: one launch draws a token.

It has not been measured on a GPU yet. What the graph holds is StaticDraw.run, an ordinary function that the tests
compare with head.sample on a CPU.
N positions, T steps, C channel, D width of the feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tokenbridge.config import Sample, UserError
from tokenbridge.model.heads.autoregressive import AutoregressiveHead

WARM_UP = 3  # runs before the capture, in which libraries choose their kernels and allocate


class StaticDraw:
    """Draws whose inputs and outputs stay at one place in memory, as a graph's replay needs them.

    Call it with features (N, D), guided already where they are, and uniforms (N, T); returns tokens (N, C).
    """

    def __init__(self, head: AutoregressiveHead, how: Sample, positions: int):
        self.head, self.how = head, how
        width = head.condition.in_features
        self.z = head.position.new_zeros(positions, width)
        self.noise = torch.zeros(positions, *head.noise_shape(how), device=self.z.device)
        self.tokens = torch.zeros(positions, len(head.order), dtype=torch.int64, device=self.z.device)
        self.again: Callable[[], object] = self.run

    @torch.no_grad()
    def run(self) -> None:
        """From z and noise to tokens. The cache of keys and values lives in the graph's own memory."""
        self.tokens.copy_(self.head.sample(self.z, self.noise, self.how))

    def __call__(self, z: Tensor, noise: Tensor) -> Tensor:
        self.z.copy_(z)
        self.noise.copy_(noise)
        self.again()
        return self.tokens.clone()


def capture(head: AutoregressiveHead, how: Sample, positions: int = 1) -> StaticDraw:
    """head.sample for this many positions at once, unguided or guided on features before, captured in a CUDA graph.

    UserError on a device without CUDA. Weights changed in place afterwards are read by the graph; a head that is moved
    has to be captured again.
    """
    device = head.position.device
    if device.type != "cuda":
        raise UserError(f"device={device} has no graphs to capture; it must be a CUDA device: use --device cuda")
    static = StaticDraw(head, how, positions)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            static.run()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static.run()
    static.again = graph.replay
    return static


def weights_read(head: AutoregressiveHead) -> int:
    """Bytes of weights that drawing one token reads, which nothing but smaller weights can lower at batch 1.

    Blocks once a step, modulations once (those of all steps are one product), the output layer of each step once.
    """
    once = [head.condition, head.final_modulation, *(block.modulation for block in head.layers)]
    weights = sum(p.numel() for layer in once for p in layer.parameters())
    blocks = sum(p.numel() for p in head.blocks.parameters())
    modulations = sum(p.numel() for block in head.layers for p in block.modulation.parameters())
    weights += head.steps * (blocks - modulations) + head.out_weight.numel() + head.out_bias.numel()
    return weights * head.position.element_size()


def least_ms(head: AutoregressiveHead, bytes_per_second: float) -> float:
    """Milliseconds a token at batch 1 that this memory bandwidth allows, where weights fit in no cache."""
    return 1000 * weights_read(head) / bytes_per_second
