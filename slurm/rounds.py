"""A sweep from its request to the plan of its tables: rounds of jobs, each of what the one before decides, the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from submitit.core.utils import DelayedSubmission

from experiments.grid import run as run_grid
from experiments.grid.request import SPEED, Grid, Request, timed
from experiments.pipeline import Cell, Stage, graph, record
from slurm import resources, submit
from slurm.job import telling
from slurm.sweep import Job
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import (
    EXPERIMENT,
    CellStages,
    Sweep,
    ending,
    is_sweep,
    read_sweep,
    recorded_cells,
    write_sweep,
)


@dataclass(frozen=True)
class Round:
    """Cells of one round; `ahead` are those that only run early for the next and are not recorded."""

    cells: Sequence[Cell]
    ahead: Sequence[Cell] = ()

    def stages(self) -> dict[str, Stage]:
        return graph([*self.cells, *self.ahead])


def of(store: Store, grid: Grid, number: int) -> Round:
    """The cells of a round.

    Args:
        store: the runs folder.
        grid: what the sweep runs.
        number: the first is searches, trainings and all that needs no choice, the last rows at their chosen points;
            those between widen searches, and are empty where no best point lies at an edge.
    """
    if number == 1:
        return Round(*grid.first())
    if number < grid.rounds:
        return Round(grid.wider(store, number - 1))
    last = run_grid.final(store, grid)
    return Round([*last.cells(), *timed(last.rows)])


@dataclass(frozen=True)
class RoundJob:
    """Runs after all stages of a round, however they ended."""

    store: Store
    sweep: str
    round: int

    def checkpoint(self) -> DelayedSubmission:
        """Submitit runs the same again after a requeue, from the beginning."""
        return DelayedSubmission(self)

    def __call__(self) -> None:
        with telling(self.store, ending(self.sweep)):
            end(self.store, self.sweep, number=self.round)


def new(store: Store, request: Request, cluster: str, runtime: Runtime, command: str) -> Sweep:
    """A sweep that nobody has submitted yet, or the one of that name with a new request.

    Args:
        store: the runs folder.
        request: what to run.
        cluster: the file of resources, or its name in slurm/clusters.
        runtime: device, threads and batch of each stage.
        command: as it was typed, for the list of sweeps.

    Raises:
        UserError: the grid cannot run, or not on a cluster.
    """
    grid = request.grid()
    if SPEED in grid.tables:
        raise UserError(f"table {SPEED} compares times on one machine and is not for a cluster; run it with --on local")
    asked = Sweep(
        name=request.name,
        request=request.model_dump(mode="json"),
        cells={},
        cluster=resources.read(cluster).lasting,
        code="",
        command=command,
        submitted=time.time(),
        runtime=runtime.model_dump(mode="json"),
        rounds=grid.rounds,
    )
    if not is_sweep(store, request.name):
        return asked
    before = read_sweep(store, request.name)
    same = before.request.get("preset") == request.preset and before.request.get("assignments") == list(
        request.assignments
    )
    return replace(asked, cells=before.cells if same else {}, submitted=before.submitted)


def advance(store: Store, wanted: Sweep, only: Iterable[str] | None = None) -> list[Job]:
    """Submit what the sweep's round lacks; where it lacks nothing, go on to the next, and in the end write the plan.

    Args:
        store: the runs folder.
        wanted: the sweep, in the round to submit.
        only: ids of stages; what they do not need and what does not need them is left out.

    Returns:
        The jobs that were submitted.

    Raises:
        UserError: what Slurm said; the sweep is then as it was.
    """
    cells_of_round = of(store, request_of(wanted).grid(), wanted.round)
    jobs = hand_over(store, wanted, cells_of_round, only)
    return end(store, wanted.name, only) if jobs is None else jobs


def hand_over(store: Store, wanted: Sweep, submitted: Round, only: Iterable[str] | None = None) -> list[Job] | None:
    """Submit a round to Slurm.

    Args:
        store: the runs folder.
        wanted: the sweep, whose record is written with the round's cells.
        submitted: the round.
        only: ids of stages; what they do not need and what does not need them is left out.

    Returns:
        The jobs that it is submitted as: none where all its stages are queued already; None where all are finished.

    Raises:
        UserError: what Slurm said; nothing is then submitted or written.
    """
    store = Store(store.root.resolve())  # jobs may start in another folder
    cluster, runtime = resources.read(wanted.cluster), build(Runtime, wanted.runtime)
    submission = submit.Submission(store, wanted.name, cluster, runtime, wanted.command)

    def write(code: str) -> None:
        record(store, submitted.cells, EXPERIMENT, wanted.name)
        write_sweep(store, replace(wanted, cells=_joined(wanted, submitted), done=False, code=code))

    under_way = submission.submit(submitted.stages(), RoundJob(store, wanted.name, wanted.round), write, only)
    return submission.jobs if under_way else None


def resubmit(store: Store, before: Sweep, stages: Iterable[str]) -> list[Job]:
    """Submit stages of a sweep again, and with them what is missing for them and what needs them.

    From the first round: a row that its search was missing for comes in the second once that is there.

    Args:
        store: the runs folder.
        before: the sweep as it is.
        stages: ids of the stages.

    Returns:
        The jobs that were submitted.
    """
    return advance(store, replace(before, round=1), list(stages))


def end(store: Store, name: str, only: Iterable[str] | None = None, number: int | None = None) -> list[Job]:
    """After a round: submit the next with what there is, or write the plan of the tables and fill MLflow.

    Args:
        store: the runs folder.
        name: the sweep's.
        only: as for `advance`.
        number: of the round that has ended, by default the last submitted: a job that was killed while it submitted
            the next one, and runs again, ends the same as before.

    Returns:
        The jobs of the next round; none after the last.
    """
    begun = read_sweep(store, name)
    ended = begun if number is None else replace(begun, round=number)
    if ended.round < ended.rounds:
        return advance(store, replace(ended, round=ended.round + 1), only)
    from experiments.tracking import sync as tracking

    grid = request_of(ended).grid()
    run_grid.write_plan(store, grid, run_grid.final(store, grid))
    try:
        tracking.sync(store, recorded_cells(store, ended))
    except UserError as error:  # nothing is lost, and no job fails for a server that is away
        print(error, flush=True)
    with store.lock("submission"):
        now = read_sweep(store, name)
        if (now.request, now.round, now.cells) == (begun.request, begun.round, begun.cells):
            write_sweep(store, replace(ended, done=True))
            return []
    # it was submitted again meanwhile: with another request it may have counted on this job to end it
    return advance(store, now) if now.request != begun.request else []


def request_of(wanted: Sweep) -> Request:
    return build(Request, wanted.request)


def _joined(wanted: Sweep, submitted: Round) -> dict[str, CellStages]:
    cells = dict(wanted.cells)
    for cell in [*submitted.cells, *submitted.ahead]:
        stages = {stage.kind.name: stage.id for stage in cell.stages()}
        before = cells.get(cell.id)
        cells[cell.id] = CellStages(before.name, before.stages | stages) if before else CellStages(cell.name, stages)
    return cells
