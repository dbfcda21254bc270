"""Where each stage of a sweep stands, from the stages' folders, what the jobs said, one squeue and at most one sacct.

The folder wins over all: a stage that has it is finished, whatever Slurm thinks of its job. Then what Slurm has in
its queue, then the last word of the stage's newest job, then Slurm's accounting where there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any, Literal

from experiments.progress import Training, training
from slurm import scheduler
from slurm.remains import cut_off
from slurm.scheduler import HELD, RETURNING, Remedy, Task
from slurm.sweep import FINAL, Intent, Job, jobs_by_stage, unsettled
from tokenbridge.config import UserError
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import (
    CellStages,
    Sweep,
    begun_stages,
    discarded,
    finished_stages,
    stages_with_events,
)

Word = Literal[
    "finished", "running", "requeued", "queued", "blocked", "stuck", "waiting", "failed", "cancelled", "lost"
]  # fmt: skip
"""requeued: back in the queue after a checkpoint or a node's death; blocked: its inputs are under way; stuck: in the
queue, and never starts by itself; waiting: not submitted yet; lost: its job has gone and left neither a result nor a
reason"""
UNDER_WAY: tuple[Word, ...] = ("running", "requeued", "queued", "blocked", "stuck", "waiting")
BROKEN: tuple[Word, ...] = ("failed", "cancelled", "lost")

TURN = "earlier stages of its job"
LIMIT = "time limit"
DEATHS = {
    "TIMEOUT": LIMIT,
    "DEADLINE": LIMIT,
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
}

NO_TRACE: dict[str | None, tuple[Word, str]] = {
    None: ("lost", "left the queue before it began; cancelled while it waited?"),
    "started": ("failed", "left the queue without a word"),
    "stopped": ("failed", "stopped with a checkpoint and did not come back to the queue"),
}
"""by what the job said last; a task cancelled while it waits in its array is in no record of Slurm"""

Past = Callable[[Sequence[str]], Mapping[str, Task]]
"""asks Slurm's accounting; {} without one"""


@dataclass(frozen=True)
class Planned:
    """A stage of a sweep: the cell it is named after, and the stages it needs."""

    kind: str
    cell: str
    inputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"end of a round of {self.cell}" if self.kind == "next" else f"{self.kind} of {self.cell}"


@dataclass(frozen=True)
class State:
    word: Word
    detail: str = ""
    """Slurm's reason, the last line of the error, who is to blame"""
    job: str = ""
    cause: str = ""
    """id of the stage that blocks it, or whose failure cancelled it"""
    at: Training | None = None
    remedy: Remedy | None = None
    """what a stuck one needs"""
    behind: str = ""
    """the held job of a finished stage that a stuck one waits for, which needs it instead"""


def stage_states(
    store: Store,
    stages: Mapping[str, Planned],
    jobs: Mapping[str, Sequence[Job]],
    tasks: Mapping[str, Task] | None,
    past: Past = lambda jobs: {},
) -> dict[str, State]:
    """The state of each stage.

    Args:
        store: the runs folder.
        stages: by id, inputs before what needs them.
        jobs: the jobs that each stage was submitted as.
        tasks: what squeue says of these jobs, asked before this call, so that what ends meanwhile is not taken for
            lost; None where no Slurm can be asked: then what the jobs said has to do.
        past: asks Slurm's accounting for jobs that squeue has forgotten.
    """
    look = _Look(store, stages, jobs, tasks)
    if tasks is not None:
        look.past = past(unknown) if (unknown := look.unknown()) else {}
    for id in stages:
        look.states[id] = look.state(id)
    return look.states


