"""`tokenbridge grid … --on slurm`: say what a sweep would cost, ask where that is much, submit it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass

from experiments.grid import run as run_grid
from experiments.grid.request import Grid, Request
from experiments.progress import seconds_of_work, time_text
from experiments.trained import require_imported, require_networks, require_trusted
from slurm import resources, rounds, submit
from slurm.status import look
from slurm.sweep import amount
from tokenbridge.config import Runtime, UserError
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_sweep

MOST_JOBS, MOST_HOURS = 500, 100.0  # beyond which it asks


@dataclass(frozen=True)
class Cost:
    """What the first round of a sweep would take: its stages that are not finished."""

    lines: list[str]
    jobs: int
    hours: float
    """device-hours: of GPUs where a job has some, else of processes"""

    @property
    def much(self) -> bool:
        return self.jobs > MOST_JOBS or self.hours > MOST_HOURS


def cost(store: Store, grid: Grid, cluster_file: str) -> Cost:
    """What submitting a grid costs: jobs, arrays and device-hours per kind of stage.

    Rows of searched tables at their chosen points are not counted: they come in the second round.

    Args:
        store: the runs folder, whose finished stages tell how long others take.
        grid: what is to be submitted.
        cluster_file: the file of resources, or its name in slurm/clusters.

    Raises:
        UserError: the file cannot be used, or weights are to be imported first.
    """
    cluster, stages = resources.read(cluster_file), rounds.of(store, grid, 1).stages()
    require_imported(store, stages.values())
    store.require_room(stages)
    todo, rates = submit.unfinished(store, stages), seconds_of_work(store)
    lines, hours = [f"on Slurm, by {cluster.path}:"], 0.0
    arrays = submit.arrays_of(todo.values(), cluster)
    for array in arrays:
        needs = cluster.of(array.kind)
        seconds = sum(rates[stage.kind.name] * stage.kind.work(stage.config) for stage in array.stages)
        hours += seconds * needs.devices / 3600
        amount = f"{len(array.jobs):>4} jobs{_packed(array)}"
        lines.append(f"  {array.kind:<12} {amount}, about {time_text(seconds)}: {needs.about}")
    jobs = sum(len(array.jobs) for array in arrays)
    of = f" of {len(todo)} stages" if jobs < len(todo) else ""
    lines.append(f"{jobs} jobs{of}, about {hours:.2g} device-hours" if todo else "nothing to submit: all is finished")
    return Cost(lines, jobs, hours)


def _packed(array: submit.Array) -> str:
    """How many stages the jobs of an array hold, by kind; empty where each holds one."""
    counts = Counter(stage.kind.name for stage in array.stages)
    if counts.total() == len(array.jobs):
        return ""
    return f" of {' and '.join(f'{number} {kind}' for kind, number in counts.items())} stages"


def start(store: Store, request: Request, grid: Grid, cluster: str, runtime: Runtime, command: str, yes: bool) -> None:
    """Submit the stages that the grid of a request lacks, after asking where that is much.

    Raises:
        UserError: Slurm refuses, or nobody is there to be asked.
    """
    run_grid.require_room(store, grid)
    wanted = rounds.new(store, request, cluster, runtime, command)
    stages = list(rounds.of(store, grid, 1).stages().values())
    require_trusted(store, stages, runtime)
    require_networks(store, stages)
    expected = cost(store, grid, cluster)
    print("\n".join(expected.lines))
    if expected.much and not yes:
        _ask(expected)
    jobs = rounds.advance(store, wanted)
    if jobs:
        ids = [job.job for job in jobs]
        print(f"submitted {amount(ids)}, {ids[0]} to {ids[-1]}; see tokenbridge status {wanted.name}")
    else:
        print(f"nothing was submitted: all is finished or queued; see tokenbridge status {wanted.name}")
        stuck = look(store, read_sweep(store, wanted.name)).counts["stuck"]
        if stuck:
            print(f"{stuck} of its stages are stuck in the queue; tokenbridge status {wanted.name} names the remedy")


def _ask(expected: Cost) -> None:
    asked = f"{expected.jobs} jobs, about {expected.hours:.0f} device-hours"
    if not sys.stdin.isatty():
        raise UserError(
            f"{asked} are more than {MOST_JOBS} jobs or {MOST_HOURS:.0f} hours, which asks first; give --yes to submit"
        )
    if input(f"submit {asked}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was submitted")
