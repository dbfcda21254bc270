"""Speed, measured as ratios inside one run: two ways to the same result take turns, medians over the rounds count."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenbridge.config import Head, Quantizer, Sample
from tokenbridge.heads.autoregressive import AutoregressiveHead
from tokenbridge.quantizers import ScalarQuantizer, fit
from tokenbridge.rng import generator


@dataclass(frozen=True)
class Comparison:
    """Seconds a round of a way and of its opponent, medians; ratio: median of the rounds' own ratios."""

    name: str
    ours: float
    opponent: float
    ratio: float
    target: float

    def line(self) -> str:
        return (
            f"{self.name}: {self.ours * 1e3:.1f} ms against {self.opponent * 1e3:.1f} ms,"
            f" {self.ratio:.1f} times as fast (target {self.target:g})"
        )


def compare(
    name: str, ours: Callable[[], Tensor], opponent: Callable[[], Tensor], target: float, rounds: int = 5
) -> Comparison:
    """Time both in turn after a warm-up in which their results must be equal."""
    assert torch.equal(ours(), opponent()), f"{name}: the two ways differ"
    pairs = [(_seconds(ours), _seconds(opponent)) for _ in range(rounds)]
    mine, theirs = zip(*pairs, strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    return Comparison(name, statistics.median(mine), statistics.median(theirs), ratio, target)


def cached_head(
    positions: int = 64, width: int = 512, depth: int = 4, channels: int = 16, levels: int = 64
) -> Comparison:
    """The autoregressive head sampling with its cache against recomputing the prefix of every channel."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Head(width=width, depth=depth, heads=8)
        head = AutoregressiveHead(config, 1024, (levels,) * channels, tuple(range(channels))).eval()
        for block in head.layers:  # as trained: gates that are not zero
            torch.nn.init.normal_(block.modulation.weight, std=0.02)
    own = generator("speed")
    z, noise = torch.randn(positions, 1024, generator=own), torch.rand(positions, channels, generator=own)
    how = Sample()
    with torch.inference_mode():
        return compare(
            f"head {width}×{depth}, {channels} channels, {positions} positions: cache against recomputing",
            lambda: head.draw(z, noise, how, None, 1.0),
            lambda: head.draw_recomputing(z, noise, how),
            target=6,
        )


def bucketized_encoding(values: int = 10_000_000, levels: int = 64) -> Comparison:
    """Encoding by midpoints against a table of distances to every level (in pieces, so that it fits in memory)."""
    x = torch.randn(values, generator=generator("speed"))
    quantizer = fit(Quantizer(levels=levels), x[:, None])
    assert isinstance(quantizer, ScalarQuantizer)
    centers = quantizer.centers[0]

    def table() -> Tensor:
        return torch.cat([(part[:, None] - centers).abs().argmin(-1) for part in x.split(1_000_000)])

    with torch.inference_mode():
        return compare(
            f"encoding {values:,} values at {levels} levels: midpoints against a distance table",
            lambda: quantizer.encode(x),
            table,
            target=20,
            rounds=3,
        )


def _seconds(way: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
