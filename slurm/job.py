"""What runs on a node: one stage. submitit starts it, and requeues it on a signal.

A training is told by USR2 (preemption, time limit) to stop: it writes a checkpoint, and only then does submitit
requeue the job. Other stages are requeued at once: sampling goes on after the last images drawn, short ones begin anew.
On TERM a checkpoint is written too and the job waits: Slurm kills it a moment later, and requeues it if it was
preempted or requeued by hand, which it would not do with a job that had ended by itself.
"""

from __future__ import annotations

import os
import platform
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission
from submitit.helpers import TorchDistributedEnvironment

from experiments.pipeline import Stage
from experiments.runner import run_stage
from experiments.tracking import live
from tokenbridge.config import Runtime, UserError
from tokenbridge.signals import Interrupted
from tokenbridge.store.artifacts import Store
from tokenbridge.store.provenance import job_here
from tokenbridge.store.runs import Event, write_event

KILL_SECONDS = 600  # after which a job that nobody killed gives up waiting


@dataclass(frozen=True)
class StageJob:
    """One stage, in one process or in the many of a distributed training."""

    store: Store
    stage: Stage
    runtime: Runtime

    def checkpoint(self) -> DelayedSubmission:
        """Submitit runs the same again after a requeue; it goes on from the stage's own checkpoint."""
        return DelayedSubmission(self)

    def __call__(self) -> None:
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
        yield
    except SystemExit as stop:  # a training after its checkpoint, or submitit after it requeued the job
        tell("stopped")
        if isinstance(stop, Interrupted):
            _end_with(stop.number)
        raise
    except BaseException as error:
        tell("failed", error=_line(error), traceback=traceback.format_exc())
        raise
    # where Slurm runs a job twice, one of them finds the stage made by the other
    ours = not store.finished(stage) or store.manifest(stage).get("job") == here
    tell("finished" if ours else "discarded")


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[-1] if lines else ""
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _end_with(number: int) -> None:
    """Hand USR2 on to submitit, which requeues the job; else wait for Slurm to kill it."""
    if number == signal.SIGUSR2:
        os.kill(os.getpid(), number)
    time.sleep(KILL_SECONDS)