class _Look:
    """One look at all stages: what is read once for them, and the states so far."""

    def __init__(
        self,
        store: Store,
        stages: Mapping[str, Planned],
        jobs: Mapping[str, Sequence[Job]],
        tasks: Mapping[str, Task] | None,
    ):
        self.store, self.stages, self.tasks = store, stages, tasks
        self.finished = finished_stages(store)
        self.spoken = stages_with_events(store)
        self.jobs = {id: self._newest(jobs[id]) for id in stages if id in jobs}
        self.past: Mapping[str, Task] = {}
        self.cut_off = {intent.folder for intent in cut_off(store)}
        self.under_way = {intent.folder for intent in unsettled(store)} - self.cut_off
        self.here = {id for id in begun_stages(store) & stages.keys() if id not in jobs and store.running(id)}
        self.states: dict[str, State] = {}

    def _newest(self, jobs: Sequence[Job]) -> Job:
        """The job that counts: one that Slurm still has, else the last."""
        return next((job for job in reversed(jobs) if self.tasks and job.job in self.tasks), jobs[-1])

    def unknown(self) -> list[str]:
        """Jobs that neither squeue nor their own last word explains."""
        left = {id: job for id, job in self.jobs.items() if id not in self.finished and self._unclear(job)}
        return [job.job for id, job in left.items() if self._said(id, job).get("event") in NO_TRACE]

    def _unclear(self, job: Job) -> bool:
        task = (self.tasks or {}).get(job.job)
        return task is None or (task.state == "CANCELLED" and not task.reason)  # only accounting knows by whom

    def _record(self, job: Job) -> Task | None:
        """Slurm's record of an ended job. What accounting still calls running or waiting was lost on the way."""
        queued, past = (self.tasks or {}).get(job.job), self.past.get(job.job)
        past = past if past and past.is_of(job.folder) else None
        return past if past and past.over and (queued is None or queued.state == past.state) else queued

    def _queued(self, job: Job) -> Task | None:
        task = (self.tasks or {}).get(job.job)
        return None if task is None or task.over else task

    def _said(self, id: str, job: Job) -> dict[str, Any]:
        """The last word of this job, {} where it has said nothing."""
        return job.last_word(self.store) if id in self.spoken else {}

    def state(self, id: str) -> State:
        if id in self.finished:
            return State("finished")
        if id in self.here:
            return State("running", at=training(self.store, id))
        if id not in self.jobs:
            return self._blocked(id) or State("waiting")
        job = self.jobs[id]
        if self.tasks is None:
            return self._by_word(id, job)
        task = self._queued(job)
        return self._gone(id, job) if task is None else self._in_queue(id, job, task)

    def _in_queue(self, id: str, job: Job, task: Task) -> State:
        said = self._said(id, job)
        event = said.get("event")
        if job.packed and event in FINAL:
            return _last_word(said, job)
        if job.packed and event is None and (wanting := self._for_want(id, job)):
            return wanting
        if job.packed and event is None and task.running:
            return self._blocked(id, job) or State("queued", TURN, job.job)
        if task.running:
            if event == "stopped":
                return State("requeued", "stopping, checkpoint written", job.job, at=training(self.store, id))
            return _last_word(said, job) if event == "failed" else self._running(id, job)
        if task.reason == "DependencyNeverSatisfied":
            return self._for_want(id, job) or State("cancelled", task.reason, job.job)
        if task.remedy and job.folder not in self.under_way:
            return State("stuck", self._why_stuck(job, task), job.job, remedy=task.remedy)
        if (task.restarts and not job.packed) or event in ("started", "stopped"):
            reason = task.reason if task.waiting else RETURNING[task.state]
            return State("requeued", reason, job.job, at=training(self.store, id))
        if task.reason == "Dependency" and (blocked := self._blocked(id, job) or self._behind(id, job)):
            return blocked
        return State("queued", task.reason, job.job)

    def _why_stuck(self, job: Job, task: Task) -> str:
        if job.folder in self.cut_off:
            return "held, because its submission was cut off"
        if task.remedy == "administrator":
            return "held by an administrator (JobHeldAdmin)"
        if task.remedy == "release":
            return f"{HELD.get(task.reason.replace('_', ' '), 'held')} ({task.reason})"
        return f"asks for what this Slurm does not give ({task.reason})"

    def _behind(self, id: str, own: Job) -> State | None:
        """Stuck behind the held job of a finished stage: a slurmctld that was killed forgot its release, or its end."""
        for needed in self.stages[id].inputs:
            job = self.jobs.get(needed)
            task = self._queued(job) if job and needed in self.finished else None
            if job and task and task.remedy in ("release", "administrator"):
                detail = f"waits for job {job.job} of a finished stage, {self._why_stuck(job, task)}"
                return State("stuck", detail, own.job, remedy=task.remedy, behind=job.job)
        return None

    def _running(self, id: str, job: Job) -> State:
        return State("running", "", job.job, at=training(self.store, id))

    def _gone(self, id: str, job: Job) -> State:
        """The state of a stage whose job Slurm no longer has: why did it end?"""
        said = self._said(id, job)
        event = said.get("event")
        if event == "finished" and self.stages[id].kind == "next":
            return State("finished", job=job.job)
        if event not in NO_TRACE:
            return _last_word(said, job)
        task = self._record(job)
        how = task.state if task else ""
        if event is None and (job.packed or how in ("", "CANCELLED")) and (wanting := self._for_want(id, job)):
            return wanting
        wrote = "" if event == "started" else job.last_words(self.store)
        if event is None and job.packed and task and how not in ("CANCELLED", "COMPLETED") and not wrote:
            return State("lost", f"its job ended before its turn ({task.ending})", job.job)
        if task is None:
            return State("failed", wrote, job.job) if wrote and not event else State(*NO_TRACE[event], job.job)
        if how == "CANCELLED":
            return State("cancelled", task.canceller, job.job)
        if how == "COMPLETED" and event != "stopped":
            return State("lost", "left no result, though Slurm calls it completed", job.job)
        if event is None and how == "FAILED" and not job.log(self.store, "err").exists():
            where = (
                f"it wrote nothing into {self.store.root.resolve()}, which node {task.node} must share with this one"
            )
            return State("failed", where, job.job)
        kept = "; its checkpoint is kept" if event == "stopped" else ""
        if DEATHS.get(how) == LIMIT and not kept:
            kept = "; raise time, or signal_seconds to have a checkpoint before it, in the file of resources"
        why = (how == "FAILED" and wrote) or f"ended without a word ({task.ending})"
        return State("failed", f"{DEATHS.get(how, why)}{kept}", job.job)

    def _by_word(self, id: str, job: Job) -> State:
        """The state by what the job itself said, where no Slurm can be asked."""
        said = self._said(id, job)
        event = said.get("event")
        if event == "started":
            return self._running(id, job)
        if event == "stopped":
            return State("requeued", "", job.job, at=training(self.store, id))
        if event == "finished" and self.stages[id].kind == "next":
            return State("finished", job=job.job)
        if event is not None:
            return _last_word(said, job)
        return self._for_want(id, job) or self._blocked(id, job) or State("queued", "", job.job)

    def _for_want(self, id: str, job: Job) -> State | None:
        """Cancelled, because something that it needs is broken. The end of a round needs nothing to succeed."""
        if self.stages[id].kind == "next":
            return None
        for needed in self.stages[id].inputs:
            state = self.states.get(needed)
            if state and state.word in BROKEN:
                cause = state.cause or needed
                return State("cancelled", f"{self.stages[cause]} {self.states[cause].word}", job.job, cause)
        return None

    def _blocked(self, id: str, job: Job | None = None) -> State | None:
        for needed in self.stages[id].inputs:
            state = self.states.get(needed)
            if state and state.word in UNDER_WAY:
                cause = state.cause or needed
                detail = f"by {self.stages[cause]} ({self.states[cause].word})"
                return State("blocked", detail, job.job, cause) if job else State("waiting", detail, cause=cause)
        return None


