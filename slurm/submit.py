"""Hand a graph of stages to Slurm: what is finished or in somebody's hands already is left out.

All jobs are submitted held, get their dependencies, are written down, and only then released: a submission that
fails, or is killed, half-way leaves nothing that runs. What it leaves held, the next one finds (slurm/remains.py).
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from submitit import AutoExecutor
from submitit.core.utils import FailedJobError

from experiments.pipeline import Stage, needing
from slurm import remains, scheduler, snapshot, sweep
from slurm.job import StageJob
from slurm.resources import Cluster, Resources
from slurm.status import ask
from slurm.sweep import Job
from tokenbridge.config import Runtime, UserError
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import Store, writable
from tokenbridge.store.provenance import job_here
from tokenbridge.store.runs import ending

HELD = {"hold": True, "kill-on-invalid-dep": "yes"}
UNHURT = """sh -c 'trap "" USR2; exec "$@"' sh"""
"""runs a command that ignores USR2 until it handles it: a job preempted while Python starts would end by itself, and
Slurm requeues none that does"""
SLURM_VARIABLES = re.compile("SLURM_(?!CONF$)|SBATCH_|SRUN_|SUBMITIT_")


def unfinished(store: Store, stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Those of the stages, by id, that have no finished folder."""
    return {id: stage for id, stage in stages.items() if not store.finished(id)}


def live(store: Store, stages: Mapping[str, Stage], last: str) -> dict[str, str]:
    """Jobs by stage, of stages that any sweep has in Slurm's hands. The job that asks counts as over.

    A packed job has not in its hands what it is done with, nor what it cannot run for want of an input.

    Args:
        store: the runs folder.
        stages: not finished, by id; inputs before what needs them.
        last: what the job that ends the round is called.

    Raises:
        UserError: Slurm cannot be asked.
    """
    registered = sweep.jobs_by_stage(store)
    newest = {id: registered[id][-1] for id in [*stages, last] if id in registered}
    tasks, silent = ask(list(newest.values()))
    if tasks is None:
        raise UserError(silent)
    asking = (job_here() or {}).get("id")
    kept = {job: task for job, task in tasks.items() if task.live and task.reason != "DependencyNeverSatisfied"}
    there = dict[str, str]()
    for id, job in newest.items():
        inputs = stages[id].inputs if job.packed else ()
        wanting = any(needed not in there and not store.finished(needed) for _, needed in inputs)
        if job.job != asking and job.job in kept and not job.done(store) and not wanting:
            there[id] = job.job
    return there


