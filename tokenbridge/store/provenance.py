"""Provenance of a number beside its config: code, libraries, machine, job. It goes into each stage's manifest."""

from __future__ import annotations

import json
import os
import platform
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
        "git": git_state(),
        "job": job_here(),
    }


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
