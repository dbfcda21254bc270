"""What the parts share: rows, the size that is measured, the clock, and precisions that a device has."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokenbridge.config import Precision, RunConfig
from tokenbridge.devices import at_precision
from tokenbridge.model.heads.captured import StaticDraw, capture
from tokenbridge.speed.timing import take_turns


class Row(NamedTuple):
    """One number, or the reason why there is none."""

    name: str
    value: float | None = None
    unit: str = ""
    goal: str = ""
    """such as `≥ 5`, empty where there is none"""
    why: str = ""
    """why there is no value"""
    part: str = ""

    @property
    def missed(self) -> bool:
        """Whether the value is on the wrong side of the goal."""
        if self.value is None or not self.goal:
            return False
        sign, number = self.goal.split()[:2]
        return self.value < float(number) if sign == "≥" else self.value > float(number)


class Size(NamedTuple):
    """What is measured: two configurations of one size, with levels and with a diffusion head."""

    name: str
    config: RunConfig
    mar: RunConfig
    tokens: tuple[int, ...]
    """tokens that a head draws at once"""
    images: tuple[int, ...]
    """images that are sampled at once"""
    iterations: tuple[int, ...]
    """of whole images"""
    rounds: int


class Clock(NamedTuple):
    """The time of a part."""

    end: float

    def left(self) -> float:
        """Seconds, below 0 when it is over."""
        return self.end - time.monotonic()

    def too_long(self, seconds: float) -> str:
        """Why something that takes so many seconds is not begun; empty where it is."""
        return "" if seconds < self.left() else f"about {seconds:.0f} s did not fit into the time of this part"


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """Those that the device has."""
    return ("float32", "tf32", "bfloat16") if device.type == "cuda" else ("float32", "bfloat16")


def products(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """A block in which products have this precision."""
    return at_precision(device, precision, "precision")


def in_float32(device: torch.device, way: Callable[[], Any]) -> Callable[[], Any]:
    """The same, without the autocast of the block around it."""

    def run() -> Any:
        with torch.autocast(device.type, enabled=False):
            return way()

    return run


def released_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """What the released way runs under: autocast on a GPU, in bfloat16, whose products take as long as those of its
    float16; an autocast within another of another type would read its copies of weights. float32 on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def graph(device: torch.device) -> Callable[[StaticDraw], StaticDraw]:
    """What captures a draw: a CUDA graph, on a CPU its uncaptured twin."""
    return capture if device.type == "cuda" else lambda static: static


def medians(ways: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each way, all taking turns."""
    return {key: statistics.median(each) for key, each in take_turns(ways, rounds, device).seconds.items()}


def require_equal(ours: Tensor, theirs: Tensor, what: str, least: float = 1.0) -> float:
    """The share of equal tokens; AssertionError where it is below the least, so that nothing unequal is timed.

    Args:
        ours: tokens, levels or values.
        theirs: the opponent's, of the same shape.
        what: for the message.
        least: 1 on a CPU; a GPU's kernels add in another order for another shape, so few tokens may flip there.
    """
    equal = ours == theirs if not ours.is_floating_point() else (ours - theirs).abs() <= 1e-3
    share = float(equal.float().mean())
    assert share >= least, f"{what}: {share:.2%} of the tokens are equal, and {least:.0%} must be"
    return share


def least_equal(device: torch.device) -> float:
    """What require_equal asks for on this device."""
    return 1.0 if device.type == "cpu" else 0.9
