"""Stage `speed`: what one config costs on this device, in time, with random weights; it reads no artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenbridge.config import RunConfig, Runtime
from tokenbridge.devices import pick_device
from tokenbridge.speed.measurement import measure, one_thread, protocol, usual
from tokenbridge.store.runs import write_metrics


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Measure the config by itself."""
    device = pick_device(runtime)
    with one_thread(device, runtime):
        effort = usual(device)
        metrics = measure({"": config}, device, effort)[""]
        write_metrics(out, metrics, protocol(config, device, effort))