def _last_word(said: Mapping[str, Any], job: Job) -> State:
    if said["event"] == "failed":
        return State("failed", said.get("error") or "without a message", job.job)
    if said["event"] == "cancelled":
        return State("cancelled", f"by {said.get('by', 'a user')}", job.job)
    return State("lost", "was finished, but its folder is gone", job.job)


ORDER: tuple[Word, ...] = (
    "failed", "lost", "cancelled", "stuck", "running", "requeued", "queued", "blocked", "waiting", "finished",
)  # fmt: skip
"""a cell has the state that comes first among those of its stages"""
LIVE: tuple[Word, ...] = ("running", "requeued", "queued", "blocked", "stuck")
MEASURED = 5  # finished stages of a kind that are asked how long they took
EXIT_FINISHED, EXIT_BROKEN, EXIT_UNDER_WAY = 0, 1, 3
"""exit codes of `tokenbridge status`; 2 is bad input, as everywhere"""


@dataclass(frozen=True)
class SweepStatus:
    sweep: Sweep
    stages: Mapping[str, Planned]
    """the job that ends the round among them"""
    states: Mapping[str, State]
    silent: str
    """why Slurm could not be asked; empty where it was"""
    discarded: int
    """number of results that came twice, since Slurm ran a job twice"""
    cut_off: Sequence[Intent] = ()
    """submissions of it that did not come to their end"""

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
        if any(state.word in LIVE and not self._stuck(state) for state in self.states.values()):
            return EXIT_UNDER_WAY
        cells = {state.word for id, state in self.states.items() if id != self.sweep.last}
        # a sweep whose stages were all there has never had a job that ends it
        return EXIT_FINISHED if cells <= {"finished"} and self.last.word in ("finished", "waiting") else EXIT_BROKEN

    def _stuck(self, state: State) -> bool:
        """Whether this, or what blocks it, never starts by itself."""
        return self.states.get(state.cause, state).word == "stuck"

    def stuck(self, remedy: Remedy) -> dict[str, State]:
        """Stages by id that never start by themselves, and need this."""
        return {id: state for id, state in self.states.items() if state.remedy == remedy}

    def broken(self, words: Iterable[Word] = BROKEN) -> list[str]:
        return [id for id, state in self.states.items() if state.word in words]

    def lacking(self) -> list[str]:
        """Ids of broken stages and, where nothing is under way any more, of those that were never submitted."""
        return self.broken(BROKEN if self.exit_code == EXIT_UNDER_WAY else (*BROKEN, "waiting"))

    def summary(self) -> dict[str, Any]:
        """The sweep in numbers, for programs."""
        return {
            "sweep": self.sweep.name,
            "command": self.sweep.command,
            "submitted": self.sweep.submitted,
            "round": self.sweep.round,
            "rounds": self.sweep.rounds,
            "exit_code": self.exit_code,
            "slurm": "no sweep of Slurm" if self.sweep.local else self.silent or "asked",
            "cells_by_state": dict(self.cells),
            "stages_by_state": dict(self.counts),
            "discarded": self.discarded,
            "cut_off": [asdict(intent) for intent in self.cut_off],
        }

    def json(self) -> dict[str, Any]:
        """All that is known, for programs."""
        return self.summary() | {
            "cells": {
                id: {"name": cell.name, "state": self.word(cell), "stages": self._stages(cell)}
                for id, cell in self.sweep.cells.items()
            },
            "last": _state(self.last),
        }

    def _stages(self, cell: CellStages) -> dict[str, Any]:
        return {kind: {"id": id, **_state(self.states[id])} for kind, id in cell.stages.items()}


