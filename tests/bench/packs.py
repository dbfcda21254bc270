"""A small grid on Slurm, packed and not: `python -m tests.bench.packs [ROUNDS] [PACK]`; SLURM_CONF names a cluster.

Both take turns, from the command to the end of the last job. Processor time is that of the jobs of stages, as Slurm's
accounting has it; it is what counts where the machine does something else as well.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slurm.scheduler import AT_ONCE
from slurm.sweep import jobs_by_stage
from tests.cluster.grids import end_of, grid, on_slurm, packing, tokenbridge
from tokenbridge.store.artifacts import Store

WORDS = grid("bench", "quantizer.levels=4,8", "sample.temperature=0.8,0.9,1.0,1.1")


def run(folder: Path, pack: int) -> tuple[int, float, float]:
    """Jobs without the end of the round, seconds, and seconds of a processor."""
    start = time.monotonic()
    tokenbridge(*WORDS, *on_slurm(packing(folder, pack)), cwd=folder)
    shown = end_of(folder, "bench")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    seconds = time.monotonic() - start
    jobs = {
        job.job
        for stage, attempts in jobs_by_stage(Store(folder / "runs")).items()
        for job in attempts
        if not stage.startswith("next-")
    }
    return len(jobs), seconds, processor(jobs)


def processor(jobs: set[str]) -> float:
    """Seconds of a processor that jobs took, with all that they started."""
    assert len(jobs) < AT_ONCE
    words = [f"--jobs={','.join(sorted(jobs))}", "--noheader", "--parsable2", "--format=JobID,TotalCPU"]
    rows = subprocess.run(["sacct", *words], capture_output=True, text=True, check=True).stdout.split()
    times = dict(row.split("|") for row in rows)  # by job and by step; a job's is of all its steps
    return sum(sum(float(part) * 60**n for n, part in enumerate(reversed(times[job].split(":")))) for job in jobs)


def main(rounds: int = 3, pack: int = 8) -> None:
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            order = [(1, Path(one)), (pack, Path(other))]
            found = {size: run(folder, size) for size, folder in (order if number % 2 else order[::-1])}
        (jobs, wall, cpu), (fewer, less_wall, less_cpu) = found[1], found[pack]
        print(
            f"{number}: {jobs} jobs {wall:.0f} s, processor {cpu:.1f} s; packed {fewer} jobs {less_wall:.0f} s,"
            f" processor {less_cpu:.1f} s: {wall / less_wall:.2f} and {cpu / less_cpu:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
