"""Run a graph of stages on this machine: finished ones are skipped, others start as soon as their inputs are there."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType

from experiments.pipeline import KINDS, Cell, Stage, graph, record
from tokenbridge.artifacts import Store
from tokenbridge.config import Runtime, UserError


def run_stage(store: Store, stage: Stage, runtime: Runtime) -> float:
    """Run one stage unless it is finished, by this process or another; returns the seconds it took."""
    start = time.monotonic()
    if not store.finished(stage.id):
        inputs = {kind: store.folder(id) for kind, id in stage.inputs}
        with store.writing(stage.id, stage.about(), stage.kind.resumable) as out:
            if out is not None:
                importlib.import_module(stage.kind.function).run(stage.config, inputs, out, runtime)
    return time.monotonic() - start


def run_cells(store: Store, cells: Sequence[Cell], runtime: Runtime, experiment: str, jobs: int = 1) -> None:
    """Run what is missing in `jobs` processes, with one line a stage, and record the cells for tracking.

    Each process has its share of the cores, unless runtime.threads says otherwise. A failed stage stops those that need
    it and no others; the first error is raised in the end.
    """
    stages = graph(cells)  # raises for a cell that cannot work, before anything runs
    record(store, cells, experiment)
    todo = {id: stage for id, stage in stages.items() if not store.finished(id)}
    if not todo:
        return
    progress = _Progress(store, list(todo.values()), jobs)
    if jobs == 1 or len(todo) == 1:
        for stage in todo.values():
            progress.starts(stage)
            progress.ends(stage, run_stage(store, stage, runtime))
    else:
        if runtime.threads is None:
            runtime = runtime.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // jobs)})
        _run_parallel(store, todo, runtime, jobs, progress)
    print(f"{len(todo)} stages done in {_time(time.monotonic() - progress.start)}", flush=True)


def _run_parallel(store: Store, todo: Mapping[str, Stage], runtime: Runtime, jobs: int, progress: _Progress) -> None:
    waiting, running, failed = dict(todo), dict[Future[float], Stage](), dict[str, BaseException]()
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool, _stopping(pool):
        while waiting or running:
            for stage in _ready(waiting, running, failed):
                if len(running) == jobs:
                    break
                progress.starts(stage)
                running[pool.submit(run_stage, store, stage, runtime)] = waiting.pop(stage.id)
            if not running:
                break  # what is left needs a failed stage
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                stage = running.pop(future)
                if error := future.exception():
                    failed[stage.id] = error
                    if not isinstance(error, UserError):
                        traceback.print_exception(error)
                else:
                    progress.ends(stage, future.result())
    if failed:
        id, error = next(iter(failed.items()))
        raise UserError(f"{todo[id].label}: {error}; {len(waiting)} stages that need it did not run") from error


def _ready(
    waiting: Mapping[str, Stage], running: Mapping[Future[float], Stage], failed: Mapping[str, object]
) -> list[Stage]:
    """Stages whose inputs are all there, longest kind first."""
    open_ids = waiting.keys() | {stage.id for stage in running.values()} | failed.keys()
    ready = [stage for stage in waiting.values() if not any(id in open_ids for _, id in stage.inputs)]
    return sorted(ready, key=lambda stage: -stage.kind.seconds)


@contextmanager
def _stopping(pool: ProcessPoolExecutor) -> Iterator[None]:
    """On SIGTERM or an error, the worker processes get SIGTERM: a training writes its checkpoint and stops."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress:
    """Lines that say what runs and how long is left, by the times of earlier stages of the same kind."""

    def __init__(self, store: Store, stages: list[Stage], jobs: int):
        self.expected = expected_seconds(store)
        self.left, self.jobs, self.begun, self.total = {s.id: s for s in stages}, jobs, 0, len(stages)
        self.start = time.monotonic()

    def starts(self, stage: Stage) -> None:
        self.begun += 1
        left = sum(self.expected[s.kind.name] for s in self.left.values()) / self.jobs
        print(
            f"[{self.begun}/{self.total}] {stage.kind.name:<11} {stage.label:<28} about {_time(left)} left", flush=True
        )

    def ends(self, stage: Stage, seconds: float) -> None:
        self.expected[stage.kind.name] = seconds
        del self.left[stage.id]


def expected_seconds(store: Store) -> dict[str, float]:
    """Wall time of each kind: of the last finished stage in this store, else a first guess."""
    seconds = {name: kind.seconds for name, kind in KINDS.items()}
    for path in sorted(store.root.glob("stages/*/manifest.json"), key=lambda path: path.stat().st_mtime):
        about = store.manifest(path.parent.name)
        seconds[about["kind"]] = about["wall_seconds"]
    return seconds


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
