"""What is left of a submission that was cut off by a kill, or by a slurmctld that went away: jobs that stay held.

All jobs of a submission are held until it has written them down. So what Slurm has of it and nobody wrote down can be
cancelled, and what is written down can be released; each job's script lies in the folder of its submission, which tells
whose it is.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterable
from contextlib import suppress

from slurm import scheduler, sweep
from slurm.scheduler import Task
from slurm.sweep import Intent, Job
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import write_event


def cut_off(store: Store) -> list[Intent]:
    """Submissions that began, did not come to their end, and are not under way now."""
    if not sweep.unsettled(store):
        return []
    try:
        with store.lock("submission", wait=False) as free:
            return sweep.unsettled(store) if free else []
    except (OSError, UserError):  # who may only read has no lock
        return sweep.unsettled(store)


def mend(store: Store, cancelled: str = "") -> list[str]:
    """Release or cancel what submissions of this user have left held. Under the lock `submission`.

    Args:
        store: the runs folder.
        cancelled: a sweep whose held jobs are cancelled, not released.

    Returns:
        A line for each submission with remains: what became of them.

    Raises:
        UserError: Slurm refuses. What is left is for the next call.
    """
    written: dict[str, dict[str, list[Job]]] = {}
    for job in (job for attempts in sweep.jobs_by_stage(store).values() for job in attempts):
        written.setdefault(job.folder, {}).setdefault(job.job, []).append(job)
    intents = {intent.folder: intent for intent in sweep.unsettled(store) if intent.user == getpass.getuser()}
    tasks: dict[str, dict[str, Task]] = {}
    for job, task in scheduler.queue().items():
        if task.submission in intents or _here(store, task):
            tasks.setdefault(task.submission, {})[job] = task
    orphans = [folder for folder in tasks if folder not in written]  # an sbatch may outlive its submitter
    lines = []
    for folder in dict.fromkeys([*intents, *orphans]):
        there, jobs = tasks.get(folder, {}), written.get(folder, {})
        held = [job for job, task in there.items() if task.remedy == "release"]
        name = folder.split("/")[1]
        kept = there.keys() == jobs.keys() and name != cancelled
        if held and kept:
            scheduler.release(_whole(held, there))
        elif held:
            _cancel(store, held, jobs)
        if held:
            what = "released" if kept else "cancelled"
            lines.append(f"{name}: a submission was cut off at {_time(folder)}; held jobs {what}: {len(held)}")
        if folder in intents:
            sweep.settle(store, folder)
    return lines


def withdraw(store: Store, folder: str) -> None:
    """Cancel the jobs of a submission that fails. Where Slurm does not take that, they are left to `mend`."""
    with suppress(UserError):
        scheduler.cancel([job for job, task in scheduler.queue().items() if task.submission == folder and task.live])
        sweep.settle(store, folder)


def _here(store: Store, task: Task) -> bool:
    return bool(task.submission) and task.script.startswith(f"{store.root.resolve()}/")


def _whole(held: Iterable[str], there: dict[str, Task]) -> list[str]:
    """The ids of arrays instead of those of their tasks, where all are held."""
    others = {job.partition("_")[0] for job in there.keys() - held}
    arrays = (job if job.partition("_")[0] in others else job.partition("_")[0] for job in held)
    return list(dict.fromkeys(arrays))


def _cancel(store: Store, held: list[str], written: dict[str, list[Job]]) -> None:
    scheduler.cancel(held)
    for job in held:
        for each in written.get(job, ()):
            write_event(store, each.stage, "cancelled", {"job": job, "by": getpass.getuser()})


def _time(folder: str) -> str:
    """When a submission began, by the name of its folder."""
    with suppress(ValueError):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.strptime(folder.rpartition("/")[2][:15], "%Y%m%d-%H%M%S"))
    return "an unknown time"
