"""From configurations to a graph of stages with ids; tokenbridge.stages declares what each stage is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tokenbridge.config import RunConfig, UserError
from tokenbridge.stages import STAGES, Kind, measuring, require_batch
from tokenbridge.store.artifacts import Store, digest, stage_id
from tokenbridge.store.runs import RecordedCell, write_cells

RECONSTRUCTION = measuring("reconstruction")
GENERATION = measuring("generation")


def wanted_of(config: RunConfig) -> tuple[str, ...]:
    """All results that a config can have: continuous tokens with a head of levels are only reconstructed."""
    if config.sample.given:
        return tuple(name for name in GENERATION if STAGES[name].of_given)
    if config.quantizer.kind == "identity" and not config.head.continuous:
        return RECONSTRUCTION
    return tuple(name for name in RECONSTRUCTION + GENERATION if not STAGES[name].why_not(config))


def generated(config: RunConfig) -> tuple[str, ...]:
    """The results that are wanted of a generator: reconstructions have tables of their own."""
    results = tuple(name for name in wanted_of(config) if name not in RECONSTRUCTION)
    # trained tokenizers stand in no table of reconstructions, and figure 5 shows them
    return (*RECONSTRUCTION, *results) if config.quantizer.trained and not config.sample.given else results


@dataclass(frozen=True)
class Stage:
    """One stage of one or many cells: the config it reads, the ids of its inputs, its own id."""

    kind: Kind
    id: str
    inputs: tuple[tuple[str, str], ...]
    config: RunConfig
    label: str

    def about(self) -> dict[str, Any]:
        return {
            "kind": self.kind.name,
            "version": self.kind.version,
            "label": self.label,
            "reads": self.kind.reads(self.config),
            "inputs": dict(self.inputs),
            "config": self.config.model_dump(),
            "work": self.kind.work(self.config),
        }


@dataclass(frozen=True)
class Cell:
    """One RunConfig with a name, and which results are wanted of it (kinds; what they need comes along)."""

    name: str
    config: RunConfig
    wanted: tuple[str, ...] = RECONSTRUCTION + GENERATION

    @cached_property
    def id(self) -> str:
        return digest(self.config.model_dump())

    def stages(self) -> list[Stage]:
        """Its stages in an order in which they can run. Raises UserError for a pair that cannot work."""
        return self._stages

    @cached_property
    def _stages(self) -> list[Stage]:
        for name in self.wanted:
            if name not in STAGES:
                raise UserError(f"{name} is no stage; stages are {', '.join(STAGES)}")
        for kind in _needed(self.wanted, self.config):
            if reason := kind.why_not(self.config):
                raise UserError(reason)
        stages: dict[str, Stage] = {}
        for name in self.wanted:
            _add(STAGES[name], self, stages)
        if "train" in stages:
            require_batch(self.config)
        return list(stages.values())


def _needed(wanted: Iterable[str], config: RunConfig) -> Iterator[Kind]:
    """The wanted kinds and all that they need, inputs first; one may come several times."""
    for name in wanted:
        yield from _needed(STAGES[name].inputs(config), config)
        yield STAGES[name]


def _add(kind: Kind, cell: Cell, stages: dict[str, Stage]) -> None:
    """Add a stage of the cell after those that it needs."""
    if kind.name in stages:
        return
    needs = kind.inputs(cell.config)
    for name in needs:
        _add(STAGES[name], cell, stages)
    inputs = tuple((name, stages[name].id) for name in needs)
    stages[kind.name] = Stage(kind, _id(kind, inputs, cell.config), inputs, cell.config, cell.name)


_IDS: dict[tuple[Any, ...], str] = {}


def _id(kind: Kind, inputs: tuple[tuple[str, str], ...], config: RunConfig) -> str:
    if not kind.sections:
        return stage_id(kind.name, kind.version, kind.reads(config), dict(inputs))
    key = (kind.name, kind.version, inputs, *(getattr(config, section) for section in kind.sections))
    if key not in _IDS:
        _IDS[key] = stage_id(kind.name, kind.version, kind.reads(config), dict(inputs))
    return _IDS[key]


def graph(cells: Iterable[Cell]) -> dict[str, Stage]:
    """All stages of the cells by id, each once, inputs before what needs them; a shared one says how many share it."""
    stages: dict[str, Stage] = {}
    sharing: Counter[str] = Counter()
    for stage in (stage for cell in cells for stage in cell.stages()):
        stages.setdefault(stage.id, stage)
        sharing[stage.id] += 1
    return {
        id: replace(stage, label=f"{stage.label} (+{sharing[id] - 1} cells)") if sharing[id] > 1 else stage
        for id, stage in stages.items()
    }


def needing(ids: Iterable[str], stages: Mapping[str, Stage]) -> set[str]:
    """Ids of these stages and of all that need them, directly or through others.

    Args:
        ids: stages to begin with.
        stages: the graph by id, inputs before what needs them.
    """
    reached = set(ids)
    for stage in stages.values():
        if any(id in reached for _, id in stage.inputs):
            reached.add(stage.id)
    return reached


def record(store: Store, cells: Sequence[Cell], experiment: str, sweep: str = "") -> None:
    """Record cells in the runs folder, from which tracking and tables find their stages.

    Args:
        store: the runs folder.
        cells: those to record; one recorded before keeps its names and stages.
        experiment: EXPERIMENT of tokenbridge.store.runs; it is a tag of the cells' runs in MLflow.
        sweep: the sweep that they belong to; empty for none.
    """
    write_cells(store, [_recorded(cell, experiment, sweep) for cell in cells])


def _recorded(cell: Cell, experiment: str, sweep: str) -> RecordedCell:
    stages = {stage.kind.name: stage.id for stage in cell.stages()}
    return RecordedCell(cell.id, [cell.name], experiment, cell.config.model_dump(), stages, [sweep] if sweep else [])
