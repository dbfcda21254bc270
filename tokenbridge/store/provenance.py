"""Provenance of a number beside its config: code, libraries, machine, job. It goes into each stage's manifest."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Code, libraries, processor, threads and job of this process."""
    return {
        "versions": {**_versions(), "python": platform.python_version()},
        "host": platform.node(),
        "cpu": _processor(),
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
        "arithmetic": _arithmetic(),
        "git": git_state(),
        "job": job_here(),
    }


def _arithmetic() -> dict[str, Any] | None:
    """What decides the last bits beside versions and threads: the instruction sets that torch and MKL-DNN choose from.

    Two machines whose processors have one name may differ in it. None where torch was not needed.
    """
    if "torch" not in sys.modules:
        return None
    torch = sys.modules["torch"]
    dnn = re.search(r"MKL-DNN (v[\d.]+)", torch.__config__.show())
    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": _instructions(),
        "mkldnn": dnn[1] if dnn and torch.backends.mkldnn.is_available() else None,
        "mkl": torch.backends.mkl.is_available(),
        "set": {name: os.environ[name] for name in _CHOOSING if name in os.environ},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
    }


_CHOOSING = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""variables with which a user chooses other instructions"""


def _instructions() -> str:
    """The processor's vector instructions, as Linux names them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return " ".join(sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma"))))


@cache
def _versions() -> dict[str, str | None]:
    """Versions of the libraries, looked up once: that takes a tenth of a second."""
    names = ("tokenbridge", "torch", "torchvision", "numpy", "diffusers", "torch-fidelity", "torchmetrics", "scipy")
    versions: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def job_here() -> dict[str, Any] | None:
    """Slurm's id of the job that this process is part of (123, or 123_4 in an array) and how often it was requeued."""
    if not (id := os.environ.get("SLURM_JOB_ID")):
        return None
    array, task = (os.environ.get(f"SLURM_ARRAY_{word}_ID") for word in ("JOB", "TASK"))
    return {
        "id": f"{array}_{task}" if array and task else id,
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
    }


def git_state() -> dict[str, Any]:
    """Commit and whether tracked files differ from it, of the checkout that the code runs from; None outside one.

    A copy of the code that jobs run from says so itself, in snapshot.json beside the packages.
    """
    here = Path(__file__).parents[1]
    snapshot = here.with_name("snapshot.json")
    if snapshot.exists():
        about = json.loads(snapshot.read_text())
        return {key: about.get(key) for key in ("commit", "dirty")}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", str(Path(__file__))) is None:
        return {"commit": None, "dirty": None}
    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
