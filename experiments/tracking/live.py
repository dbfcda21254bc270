"""Sends the curves of a job to an MLflow server while the job runs: a process of low priority beside it.

It only reads what the job writes, so it can neither slow the job down nor make it fail. It ends with the job, after a
last try that a hanging server cannot draw out; what it could not send, `tokenbridge sync` does.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenbridge.config import UserError
from tokenbridge.packages import environment_of_ours
from tokenbridge.signals import there
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import PARTIAL, Store
from tokenbridge.store.runs import RecordedCell, StageFiles, Stamp, read_cells, tracking_uri

ROUND_SECONDS = 5.0
LONGEST_PAUSE = 60.0
"""between two tries at a server that is away"""
LAST_SECONDS = 8.0
"""for what is left when the job ends"""


@contextmanager
def beside(
    store: Store, stage_ids: Sequence[str], every: float = ROUND_SECONDS, patience: float = LAST_SECONDS + 4
) -> Iterator[None]:
    """Send the curves of these stages while the block runs, if MLFLOW_TRACKING_URI names a server.

    Args:
        store: the runs folder.
        stage_ids: the trainings under way.
        every: seconds between two rounds.
        patience: seconds that the end of the block may wait for the last try.
    """
    if not tracking_uri(store).startswith("http"):
        yield
        return
    argv = [sys.executable, "-m", "experiments.tracking.live", str(store.root.resolve()), "--every", str(every)]
    sender = subprocess.Popen(
        [*argv, "--stage", *stage_ids],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment_of_ours(os.environ),
    )
    try:
        yield
    finally:
        assert sender.stdin is not None
        sender.stdin.close()  # the word to end
        try:
            sender.wait(patience)
        except subprocess.TimeoutExpired:
            sender.kill()  # harmless: MLflow takes a batch whole or not at all
            sender.wait()


class Live:
    """The rounds of one process. Stages of other jobs that are under way go with its own: whoever has the lock sends
    for all, and a hundred jobs need not queue for it."""

    def __init__(self, store: Store, stages: Sequence[str]):
        self.store, self.own = store, list(stages)
        self.sent: dict[str, Stamp] = {}
        self.cells, self.read = dict[str, RecordedCell](), 0

    def send(self) -> None:
        """What is new of the curves. UserError: MLflow is away."""
        from experiments.tracking.sync import send_curves

        new = self._new()
        if new and send_curves(self.store, self._cells(), new, LONGEST_PAUSE) is not None:
            self.sent |= new

    def end(self, seconds: float) -> None:
        """What is new of the cells of our stages, with their sweeps. UserError: MLflow is away."""
        from experiments.tracking.sync import catch_up

        late = time.monotonic() + seconds
        cells = [cell.id for cell in self._cells().values() if set(self.own) & set(cell.stages.values())]
        while catch_up(self.store, cells, late - time.monotonic()) is None and time.monotonic() < late:
            time.sleep(0.2)

    def _new(self) -> dict[str, Stamp]:
        stages, partial = StageFiles(self.store), self.store.root.glob(f"stages/*{PARTIAL}")
        trainings = tuple(f"{kind.name}-" for kind in STAGES.values() if kind.curves)
        under_way = [path.name.removesuffix(PARTIAL) for path in partial if path.name.startswith(trainings)]
        stamps = {id: stages.journal(id) for id in dict.fromkeys([*self.own, *under_way])}
        return {id: stamp for id, stamp in stamps.items() if stamp and stamp != self.sent.get(id)}

    def _cells(self) -> dict[str, RecordedCell]:
        """The cells, read again where one was added or changed."""
        with suppress(FileNotFoundError):
            if (changed := (self.store.root / "cells").stat().st_mtime_ns) != self.read:
                self.cells, self.read = read_cells(self.store), changed
        return self.cells


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tracking.live", description=__doc__)
    parser.add_argument("runs", type=Path, help="the runs folder")
    parser.add_argument("--stage", nargs="*", default=[], metavar="ID", help="stages of the job")
    parser.add_argument("--every", type=float, default=ROUND_SECONDS, metavar="SECONDS")
    given = parser.parse_args()
    store, job = Store(given.runs), os.getppid()
    if not tracking_uri(store).startswith("http"):
        raise SystemExit(0)
    ended, piped = _step_back(), stat.S_ISFIFO(os.fstat(0).st_mode)
    live, pause, told = Live(store, given.stage), given.every, False
    while not _ends(job, ended, piped, random.uniform(0.5, 1) * pause):
        try:
            live.send()
            pause, told = given.every, False
        except Exception as error:  # whatever it was, the job must not suffer from it, and the next round tries again
            pause = min(LONGEST_PAUSE, 2 * pause)
            if not told:
                print(f"live: {error}", file=sys.stderr, flush=True)
            told = True
    with suppress(UserError, OSError):
        live.end(LAST_SECONDS)


def _step_back() -> list[int]:
    """Low priority, no long waits, and deaf to what Slurm tells the job. Returns where the word to stop is noted."""
    os.nice(10)  # a tenth of a core where the job takes all; with 19, starting took minutes there
    os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    for number in there("SIGUSR1", "SIGUSR2", "SIGINT", "SIGHUP"):
        signal.signal(number, signal.SIG_IGN)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    return ended


def _ends(job: int, ended: list[int], piped: bool, seconds: float) -> bool:
    """Wait, at most until the job ends: it closes the pipe to us, has gone, or we were told to stop.

    Processes that the job has forked may hold the pipe open, so it is not enough to listen to that.
    """
    late = time.monotonic() + seconds
    while not ended and os.getppid() == job:
        left = late - time.monotonic()
        if left <= 0:
            return False
        if not piped:
            time.sleep(min(left, 0.5))
        elif select.select([0], [], [], min(left, 0.5))[0] and not os.read(0, 4096):
            return True
    return True


if __name__ == "__main__":
    main()
