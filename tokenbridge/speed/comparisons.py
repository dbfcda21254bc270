"""Comparisons of speed that no table holds: two ways to the same result, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenbridge.config import Quantizer
from tokenbridge.rng import generator
from tokenbridge.speed.timing import take_turns
from tokenbridge.tokenizers.scalar import ScalarQuantizer, fit

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Comparison:
    """Median seconds per round of a way and of its opponent, and how many times as fast is aimed at."""

    name: str
    ours: float
    opponent: float
    target: float

    @property
    def ratio(self) -> float:
        return self.opponent / self.ours

    def line(self) -> str:
        return (
            f"{self.name}: {self.ours * 1e3:.1f} ms against {self.opponent * 1e3:.1f} ms,"
            f" {self.ratio:.1f} times as fast (target {self.target:g}"
            f"{': missed' if self.ratio < self.target else ''})"
        )


def compare(
    name: str, ours: Callable[[], Tensor], opponent: Callable[[], Tensor], target: float, rounds: int = 5
) -> Comparison:
    """Time both in turn; their results must be equal."""
    turns = take_turns({"ours": ours, "opponent": opponent}, rounds, CPU)
    assert torch.equal(turns.results["ours"], turns.results["opponent"]), f"{name}: the two ways differ"
    mine, theirs = (statistics.median(turns.seconds[way]) for way in ("ours", "opponent"))
    return Comparison(name, mine, theirs, target)


def bucketized_encoding(values: int = 10_000_000, levels: int = 64, rounds: int = 3) -> Comparison:
    """Encoding by a grid of midpoints against a table of distances to every level (in pieces that fit in memory)."""
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
            rounds=rounds,
        )
