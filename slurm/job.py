"""What runs on a node: one stage, or some in turn. submitit starts it, and requeues it on a signal.

A training is told by USR2 (preemption, time limit) to stop: it writes a checkpoint, and only then does submitit
requeue the job. Other stages are requeued at once: sampling goes on after the last images drawn, short ones begin anew.
On TERM a checkpoint is written too and the job waits: Slurm kills it a moment later, and requeues it if it was
preempted or requeued by hand, which it would not do with a job that had ended by itself.

A stage that its time limit stops twice with nothing to go on from would be requeued for nothing, and fails.

A packed job (`pack` in the file of resources) runs its stages in workers: the death of one is that of one stage. After
a requeue it goes on with what ran, and passes over what is finished, failed in it, was cancelled or has a newer job.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from typing import Any, cast

from submitit.core.utils import DelayedSubmission, UncompletedJobError
from submitit.helpers import TorchDistributedEnvironment

from experiments.pipeline import Stage
from experiments.runner import run_stage
from experiments.tracking import live
from slurm import scheduler
from slurm.sweep import Job, Stream, jobs_by_stage, stage_log
from tokenbridge.config import Runtime, UserError
from tokenbridge.signals import Interrupted, interrupted, signals
from tokenbridge.store.artifacts import PARTIAL, PROGRESS, Store
from tokenbridge.store.provenance import job_here
from tokenbridge.store.runs import JOURNAL, Event, write_event

KILL_SECONDS = 600  # after which a job that nobody killed gives up waiting
ASK_SECONDS = 10
VAIN = 2
LOOK_SECONDS = 2.0
"""between two looks at what was cancelled"""
DYING_SECONDS = 2.0
STOPPED = 128 + signal.SIGTERM
BLOCKED = (signal.SIGUSR2, signal.SIGTERM)
STREAMS: tuple[Stream, Stream] = ("out", "err")
NO_JOB: dict[str, Any] = {"id": "", "restarts": 0}
SPAWN = multiprocessing.get_context("spawn")


class InVain(BaseException):
    """A stage that its time limit always stops; `except Exception` in the code that it interrupts lets it pass."""


@dataclass
class StageJob:
    """One stage, in one process or in the many of a distributed training; or, packed, several one after another."""

    store: Store
    stages: Sequence[Stage]
    """inputs before what needs them"""
    runtime: Runtime
    limited: float = math.inf
    """seconds after which a signal comes from the time limit, and not from a preemption"""
    packed: bool = False
    """as of slurm.sweep.Job"""
    vain: int = 0
    """runs in turn that their time limit has stopped with nothing to go on from"""
    given_up: tuple[str, ...] = ()
    """ids of stages that run no more, since that was in vain"""
    workers: int = 1
    """of a packed job: stages at a time, each in a process of its own"""

    _start = math.inf
    _now = ()
    """the stages that run"""

    def checkpoint(self) -> DelayedSubmission:
        """Submitit runs the same again after a requeue; it goes on from the stage's own checkpoint.

        Raises:
            InVain: that would be in vain.
        """
        if time.monotonic() - self._start < self.limited:
            return DelayedSubmission(replace(self))
        vain = 0 if self._kept() != self._before else self.vain + 1
        if vain < VAIN:
            return DelayedSubmission(replace(self, vain=vain))
        if not self.packed:
            raise self._in_vain(self.stages[0])
        given_up = (*self.given_up, *(stage.id for stage in self._now))
        return DelayedSubmission(replace(self, vain=0, given_up=given_up))

    @staticmethod
    def _in_vain(stage: Stage) -> InVain:
        name = stage.kind.name
        why = f"no checkpoint of {name} was ready" if stage.kind.resumable else f"{name} begins anew each time"
        return InVain(
            f"time limit reached {VAIN} times in turn with nothing to go on from: {why}; raise time for it in the file"
            " of resources, then tokenbridge retry"
        )

    def _kept(self) -> dict[str, int]:
        """What is there for the next run to go on from: times by file, and the stages that are finished."""
        kept = {}
        for stage in self.stages:
            work = self.store.folder(f"{stage.id}{PARTIAL}")
            if self.store.finished(stage.id):
                kept[stage.id] = 0
            elif stage.kind.resumable and work.is_dir():
                files = [path for path in work.rglob("*") if path.suffix not in (".npy", ".tmp")]
                own = (path for path in files if path.name not in (PROGRESS, JOURNAL))
                kept |= {str(path): path.stat().st_mtime_ns for path in own}
        return kept

    def __call__(self) -> None:
        self._start, self._before = time.monotonic(), self._kept()
        if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            TorchDistributedEnvironment().export()
        trainings = [stage.id for stage in self.stages if stage.kind.curves]
        # one for all: a sender takes seconds to start and to end
        with live.beside(self.store, trainings) if trainings else nullcontext():
            if self.packed:
                self._run_packed()
            else:
                self.run(self.stages[0])

    def run(self, stage: Stage) -> None:
        """Run one of the stages, and tell how it goes."""
        with telling(self.store, stage.id):
            if stage.id in self.given_up:
                raise self._in_vain(stage)
            for kind, id in stage.inputs:
                if not self.store.finished(id):  # Slurm takes a dependency on a forgotten job as satisfied
                    raise self._missing(kind, id)
            run_stage(self.store, stage, self.runtime)

    def _missing(self, kind: str, id: str) -> UserError:
        return UserError(f"{kind} {id} is not finished in {self.store.root}; tokenbridge retry makes it first")

    def _run_packed(self) -> None:
        """Run the stages that have their inputs, whatever becomes of the others; UserError where none is finished."""
        with _requeued_after_all(lambda: None):  # the stages themselves tell that they stopped
            todo, workers = list(self.stages), list[Worker]()
            try:
                with signals() as noted:
                    while not noted.urgency and self._begin(todo, workers):
                        todo[:0] = self._wait(workers)
                    end(workers)  # before submitit's handler may requeue the job
            finally:
                end(workers)
            if noted.urgency:
                raise interrupted(noted.urgency)
        if not any(self.store.finished(stage.id) for stage in self.stages):
            wanting = [item for stage in self.stages for item in stage.inputs if not self.store.finished(item[1])]
            raise self._missing(*wanting[0]) if wanting else UserError(f"none of {len(self.stages)} stages is finished")

    def _begin(self, todo: list[Stage], workers: list[Worker]) -> bool:
        """Give free workers the next stages that have their inputs; whether any stage runs now."""
        for worker in [worker for worker in workers if worker.stopped and worker.stage is None]:
            workers.remove(worker)  # its stage had just ended by itself
            end([worker])
        for stage in list(todo):
            ahead = {one.id for one in todo} | {worker.stage.id for worker in workers if worker.stage}
            free = [worker for worker in workers if worker.stage is None]
            if not free and len(workers) == self.workers:
                break
            if any(id in ahead for _, id in stage.inputs):
                continue
            if (turn := self._turn(stage)) is not None:
                if not free:
                    numbers = {worker.number for worker in workers}
                    workers.append(Worker(self, next(n for n in range(self.workers) if n not in numbers)))
                (free or workers)[-1].run(stage, turn)
            todo.remove(stage)
        self._now = tuple(worker.stage for worker in workers if worker.stage)
        return bool(self._now)

    def _wait(self, workers: list[Worker]) -> list[Stage]:
        """Until a stage has ended, or for a moment; what is cancelled meanwhile is stopped.

        Returns:
            Stages that another worker must run: theirs had died before it took them.
        """
        back = list[Stage]()
        busy = {worker.pipe: worker for worker in workers if worker.stage}
        for pipe in connection.wait(list(busy), LOOK_SECONDS):
            worker = busy[cast("connection.Connection", pipe)]
            if worker.ready():
                continue
            workers.remove(worker)
            if worker.stage and worker.died_idle:
                back.append(worker.stage)
                end([worker])
            else:
                worker.tell_death(self.store)
        for worker in workers:
            if worker.turn and worker.stage and worker.turn.last_word(self.store).get("event") == "cancelled":
                worker.stop()
        return back

    def _turn(self, stage: Stage) -> Job | None:
        """The record of this job where a stage is left to this run of it."""
        if self.store.finished(stage.id) or not all(self.store.finished(id) for _, id in stage.inputs):
            return None
        newest = jobs_by_stage(self.store)[stage.id][-1]
        return newest if newest.said(_speaker()) and not newest.done(self.store) else None


class Worker:
    """A process of a packed job that runs stages one after another: where it dies, one stage has failed."""

    def __init__(self, job: StageJob, number: int = 0):
        self.number = number
        """among those of its job"""
        self.stage: Stage | None = None
        self.turn: Job | None = None
        self.stopped = False
        self.done = 0
        """stages that have ended in it"""
        self.taken = False
        """whether it has begun with its stage"""
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(theirs, job, number))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # as it begins: Slurm signals all processes of a job
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def run(self, stage: Stage, turn: Job) -> None:
        self.stage, self.turn, self.taken = stage, turn, False
        with suppress(OSError):  # it has ended, as `ready` will find
            self.pipe.send(stage)

    def ready(self) -> bool:
        """Take note of the beginning or the end of its stage; False where the process has ended instead."""
        try:
            self.taken = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return False
        if not self.taken:
            self.stage, self.done = None, self.done + 1
        return True

    @property
    def died_idle(self) -> bool:
        """Of one that has ended: whether that was between two stages. One that never began may be so each time."""
        return self.done > 0 and not self.taken

    def stop(self) -> None:
        """A training writes its checkpoint, then the process ends; so does one that has nothing to do."""
        if not self.stopped:
            self.process.terminate()
        self.stopped = True

    def tell_death(self, store: Store) -> None:
        """Say of its stage that it failed, unless the process ended as it was told to."""
        end([self])
        if self.stage is None or self.process.exitcode in (-signal.SIGTERM, STOPPED):
            return
        time.sleep(DYING_SECONDS)  # where the whole job is being killed, this process is next
        error = f"its process ended without a word (exit code {self.process.exitcode})"
        if self.process.exitcode == -signal.SIGKILL:
            error = "its process was killed, most often for want of memory; raise memory in the file of resources"
        write_event(store, self.stage.id, "failed", _speaker() | {"error": error})


def end(workers: Sequence[Worker]) -> None:
    """Stop workers, and wait until they have ended."""
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.pipe.close()
        worker.process.join()


def _work(pipe: connection.Connection, job: StageJob, number: int) -> None:
    """A worker: run what comes through the pipe, until that is closed; tell that it has begun (True), and ended."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # of the job's own process, which stops this one
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STOPPED))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    folder, here = Path(os.environ["SUBMITIT_FOLDER"]), _speaker()
    from tokenbridge.devices import for_worker  # torch, which the job's own process does without

    job = replace(job, runtime=for_worker(job.runtime, number))
    with suppress(EOFError):
        while True:
            stage = pipe.recv()
            pipe.send(True)
            out, err = (stage_log(folder, here["job"], stage.id, stream) for stream in STREAMS)
            with _written_to(out, err):
                try:
                    job.run(stage)
                except (Exception, InVain):  # it is told
                    traceback.print_exc()
            pipe.send(False)


@contextmanager
def _written_to(out: Path, err: Path) -> Iterator[None]:
    """Meanwhile what this process and those that it starts write comes at the end of these files."""
    kept = []
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        stream.flush()
        kept.append((stream, number := stream.fileno(), os.dup(number)))
        with open(path, "ab") as file:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream, number, before in kept:
            stream.flush()
            os.dup2(before, number)
            os.close(before)


@contextmanager
def telling(store: Store, stage: str) -> Iterator[None]:
    """Note for `status` how a job goes. Of its processes, the first tells."""
    here, about = job_here() or NO_JOB, _speaker()

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


def _speaker() -> dict[str, Any]:
    """Who says an event."""
    here = job_here() or NO_JOB
    submission = Path(os.environ.get("SUBMITIT_FOLDER", "")).name  # a new cluster counts jobs from 1 again
    return {"job": here["id"], "submission": submission, "restart": here["restarts"], "host": platform.node()}


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
        here = job_here() or NO_JOB
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
    """Hand USR2 on to submitit, which requeues the job; else wait for Slurm to kill it. A worker just ends."""
    if multiprocessing.parent_process() is not None:
        return
    if number == signal.SIGUSR2:
        os.kill(os.getpid(), number)
    time.sleep(KILL_SECONDS)
