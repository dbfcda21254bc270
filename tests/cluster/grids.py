"""What the tests on a cluster share: a grid that takes minutes, the command as a user gives it, waiting for its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from analysis.frame.load import frame_from_stages
from slurm import sweep
from tests.conftest import TINY
from tests.helpers.machine import ROOT, missing
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_events, read_journal, read_sweep

CLUSTER = ROOT / "slurm" / "clusters" / "local-slurm.toml"
SETTINGS = [word for assignment in TINY for word in ("--set", assignment)]
SECONDS = 1200
LOOK = 10
"""seconds between two looks at a sweep that has jobs"""


def environment(code: Path = ROOT) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(code), "MLFLOW_DISABLE_TELEMETRY": "true"}


def tokenbridge(*arguments, cwd: Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """The command, with runs in cwd/runs; code: the exit status that it must have, None for any."""
    argv = [sys.executable, "-m", "tokenbridge", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, env=environment())
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


def grid(name: str, *axes: str, seeds: int = 1, settings: tuple[str, ...] = ()) -> list[str]:
    """Words of a grid over axes with small models."""
    words = ["grid", "--name", name, "--seeds", str(seeds)]
    words += [word for axis in axes for word in ("--axis", axis)]
    return [*words, *SETTINGS, *(word for setting in settings for word in ("--set", setting))]


def on_slurm(cluster: Path = CLUSTER) -> list[str]:
    return ["--on", "slurm", "--cluster", str(cluster), "--yes"]


def packing(folder: Path, pack: int) -> Path:
    """The local cluster's file with so many stages a job."""
    own = folder / "packing.toml"
    own.write_text(CLUSTER.read_text().replace("[all]", f"[all]\npack = {pack}", 1))
    return own


def end_of(cwd: Path, name: str, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Waits until nothing of a sweep is under way; its status then.

    Asking for it takes a second of a processor that the jobs need too: while there are jobs, seldom.
    """
    until, asked = time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        if time.monotonic() - asked > LOOK or not _jobs():
            shown = tokenbridge("status", name, cwd=cwd, code=None)
            if shown.returncode != 3:
                return shown
            asked = time.monotonic()
        time.sleep(1)
    shown = tokenbridge("status", name, cwd=cwd, code=None)
    raise AssertionError(f"{name} is still under way after {seconds} s:\n{shown.stdout}{shown.stderr}")


def _jobs() -> bool:
    """Whether Slurm has any job left, or cannot say."""
    queue = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True)
    return queue.returncode != 0 or bool(queue.stdout.strip())


def drain() -> None:
    """No job starts from now on."""
    subprocess.run(["scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=test"], check=True)


def resume(seconds: float = 60) -> None:
    """Drained nodes take jobs again, which Slurm refuses for one that has not answered since slurmctld began."""
    until = time.monotonic() + seconds
    while nodes := _drained_nodes():
        if time.monotonic() > until:
            raise TimeoutError(f"{nodes} stay drained")
        subprocess.run(["scontrol", "update", f"NodeName={nodes}", "State=RESUME"], capture_output=True)
        time.sleep(0.2)


def _drained_nodes() -> str:
    words = ["sinfo", "--noheader", "--states=drain", "--format=%N"]
    return ",".join(subprocess.run(words, capture_output=True, text=True).stdout.split())


@contextmanager
def drained() -> Iterator[None]:
    """No job starts meanwhile, so none ends while its test still counts."""
    drain()
    try:
        yield
    finally:
        resume()


def jobs_by_stage(cwd: Path) -> dict[str, int]:
    """How often each stage was handed to Slurm."""
    found = sweep.jobs_by_stage(Store(cwd / "runs"))
    return {stage: len(jobs) for stage, jobs in found.items() if not stage.startswith("next-")}


def numbers(cwd: Path) -> pd.DataFrame:
    """All that was measured and all settings, by the name of the cell; not which run of MLflow holds it."""
    return frame_from_stages(cwd / "runs").drop(columns=["run_id", "experiment"]).set_index("name").sort_index()


def events(cwd: Path, stage: str) -> list[str]:
    return [event["event"] for event in read_events(Store(cwd / "runs"), stage)]


def stages(cwd: Path, name: str, kind: str) -> list[str]:
    return [id for id, of in read_sweep(Store(cwd / "runs"), name).stages.items() if of == kind]


def journal(cwd: Path, stage: str) -> list[tuple[str, float, int]]:
    lines = read_journal(cwd / "runs" / "stages" / stage / "metrics.jsonl")
    return [(key, value, step) for key, value, _, step in lines]


@cache
def _clock() -> str:
    if shutil.which("cc") is None:
        missing("cc is missing; as root: apt-get install gcc libc6-dev")
    library = Path(tempfile.mkdtemp()) / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O", "-o", library, source, "-ldl"], check=True)
    return str(library)


@contextmanager
def shifted(seconds: int) -> Iterator[None]:
    """Programs that are started meanwhile have a clock that is so many seconds off.

    Only those of the login node can: nodes refuse the jobs of a controller whose clock is 5 s off.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", _clock())
        patch.setenv("CLOCK_SHIFT", str(seconds))
        yield


def daemon(cluster: Path, *argv: str) -> None:
    """As cluster.sh starts it, so that it finds it again."""
    env = os.environ | {"CLUSTER_SH": str(cluster), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    subprocess.run(argv, env=env, check=True, timeout=60)
