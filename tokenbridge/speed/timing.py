"""Timing inside one run: ways to do something take turns, so that what disturbs the machine disturbs all."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch

SLOW_SECONDS = 5.0
Key = TypeVar("Key", bound=Hashable)


class Effort(NamedTuple):
    """Rounds, numbers of tokens drawn at once (batches), and numbers at which slower ways are measured too."""

    rounds: int
    batches: tuple[int, ...]
    slower: tuple[int, ...]


class Turns(NamedTuple, Generic[Key]):
    """The seconds of each way in each round, and the result of its first turn."""

    seconds: dict[Key, list[float]]
    results: dict[Key, Any]


def take_turns(ways: Mapping[Key, Callable[[], Any]], rounds: int, device: torch.device) -> Turns[Key]:
    """Time each way once per round.

    A first turn warms up and does not count; but a way that takes SLOW_SECONDS in it on a CPU is timed there and not
    again. Elsewhere that may be the time of compiling, or of a device that starts, so its second turn tells.

    Args:
        ways: what to time, by key.
        rounds: how often.
        device: to wait for, where it works beside the CPU.
    """
    results = {}
    first: dict[Key, float] = {}
    for key, way in ways.items():
        first[key], results[key] = _timed(way, device)
    slow = {key for key in ways if first[key] >= SLOW_SECONDS and device.type == "cpu"}
    seconds = {key: [first[key]] if key in slow else [] for key in ways}
    for _ in range(rounds):
        for key, way in ways.items():
            if not seconds[key] or seconds[key][0] < SLOW_SECONDS:
                seconds[key].append(_timed(way, device)[0])
    return Turns(seconds, results)


def _timed(way: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    _finish(device)
    start = time.perf_counter()
    result = way()
    _finish(device)
    return time.perf_counter() - start, result


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(name: str, seconds: list[float], per: float = 1.0) -> dict[str, float]:
    """Median in ms under `name`, and half the interquartile range under `name`_spread; one measurement has no spread.

    Args:
        name: of the metric.
        seconds: the measurements.
        per: what a measurement is divided by, such as a number of images.
    """
    low, middle, high = 1000 / per * np.quantile(seconds, (0.25, 0.5, 0.75))
    metrics = {name: float(middle)}
    return metrics | {f"{name}_spread": float(high - low) / 2} if len(seconds) > 1 else metrics


def matrix_megabytes(device: torch.device) -> int:
    """Size of a matrix that fits in no cache of such a device, and whose reading takes a GPU longer than a launch."""
    return 2048 if device.type == "cuda" else 256


def reading_rate(device: torch.device, megabytes: int | None = None) -> float:
    """Bytes per second at which a product with one vector reads a matrix; the best of five.

    Args:
        device: where it is read.
        megabytes: of the matrix, by default matrix_megabytes.
    """
    megabytes = megabytes or matrix_megabytes(device)
    matrix = torch.ones(megabytes, 2**18, device=device)  # 1 MB a row
    vector = torch.ones(2**18, device=device)
    seconds = take_turns({"read": lambda: matrix @ vector}, 5, device).seconds["read"]
    return megabytes * 2**20 / min(seconds)
