"""A small grid on Slurm, packed and not: `python -m tests.bench.packs [ROUNDS] [PACK]`; SLURM_CONF names a cluster.

Both take turns, from the command to the end of the last job. Processor time is that of the jobs' programs with all that
they started, without Slurm's own; it is what counts where the machine does something else as well.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.grids import CLUSTER, end_of, grid, jobs_by_stage, on_slurm, tokenbridge

WORDS = grid("bench", "quantizer.levels=4,8", "sample.temperature=0.8,0.9,1.0,1.1")
PROGRAM = """#!/bin/bash
{python} "$@"
status=$?
times | tail -1 >> {times}
exit $status
"""


def run(folder: Path, pack: int) -> tuple[int, float, float]:
    """Jobs without the end of the round, seconds, and seconds of a processor."""
    times, program, own = folder / "times", folder / "program.sh", folder / "own.toml"
    program.write_text(PROGRAM.format(python=sys.executable, times=times))
    own.write_text(CLUSTER.read_text().replace("[all]", f'[all]\npack = {pack}\npython = "bash {program}"', 1))
    start = time.monotonic()
    said = tokenbridge(*WORDS, *on_slurm(own), cwd=folder).stdout
    shown = end_of(folder, "bench")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    seconds = time.monotonic() - start
    assert set(jobs_by_stage(folder).values()) == {1}
    jobs = int(said.partition("submitted ")[2].split()[0]) - 1
    return jobs, seconds, sum(map(_seconds, times.read_text().split()))


def _seconds(text: str) -> float:
    minutes, _, seconds = text.rstrip("s").partition("m")
    return 60 * float(minutes) + float(seconds)


def main(rounds: int, pack: int) -> None:
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
    main(*(int(word) for word in [*sys.argv[1:], *("3", "8")[len(sys.argv) - 1 :]]))