def _state(state: State) -> dict[str, Any]:
    values: dict[str, Any] = {"state": state.word, "detail": state.detail, "job": state.job}
    if state.cause:
        values["cause"] = state.cause
    if state.remedy:
        values["remedy"] = state.remedy
    if state.at:
        at = state.at
        values |= {"step": at.step, "steps": at.steps, "loss": at.loss, "seconds_left": at.seconds}
    return values


def planned(cells: Iterable[CellStages]) -> dict[str, Planned]:
    """Stages by id, each once and after its inputs, named after the first cell that has it."""
    stages: dict[str, Planned] = {}
    for cell in cells:
        for kind, id in cell.stages.items():
            if id not in stages:
                needs = STAGES[kind].needs if kind in STAGES else ()
                stages[id] = Planned(kind, cell.name, tuple(cell.stages[k] for k in needs if k in cell.stages))
    return stages


def with_last(sweep: Sweep) -> dict[str, Planned]:
    """The stages of a sweep and, as one more, the job that ends its round."""
    stages = planned(sweep.cells.values())
    return {**stages, sweep.last: Planned("next", sweep.name, tuple(stages))}


def look(store: Store, sweep: Sweep) -> SweepStatus:
    """The status of one sweep, as `looks` finds it."""
    return looks(store, [sweep])[0]


