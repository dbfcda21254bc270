"""Device and threads of a stage, or of a command that needs a network."""

from __future__ import annotations

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
