"""Run a graph of stages on this machine: finished ones are skipped, others start as soon as their inputs are there.

attempt_cells runs cells and lists what failed, run_cells raises it, run_stage runs a single stage.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from experiments.pipeline import Cell, Stage, graph, needing, record
from experiments.progress import Bars, seconds_of_work, time_text, training_line
from experiments.trained import require_imported, require_networks, require_trusted
from tokenbridge.config import Runtime, UserError, short_of_memory
from tokenbridge.distributed import World, joined
from tokenbridge.stages import forget_hashes
from tokenbridge.store.artifacts import Store, stage_id

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

TICK_SECONDS = 20.0
_numbered = 0
"""of this process among the workers of its command"""
KILLED = (
    "a process of --jobs was killed, most often for want of memory, and the stages beside it ended; fewer --jobs need"
    " less, and the same command goes on"
)


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
    """Run the cells as attempt_cells does, and raise the first failure."""
    raise_first(attempt_cells(store, cells, runtime, experiment, jobs))


def raise_first(failures: Sequence[Failure]) -> None:
    """Raise the first failure, where there is one: as UserError where that is what it was."""
    for failure in failures:
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
    """Run the stages that are missing, with one line per stage, and record the cells for tracking.

    A failed stage stops those that need it and no others.

    Args:
        experiment: the name by which tracking groups the cells.
        jobs: processes at a time; each has its share of the cores, unless runtime.threads says otherwise.
        ahead: cells whose stages are run as well, early for a later call, and that are not recorded.
        sweep: the sweep that the cells belong to, if any.
    """
    stages = graph([*cells, *ahead])  # raises for a cell that cannot work, before anything runs
    require_imported(store, stages.values())
    require_trusted(store, stages.values(), runtime)
    require_networks(store, stages.values())
    store.require_room(stages)
    if runtime.device.startswith("cuda"):
        from tokenbridge.devices import pick_device

        pick_device(runtime)  # one that is not there is refused before a record is written
    with joined() as here:
        if here.size > 1 and jobs > 1:
            raise UserError(f"--jobs={jobs} must be 1 where {here.size} processes share each stage; leave it out")
        if here.main:
            record(store, cells, experiment, sweep)
        todo = {id: stages[id] for id in here.first([id for id in stages if not _finished(store, id)])}
        progress, failed = _Progress(store, todo, jobs), dict[str, BaseException]()
        if jobs > 1 and len(todo) > 1:
            _run_parallel(progress, runtime, failed)
        else:
            for stage in _in_turn(todo, failed):
                progress.starts(stage)
                try:
                    with progress.ticking(stage, here.main):
                        seconds = run_stage(store, stage, runtime)
                    progress.ends(stage, seconds)
                except Exception as error:  # whatever it was, the others go on and the list in the end tells it
                    failed[stage.id] = error
                    if here.size > 1:  # the others are elsewhere in the graph, or waiting: ending is what tells them
                        break
        progress.done()
    return [Failure(todo[id], error, len(needing([id], todo)) - 1) for id, error in failed.items()]


def _in_turn(todo: Mapping[str, Stage], failed: Mapping[str, BaseException]) -> Iterator[Stage]:
    """The stages, without those that need one which has failed meanwhile."""
    lost = set[str]()
    for stage in todo.values():
        if any(id in lost or id in failed for _, id in stage.inputs):
            lost.add(stage.id)
        else:
            yield stage


def run_stage(store: Store, stage: Stage, runtime: Runtime) -> float:
    """Run one stage unless it is finished, by this process or another; returns the seconds it took.

    Of several processes (tokenbridge.distributed), each calls this; an error in one ends them all.

    Args:
        store: the runs folder, which holds the stage's inputs.
        stage: what to run.
        runtime: device, threads and batch; of several processes the first alone shows bars.

    Raises:
        UserError: input that cannot work, or no memory; whatever else the stage raises.
    """
    start = time.monotonic()
    said = ""
    try:
        with joined() as world:
            if not world.main:
                runtime = runtime.model_copy(update={"bars": False})
            with _writing(store, stage, world) as out:
                if out is not None and (world.main or stage.kind.shared):
                    inputs = {kind: store.folder(id) for kind, id in stage.inputs}
                    stage.kind.run(stage.config, inputs, out, runtime)
            world.barrier()  # it is published
    except Exception as error:
        if not (said := short_of_memory(error)):
            raise
    if said:  # outside of the handler, whose error holds the stage's arrays, so that the next stage has their memory
        raise UserError(f"out of memory ({said}); {stage.kind.remedy(runtime)}, and the same command goes on")
    return time.monotonic() - start


def _finished(store: Store, id: str) -> bool:
    """Whether a stage is finished; a kill may have come before it was tidy."""
    if there := store.finished(id):
        store.tidy(id)
    return there


@contextmanager
def _writing(store: Store, stage: Stage, world: World) -> Iterator[Path | None]:
    """The folder that all processes work in, None where the stage is finished; rank 0 locks and publishes it."""
    if not world.main:
        out = world.first(None)
        if out is not None and not out.is_dir():
            raise UserError(
                f"{out} is not there for process {world.rank} of {world.size}; choose a folder with --runs that all"
                " nodes share"
            )
        yield out
    elif _finished(store, stage.id):
        yield world.first(None)
    else:
        forget_hashes()
        about = stage.about()
        if stage_id(stage.kind.name, stage.kind.version, about["reads"], dict(stage.inputs)) != stage.id:
            raise UserError(
                f"the images, weights or reference that {stage.kind.name} reads have changed since it was planned as"
                f" {stage.id}; give the command again"
            )
        if world.size > 1 and stage.kind.shared:
            about["processes"] = world.size
        with store.writing(stage.id, about, stage.kind.resumable) as out:
            yield world.first(out)


def _run_parallel(progress: _Progress, runtime: Runtime, failed: dict[str, BaseException]) -> None:
    """Run the stages of `progress` in several processes; what fails is put into `failed`."""
    store, jobs, waiting = progress.store, progress.jobs, dict(progress.left)
    if runtime.threads is None:
        runtime = runtime.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // jobs)})
    runtime = runtime.model_copy(update={"bars": False})  # bars of several processes would overwrite each other
    ahead, running = _seconds_ahead(progress), dict[Future[float], Stage]()
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, spawn, initializer=_start_worker, initargs=(spawn.Value("i", 0),))
    with progress.bars(), pool, _stopping(pool):
        while True:
            blocked = waiting.keys() | {stage.id for stage in running.values()} | failed.keys()
            ready = [stage for stage in waiting.values() if not any(id in blocked for _, id in stage.inputs)]
            for stage in sorted(ready, key=lambda stage: -ahead[stage.id])[: jobs - len(running)]:
                progress.starts(stage)
                running[pool.submit(_work, store, stage, runtime)] = waiting.pop(stage.id)
            if not running:
                return
            for future in wait(running, progress.every, FIRST_COMPLETED).done:
                stage = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):  # of all that run; nobody says whose process it was
                    error, waiting = UserError(KILLED), dict[str, Stage]()
                if error:
                    failed[stage.id] = error
                else:
                    progress.ends(stage, future.result())
            progress.tick(running.values())


def _start_worker(begun: Synchronized[int]) -> None:
    """In a worker: its number, for a GPU of its own.

    And SIGTERM where the command that it works for has ended without a word, as after SIGKILL.

    Args:
        begun: how many workers have begun before.
    """
    global _numbered
    with begun.get_lock():
        _numbered = begun.value
        begun.value += 1

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _work(store: Store, stage: Stage, runtime: Runtime) -> float:
    """A worker's part. One that was told to stop ends at once: it would wait for ever for a parent that has gone."""
    from tokenbridge.devices import for_worker

    try:
        return run_stage(store, stage, for_worker(runtime, _numbered))
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else 1)


