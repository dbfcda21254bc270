"""Draws of a head as one launch: its kernels captured in a CUDA graph, for as many positions as an iteration reveals.

N positions drawn together, C channel, D width of the feature.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenbridge.config import Sample, UserError, on_one_line
from tokenbridge.model.heads.contract import Head

WARM_UP = 3
"""runs before a capture, in which libraries choose their kernels and allocate"""


class Draw(Protocol):
    """What Head.sample is, for one `how`: tokens (N, C) of features (N, D) and noise, guided by a weight or not."""

    def __call__(self, z: Tensor, noise: Tensor, unconditional: Tensor | None, guidance: float) -> Tensor: ...


class StaticDraw:
    """A head's draw with inputs and outputs at one place in memory, as a graph needs; uncaptured it is its twin.

    Args:
        head: whose draw it is.
        how: the settings of the draw.
        z: (N, D) features like those to come.
        noise: (N, *head.noise_shape(how)) likewise.
        unconditional: (N, D) likewise where the head itself mixes them in, else None.
    """

    def __init__(self, head: Head, how: Sample, z: Tensor, noise: Tensor, unconditional: Tensor | None = None):
        self.head, self.how = head, how
        self.z, self.noise = z.clone(), noise.clone()
        self.unconditional = None if unconditional is None else unconditional.clone()
        self.guidance = torch.ones((), device=z.device)
        self.tokens = torch.empty(0)
        self.again: Callable[[], object] = self.run

    @torch.no_grad()
    def run(self) -> None:
        """Draw tokens from what lies in memory. A graph keeps all that this allocates in memory of its own."""
        # a tensor in place of the number: a graph would keep the first weight
        self.tokens = self.head.sample(self.z, self.noise, self.how, self.unconditional, self.guidance)  # pyright: ignore

    def __call__(self, z: Tensor, noise: Tensor, unconditional: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Tokens (N, C), in memory of their own."""
        self.z.copy_(z)
        self.noise.copy_(noise)
        if self.unconditional is not None:
            assert unconditional is not None
            self.unconditional.copy_(unconditional)
        self.guidance.fill_(guidance)
        self.again()
        return self.tokens.clone()


def capture(static: StaticDraw, pool: Any = None) -> StaticDraw:
    """Capture a draw in a CUDA graph, of which one launch draws the tokens.

    Weights changed in place afterwards are read by the graph; a head that is moved has to be captured again, and one
    that ran in bfloat16 when the block of tokenbridge.devices.at_precision has ended. Not yet run on a GPU.

    Args:
        static: the draw.
        pool: memory that it shares with other graphs, as torch.cuda.graph_pool_handle gives it; they never run at once,
            their arguments lie outside of it, and what they give is copied before another runs.

    Raises:
        UserError: on a device without CUDA.
    """
    device = static.z.device
    if device.type != "cuda":
        raise UserError(f"device={device} has no graphs to capture; it must be a CUDA device: use --device cuda")
    with torch.cuda.device(device):
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                static.run()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # torch's own stream is of the GPU that is current when it is made: kernels of another are in no graph. And
        # beside this thread another pins the next images' noise, which would end a capture that is global
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            static.run()
    static.again = graph.replay
    return static


class CapturedDraws:
    """Head.sample by graphs: one for each number of positions, guided or not, made when it is first asked for.

    A draw that cannot be captured is launched kernel by kernel from then on, and said so on stderr.

    Args:
        head: whose draws they are.
        how: the settings of the draws.
        make: what makes a static draw a graph; another one in tests on a CPU, where its uncaptured twin runs.
    """

    def __init__(self, head: Head, how: Sample, make: Callable[[StaticDraw], StaticDraw] | None = None):
        self.head, self.how = head, how
        pool = torch.cuda.graph_pool_handle() if make is None and torch.cuda.is_available() else None
        self.make = make or partial(capture, pool=pool)  # a pool of each graph's own takes many times the memory
        self.graphs: dict[tuple[int, bool], StaticDraw] = {}
        self.refused = ""
        """why nothing is captured any more; empty where it is"""

    def __call__(self, z: Tensor, noise: Tensor, unconditional: Tensor | None, guidance: float) -> Tensor:
        z, unconditional = self.head.mixed(z, self.how, unconditional, guidance)
        key = len(z), unconditional is not None
        if not self.refused and key not in self.graphs:
            try:
                self.graphs[key] = self.make(StaticDraw(self.head, self.how, z, noise, unconditional))
            except RuntimeError as error:
                self.refused = on_one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
                self.graphs.clear()
                print(f"sample: the head is not captured in a graph ({self.refused}); it takes longer", file=sys.stderr)
        if self.refused:
            return self.head.sample(z, noise, self.how, unconditional, guidance)
        return self.graphs[key](z, noise, unconditional, guidance)
