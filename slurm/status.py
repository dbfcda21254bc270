"""Where each stage of a sweep stands, from the stages' folders, what the jobs said, one squeue and at most one sacct.

The folder wins over all: a stage that has it is finished, whatever Slurm thinks of its job. Then what Slurm has in
its queue, then the last word of the stage's newest job, then Slurm's accounting where there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.runner import Training, training
from slurm import sweep as records
from slurm.answers import RETURNING, Task
from slurm.sweep import Job
from tokenbridge.store.artifacts import Store

Word = Literal["finished", "running", "requeued", "queued", "blocked", "waiting", "failed", "cancelled", "lost"]
"""requeued: back in the queue after a checkpoint or a node's death; blocked: its inputs are under way; waiting: not
submitted yet; lost: its job has gone and left neither a result nor a reason"""
UNDER_WAY: tuple[Word, ...] = ("running", "requeued", "queued", "blocked", "waiting")
BROKEN: tuple[Word, ...] = ("failed", "cancelled", "lost")

DEATHS = {
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
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


def finished(store: Store) -> set[str]:
    """Of all sweeps: one look at the folder instead of one for each stage. A stage's folder appears whole."""
    return {name for name in _names(store.root / "stages") if not name.endswith(".partial")}


def _names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def stage_states(
    store: Store,
    stages: Mapping[str, Planned],
    jobs: Mapping[str, Sequence[Job]],
    tasks: Mapping[str, Task] | None,
    past: Past = lambda jobs: {},
) -> dict[str, State]:
    """The state of each stage.

    stages: inputs before what needs them. tasks: what squeue says of their jobs, asked before this call, so that what
    ends meanwhile is not taken for lost; None where no Slurm can be asked: then what the jobs said has to do.
    """
    look = _Look(store, stages, jobs, tasks)
    if tasks is not None:
        look.past = past(unknown) if (unknown := look.unknown()) else {}
    for id in stages:
        look.states[id] = look.state(id)
    return look.states


class _Look:
    """One look at all stages."""

    def __init__(
        self,
        store: Store,
        stages: Mapping[str, Planned],
        jobs: Mapping[str, Sequence[Job]],
        tasks: Mapping[str, Task] | None,
    ):
        self.store, self.stages, self.tasks = store, stages, tasks
        self.finished = finished(store)
        self.spoken = {name.removesuffix(".jsonl") for name in _names(records.folder(store) / "events")}
        self.jobs = {id: self._newest(jobs[id]) for id in stages if id in jobs}
        self.past: Mapping[str, Task] = {}
        self.states: dict[str, State] = {}

    def _newest(self, jobs: Sequence[Job]) -> Job:
        """The last one, but rather one that Slurm still has."""
        return next((job for job in reversed(jobs) if self.tasks and job.job in self.tasks), jobs[-1])

    def unknown(self) -> list[str]:
        """Jobs that neither squeue nor their own last word explains."""
        left = {id: job for id, job in self.jobs.items() if id not in self.finished and self._unclear(job)}
        return [job.job for id, job in left.items() if self._said(id, job).get("event") in NO_TRACE]

    def _unclear(self, job: Job) -> bool:
        task = (self.tasks or {}).get(job.job)
        return task is None or (task.state == "CANCELLED" and not task.reason)  # only accounting knows by whom

    def _record(self, job: Job) -> Task | None:
        """Of a job that has ended. What accounting still calls running or waiting has been lost on the way."""
        known, past = (self.tasks or {}).get(job.job), self.past.get(job.job)
        return past if past and past.over and (known is None or known.state == past.state) else known

    def _queued(self, job: Job) -> Task | None:
        task = (self.tasks or {}).get(job.job)
        return None if task is None or task.over else task

    def _said(self, id: str, job: Job) -> dict[str, Any]:
        """The last word of this job, {} where it has said nothing."""
        if id not in self.spoken:
            return {}
        return next((said for said in reversed(records.events(self.store, id)) if said.get("job") == job.job), {})

    def state(self, id: str) -> State:
        if id in self.finished:
            return State("finished")
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
        if task.running:
            if event == "stopped":
                return State("requeued", "stopping, checkpoint written", job.job, at=training(self.store, id))
            return _last_word(said, job) if event == "failed" else self._running(id, job)
        if task.reason == "DependencyNeverSatisfied":
            return self._for_want(id, job) or State("cancelled", task.reason, job.job)
        if task.restarts or event in ("started", "stopped"):
            reason = task.reason if task.waiting else RETURNING[task.state]
            return State("requeued", reason, job.job, at=training(self.store, id))
        if task.reason == "Dependency" and (blocked := self._blocked(id, job)):
            return blocked
        return State("queued", task.reason, job.job)

    def _running(self, id: str, job: Job) -> State:
        return State("running", "", job.job, at=training(self.store, id))

    def _gone(self, id: str, job: Job) -> State:
        """Slurm no longer has the job: why did it end?"""
        said = self._said(id, job)
        event = said.get("event")
        if event == "finished" and self.stages[id].kind == "next":
            return State("finished", job=job.job)
        if event not in NO_TRACE:
            return _last_word(said, job)
        task = self._record(job)
        how = task.state if task else ""
        if event is None and how in ("", "CANCELLED") and (wanting := self._for_want(id, job)):
            return wanting
        if task is None:
            return State(*NO_TRACE[event], job.job)
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
        return State("failed", f"{DEATHS.get(how) or f'ended without a word ({task.ending})'}{kept}", job.job)

    def _by_word(self, id: str, job: Job) -> State:
        """Without Slurm."""
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
