"""What a look at sweeps finds: their stages' states, what they add up to, and how long is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from experiments.pipeline import KINDS
from slurm import scheduler, status
from slurm import sweep as records
from slurm.status import BROKEN, Planned, State, Word
from slurm.sweep import CellStages, Job, Sweep
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store

ORDER: tuple[Word, ...] = (
    "failed", "lost", "cancelled", "running", "requeued", "queued", "blocked", "waiting", "finished",
)  # fmt: skip
"""a cell is called what comes first among its stages"""
LIVE: tuple[Word, ...] = ("running", "requeued", "queued", "blocked")
REUSED_SECONDS = 60.0  # by which a job can seem to be submitted after its record: clocks differ
MEASURED = 5  # finished stages of a kind that are asked how long they took
ENDED, BROKE, UNDER_WAY = 0, 1, 3
"""exit codes of `tokenbridge status`; 2 is bad input, as everywhere"""


@dataclass(frozen=True)
class View:
    sweep: Sweep
    stages: Mapping[str, Planned]
    """the job that ends the round among them"""
    states: Mapping[str, State]
    silent: str
    """why Slurm could not be asked; empty where it was"""
    discarded: int
    """results that came twice, since Slurm ran a job twice"""

    def of(self, cell: CellStages) -> dict[str, State]:
        return {kind: self.states[id] for kind, id in cell.stages.items()}

    def word(self, cell: CellStages) -> Word:
        return min(self.of(cell).values(), key=lambda state: ORDER.index(state.word)).word

    @cached_property
    def cells(self) -> Counter[Word]:
        return Counter(self.word(cell) for cell in self.sweep.cells.values())

    @cached_property
    def counts(self) -> Counter[Word]:
        """Stages by state, without the job that ends the round."""
        return Counter(state.word for id, state in self.states.items() if id != self.sweep.last)

    @property
    def last(self) -> State:
        return self.states[self.sweep.last]

    @property
    def exit_code(self) -> int:
        words = {state.word for state in self.states.values()}
        if words & set(LIVE):
            return UNDER_WAY
        cells = {state.word for id, state in self.states.items() if id != self.sweep.last}
        # a sweep whose stages were all there has never had a job that ends it
        return ENDED if cells <= {"finished"} and self.last.word in ("finished", "waiting") else BROKE

    def broken(self, words: Iterable[Word] = BROKEN) -> list[str]:
        return [id for id, state in self.states.items() if state.word in words]

    def lacking(self) -> list[str]:
        """What is broken and, where nothing is under way any more, what was never submitted."""
        return self.broken(BROKEN if self.exit_code == UNDER_WAY else (*BROKEN, "waiting"))

    def json(self) -> dict[str, Any]:
        return {
            "sweep": self.sweep.name,
            "command": self.sweep.command,
            "submitted": self.sweep.submitted,
            "round": self.sweep.round,
            "rounds": self.sweep.rounds,
            "exit_code": self.exit_code,
            "slurm": self.silent or "asked",
            "cells_by_state": dict(self.cells),
            "stages_by_state": dict(self.counts),
            "discarded": self.discarded,
            "cells": {
                id: {"name": cell.name, "state": self.word(cell), "stages": self._stages(cell)}
                for id, cell in self.sweep.cells.items()
            },
            "last": _state(self.last),
        }

    def _stages(self, cell: CellStages) -> dict[str, Any]:
        return {kind: {"id": id, **_state(self.states[id])} for kind, id in cell.stages.items()}


def _state(state: State) -> dict[str, Any]:
    found: dict[str, Any] = {"state": state.word, "detail": state.detail, "job": state.job}
    if state.cause:
        found["cause"] = state.cause
    if state.at:
        at = state.at
        found |= {"step": at.step, "steps": at.steps, "loss": at.loss, "seconds_left": at.seconds}
    return found


def planned(cells: Iterable[CellStages]) -> dict[str, Planned]:
    """Stages by id, each once and after its inputs, named after the first cell that has it."""
    found: dict[str, Planned] = {}
    for cell in cells:
        for kind, id in cell.stages.items():
            if id not in found:
                needs = KINDS[kind].needs if kind in KINDS else ()
                found[id] = Planned(kind, cell.name, tuple(cell.stages[k] for k in needs if k in cell.stages))
    return found


def with_last(sweep: Sweep) -> dict[str, Planned]:
    """The stages of a sweep and, as one more, the job that ends its round."""
    stages = planned(sweep.cells.values())
    return {**stages, sweep.last: Planned("next", sweep.name, tuple(stages))}


def look(store: Store, sweep: Sweep) -> View:
    return looks(store, [sweep])[0]


def looks(store: Store, sweeps: Sequence[Sweep]) -> list[View]:
    """One squeue and at most one sacct for all of them."""
    of_each = [with_last(sweep) for sweep in sweeps]
    stages = {id: stage for each in of_each for id, stage in each.items()}
    registered = records.jobs(store)
    jobs = {id: registered[id] for id in stages if id in registered}
    finished = status.finished(store)
    over = finished | {sweep.last for sweep in sweeps if sweep.done}
    left = [job for id, found in jobs.items() if id not in over for job in found]
    tasks, silent = ask(left)
    states = status.stage_states(store, stages, jobs, tasks, _history)
    twice = Counter(records.discarded(store))
    views = []
    for sweep, own in zip(sweeps, of_each, strict=True):
        found = {id: states[id] for id in own}
        if sweep.done:  # maybe without a job, where all stages were there
            found[sweep.last] = State("finished")
        views.append(View(sweep, own, found, silent, sum(twice[id] for id in own)))
    return views


def ask(jobs: Sequence[Job]) -> tuple[dict[str, scheduler.Task] | None, str]:
    """What Slurm has of these jobs in its queue; None and the reason where it does not answer."""
    if not jobs:
        return {}, ""
    if reason := scheduler.unavailable():
        return None, reason
    try:
        found = scheduler.queue([job.job for job in jobs], {job.user for job in jobs})
    except UserError as error:
        return None, str(error)
    return {job.job: found[job.job] for job in jobs if job.job in found and _same(job, found[job.job])}, ""


def _same(job: Job, task: scheduler.Task) -> bool:
    """A cluster that was set up anew counts from 1 again. A requeue makes Slurm's time of submission a later one."""
    return task.submitted is None or task.restarts > 0 or task.submitted < job.time + REUSED_SECONDS


