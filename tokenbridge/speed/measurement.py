"""Measurement of configs on a device, with random weights, and the protocol of its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from tokenbridge.config import RunConfig, Runtime
from tokenbridge.speed.heads import measure_tokens
from tokenbridge.speed.models import IMAGES, MOST_TRAINED, measure_model, reason_to_leave_out
from tokenbridge.speed.timing import SLOW_SECONDS, Effort
from tokenbridge.store.provenance import environment

QUICK = Effort(1, (1,), (1,))
ON_CPU = Effort(5, (1, 256), (1, 64))  # without a cache, 256 tokens take a minute there at the paper's size
ON_GPU = Effort(20, (1, 64, 256), (1, 64, 256))


def usual(device: torch.device) -> Effort:
    """The effort of a whole measurement on this kind of device."""
    return ON_GPU if device.type == "cuda" else ON_CPU


def measure(configs: Mapping[str, RunConfig], device: torch.device, effort: Effort) -> dict[str, dict[str, float]]:
    """Measure configs by label: measure_tokens, and measure_model where the device can be asked for it.

    Heads take turns inside each round, so that their ratios are those of one run.

    Returns:
        Label -> metrics, medians of the rounds; <metric>_spread is half the interquartile range.
    """
    metrics = measure_tokens(configs, device, effort)
    for label, config in configs.items():
        if not reason_to_leave_out(config, device):
            metrics[label] |= measure_model(config, device, effort.rounds)
    return metrics


def protocol(config: RunConfig, device: torch.device, effort: Effort, together: int = 1) -> dict[str, Any]:
    """The settings that the numbers depend on beside the config; together: number of configs whose heads took turns."""
    gpu = device.type == "cuda"
    settings = {
        "device": torch.cuda.get_device_name(device) if gpu else "cpu",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": effort.rounds,
        "timed_once": f"what takes {SLOW_SECONDS:g} s",
        "tokens_at_once": list(effort.batches),
        "slower_ways_at": list(effort.slower),
        "measured_together": together,
        "weights": "random",
        "precision": "float32; training as configured",
        "token": "unguided, from its feature",
        "image": f"{IMAGES} at once, without the autoencoder",
        "train": f"at most {MOST_TRAINED} images a step",
    }
    reason = reason_to_leave_out(config, device)
    return settings | ({"left_out": reason} if reason else {})


@cache
def _processor() -> str:
    return environment()["cpu"]


@contextmanager
def one_thread(device: torch.device, runtime: Runtime) -> Iterator[None]:
    """Run on one thread on a CPU, unless the runtime says otherwise: times are then those of a core."""
    before = torch.get_num_threads()
    if device.type == "cpu" and runtime.threads is None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
