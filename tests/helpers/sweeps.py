"""Sweeps as their jobs leave them: real records, stage folders and events, made in milliseconds."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from slurm import sweep as records
from slurm.sweep import Job
from tokenbridge.store.artifacts import MANIFEST, PROGRESS, Store
from tokenbridge.store.runs import JOURNAL, CellStages, Sweep, write_event, write_sweep

KINDS = ("latents", "quantizer", "reconstruct", "train", "likelihood", "sample", "score")


@dataclass
class Small:
    """Cells over levels: all share the latents, each two cells (temperatures) a training."""

    store: Store
    cells: int = 4
    name: str = "small"
    first: int = 0
    jobs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        numbers = range(self.first, self.first + self.cells)
        self.sweep = Sweep(
            name=self.name,
            request={"tables": ["2a"]},
            cells={f"{number:012x}": self.cell(number) for number in numbers},
            cluster="example",
            code="sweeps/code/1",
            command=f"tokenbridge grid 2a --name {self.name} --on slurm",
            submitted=1_700_000_000.0 + self.first,
        )
        write_sweep(self.store, self.sweep)

    @staticmethod
    def cell(number: int) -> CellStages:
        key = {"latents": 0, "quantizer": number // 2, "reconstruct": number // 2, "train": number // 2}
        key["likelihood"] = number // 2
        ids = {kind: f"{kind}-{key.get(kind, number):012x}" for kind in KINDS}
        return CellStages(f"2a-b{number // 2:03d}-t{number % 2}", ids)

    def id(self, kind: str, number: int = 0) -> str:
        return self.cell(self.first + number).stages[kind]

    def submit(self, first: int = 100, stages: Iterable[str] | None = None, pack: int = 1) -> None:
        """One array a kind, `pack` stages a job, and the job that ends the round."""
        wanted = [*self.sweep.stages, self.sweep.last] if stages is None else list(stages)
        kinds = {**self.sweep.stages, self.sweep.last: "next"}
        arrays = {kind: first + n for n, kind in enumerate((*KINDS, "next"))}
        index = dict.fromkeys(arrays, 0)
        new = []
        for id in wanted:
            kind = kinds[id]
            job = f"{arrays[kind]}_{index[kind] // pack}" if kind != "next" else f"{arrays[kind]}"
            index[kind] += 1
            self.jobs[id] = job
            folder = f"sweeps/{self.name}/jobs/{first}"
            new.append(Job(id, job, self.name, folder, 1_700_000_000.0, packed=pack > 1 and kind != "next"))
        records.register(self.store, new)

    def finish(self, *ids: str, seconds: float = 10.0) -> None:
        for id in ids:
            folder = self.store.folder(id)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MANIFEST).write_text(json.dumps({"id": id, "wall_seconds": seconds}))

    def say(self, id: str, *events: str, **about: object) -> None:
        for event in events:
            write_event(self.store, id, event, {"job": self.jobs[id], "restart": 0, "host": "node1", **about})  # type: ignore[arg-type]

    def train(self, id: str, step: int = 45, steps: int = 100) -> None:
        """A training under way: a step a second."""
        folder = self.store.folder(f"{id}.partial")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS).write_text(json.dumps({"steps": steps}))
        lines = [json.dumps([key, 1.0 / at, at * 1000, at]) for at in range(1, step + 1) for key in ("loss", "rate")]
        (folder / JOURNAL).write_text("\n".join(lines) + "\n")

    def log(self, id: str, out: str = "", err: str = "") -> None:
        for stream, text in (("out", out), ("err", err)):
            job = records.jobs_by_stage(self.store)[id][-1]
            own = records.stage_log(self.store.root / job.folder, job.job, id, stream)  # type: ignore[arg-type]
            path = own if job.packed else job.log(self.store, stream)  # type: ignore[arg-type]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
