"""What a cluster has, as Slurm tells it, and a file of resources that fits it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slurm import scheduler
from tokenbridge.config import UserError
from tokenbridge.overrides import near

NO_LIMIT = 365 * 24 * 60
"""minutes that stand for none"""
TRAIN, OTHERS, SHORT = 8 * 60, 2 * 60, 30
"""minutes at most of a training, of other stages, and of those that take seconds"""
CPUS, FEW_CPUS = 8, 2
MEMORY, LITTLE_MEMORY = 64_000, 16_000
"""megabytes at most"""
SIGNAL = 180
"""seconds before the limit in which a training writes its checkpoint"""
SHARE = 0.9
"""of a node's memory that jobs are given; Slurm and the system have the rest"""


@dataclass(frozen=True)
class Partition:
    """A partition; of nodes that differ, the largest kind with the most GPUs."""

    name: str
    default: bool
    minutes: int
    nodes: int
    cpus: int
    """of a node"""
    memory: int
    """of a node, in megabytes"""
    gpus: int
    """of a node"""

    def __str__(self) -> str:
        limit = "no time limit" if self.minutes == NO_LIMIT else f"{self.minutes} min at most"
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        default = " (default)" if self.default else ""
        return f"{self.name}{default}: {self.nodes} nodes of {self.cpus} CPUs, {self.memory} MB{gpus}; {limit}"


def parse(text: str) -> list[Partition]:
    """The partitions that are up, from what scheduler.partitions prints; the default one first, then the larger."""
    kinds: dict[str, list[Partition]] = {}
    for line in text.splitlines():
        if len(fields := line.strip().split("|")) != 7:
            continue
        name, state, limit, nodes, cpus, memory, gres = fields
        if state != "up":
            continue
        seconds = scheduler.seconds(limit)  # infinite: none
        minutes = NO_LIMIT if seconds is None else max(1, int(seconds // 60))
        gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", gres))
        count, processors, megabytes = (int(number.rstrip("+")) for number in (nodes, cpus, memory))
        plain = name.removesuffix("*")
        kind = Partition(plain, name.endswith("*"), minutes, count, processors, megabytes, gpus)
        kinds.setdefault(plain, []).append(kind)
    largest = [max(each, key=lambda kind: (kind.gpus, kind.nodes * kind.cpus)) for each in kinds.values()]
    return sorted(largest, key=lambda kind: (not kind.default, -kind.nodes * kind.cpus, kind.name))


def chosen(partitions: Sequence[Partition], wanted: str | None) -> tuple[Partition, Partition]:
    """The partition of the stages that compute, and that of the short ones.

    Args:
        partitions: those that are up.
        wanted: name of the one to take for all; None: the default, or the one with GPUs where it has none.

    Raises:
        UserError: none is up, or none has this name.
    """
    if not partitions:
        raise UserError("no partition of this cluster is up; ask its administrators, or see sinfo")
    if wanted is not None:
        named = {each.name: each for each in partitions}
        if wanted not in named:
            close = near(wanted, named)
            hint = f"did you mean {close[0]}?" if close else f"partitions are {', '.join(named)}"
            raise UserError(f"--partition={wanted} is no partition that is up; {hint}")
        return named[wanted], named[wanted]
    main = next((each for each in partitions if each.gpus), partitions[0])
    short = next((each for each in partitions if not each.gpus), main)
    return main, short


def text_of(partitions: Sequence[Partition], wanted: str | None, account: str) -> str:
    """The text of a file of resources: one GPU a stage where there are GPUs, short stages without.

    Args:
        partitions: those that are up.
        wanted: as of `chosen`.
        account: the user's; empty for none.
    """
    main, short = chosen(partitions, wanted)
    sharing = max(1, main.gpus)
    cpus, minutes = min(CPUS, max(1, main.cpus // sharing)), min(OTHERS, main.minutes)
    memory = min(MEMORY, int(SHARE * main.memory / (sharing if main.gpus else max(1, main.cpus // cpus))))
    few = min(FEW_CPUS, short.cpus)
    small = [
        f'partition = "{short.name}"',
        *(["gpus = 0"] if main.gpus else []),
        f"cpus = {few}",
        f'memory = "{_memory(min(LITTLE_MEMORY, int(SHARE * short.memory * few / max(1, short.cpus))))}"',
        f"time = {min(SHORT, short.minutes)}",
        f"signal_seconds = {_signal(min(SHORT, short.minutes))}",
    ]
    several = f"# processes = {main.gpus}              # trains on all GPUs of a node, with gpus = {main.gpus}"
    return "\n".join(
        [
            "# Resources of the jobs, written by `tokenbridge cluster init`; adapt them (slurm/clusters/example.toml",
            "# explains each). None of it enters the id of a run. Slurm told of these partitions:",
            *(f"#   {each}" for each in partitions),
            "",
            "[all]",
            f'partition = "{main.name}"',
            f'account = "{account}"' if account else '# account = "…"             # Slurm names none of yours',
            *(["gpus = 1                    # on each node"] if main.gpus else []),
            f"cpus = {cpus}                    # of each process",
            f'memory = "{_memory(memory)}"              # of each node',
            f"time = {minutes}                  # minutes",
            f"signal_seconds = {_signal(minutes)}        # before the limit, to write a checkpoint in",
            "",
            "[train]",
            f"time = {min(TRAIN, main.minutes)}",
            f"signal_seconds = {_signal(min(TRAIN, main.minutes))}",
            *([several] if main.gpus > 1 else []),
            *(line for kind in ("quantizer", "next") for line in ("", f"[{kind}]", *small)),
            "",
        ]
    )


def _signal(minutes: int) -> int:
    """Seconds before a limit for a checkpoint: few where the limit is short."""
    return max(1, min(SIGNAL, minutes * 60 // 5))


def _memory(megabytes: int) -> str:
    return f"{megabytes // 1000}G" if megabytes >= 2000 else f"{max(1, megabytes)}M"
