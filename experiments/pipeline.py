"""RunConfig -> stages: which there are, what each reads, their ids. experiments/runner.py runs them.

latents ─ quantizer ─┬─ reconstruct
                     └─ train ─┬─ likelihood
                               └─ sample ─ score
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tokenbridge.artifacts import Store, digest, read_json, stage_id, writable, write_json
from tokenbridge.config import Autoencoder, Data, RunConfig, UserError
from tokenbridge.overrides import settings

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


def _images_drawn(config: RunConfig) -> float:
    return config.sample.images


@dataclass(frozen=True)
class Kind:
    """A kind of stage: what it needs, what it reads of the config, the function that does it."""

    name: str
    needs: tuple[str, ...]
    reads: Callable[[RunConfig], dict[str, Any]]
    version: int = 1
    resumable: bool = False
    seconds: float = 5.0
    """first guess of its time on the digits for one unit of work, until the store holds measured ones"""
    work: Callable[[RunConfig], float] = _one
    """what its time grows with"""

    @property
    def function(self) -> str:
        return {"quantizer": "tokenbridge.quantize"}.get(self.name, f"tokenbridge.{self.name}")


@cache
def _images(data: Data) -> str:
    from tokenbridge.data import fingerprint  # torch: only where an id is asked for

    return fingerprint(data)


@cache
def _weights(autoencoder: Autoencoder) -> str:
    from tokenbridge.autoencoder import fingerprint

    return fingerprint(autoencoder)


def _latents(config: RunConfig) -> dict[str, Any]:
    return {
        "data": config.data.model_dump(exclude={"path", "held_out_path"}),
        "images": _images(config.data),  # pyright: ignore[reportArgumentType] (frozen models hash)
        "autoencoder": _weights(config.autoencoder),  # pyright: ignore[reportArgumentType]
        "scale": config.latents.scale,
    }


def _quantizer(config: RunConfig) -> dict[str, Any]:
    if config.quantizer.kind == "identity":
        return {"kind": "identity"}
    return config.quantizer.model_dump(include={"kind", "levels", "range", "std_range", "edges", "per"})


def _extractor(config: RunConfig) -> dict[str, Any]:
    from tokenbridge.metrics.features import weights_hash

    return {"features": config.score.features, "weights": weights_hash(config.score.features)}


def _train(config: RunConfig) -> dict[str, Any]:
    return {
        "backbone": config.backbone.model_dump(),
        "head": config.head.trained(),
        "train": config.train.model_dump(),
    }


def _likelihood(config: RunConfig) -> dict[str, Any]:
    return {"weights": config.sample.weights}


def _sample(config: RunConfig) -> dict[str, Any]:
    """Settings at their defaults stay out, so that a new one changes no id."""
    start = {"start": config.head.start} if config.head.start != "trained" else {}
    return config.sample.model_dump(exclude_defaults=True) | start


def _score(config: RunConfig) -> dict[str, Any]:
    return config.score.model_dump() | _extractor(config)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("latents", (), _latents),
        Kind("quantizer", ("latents",), _quantizer),
        Kind("reconstruct", ("latents", "quantizer"), _extractor),
        Kind("train", ("latents", "quantizer"), _train, resumable=True, seconds=5, work=_training_work),
        Kind("likelihood", ("latents", "quantizer", "train"), _likelihood),
        Kind("sample", ("latents", "quantizer", "train"), _sample, seconds=0.012, work=_images_drawn),
        Kind("score", ("sample",), _score),
    )
}


def wanted_of(config: RunConfig) -> tuple[str, ...]:
    """All results that a config can have: continuous tokens are only reconstructed, for want of a head."""
    return RECONSTRUCTION if config.quantizer.kind == "identity" else RECONSTRUCTION + GENERATION


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

    @property
    def id(self) -> str:
        return digest(self.config.model_dump())

    def stages(self) -> list[Stage]:
        """In an order in which they can run. Raises UserError for a pair that cannot work, before anything runs."""
        if set(self.wanted) & set(GENERATION):
            self.config.require_pair()
        found: dict[str, Stage] = {}
        for name in self.wanted:
            _add(name, self, found)
        return list(found.values())


def _add(name: str, cell: Cell, found: dict[str, Stage]) -> None:
    if name in found:
        return
    if name not in KINDS:
        raise UserError(f"{name} is no stage; stages are {', '.join(KINDS)}")
    kind = KINDS[name]
    for needed in kind.needs:
        _add(needed, cell, found)
    inputs = {needed: found[needed].id for needed in kind.needs}
    id = stage_id(name, kind.version, kind.reads(cell.config), inputs)
    found[name] = Stage(kind, id, tuple(inputs.items()), cell.config, cell.name)


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


def record(store: Store, cells: Sequence[Cell], experiment: str) -> None:
    """Write runs/cells/<id>.json, from which tracking and tables find a cell's stages; kinds add up over calls."""
    folder = store.root / "cells"
    with writable(store.root):
        folder.mkdir(exist_ok=True)
        for cell in cells:
            path = folder / f"{cell.id}.json"
            before = read_json(path) if path.exists() else {"name": cell.name, "stages": {}}
            names = dict.fromkeys([*before["name"].split(JOINT), cell.name])
            entry = {
                "id": cell.id,
                "name": JOINT.join(names),
                "experiment": experiment,
                "config": cell.config.model_dump(),
                "stages": before["stages"] | {stage.kind.name: stage.id for stage in cell.stages()},
            }
            write_json(path, entry)


def differing(config: RunConfig, base: RunConfig) -> Mapping[str, Any]:
    """Dotted settings in which a config differs from its base."""
    before = settings(base)
    return {key: value for key, value in settings(config).items() if before[key] != value}
