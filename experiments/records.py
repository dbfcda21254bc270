"""What MLflow shall hold, read from cells and stage folders as plain values; sending it is the part of tracking.py."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from experiments.pictures import PICTURES
from tokenbridge.artifacts import JOURNAL, MANIFEST, Store, digest, file_hash, read_journal, read_json
from tokenbridge.config import UserError

FORMAT = 1
"""raise it when the content of the records changes: everything is then sent anew"""
UNMEASURED = ("latents", "train")
"""stages that may leave no metrics.json"""
DIGEST = 12
"""characters of a data set's digest that its page has room for"""
CURVES_READ = ("data", "autoencoder", "latents", "quantizer", "backbone", "head", "train")
"""sections of a config that a training stage depends on"""


@dataclass(frozen=True)
class Content:
    """One MLflow run. points: journal lines [key, value, timestamp in ms, step]; files: artifact path -> bytes."""

    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    points: list[list[Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    dataset: tuple[str, str, str] | None = None
    """name, digest, source"""
    seconds: float = 0.0
    done: bool = True


class Record(Protocol):
    """Something that has one MLflow run. signature is cheap and changes whenever content() does."""

    kind: str
    id: str
    name: str
    signature: str

    def content(self) -> Content: ...


@dataclass(frozen=True)
class Cell:
    """cells/<id>.json: one RunConfig and the stages that it runs."""

    id: str
    name: str
    experiment: str
    config: dict[str, Any]
    stages: dict[str, str]


def read_cells(store: Store) -> dict[str, Cell]:
    """All cells of a store by id."""
    cells = {}
    for path in sorted((store.root / "cells").glob("*.json")):
        try:
            cells[path.stem] = Cell(**read_json(path))
        except TypeError as error:
            raise UserError(f"{path} is no cell ({error}); delete it and run again") from error
    return cells


class CellRecord:
    kind = "cell"

    def __init__(self, store: Store, cell: Cell):
        self.store, self.cell, self.id, self.name = store, cell, cell.id, cell.name
        folders = {kind: store.folder(id) for kind, id in cell.stages.items()}
        stamps = {
            kind: [_stamp(folder / MANIFEST), _stamp(folder / "metrics.json")] for kind, folder in folders.items()
        }
        self.finished = {kind: cell.stages[kind] for kind, (manifest, _) in stamps.items() if manifest}
        self.signature = digest([FORMAT, vars(cell), stamps])

    def content(self) -> Content:
        cell, folders = self.cell, {kind: self.store.folder(id) for kind, id in self.finished.items()}
        manifests = {kind: self.store.manifest(id) for kind, id in self.finished.items()}
        tags = {"cell": cell.id, "experiment": cell.experiment}
        tags |= {f"stage.{kind}": id for kind, id in cell.stages.items()} | _provenance(manifests)
        metrics: dict[str, float] = {}
        files: dict[str, bytes] = {}
        for kind, folder in folders.items():
            files[f"{kind}/{MANIFEST}"] = (folder / MANIFEST).read_bytes()
            path = folder / "metrics.json"
            if kind not in UNMEASURED or path.exists():
                measured, protocol = read_metrics(path)
                metrics |= {f"{kind}/{name}": value for name, value in measured.items()}
                tags[f"protocol.{kind}"] = json.dumps(protocol, sort_keys=True)
                files[f"{kind}/metrics.json"] = path.read_bytes()
            if kind in PICTURES:
                name, draw = PICTURES[kind]
                files[f"{kind}/{name}"] = draw(folder / "examples.npz")
        return Content(
            tags=tags,
            params={key: spell(value) for key, value in flatten(cell.config).items()},
            metrics=metrics,
            files=files,
            dataset=_dataset(cell, manifests.get("latents")),
            seconds=sum(manifest.get("wall_seconds") or 0 for manifest in manifests.values()),
            done=len(self.finished) == len(cell.stages),
        )


class TrainingRecord:
    """The curves of a training stage, once for all cells that share it; also while it trains."""

    kind = "training"

    def __init__(self, store: Store, id: str, cells: list[Cell]):
        self.id, self.cells = id, sorted(cells, key=lambda cell: cell.name)
        self.done = store.finished(id)
        self.folder = store.folder(id) if self.done else store.folder(f"{id}.partial")
        self.name = f"train {self.cells[0].name}"
        self.signature = digest([FORMAT, self.done, _stamp(self.folder / JOURNAL), [cell.name for cell in self.cells]])

    @property
    def started(self) -> bool:
        return (self.folder / JOURNAL).exists()

    def content(self) -> Content:
        cell = self.cells[0]
        manifest = read_json(self.folder / MANIFEST) if self.done else {}
        config = {section: values for section, values in cell.config.items() if section in CURVES_READ}
        points = [[f"train/{key}", *rest] for key, *rest in read_journal(self.folder / JOURNAL)]
        return Content(
            tags={"stage": self.id, "cells": ", ".join(c.name for c in self.cells)} | _provenance({"train": manifest}),
            params={key: spell(value) for key, value in flatten(config).items()},
            points=points,
            seconds=manifest.get("wall_seconds") or 0,
            done=self.done,
        )


class ReportRecord:
    """A report's page, tables and figures."""

    kind = "report"

    def __init__(self, name: str, folder: Path):
        self.id, self.name = name, f"report {name}"
        parts = [folder / "index.html", *(folder / "tables").rglob("*"), *(folder / "figures").rglob("*")]
        self.paths = {str(path.relative_to(folder)): path for path in sorted(parts) if path.is_file()}
        self.signature = digest([FORMAT, {name: file_hash(path) for name, path in self.paths.items()}])

    def content(self) -> Content:
        return Content(tags={"report": self.id}, files={name: path.read_bytes() for name, path in self.paths.items()})


def find_records(store: Store, ids: Iterable[str] | None) -> list[Record]:
    """Records of these cells (None: all) and their trainings; these first, as the runs of the cells link to them."""
    known = read_cells(store)
    ids = known if ids is None else list(dict.fromkeys(ids))
    for id in ids:
        if id not in known:
            raise UserError(f"cell {id} is not in {store.root / 'cells'}; run it, or choose its folder with --runs")
    cells = [known[id] for id in ids]
    wanted = dict.fromkeys(cell.stages["train"] for cell in cells if "train" in cell.stages)
    trainings = [
        TrainingRecord(store, id, [cell for cell in known.values() if cell.stages.get("train") == id]) for id in wanted
    ]
    return [*(training for training in trainings if training.started), *(CellRecord(store, cell) for cell in cells)]


def read_metrics(path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and protocol of a finished stage. NaN and infinity are values; text and null are not."""
    content = read_json(path)
    metrics = content.get("metrics") if isinstance(content, dict) else None
    if not isinstance(metrics, dict):
        raise UserError(f'{path} must hold {{"metrics": …, "protocol": …}}; delete its folder and run again')
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{path}: {name}={value!r} must be a number; delete its folder and run again")
    return {name: float(value) for name, value in metrics.items()}, content.get("protocol", {})


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def spell(value: Any) -> str:
    """A parameter as text that reads back exactly: JSON, and words as they are unless they would read as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except json.JSONDecodeError:
            return value
    return json.dumps(value)


def _provenance(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Code, libraries and machine of the stages; where they differ, each value once, in the order of the stages."""
    seen: dict[str, dict[str, None]] = {}
    for kind, manifest in manifests.items():
        flat = flatten({"git": manifest.get("git") or {}, "version": manifest.get("versions") or {}})
        flat |= {
            "host": manifest.get("host"),
            "cpu": manifest.get("cpu"),
            f"seconds.{kind}": manifest.get("wall_seconds"),
        }
        for key, value in flat.items():
            if value is not None:
                seen.setdefault(key, {})[spell(value) if isinstance(value, bool) else str(value)] = None
    return {key: ", ".join(values) for key, values in seen.items()}


def _dataset(cell: Cell, latents: Mapping[str, Any] | None) -> tuple[str, str, str] | None:
    data = cell.config.get("data", {})
    if latents is None or not data:
        return None
    source = data.get("path") or "sklearn.datasets.load_digits"
    name = f"{Path(source).name if data.get('path') else data['source']}-{data['image_size']}"
    return name, str(latents["reads"]["images"])[:DIGEST], source


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_mtime_ns, stat.st_size]
