"""Which Slurm job runs which stage; what is no matter of Slurm's is in tokenbridge.store.runs.

sweeps/NAME/jobs/TIME/    submitit's files of one submission: what a job shall do, its output and errors; of packed jobs
                          also those of each stage
sweeps/jobs.jsonl         a line for each stage handed to Slurm, by whatever sweep: two sweeps share stages, and several
                          stages a packed job
sweeps/submissions.jsonl  a line for each submission before its first job, and one when all of its jobs may start, or
                          none is left: without the second one it was cut off
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import append_lines, read_events, read_lines, sweep_folder

Stream = Literal["out", "err"]
FINAL = ("finished", "failed", "discarded", "cancelled")
"""what a job says of a stage as its last"""


@dataclass(frozen=True)
class Job:
    """A stage in Slurm's hands."""

    stage: str
    job: str
    """Slurm's id: 123, or 123_4 in an array"""
    sweep: str
    folder: str
    """submitit's, below the runs folder; holds JOB_0_log.out and JOB_0_log.err"""
    time: float
    """of its record, by the clock of the machine that submitted it; Slurm's may differ, so nothing compares them"""
    user: str = field(default_factory=getpass.getuser)
    """whose job it is: people who share a runs folder share its stages"""
    packed: bool = False
    """whether it may run other stages too; it then waits for its inputs' ends and looks itself what became of them"""

    def said(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is of this job, and not of one with its number on an earlier cluster."""
        own = Path(self.folder).name
        return event.get("job") == self.job and event.get("submission", own) == own

    def last_word(self, store: Store) -> dict[str, Any]:
        """The last event that the job said of its stage, {} where it has said nothing.

        What is cancelled may still say that it stopped; and a packed job runs no stage again that it is done with.
        """
        words = [said for said in read_events(store, self.stage) if self.said(said)]
        final = [said for said in words if said["event"] in (FINAL if self.packed else FINAL[-1:])]
        return (final or words or [{}])[-1]

    def done(self, store: Store) -> bool:
        """Whether a packed job has nothing more to do with this stage, though it may run others."""
        return self.packed and self.last_word(store).get("event") in FINAL

    def stage_log(self, store: Store, stream: Stream) -> Path:
        """The file of what the job wrote of this stage; of the whole job unless it is packed and has begun with it."""
        own = stage_log(store.root / self.folder, self.job, self.stage, stream)
        return own if self.packed and own.exists() else self.log(store, stream)

    def log(self, store: Store, stream: Stream, rank: int = 0) -> Path:
        """The file of what the job wrote, which may not be there yet.

        Args:
            store: the runs folder.
            stream: its output or its errors.
            rank: of the process, where the job has several.
        """
        return store.root / self.folder / f"{self.job}_{rank}_log.{stream}"

    def last_words(self, store: Store) -> str:
        """The last line of its errors that is neither Slurm's nor submitit's; empty where there is none.

        Why a job did not begin: no copy of the code, no interpreter, a line of `setup` that failed.
        """
        try:
            lines = self.log(store, "err").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        others = ("srun: ", "slurmstepd: ", "submitit ")
        words = (line.strip() for line in reversed(lines) if not line.startswith(others))
        return next((line for line in words if line), "")


def stage_log(folder: Path, job: str, stage: str, stream: Stream) -> Path:
    """The file that a packed job writes of a stage, in the folder of its submission."""
    return folder / f"{job}_{stage}.{stream}"


def amount(jobs: Iterable[str]) -> str:
    """How many jobs of Slurm these are, by the job of each stage: `28 jobs`, or `4 jobs of 28 stages`."""
    jobs = list(jobs)
    number = len(set(jobs))
    text = f"{number} job{'' if number == 1 else 's'}"
    return text if number == len(jobs) else f"{text} of {len(jobs)} stages"


def jobs_by_stage(store: Store) -> dict[str, list[Job]]:
    """Jobs by stage, the oldest first: the last is the one that counts."""
    by_stage: dict[str, list[Job]] = {}
    for line in read_lines(sweep_folder(store) / "jobs.jsonl"):
        by_stage.setdefault(line["stage"], []).append(Job(**line))
    return by_stage


def register(store: Store, new: Iterable[Job]) -> None:
    """Add jobs, under the lock `submission`, so that nobody else submits the same stages meanwhile."""
    lines = [{key: value for key, value in asdict(job).items() if key != "packed" or value} for job in new]
    append_lines(sweep_folder(store) / "jobs.jsonl", lines)


@dataclass(frozen=True)
class Intent:
    """A submission that is about to hand jobs to Slurm."""

    sweep: str
    folder: str
    """as a job's"""
    command: str
    """as it was typed"""
    time: float
    user: str = field(default_factory=getpass.getuser)


def begin(store: Store, intent: Intent) -> None:
    """Write down a submission before it makes its first job, under the lock `submission`."""
    append_lines(_submissions(store), [asdict(intent)])


def settle(store: Store, folder: str) -> None:
    """Write down that nothing is left to do for a submission, under the lock `submission`."""
    append_lines(_submissions(store), [{"folder": folder, "settled": True}])


def unsettled(store: Store) -> list[Intent]:
    """Submissions that are under way or were cut off, the oldest first."""
    open_: dict[str, Intent] = {}
    for line in read_lines(_submissions(store)):
        if line.get("settled"):
            open_.pop(line["folder"], None)
        else:
            open_[line["folder"]] = Intent(**line)
    return list(open_.values())


def _submissions(store: Store) -> Path:
    return sweep_folder(store) / "submissions.jsonl"
