"""What runs on a node: one stage. submitit starts it, and requeues it on a signal.

A training is told by USR2 (preemption, time limit) to stop: it writes a checkpoint, and only then does submitit
requeue the job. Other stages are requeued at once: sampling goes on after the last images drawn, short ones begin anew.
On TERM a checkpoint is written too and the job waits: Slurm kills it a moment later, and requeues it if it was
preempted or requeued by hand, which it would not do with a job that had ended by itself.

A stage that its time limit stops twice with nothing to go on from would be requeued for nothing, and fails.
"""

from __future__ import annotations

import math
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from typing import Any

from submitit.core.utils import DelayedSubmission, UncompletedJobError
from submitit.helpers import TorchDistributedEnvironment

from experiments.pipeline import Stage
from experiments.runner import run_stage
from experiments.tracking import live
from slurm import scheduler
from tokenbridge.config import Runtime, UserError
from tokenbridge.signals import Interrupted
from tokenbridge.store.artifacts import PARTIAL, PROGRESS, Store
from tokenbridge.store.provenance import job_here
from tokenbridge.store.runs import JOURNAL, Event, write_event

KILL_SECONDS = 600  # after which a job that nobody killed gives up waiting
ASK_SECONDS = 10
VAIN = 2


class InVain(BaseException):
    """A stage that its time limit always stops; `except Exception` in the code that it interrupts lets it pass."""


@dataclass
class StageJob:
    """One stage, in one process or in the many of a distributed training."""

    store: Store
    stage: Stage
    runtime: Runtime
    limited: float = math.inf
    """seconds after which a signal comes from the time limit, and not from a preemption"""
    vain: int = 0
    """runs in turn that their time limit has stopped with nothing to go on from"""

    _start = math.inf

    def checkpoint(self) -> DelayedSubmission:
        """Submitit runs the same again after a requeue; it goes on from the stage's own checkpoint.

        Raises:
            InVain: that would be in vain.
        """
        if time.monotonic() - self._start < self.limited:
            return DelayedSubmission(replace(self))
        vain = 0 if self._kept() != self._before else self.vain + 1
        if vain == VAIN:
            raise InVain(
                f"time limit reached {VAIN} times in turn with nothing to go on from: {self._why()}; raise time for"
                " it in the file of resources, then tokenbridge retry"
            )
        return DelayedSubmission(replace(self, vain=vain))

    def _why(self) -> str:
        kind = self.stage.kind
        return f"no checkpoint of {kind.name} was ready" if kind.resumable else f"{kind.name} begins anew each time"

    def _kept(self) -> dict[str, int]:
        """What is there for the next run to go on from: times by file."""
        work = self.store.folder(f"{self.stage.id}{PARTIAL}")
        if not self.stage.kind.resumable or not work.is_dir():
            return {}
        files = (path for path in work.rglob("*") if path.suffix not in (".npy", ".tmp"))
        return {str(path): path.stat().st_mtime_ns for path in files if path.name not in (PROGRESS, JOURNAL)}

    def __call__(self) -> None:
        self._start, self._before = time.monotonic(), self._kept()
        if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            TorchDistributedEnvironment().export()
        # a sender takes seconds to start and to end
        curves = live.beside(self.store, [self.stage.id]) if self.stage.kind.curves else nullcontext()
        with telling(self.store, self.stage.id), curves:
            for kind, id in self.stage.inputs:
                if not self.store.finished(id):  # Slurm takes a dependency on a forgotten job as satisfied
                    raise UserError(
                        f"{kind} {id} is not finished in {self.store.root}; tokenbridge retry makes it first"
                    )
            run_stage(self.store, self.stage, self.runtime)


@contextmanager
def telling(store: Store, stage: str) -> Iterator[None]:
    """Note for `status` how a job goes. Of its processes, the first tells."""
    here = job_here() or {"id": "", "restarts": 0}
    submission = Path(os.environ.get("SUBMITIT_FOLDER", "")).name  # a new cluster counts jobs from 1 again
    about = {"job": here["id"], "submission": submission, "restart": here["restarts"], "host": platform.node()}

    def tell(event: Event, **more: Any) -> None:
        if os.environ.get("SLURM_PROCID", "0") == "0":
            write_event(store, stage, event, about | more)

    tell("started")
    try:
        with _requeued_after_all(lambda: tell("stopped")):
            yield
    except SystemExit:
        raise
    except BaseException as error:
        tell("failed", error=_line(error), traceback=traceback.format_exc())
        raise
    # where Slurm runs a job twice, one of them finds the stage made by the other
    ours = not store.finished(stage) or store.manifest(stage).get("job") == here
    tell("finished" if ours else "discarded")


@contextmanager
def _requeued_after_all(tell: Callable[[], None]) -> Iterator[None]:
    """A stop is told; and where Slurm does not take submitit's requeue, it is asked again.

    It refuses where somebody has requeued the job already, and ends it in a moment; or slurmctld may be away.
    """
    told = False
    try:
        try:
            yield
        except SystemExit as stop:  # a training after its checkpoint, or submitit after it requeued the job
            tell()
            told = True
            if isinstance(stop, Interrupted):
                _end_with(stop.number)
            raise
    except (CalledProcessError, TimeoutExpired) as error:
        if "requeue" not in error.cmd:
            raise
        if not told:
            tell()
        here = job_here() or {"id": ""}
        for _ in range(KILL_SECONDS // ASK_SECONDS):
            time.sleep(ASK_SECONDS)
            with suppress(UserError):
                scheduler.requeue(here["id"])
                sys.exit(1)
        raise


def _line(error: BaseException) -> str:
    if isinstance(error, UncompletedJobError):
        return "time limit reached more often than requeues allows; raise time or requeues, then tokenbridge retry"
    lines = str(error).strip().splitlines()
    text = lines[-1] if lines else ""
    return text if isinstance(error, UserError | InVain) else f"{type(error).__name__}: {text}".rstrip(": ")


def _end_with(number: int) -> None:
    """Hand USR2 on to submitit, which requeues the job; else wait for Slurm to kill it."""
    if number == signal.SIGUSR2:
        os.kill(os.getpid(), number)
    time.sleep(KILL_SECONDS)
