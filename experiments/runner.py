"""Run a graph of stages on this machine: finished ones are skipped, others start as soon as their inputs are there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from experiments.pipeline import Cell, Stage, graph, needing, record
from experiments.trained import require_imported
from experiments.work import run_stage
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.distributed import joined, world
from tokenbridge.overrides import build
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import JOURNAL, Store, journal_end, read_json

TICK_SECONDS = 20.0


@dataclass(frozen=True)
class Failure:
    """A stage that failed, and how many could not run for want of it."""

    stage: Stage
    error: BaseException
    lost: int = 0

    def __str__(self) -> str:
        lost = f"; {self.lost} stages that need it did not run" if self.lost else ""
        return f"{self.stage.kind.name} of {self.stage.label}: {self.error}{lost}"


def run_cells(store: Store, cells: Sequence[Cell], runtime: Runtime, experiment: str, jobs: int = 1) -> None:
    """attempt_cells, and raise the first failure: as UserError where that is what it was."""
    for failure in attempt_cells(store, cells, runtime, experiment, jobs):
        kind = UserError if isinstance(failure.error, UserError) else RuntimeError
        raise kind(str(failure)) from failure.error


def attempt_cells(
    store: Store,
    cells: Sequence[Cell],
    runtime: Runtime,
    experiment: str,
    jobs: int = 1,
    ahead: Sequence[Cell] = (),
    sweep: str = "",
) -> list[Failure]:
    """Run what is missing in `jobs` processes, with one line a stage, and record the cells for tracking.

    Each process has its share of the cores, unless runtime.threads says otherwise. A failed stage stops those that need
    it and no others. ahead: cells whose stages are run as well, early for a later call, and that are not recorded.
    sweep: that the cells are of.
    """
    stages = graph([*cells, *ahead])  # raises for a cell that cannot work, before anything runs
    require_imported(store, stages.values())
    with joined() as here:
        if here.size > 1 and jobs > 1:
            raise UserError(f"--jobs={jobs} must be 1 where {here.size} processes share each stage; leave it out")
        if here.main:
            record(store, cells, experiment, sweep)
        missing = here.first([id for id in stages if not store.finished(id)])
        return _attempt(store, {id: stages[id] for id in missing}, runtime, jobs)


def _attempt(store: Store, todo: Mapping[str, Stage], runtime: Runtime, jobs: int) -> list[Failure]:
    if not todo:
        return []
    progress = _Progress(store, list(todo.values()), jobs)
    if jobs == 1 or len(todo) == 1:
        failed = _run_in_turn(store, todo, runtime, progress)
    else:
        if runtime.threads is None:
            runtime = runtime.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // jobs)})
        runtime = runtime.model_copy(update={"bars": False})  # bars of several processes would overwrite each other
        failed = _run_parallel(store, todo, runtime, jobs, progress)
    done = sum(store.finished(id) for id in todo)
    print(f"{done} of {len(todo)} stages done in {time_text(time.monotonic() - progress.start)}", flush=True)
    return [Failure(todo[id], error, len(needing([id], todo)) - 1) for id, error in failed.items()]


def _run_in_turn(
    store: Store, todo: Mapping[str, Stage], runtime: Runtime, progress: _Progress
) -> dict[str, BaseException]:
    failed, lost = dict[str, BaseException](), set[str]()
    for stage in todo.values():
        if any(id in lost for _, id in stage.inputs):
            lost.add(stage.id)
            continue
        progress.starts(stage)
        try:
            progress.ends(stage, run_stage(store, stage, runtime))
        except Exception as error:  # whatever it was, the others go on and the list in the end tells it
            failed[stage.id] = error
            lost.add(stage.id)
            if world().size > 1:  # the others are elsewhere in the graph, or waiting: ending is what tells them
                break
    return failed


def _run_parallel(
    store: Store, todo: Mapping[str, Stage], runtime: Runtime, jobs: int, progress: _Progress
) -> dict[str, BaseException]:
    waiting, running, failed = dict(todo), dict[Future[float], Stage](), dict[str, BaseException]()
    ahead = _seconds_ahead(todo, {id: progress.expected(stage) for id, stage in todo.items()})
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool, _stopping(pool):
        while True:
            blocked = waiting.keys() | {stage.id for stage in running.values()} | failed.keys()
            ready = [stage for stage in waiting.values() if not any(id in blocked for _, id in stage.inputs)]
            for stage in sorted(ready, key=lambda stage: -ahead[stage.id])[: jobs - len(running)]:
                progress.starts(stage)
                running[pool.submit(_work, store, stage, runtime)] = waiting.pop(stage.id)
            if not running:
                return failed
            for future in wait(running, TICK_SECONDS, FIRST_COMPLETED).done:
                stage = running.pop(future)
                if error := future.exception():
                    failed[stage.id] = error
                else:
                    progress.ends(stage, future.result())
            progress.tick(running.values())


def _work(store: Store, stage: Stage, runtime: Runtime) -> float:
    """A worker's part. One that was told to stop ends at once: it would wait for ever for a parent that has gone."""
    try:
        return run_stage(store, stage, runtime)
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else 1)


