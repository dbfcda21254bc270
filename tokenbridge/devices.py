"""Device and threads of a stage, or of a command that needs a network."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tokenbridge.config import Precision, Runtime, UserError


def pick_device(runtime: Runtime) -> torch.device:
    """The configured device, `auto` being the first GPU where there is one; sets the thread count."""
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(runtime.device)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        seen = f"{count} GPUs, from cuda:0 on" if count else "no GPU"
        raise UserError(f"device={runtime.device} is not there (torch sees {seen}); use device=cpu or auto")
    return device


def device_of_worker(device: str, number: int, gpus: int) -> str:
    """The device of one of several workers: where a GPU is not named by its index, they take the GPUs in turn.

    Args:
        device: as the runtime has it.
        number: of the worker, from 0 on.
        gpus: how many torch sees.
    """
    return f"cuda:{number % gpus}" if gpus > 1 and device in ("auto", "cuda") else device


def for_worker(runtime: Runtime, number: int) -> Runtime:
    """The runtime of a worker, with its device; its GPU becomes the current one of this process."""
    device = device_of_worker(runtime.device, number, torch.cuda.device_count())
    if device == runtime.device:
        return runtime
    torch.cuda.set_device(device)
    return runtime.model_copy(update={"device": device})


class Usage:
    """What this process takes of the machine."""

    def __init__(self, device: torch.device):
        self.device, self.last = device, (time.perf_counter(), time.process_time())

    def since_last(self) -> dict[str, float]:
        """Its processors since the last call, in per cent of one; its most memory so far, in MB; the GPU's likewise."""
        now = time.perf_counter(), time.process_time()
        (wall, processor), self.last = (new - old for new, old in zip(now, self.last, strict=True)), now
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found = {"process_cpu_percent": 100 * processor / wall, "process_peak_memory_mb": most / 1e6}
        if self.device.type == "cuda":
            found["gpu_peak_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 1e6
        return found


def require_precision(device: torch.device, precision: Precision, setting: str) -> None:
    """Raise UserError for a precision that the device does not have.

    Args:
        device: where products run.
        precision: what is asked for.
        setting: its name, for the message.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"{setting}=tf32 needs a CUDA device, not {device}; take float32 or bfloat16")


@contextmanager
def at_precision(device: torch.device, precision: Precision, setting: str) -> Iterator[None]:
    """Run products of matrices and convolutions in this precision inside; weights stay float32.

    float32 is float32 in convolutions as well, where torch takes TF32 on a GPU if not told otherwise. Copies of weights
    in bfloat16 are kept until the outermost such block ends, so graphs that read them must not be replayed later.

    Args:
        device: where they run.
        precision: what is asked for.
        setting: its name, for the message.

    Raises:
        UserError: a precision that the device does not have.
    """
    require_precision(device, precision, setting)
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # pyright: ignore
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
