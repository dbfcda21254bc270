"""What the jobs of each kind of stage ask the cluster for: a small TOML file, read and checked. It enters no id.

[all] holds for every stage, [train], [sample] ... change it for one kind. slurm/clusters/example.toml explains each.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from slurm.scheduler import seconds
from tokenbridge.config import Config, UserError
from tokenbridge.overrides import build, near
from tokenbridge.stages import STAGES

EARLY = 120
"""seconds by which the signal before a time limit may come too early: Slurm's 60, and a minute to start the program"""
SHIPPED = Path(__file__).parent / "clusters"
DEFAULT = "cluster.toml"
TABLES = ("all", *STAGES, "next")
"""next: the short job that ends a round of a sweep"""
FIELDS = {
    "time": "time", "mem": "memory", "partition": "partition", "account": "account", "qos": "qos",
    "gpus-per-node": "gpus", "nodes": "nodes", "ntasks-per-node": "processes", "cpus-per-task": "cpus",
    "constraint": "constraint", "signal": "signal_seconds",
}  # fmt: skip
"""options of sbatch that have a field of their own"""
OURS = ("array", "dependency", "output", "error", "job-name", "open-mode", "kill-on-invalid-dep", "hold", "requeue")
"""options of sbatch that a sweep sets"""


class Resources(Config):
    """Resources of one job: of a stage, or of one task of an array of stages."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """features that a node must have, such as a100|h100"""
    nodes: int = Field(default=1, ge=1)
    processes: int = Field(default=1, ge=1)
    """on each node; with GPUs, one per GPU. More than one in all: training shares its batch among them, sampling its
    images"""
    gpus: int = Field(default=0, ge=0)
    """on each node"""
    cpus: int = Field(default=1, ge=1)
    """of each process"""
    memory: str | None = None
    """of each node: 8G; megabytes without a letter; 0 is all that the node has"""
    time: int | str = 60
    """limit: minutes, or as Slurm writes it: "30:00", "02:00:00", "1-12:00:00"; seconds count as a whole minute"""
    parallel: int = Field(default=64, ge=1)
    """jobs of an array that run at a time"""
    requeues: int = Field(default=10, ge=0)
    """how often a job goes on after its time limit. A preemption does not count, unless `time` is 10 minutes or less:
    submitit then takes every signal for a time limit (job_environment.py, has_timed_out)"""
    pack: int = Field(default=1, ge=1)
    """stages of the kind that one job runs, one after another; `time` is the job's, which goes on where that ends"""
    workers: int = Field(default=1, ge=1)
    """stages of a pack at a time, each in a process of its own; they take the GPUs of their job in turn, and share its
    processors"""
    signal_seconds: int = Field(default=90, ge=1)
    """before the time limit, a job gets the signal to write its checkpoint; Slurm may send it up to 60 s earlier"""
    setup: tuple[str, ...] = ()
    """lines of shell before the program, such as `module load cuda`"""
    extra: dict[str, str | int | bool] = Field(default={})
    """other options of sbatch: exclude = "n13", mail-type = "FAIL", exclusive = true"""
    python: str | None = None
    """interpreter on the nodes, as a shell command; this one unless told"""

    @property
    def minutes(self) -> int:
        limit = seconds(str(self.time))
        assert limit is not None
        return math.ceil(limit / 60)

    @property
    def limited(self) -> float:
        """Seconds after its start from which on a signal comes from the time limit: Slurm sends it up to 60 s early."""
        return self.minutes * 60 - self.signal_seconds - EARLY

    @property
    def ranks(self) -> int:
        """Processes on all nodes."""
        return self.nodes * self.processes

    @property
    def devices(self) -> int:
        """Number of devices that device-hours count: GPUs, or processes where there are none."""
        return self.nodes * self.gpus or self.ranks

    @property
    def about(self) -> str:
        gpus = self.nodes * self.gpus
        parts = [
            f"{self.nodes} nodes" if self.nodes > 1 else "",
            f"{self.processes} processes a node" if self.processes > 1 else "",
            f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "",
            f"{self.cpus} CPUs" if self.cpus > 1 else "1 CPU",
            f"{self.memory} memory" if self.memory else "",
            f"{self.minutes} min at most",
        ]
        return ", ".join(part for part in parts if part) + (f" on {self.partition}" if self.partition else "")

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        if value is not None and not re.fullmatch(r"\d+[KMGT]?", str(value)):
            raise ValueError(f'memory={value!r} must be a whole number and K, M, G or T; write "8G"')
        return value if value is None else str(value)

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        if isinstance(value, bool) or not seconds(str(value)):
            raise ValueError(
                f"time={value!r} must be minutes above 0, or Slurm's hours:minutes:seconds or"
                ' days-hours:minutes:seconds; write 120, "02:00:00" or "1-12:00:00"'
            )
        return value

    @field_validator("extra")
    @classmethod
    def _extra(cls, value: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name in (key.replace("_", "-") for key in value):
            if name in FIELDS:
                raise ValueError(f"extra.{name} must be left out: it has a setting of its own, {FIELDS[name]}")
            if name in OURS:
                raise ValueError(f"extra.{name} must be left out: a sweep sets it for each job")
        return value

    @model_validator(mode="after")
    def _signal(self) -> Resources:
        if self.signal_seconds >= self.minutes * 60:
            raise ValueError(
                f"signal_seconds={self.signal_seconds} must be less than time={self.time!r},"
                f" which is {self.minutes * 60} s; lower it or raise time"
            )
        limit = self.minutes * 60
        # submitit/core/job_environment.py, has_timed_out
        most = int(max(0.2 * limit, 600)) - EARLY if limit > 600 else limit
        if self.signal_seconds > most:
            raise ValueError(
                f"signal_seconds={self.signal_seconds} must be at most {most} with time={self.time!r}: an earlier"
                " signal is taken for a preemption, which requeues do not count; lower it or raise time"
            )
        return self

    @model_validator(mode="after")
    def _pack(self) -> Resources:
        if self.pack > 1 and self.ranks > 1:
            raise ValueError(
                f"pack={self.pack} must be 1 where {self.ranks} processes share each stage; write pack = 1 in the same"
                " table, or leave processes and nodes out"
            )
        if self.workers > self.pack:
            raise ValueError(
                f"workers={self.workers} must be at most pack={self.pack}, the stages that a job has for them; raise"
                " pack, or lower workers"
            )
        return self

    def parameters(self) -> dict[str, Any]:
        """Keyword arguments of submitit's AutoExecutor.update_parameters, without names and dependencies."""
        srun = []
        if self.ranks > 1:
            srun.append("--kill-on-bad-exit=1")  # else the others wait for a dead rank until the time limit
        if self.cpus > 1:
            srun.append(f"--cpus-per-task={self.cpus}")  # since Slurm 22.05 srun no longer takes it from sbatch
        given = {
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": self.constraint,
            "slurm_mem": self.memory,
            "gpus_per_node": self.gpus or None,
            "slurm_setup": list(self.setup) or None,
            "slurm_srun_args": srun or None,
        }
        return {name: value for name, value in given.items() if value is not None} | {
            "timeout_min": self.minutes,
            "nodes": self.nodes,
            "tasks_per_node": self.processes,
            "cpus_per_task": self.cpus,
            "slurm_array_parallelism": self.parallel,
            "slurm_signal_delay_s": self.signal_seconds,
            "slurm_additional_parameters": {
                "requeue": True,
                **{key.replace("_", "-"): value for key, value in self.extra.items() if value is not False},
            },
        }


@dataclass(frozen=True)
class Cluster:
    path: Path
    tables: dict[str, Resources]
    """all, and those of its kinds that differ"""

    @property
    def lasting(self) -> str:
        """Path that finds the file from another folder: within the snapshot of the code where it is part of that."""
        return self.path.stem if self.path.parent == SHIPPED else str(self.path)

    @property
    def packed(self) -> bool:
        """Whether some jobs run several stages; then all wait for the ends of others, and look what became of them."""
        return any(table.pack > 1 for table in self.tables.values())

    def of(self, kind: str) -> Resources:
        return self.tables.get(kind, self.tables["all"])


def read(name_or_path: str | Path = DEFAULT) -> Cluster:
    """A file, or the name of one in slurm/clusters; cluster.toml of the working directory unless told."""
    path = _find(str(name_or_path))
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be a TOML file: {error}") from None
    return from_text(text, path)


def from_text(text: str, path: Path) -> Cluster:
    """The resources in a file's text; path is the file's. UserError names it, and what cannot be."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} must be a TOML file: {error}") from None
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            close = near(name, TABLES)
            what = f"did you mean [{close[0]}]?" if close else f"tables are {', '.join(TABLES)}"
            raise UserError(f"{path}: {name} is no table of resources; {what}")
    common = tables.pop("all", {})
    try:
        return Cluster(path, {name: build(Resources, common | own) for name, own in ({"all": {}} | tables).items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _find(name: str) -> Path:
    for path in (Path(name), SHIPPED / f"{name}.toml"):
        if path.is_file():
            return path.resolve()
    shipped = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    if name == DEFAULT:
        raise UserError(
            f"{DEFAULT} must be in the working directory, or another file or name told; tokenbridge cluster init writes"
            f" one, or copy {SHIPPED / 'example.toml'}"
        )
    raise UserError(f"{name} is neither a file with resources nor one of {', '.join(shipped)}")
