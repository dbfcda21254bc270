"""Device and threads of a stage, or of a command that needs a network."""

from __future__ import annotations

import resource
import sys
import time

import torch

from tokenbridge.config import Runtime, UserError


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