def _seconds_ahead(progress: _Progress) -> dict[str, float]:
    """Seconds of the longest chain of stages that begins with each: it is started first, so that cores never idle."""
    ahead = {id: progress.expected(stage) for id, stage in progress.left.items()}
    for stage in reversed(progress.left.values()):  # what needs a stage comes after it
        for _, id in stage.inputs:
            if id in ahead:
                ahead[id] = max(ahead[id], progress.expected(progress.left[id]) + ahead[stage.id])
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

    def __init__(self, store: Store, stages: Mapping[str, Stage], jobs: int):
        self.store, self.jobs, self.left = store, jobs, dict(stages)
        self.rates = seconds_of_work(store) if stages else {}
        self.begun, self.total = 0, len(stages)
        self.start = self.told = time.monotonic()
        self.lines: dict[str, str] = {}
        self.shown: Bars | None = None

    @property
    def every(self) -> float:
        """Seconds between two looks at what runs: often for bars, seldom for lines of a log."""
        return 1.0 if self.shown else TICK_SECONDS

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Meanwhile, in a terminal, bars of the whole and of each stage that runs; a log has lines."""
        if not sys.stdout.isatty():
            yield
            return
        with Bars(self.store, sum(map(self.expected, self.left.values()))) as self.shown:
            yield
        self.shown = None

    def expected(self, stage: Stage) -> float:
        return self.rates[stage.kind.name] * stage.kind.work(stage.config)

    def starts(self, stage: Stage) -> None:
        self.begun += 1
        left = sum(self.expected(s) for s in self.left.values()) / self.jobs
        self._tell(f"[{self.begun}/{self.total}]", stage, f"about {time_text(left)} left")

    def ends(self, stage: Stage, seconds: float) -> None:
        self.rates[stage.kind.name] = seconds / stage.kind.work(stage.config)
        del self.left[stage.id]

    def tick(self, running: Iterable[Stage]) -> None:
        """Bring the bars up to date; in a log, every few seconds a line for each training that has gone on."""
        if self.shown:
            left = sum(map(self.expected, self.left.values()))
            self.shown.show({stage.id: f"{stage.kind.name} {stage.label}" for stage in running}, left, self.jobs)
            return
        if time.monotonic() - self.told < TICK_SECONDS:
            return
        self.told = time.monotonic()
        for stage in running:
            line = training_line(self.store, stage.id)
            if line and self.lines.get(stage.id) != line:
                self.lines[stage.id] = line
                self._tell(" " * 7, stage, line)

    @contextmanager
    def ticking(self, stage: Stage, wanted: bool) -> Iterator[None]:
        """Tick while this process itself runs a stage, in a log; a terminal shows its bar."""
        if not wanted or sys.stderr.isatty():
            yield
            return
        ended = threading.Event()

        def tick() -> None:
            while not ended.wait(TICK_SECONDS):
                self.tick([stage])

        teller = threading.Thread(target=tick, daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()

    def done(self) -> None:
        if self.total:
            seconds = time_text(time.monotonic() - self.start)
            print(f"{self.total - len(self.left)} of {self.total} stages done in {seconds}", flush=True)

    def _tell(self, mark: str, stage: Stage, line: str) -> None:
        print(f"{mark} {stage.kind.name:<11} {stage.label:<40} {line}", flush=True)