def _history(jobs: Sequence[str]) -> Mapping[str, scheduler.Task]:
    with suppress(UserError):  # the queue has just answered: what it does not tell, stays unknown
        return scheduler.history(jobs)
    return {}


def seconds_left(store: Store, view: View) -> tuple[float, int] | None:
    """Seconds to the end of what was submitted, and the jobs at a time that they are for; None where nothing tells.

    By the median of some finished stages of each kind, for a training also by those under way.
    """
    left = {id: state for id, state in view.states.items() if state.word in LIVE and id != view.sweep.last}
    kinds = {view.stages[id].kind for id in left}
    rates = {kind: rate for kind in kinds if (rate := _rate(store, view, kind)) is not None}
    if not left or kinds - set(rates):
        return None
    ahead: dict[str, float] = {}
    for id, state in left.items():  # inputs come before what needs them
        own = state.at.seconds if state.at else rates[view.stages[id].kind]
        ahead[id] = own + max((ahead.get(needed, 0.0) for needed in view.stages[id].inputs), default=0.0)
    at_once = max(1, sum(state.word == "running" for state in left.values()))
    work = sum(state.at.seconds if state.at else rates[view.stages[id].kind] for id, state in left.items())
    return max(work / at_once, *ahead.values()), at_once


def _rate(store: Store, view: View, kind: str) -> float | None:
    same = [id for id, stage in view.stages.items() if stage.kind == kind]
    seconds = []
    for id in [id for id in same if view.states[id].word == "finished"][:MEASURED]:
        with suppress(UserError, KeyError):
            seconds.append(store.manifest(id)["wall_seconds"])
    if not seconds:
        under_way = [at for id in same if (at := view.states[id].at) and at.step < at.steps]
        seconds = [at.seconds * at.steps / (at.steps - at.step) for at in under_way]
    return median(seconds) if seconds else None


def columns(sweep: Sweep) -> list[str]:
    """Kinds of stages, in an order in which they can run."""
    found = {kind for cell in sweep.cells.values() for kind in cell.stages}
    return [kind for kind in KINDS if kind in found] + sorted(found - set(KINDS))