def _seconds_ahead(todo: Mapping[str, Stage], expected: Mapping[str, float]) -> dict[str, float]:
    """Time of the longest chain of stages that begins with each: what is started first, so that cores never idle."""
    ahead = {id: expected[id] for id in todo}
    for stage in reversed(list(todo.values())):  # what needs a stage comes after it
        for _, id in stage.inputs:
            if id in ahead:
                ahead[id] = max(ahead[id], expected[id] + ahead[stage.id])
    return ahead


@contextmanager
def _stopping(pool: ProcessPoolExecutor) -> Iterator[None]:
    """On SIGTERM or an error, the worker processes get SIGTERM: a training writes its checkpoint and stops."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        workers = list((pool._processes or {}).values())  # shutdown forgets them
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress:
    """Lines that say what runs and how long is left, by the times of earlier stages of the same kind."""

    def __init__(self, store: Store, stages: list[Stage], jobs: int):
        self.store, self.rates, self.jobs = store, seconds_of_work(store), jobs
        self.left, self.begun, self.total = {s.id: s for s in stages}, 0, len(stages)
        self.start = self.told = time.monotonic()

    def expected(self, stage: Stage) -> float:
        return self.rates[stage.kind.name] * stage.kind.work(stage.config)

    def starts(self, stage: Stage) -> None:
        self.begun += 1
        left = sum(self.expected(s) for s in self.left.values()) / self.jobs
        print(
            f"[{self.begun}/{self.total}] {stage.kind.name:<11} {stage.label:<40} about {time_text(left)} left",
            flush=True,
        )

    def ends(self, stage: Stage, seconds: float) -> None:
        self.rates[stage.kind.name] = seconds / stage.kind.work(stage.config)
        del self.left[stage.id]

    def tick(self, running: Iterable[Stage]) -> None:
        """Every few seconds, a line for each training under way: step, loss, time left."""
        if time.monotonic() - self.told < TICK_SECONDS:
            return
        self.told = time.monotonic()
        for stage in running:
            if line := training_line(self.store, stage.id):
                print(f"        {stage.kind.name:<11} {stage.label:<40} {line}", flush=True)


@dataclass(frozen=True)
class Training:
    """A training that is under way: where it is, and the seconds to its end."""

    step: int
    steps: int
    loss: float
    seconds: float


def training(store: Store, id: str) -> Training | None:
    """How far a training is, from the end of its journal; None before its first points."""
    work = store.folder(id).with_name(f"{id}.partial")
    try:
        points = [line for line in journal_end(work / JOURNAL) if line[0] == "loss"]
        steps = read_json(work / "progress.json")["steps"]
    except (OSError, UserError):
        return None  # it has just begun or ended: its files come and go while we look
    if len(points) < 2:
        return None
    (_, _, began, first), (_, loss, now, step) = points[-min(len(points), 20)], points[-1]
    return Training(step, steps, loss, (steps - step) * (now - began) / 1000 / max(1, step - first))


def training_line(store: Store, id: str) -> str | None:
    """Step, loss and time left of a training that is under way; None before its first points."""
    if (at := training(store, id)) is None:
        return None
    return f"step {at.step}/{at.steps}, loss {at.loss:.3f}, about {time_text(at.seconds)} to go"


def seconds_of_work(store: Store) -> dict[str, float]:
    """Seconds for a unit of work of each kind: of the last finished stage in this store, else a first guess."""
    seconds = {name: kind.seconds for name, kind in STAGES.items()}
    for path in sorted(store.root.glob("stages/*/manifest.json"), key=lambda path: path.stat().st_mtime):
        about = store.manifest(path.parent.name)
        try:
            config = build(RunConfig, about["config"])
        except UserError:
            continue  # of another version of the project
        if about["kind"] == "train" and config.train.released:
            continue  # imported
        seconds[about["kind"]] = about["wall_seconds"] / STAGES[about["kind"]].work(config)
    return seconds


def time_text(seconds: float) -> str:
    """Seconds for a reader."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
