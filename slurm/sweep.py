"""What a sweep leaves in the runs folder: what was asked for, which job runs which stage, what the jobs said.

sweeps/NAME/sweep.json        the request, its cells and their stages; written at each submission
sweeps/NAME/jobs/TIME/        submitit's files of one submission: what a job shall do, its output and errors
sweeps/jobs.jsonl             a line for each stage handed to Slurm, by whatever sweep: two sweeps share stages
sweeps/events/STAGE.jsonl     what the jobs of a stage said: started, stopped, finished, failed, discarded
sweeps/discarded.jsonl        results that came too late, of all stages: a look need not read every stage's events
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, read_json, write_json

Word = Literal["started", "stopped", "finished", "failed", "discarded", "cancelled"]
"""stopped: wrote a checkpoint on a signal, to go on later; discarded: another job had finished the stage meanwhile;
cancelled: said by `tokenbridge cancel`, since Slurm without accounting keeps no trace of it"""


@dataclass(frozen=True)
class CellStages:
    """A cell of a sweep: its name and, by kind, the ids of its stages in an order in which they can run."""

    name: str
    stages: dict[str, str]


@dataclass(frozen=True)
class Sweep:
    """One name, one or more submissions."""

    name: str
    request: dict[str, Any]
    """experiments.grid.request.Request as JSON"""
    cells: dict[str, CellStages]
    """by cell id, of the rounds submitted so far"""
    cluster: str
    """file with the resources"""
    code: str
    """folder of the snapshot that the jobs run, below the runs folder"""
    command: str
    submitted: float
    """seconds since 1970, of the first submission"""
    round: int = 1
    """1: a search or trainings that later rows build on; 2: the rows"""
    rounds: int = 1
    done: bool = False
    """the last job has written the plan of the tables"""
    runtime: dict[str, Any] = field(default_factory=dict)
    """tokenbridge.config.Runtime of the stages, as JSON"""

    @property
    def stages(self) -> dict[str, str]:
        """Kind by stage id, each once, in an order in which they can run."""
        return {id: kind for cell in self.cells.values() for kind, id in cell.stages.items()}

    @property
    def last(self) -> str:
        return ending(self.name)


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
    user: str = field(default_factory=getpass.getuser)
    """whose job it is: people who share a runs folder share its stages"""

    def log(self, store: Store, stream: Literal["out", "err"], rank: int = 0) -> Path:
        return store.root / self.folder / f"{self.job}_{rank}_log.{stream}"


TAKEN = ("code", "events")  # folders beside those of the sweeps


def ending(name: str) -> str:
    """The name of the job that ends a round of a sweep, where jobs are listed by stage."""
    return f"next-{name}"


def folder(store: Store, name: str = "") -> Path:
    return store.root / "sweeps" / name


def names(store: Store) -> list[str]:
    """Names of the sweeps, the oldest first."""
    paths = folder(store).glob("*/sweep.json")
    return [path.parent.name for path in sorted(paths, key=lambda path: read_json(path)["submitted"])]


def read(store: Store, name: str) -> Sweep:
    """Read the record of a sweep; UserError where there is none of this name."""
    path = folder(store, name) / "sweep.json"
    if not path.exists():
        existing = ", ".join(names(store)) or f"none yet in {store.root}"
        raise UserError(f"{name} is no sweep; there is {existing}")
    values = read_json(path)
    try:
        cells = {id: CellStages(**cell) for id, cell in values.pop("cells").items()}
        return Sweep(cells=cells, **values)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no sweep ({error}); delete it and submit again") from error


def write(store: Store, sweep: Sweep) -> None:
    path = folder(store, sweep.name) / "sweep.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(sweep))


def jobs(store: Store) -> dict[str, list[Job]]:
    """Registered jobs by stage, the oldest first: the last is the one that counts."""
    by_stage: dict[str, list[Job]] = {}
    for line in _lines(folder(store) / "jobs.jsonl"):
        by_stage.setdefault(line["stage"], []).append(Job(**line))
    return by_stage


def register(store: Store, new: Iterable[Job]) -> None:
    """Register new jobs, under the lock `submission`, so that nobody else submits the same stages meanwhile."""
    _append(folder(store) / "jobs.jsonl", [asdict(job) for job in new])


def events(store: Store, stage: str) -> list[dict[str, Any]]:
    """Events noted of a stage, the oldest first: event, time, job, host, restart and, of a failure, its error."""
    return _lines(_events(store, stage))


def note(store: Store, stage: str, event: Word, about: Mapping[str, Any]) -> None:
    said = {"event": event, "time": time.time(), **about}
    _append(_events(store, stage), [said])
    if event == "discarded":
        _append(folder(store) / "discarded.jsonl", [{"stage": stage, **said}])


def discarded(store: Store) -> list[str]:
    """Ids of stages that were made once more than needed, each as often as that happened."""
    return [line["stage"] for line in _lines(folder(store) / "discarded.jsonl")]


def _events(store: Store, stage: str) -> Path:
    return folder(store) / "events" / f"{stage}.jsonl"


def _lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; a line that a kill has cut, or that is being written, is left out."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    values = []
    for line in lines:
        with suppress(ValueError):
            values.append(json.loads(line))
    return values


def _append(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """One write for all lines: a file opened for appending keeps those of several processes apart.

    Each begins with a new line, so that it does not join one that a kill has cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write("".join(f"\n{json.dumps(value)}" for value in values) + "\n")
