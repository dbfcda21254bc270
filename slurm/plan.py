"""A graph of stages as arrays of jobs: one a kind, each stage waiting for those that it needs and for no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments.pipeline import KINDS, Stage, needing


@dataclass(frozen=True)
class Array:
    """Stages of one kind, submitted together."""

    kind: str
    stages: tuple[Stage, ...]


def arrays(stages: Iterable[Stage], most: int) -> list[Array]:
    """At most so many stages an array; what a stage needs is in an earlier one."""
    found = []
    by_kind: dict[str, list[Stage]] = {kind: [] for kind in KINDS}  # in an order in which they can run
    for stage in stages:
        by_kind[stage.kind.name].append(stage)
    for kind, same in by_kind.items():
        found += [Array(kind, tuple(same[first : first + most])) for first in range(0, len(same), most)]
    return found


def waits(stage: Stage, jobs: Mapping[str, str]) -> list[str]:
    """Jobs that a stage waits for: of those inputs that have one, in Slurm now or submitted with it."""
    return [jobs[id] for _, id in stage.inputs if id in jobs]


def around(ids: Iterable[str], stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """These stages, all that they need and all that needs them, directly or through others."""
    found = needing(ids, stages)
    for stage in reversed(list(stages.values())):
        if stage.id in found:
            found.update(id for _, id in stage.inputs)
    return {id: stage for id, stage in stages.items() if id in found}


def merged(jobs: Sequence[str]) -> list[str]:
    """Job ids for one dependency: whole arrays instead of their tasks, so that the list stays short."""
    return list(dict.fromkeys(job.partition("_")[0] for job in jobs))