def looks(store: Store, sweeps: Sequence[Sweep]) -> list[SweepStatus]:
    """The status of several sweeps, by one squeue and at most one sacct for all of them."""
    by_sweep = [with_last(sweep) for sweep in sweeps]
    all_stages = {id: stage for stages in by_sweep for id, stage in stages.items()}
    registered = jobs_by_stage(store)
    jobs = {id: registered[id] for id in all_stages if id in registered}
    finished = finished_stages(store)
    over = finished | {sweep.last for sweep in sweeps if sweep.done}
    tasks, silent = ask([job for attempts in jobs.values() for job in attempts] if jobs.keys() - over else [])
    states = stage_states(store, all_stages, jobs, tasks, _history)
    twice, left = Counter(discarded(store)), cut_off(store)
    statuses = []
    for sweep, stages in zip(sweeps, by_sweep, strict=True):
        of_sweep = {id: states[id] for id in stages}
        if sweep.done:  # maybe without a job, where all stages were there
            of_sweep[sweep.last] = State("finished")
        of_name = [intent for intent in left if intent.sweep == sweep.name]
        statuses.append(SweepStatus(sweep, stages, of_sweep, silent, sum(twice[id] for id in stages), of_name))
    return statuses


def ask(jobs: Sequence[Job]) -> tuple[dict[str, scheduler.Task] | None, str]:
    """Slurm's tasks of these jobs that are in its queue, by job; None and the reason where it does not answer."""
    if not jobs:
        return {}, ""
    if reason := scheduler.unavailable():
        return None, reason
    try:
        tasks = scheduler.queue([job.job for job in jobs], {job.user for job in jobs})
    except UserError as error:
        return None, str(error)
    return {job.job: tasks[job.job] for job in jobs if job.job in tasks and tasks[job.job].is_of(job.folder)}, ""


def _history(jobs: Sequence[str]) -> Mapping[str, scheduler.Task]:
    with suppress(UserError):  # the queue has just answered: what it does not tell, stays unknown
        return scheduler.history(jobs)
    return {}


def seconds_left(store: Store, status: SweepStatus) -> tuple[float, int] | None:
    """Estimate the seconds until the submitted stages end, and with how many jobs at a time; None where nothing tells.

    The estimate takes the median of some finished stages per kind, and for a training also of those under way.
    """
    counted = (*LIVE, "waiting") if status.sweep.local and status.exit_code == EXIT_UNDER_WAY else LIVE
    left = {id: state for id, state in status.states.items() if state.word in counted and id != status.sweep.last}
    kinds = {status.stages[id].kind for id in left}
    rates = {kind: rate for kind in kinds if (rate := _rate(store, status, kind)) is not None}
    if not left or kinds - set(rates):
        return None
    ahead: dict[str, float] = {}
    for id, state in left.items():  # inputs come before what needs them
        seconds = state.at.seconds if state.at else rates[status.stages[id].kind]
        ahead[id] = seconds + max((ahead.get(needed, 0.0) for needed in status.stages[id].inputs), default=0.0)
    at_once = max(1, sum(state.word == "running" for state in left.values()))
    work = sum(state.at.seconds if state.at else rates[status.stages[id].kind] for id, state in left.items())
    return max(work / at_once, *ahead.values()), at_once


def _rate(store: Store, status: SweepStatus, kind: str) -> float | None:
    same = [id for id, stage in status.stages.items() if stage.kind == kind]
    seconds = []
    for id in [id for id in same if status.states[id].word == "finished"][:MEASURED]:
        with suppress(UserError, KeyError):
            seconds.append(store.manifest(id)["wall_seconds"])
    if not seconds:
        under_way = [at for id in same if (at := status.states[id].at) and at.step < at.steps]
        seconds = [at.seconds * at.steps / (at.steps - at.step) for at in under_way]
    return median(seconds) if seconds else None


def columns(sweep: Sweep) -> list[str]:
    """Kinds of stages of a sweep, in an order in which they can run: a column each."""
    kinds = {kind for cell in sweep.cells.values() for kind in cell.stages}
    return [kind for kind in STAGES if kind in kinds] + sorted(kinds - set(STAGES))
