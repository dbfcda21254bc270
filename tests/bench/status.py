"""Seconds of `tokenbridge status` on 1,000 cells, interpreter start and imports included: python -m tests.bench.status.

The bound is 2 s. A third finished, some trainings under way, some failed, the others in the queue. The processor's
seconds are printed as well, of which other programs take nothing.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

from tests.helpers.machine import ROOT
from tests.helpers.sweeps import Small
from tokenbridge.store.artifacts import Store

CELLS, RUNNING, FAILED, ROUNDS = 1000, 40, 20, 5


def make(root: Path) -> None:
    small = Small(Store(root), CELLS, "large")
    small.submit()
    cells = list(small.sweep.cells.values())
    done = {id for cell in cells[: CELLS // 3] for id in cell.stages.values()} | {small.id("latents")}
    done |= {cell.stages["quantizer"] for cell in cells}
    small.finish(*sorted(done))
    for id in done:
        small.say(id, "started", "finished")
    trainings = iter(dict.fromkeys(id for cell in cells if (id := cell.stages["train"]) not in done))
    for id in islice(trainings, RUNNING):
        small.say(id, "started")
        small.train(id, 4000, 10_000)
    for id in islice(trainings, FAILED):
        small.say(id, "started")
        small.say(id, "failed", error="loss=nan must be finite", traceback="Traceback\n")
    (root / "tracking.json").touch()  # MLflow has it all


def seconds(root: Path, environment: dict[str, str], *options: str) -> tuple[float, float]:
    """Median time, and median of the processor's."""
    command = [sys.executable, "-m", "tokenbridge", "status", "--runs", str(root), *options]
    times, processor = [], []
    for _ in range(ROUNDS):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode in (1, 3), done.stderr
    return median(times), median(processor)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        away = {**os.environ, "PATH": str(Path(sys.executable).parent)}
        for label, environment in (("without Slurm", away), ("with Slurm", dict(os.environ))):
            if label == "with Slurm" and (not shutil.which("squeue") or "SLURM_CONF" not in os.environ):
                print("with Slurm: not measured, set SLURM_CONF to a running cluster")
                continue
            for options in ((), ("--all",), ("--json",)):
                taken, processor = seconds(Path(name), environment, *options)
                print(f"{label:<14} {' '.join(options):<7} {taken:.2f} s (bound 2), processor {processor:.2f} s")


if __name__ == "__main__":
    main()