@dataclass
class Submission:
    """One round of a sweep on its way to Slurm. `jobs` are those that it made."""

    store: Store
    name: str
    cluster: Cluster
    runtime: Runtime
    command: str = ""
    """as it was typed"""
    jobs: list[Job] = field(default_factory=list)
    code: str = ""
    replaced: str | None = None
    """the job that would have ended the round without the new ones"""

    def submit(
        self,
        stages: Mapping[str, Stage],
        end: Callable[[], None],
        write: Callable[[str], None],
        only: Iterable[str] | None = None,
    ) -> dict[str, str]:
        """Submit the stages that are not finished, and a job that ends the round.

        Args:
            stages: those of the whole round by id, inputs before what needs them.
            end: called in a job of its own when no stage of the round is left.
            write: called with the folder of the code to leave the records that must be there before a job runs.
            only: ids of stages; what they do not need and what does not need them is not submitted.

        Returns:
            Jobs by stage, of all of the round that are in Slurm's hands now.

        Raises:
            UserError: what Slurm said; nothing is then submitted or written, unless the release of the jobs failed.
        """
        if reason := scheduler.unavailable():
            raise UserError(reason)
        with writable(self.store.root), self.store.lock("submission"):
            for line in remains.mend(self.store):
                print(line, flush=True)
            running = live(self.store, unfinished(self.store, stages), self.last)
            wanted = stages if only is None else related(only, stages)
            new = {id: stage for id, stage in unfinished(self.store, wanted).items() if id not in running}
            number = sum(len(array.jobs) for array in arrays_of(new.values(), self.cluster))
            if number >= (most := scheduler.most_jobs()):  # sbatch would wait without an end
                raise UserError(f"{number} jobs must be fewer than {most} (MaxJobCount of this Slurm); submit a part")
            self.code = snapshot.take(self.store)
            if new or (running and self.last not in running):
                self._hand_over(new, running, end, write)
            else:
                write(self.code)
        return running

    @property
    def last(self) -> str:
        return ending(self.name)

    @property
    def folder(self) -> str:
        return f"sweeps/{self.name}/jobs/{self.time}"

    def __post_init__(self) -> None:
        self.time = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"

    def _hand_over(
        self, new: Mapping[str, Stage], running: dict[str, str], end: Callable[[], None], write: Callable[[str], None]
    ) -> None:
        """Submit new stages and the end of the round, write them down and release them."""
        sweep.begin(self.store, sweep.Intent(self.name, self.folder, self.command, time.time()))
        try:
            with _outside_of_jobs():
                self._arrays(new, running)
                self._end(end, running)
            self._require_all()
            write(self.code)
            if self.replaced is not None:
                scheduler.cancel([self.replaced])
            sweep.register(self.store, self.jobs)
        except BaseException:
            remains.withdraw(self.store, self.folder)
            raise
        try:
            scheduler.release(whole_arrays([job.job for job in self.jobs]))
        except UserError as error:
            held = f"{sweep.amount(job.job for job in self.jobs)} are submitted and held"
            raise UserError(f"{error}: {held}; tokenbridge retry {self.name} releases them") from error
        sweep.settle(self.store, self.folder)

    def _require_all(self) -> None:
        """A slurmctld that was killed may have lost jobs that it had taken, and give their numbers again."""
        jobs = {job.job for job in self.jobs}
        there = sum(task.live and task.is_of(self.folder) for task in scheduler.queue(jobs).values())
        if there != len(jobs):
            raise UserError(f"Slurm has lost {len(jobs) - there} of {len(jobs)} jobs; submit again")

    def _arrays(self, new: Mapping[str, Stage], running: dict[str, str]) -> None:
        """Submit new stages as arrays, and add their jobs to those that run."""
        packed = self.cluster.packed
        for array in arrays_of(new.values(), self.cluster, scheduler.array_limit()):
            calls = [self._call(stages, self.cluster.of(array.kind)) for stages in array.jobs]
            ids = self._send(array.kind, calls, {})
            waits = [awaited_jobs(stages, running) for stages in array.jobs]
            for stages, id in zip(array.jobs, ids, strict=True):
                for stage in stages:
                    self.jobs.append(Job(stage.id, id, self.name, self.folder, time.time(), packed=packed))
                    running[stage.id] = id
            scheduler.depend(dict(zip(ids, waits, strict=True)), "afterany" if packed else "afterok")

    def _call(self, stages: Sequence[Stage], resources: Resources) -> StageJob:
        """What a job runs. Workers share its processors, unless the runtime says otherwise."""
        runtime, workers = self.runtime, resources.workers
        if workers > 1 and runtime.threads is None:
            runtime = runtime.model_copy(update={"threads": max(1, resources.cpus // workers)})
        packed = self.cluster.packed
        return StageJob(self.store, stages, runtime, resources.limited, packed=packed, workers=workers)

    def _end(self, call: Callable[[], None], running: dict[str, str]) -> None:
        """Submit the job that runs after all stages of the round, however they end; it replaces an earlier one."""
        self.replaced = running.pop(self.last, None)
        after = {"dependency": "afterany:" + ":".join(whole_arrays(list(running.values())))}
        (id,) = self._send("next", [call], after)
        self.jobs.append(Job(self.last, id, self.name, self.folder, time.time()))
        running[self.last] = id

    def _send(self, kind: str, calls: Sequence[Any], more: Mapping[str, Any]) -> list[str]:
        """Submit an array of calls, held, and return its job ids."""
        resources = self.cluster.of(kind)
        executor = AutoExecutor(
            folder=self.store.root / self.folder,
            cluster="slurm",  # AutoExecutor would choose by itself whether there is a cluster
            slurm_max_num_timeout=resources.requeues * resources.pack,
            slurm_python=f"{UNHURT} {resources.python or shlex.quote(sys.executable)}",
        )
        executor.update_parameters(**self._parameters(kind, resources, more))
        try:
            with redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises
                jobs = [executor.submit(call) for call in calls]
        except FailedJobError as error:
            raise UserError(f"{kind}: {scheduler.said(str(error))} ({self.cluster.path})") from error
        return [job.job_id for job in jobs]

    def _parameters(self, kind: str, resources: Resources, more: Mapping[str, Any]) -> dict[str, Any]:
        parameters = resources.parameters()
        code = snapshot.setup(self.store.root / self.code, self.name)
        parameters["slurm_setup"] = [*parameters.get("slurm_setup", ()), *code]
        parameters["slurm_additional_parameters"] = {
            **parameters.get("slurm_additional_parameters", {}),
            **HELD,
            **more,
        }
        return parameters | {"name": f"{self.name}-{kind}"}


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """sbatch takes options from the variables that Slurm sets in a job: the next round would inherit this job's."""
    inherited = {key: os.environ.pop(key) for key in list(os.environ) if SLURM_VARIABLES.match(key)}
    try:
        yield
    finally:
        os.environ.update(inherited)


@dataclass(frozen=True)
class Array:
    """Jobs for stages of one kind, submitted together."""

    kind: str
    jobs: tuple[tuple[Stage, ...], ...]
    """the stages of each; a sampling may have its score behind it"""

    @property
    def stages(self) -> list[Stage]:
        return [stage for job in self.jobs for stage in job]


def arrays_of(stages: Iterable[Stage], cluster: Cluster, most: int = sys.maxsize) -> list[Array]:
    """Stages as arrays of jobs; the inputs of a stage are in an earlier array, or before it in its job.

    Args:
        stages: in any order.
        cluster: how many share a job, by kind.
        most: jobs in an array.
    """
    arrays = []
    by_kind: dict[str, list[Stage]] = {kind: [] for kind in STAGES}  # in an order in which they can run
    for stage in stages:
        by_kind[stage.kind.name].append(stage)
    scores: dict[str, list[Stage]] = {}
    if cluster.of("sample").pack > 1 and cluster.of("score") == cluster.of("sample"):
        scores = {stage.id: [] for stage in by_kind["sample"]}  # each is scored where it was drawn
        for score in by_kind["score"]:
            scores.get(dict(score.inputs)["sample"], []).append(score)
    for kind, same in by_kind.items():
        alone = [stage for stage in same if dict(stage.inputs).get("sample") not in scores]
        units, pack = [(stage, *scores.get(stage.id, ())) for stage in alone], cluster.of(kind).pack
        jobs = [tuple(chain(*units[first : first + pack])) for first in range(0, len(units), pack)]
        arrays += [Array(kind, tuple(jobs[first : first + most])) for first in range(0, len(jobs), most)]
    return arrays


def awaited_jobs(stages: Iterable[Stage], jobs: Mapping[str, str]) -> list[str]:
    """Jobs that the stages of a job wait for, each once.

    Args:
        stages: their inputs count.
        jobs: by stage id, of all that are in Slurm now or were submitted before it.
    """
    return list(dict.fromkeys(jobs[id] for stage in stages for _, id in stage.inputs if id in jobs))


def related(ids: Iterable[str], stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """These stages, all that they need and all that needs them, directly or through others.

    Args:
        ids: of the stages to begin with.
        stages: the graph by id, inputs before what needs them.
    """
    ids_kept = needing(ids, stages)
    for stage in reversed(list(stages.values())):
        if stage.id in ids_kept:
            ids_kept.update(id for _, id in stage.inputs)
    return {id: stage for id, stage in stages.items() if id in ids_kept}


def whole_arrays(jobs: Sequence[str]) -> list[str]:
    """Job ids for one dependency: whole arrays instead of their tasks, so that the list stays short."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))
