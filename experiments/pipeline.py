"""RunConfig -> stages: which there are, what each reads, their ids. experiments/runner.py runs them.

latents ─ quantizer ─┬─ reconstruct
                     └─ train ─┬─ likelihood
                               └─ sample ─ score
Trained tokens (vq, fsq, lfq) begin with `tokenizer`, the training of their autoencoder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from experiments import reads
from tokenbridge.config import CONTINUOUS, HEAD_KINDS, RunConfig, UserError
from tokenbridge.store.artifacts import Store, digest, read_json, stage_id, writable, write_json

EXPERIMENT = "tokenbridge"  # in MLflow
RECONSTRUCTION = ("reconstruct",)
GENERATION = ("likelihood", "score")
JOINT = " · "  # between the names of a cell that several tables share


def _one(config: RunConfig) -> float:
    return 1


def _training_work(config: RunConfig) -> float:
    """Epochs, times the matrix products of an image relative to the digits preset: roughly 6 operations a weight."""
    head, backbone, levels = config.head, config.backbone, config.token_levels
    tokens = config.positions + backbone.class_tokens
    work = 12 * backbone.width**2 * (backbone.encoder_depth + backbone.decoder_depth) * tokens
    if levels:
        steps = len(levels) // head.group
        classes = max(levels) ** head.group
        work += config.positions * steps * head.width * (18 * head.width * head.depth + classes)
    else:
        work += config.positions * head.multiplier * 5 * head.width**2 * head.depth
    return config.train.epochs * work / 31e6


def _tokenizer_epochs(config: RunConfig) -> float:
    return config.quantizer.epochs


def _images_drawn(config: RunConfig) -> float:
    return config.sample.images


def _head_width(config: RunConfig) -> float:
    return config.head.width / 64


@dataclass(frozen=True)
class Kind:
    """A kind of stage: what it needs, what it reads of the config, the function that does it."""

    name: str
    needs: tuple[str, ...]
    """`tokenizer` for trained tokens only; `train` needs nothing where its weights are imported"""
    reads: Callable[[RunConfig], dict[str, Any]]
    version: int = 1
    resumable: bool = False
    shared: bool = False
    """whether several processes (tokenbridge.distributed) do it together; else rank 0 alone, and the others wait"""
    seconds: float = 5.0
    """first guess of its time on the digits for one unit of work, until the store holds measured ones"""
    work: Callable[[RunConfig], float] = _one
    """what its time grows with"""
    sections: tuple[str, ...] = ()
    """of the config, all that `reads` looks at; given where many cells of a grid share the stage, so that its id is
    made once"""

    @property
    def function(self) -> str:
        return f"tokenbridge.stages.{self.name}"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("tokenizer", (), reads.tokenizer, seconds=8, work=_tokenizer_epochs),
        Kind(
            "latents",
            ("tokenizer",),
            reads.latents,
            resumable=True,
            shared=True,
            sections=("data", "autoencoder", "latents", "quantizer"),
        ),
        Kind("quantizer", ("tokenizer", "latents"), reads.quantizer, sections=("quantizer",)),
        Kind("reconstruct", ("tokenizer", "latents", "quantizer"), reads.reconstruct),
        Kind(
            "train",
            ("latents", "quantizer"),
            reads.train,
            resumable=True,
            shared=True,
            seconds=5,
            work=_training_work,
            sections=("backbone", "head", "train"),
        ),
        Kind("likelihood", ("latents", "quantizer", "train"), reads.likelihood),
        Kind(
            "sample",
            ("tokenizer", "latents", "quantizer", "train"),
            reads.sample,
            resumable=True,
            shared=True,
            seconds=0.012,
            work=_images_drawn,
        ),
        Kind("score", ("sample",), reads.score),
        Kind("speed", (), reads.speed, work=_head_width),
    )
}


def wanted_of(config: RunConfig) -> tuple[str, ...]:
    """All results that a config can have: continuous tokens with a head of levels are only reconstructed."""
    if config.quantizer.kind == "identity" and config.head.kind not in CONTINUOUS:
        return RECONSTRUCTION
    wanted = RECONSTRUCTION + GENERATION
    return wanted if _no_likelihood(config) is None else tuple(kind for kind in wanted if kind != "likelihood")


def generated(config: RunConfig) -> tuple[str, ...]:
    """What is wanted of a generator: reconstructions have tables of their own."""
    found = tuple(kind for kind in wanted_of(config) if kind not in RECONSTRUCTION)
    # trained tokenizers stand in no table of reconstructions, and figure 5 shows them
    return (*RECONSTRUCTION, *found) if config.quantizer.trained else found


def _no_likelihood(config: RunConfig) -> str | None:
    """Why a config has no bits per dimension, None where it has."""
    if config.quantizer.trained:
        return f"quantizer.kind={config.quantizer.kind} has latents of its own, whose bits no other tokens share"
    if not HEAD_KINDS[config.head.kind].density:
        return f"head.kind={config.head.kind} has no exact density"
    return None


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
        """In an order in which they can run. Raises UserError for a pair that cannot work, before anything runs."""
        return self._stages

    @cached_property
    def _stages(self) -> list[Stage]:
        if set(self.wanted) & set(GENERATION):
            self.config.require_pair()
        if "likelihood" in self.wanted and (reason := _no_likelihood(self.config)):
            raise UserError(f"likelihood cannot be measured: {reason}; ask for other stages, such as score")
        found: dict[str, Stage] = {}
        for name in self.wanted:
            _add(name, self, found)
        return list(found.values())


def _add(name: str, cell: Cell, found: dict[str, Stage]) -> None:
    if name in found:
        return
    if name not in KINDS:
        raise UserError(f"{name} is no stage; stages are {', '.join(KINDS)}")
    kind, trained = KINDS[name], cell.config.quantizer.trained
    if name == "tokenizer" and not trained:
        raise UserError(f"tokenizer trains quantizer.kind=vq, fsq or lfq, not {cell.config.quantizer.kind}")
    imported = name == "train" and cell.config.train.released
    needs = [needed for needed in kind.needs if not imported and (needed != "tokenizer" or trained)]
    for needed in needs:
        _add(needed, cell, found)
    inputs = tuple((needed, found[needed].id) for needed in needs)
    found[name] = Stage(kind, _id(kind, inputs, cell.config), inputs, cell.config, cell.name)


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
    found: dict[str, Stage] = {}
    sharing: Counter[str] = Counter()
    for stage in (stage for cell in cells for stage in cell.stages()):
        found.setdefault(stage.id, stage)
        sharing[stage.id] += 1
    return {
        id: replace(stage, label=f"{stage.label} (+{sharing[id] - 1} cells)") if sharing[id] > 1 else stage
        for id, stage in found.items()
    }


def needing(ids: Iterable[str], stages: Mapping[str, Stage]) -> set[str]:
    """Ids of these stages and of all that need them, directly or through others; stages: inputs first."""
    found = set(ids)
    for stage in stages.values():
        if any(id in found for _, id in stage.inputs):
            found.add(stage.id)
    return found


def record(store: Store, cells: Sequence[Cell], experiment: str, sweep: str = "") -> None:
    """Write runs/cells/<id>.json, from which tracking and tables find a cell's stages; kinds and sweeps add up."""
    folder = store.root / "cells"
    with writable(store.root), store.lock("cells"):  # two sweeps may name the same cell at the same moment
        folder.mkdir(exist_ok=True)
        for cell in cells:
            path = folder / f"{cell.id}.json"
            before = read_json(path) if path.exists() else {"name": cell.name, "stages": {}}
            names = dict.fromkeys([*before["name"].split(JOINT), cell.name])
            sweeps = dict.fromkeys([*before.get("sweeps", ()), *filter(None, [sweep])])
            entry = {
                "id": cell.id,
                "name": JOINT.join(names),
                "experiment": experiment,
                "config": cell.config.model_dump(),
                "stages": before["stages"] | {stage.kind.name: stage.id for stage in cell.stages()},
                "sweeps": list(sweeps),
            }
            write_json(path, entry)
