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


PIECE = 1024
"""values whose distances to 64 levels fit in a core's cache: a table of a million at once takes three times as long"""


def encoding(values: int = 10_000_000, levels: int = 64, rounds: int = 3) -> list[Comparison]:
    """Encoding by a grid of midpoints against a table of distances to every level, and against torch.bucketize.

    Each opponent at its best: the table in pieces of PIECE values, bucketize on the midpoints.
    """
    x = torch.randn(values, generator=generator("speed"))
    quantizer = fit(Quantizer(levels=levels), x[:, None])
    assert isinstance(quantizer, ScalarQuantizer)
    centers, midpoints = quantizer.centers[0], quantizer.midpoints[0]

    def table() -> Tensor:
        return torch.cat([(part[:, None] - centers).abs().argmin(-1) for part in x.split(PIECE)])

    opponents = (
        ("a distance table in pieces that fit in the cache", table, 9),
        ("torch.bucketize", lambda: torch.bucketize(x, midpoints), 1),
    )
    with torch.inference_mode():
        return [
            compare(
                f"encoding {values:,} values at {levels} levels: midpoints in a grid against {name}",
                lambda: quantizer.encode(x),
                opponent,
                target,
                rounds,
            )
            for name, opponent, target in opponents
        ]
