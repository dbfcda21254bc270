"""What MLflow shall hold, read from cells and stage folders as plain values; sending it is the part of tracking.py."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.tracking import pictures
from experiments.tracking.content import Content, Record, provenance, spell
from experiments.tracking.sweep_record import SweepRecord
from experiments.tracking.views import MEMBER, member_tag
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import telling
from tokenbridge.overrides import flatten
from tokenbridge.stages import kind_of, unmeasured
from tokenbridge.store.artifacts import MANIFEST, Store, digest, file_hash
from tokenbridge.store.runs import METRICS, RecordedCell, StageFiles, journal_of, measured, read_cells, read_journal

FORMAT = 3
"""raise it when the content of the records changes: everything is then sent anew"""
DIGEST = 12
"""characters of a data set's digest that its page has room for"""


class CellRecord:
    kind = "cell"

    def __init__(self, store: Store, cell: RecordedCell, stages: StageFiles):
        self.store, self.cell, self.id, self.name = store, cell, cell.id, cell.name
        self.parent = f"sweep/{cell.sweeps[0]}" if cell.sweeps else ""
        self.finished = {kind: id for kind, id in cell.stages.items() if stages.finished(id)}
        self.error = stages.failure(cell.stages.values())
        about = [cell.id, cell.name, cell.experiment, cell.stages, cell.sweeps]  # the id stands for the config
        self.signature = digest([FORMAT, about, [stages.stamps(id) for id in cell.stages.values()]])

    def content(self) -> Content:
        cell, folders = self.cell, {kind: self.store.folder(id) for kind, id in self.finished.items()}
        manifests = {kind: self.store.manifest(id) for kind, id in self.finished.items()}
        tags = {"cell": cell.id, "experiment": cell.experiment}
        if cell.sweeps:
            tags |= {"sweep": ", ".join(cell.sweeps)} | {member_tag(sweep): MEMBER for sweep in cell.sweeps}
        tags |= {f"stage.{kind}": id for kind, id in cell.stages.items()} | provenance(manifests)
        metrics: dict[str, float] = {}
        files: dict[str, bytes] = {}
        results = measured(self.store, self.finished, unmeasured())
        for kind, folder in folders.items():
            files[f"{kind}/{MANIFEST}"] = (folder / MANIFEST).read_bytes()
            if kind in results:
                metrics |= {f"{kind}/{name}": value for name, value in results[kind].metrics.items()}
                tags[f"protocol.{kind}"] = json.dumps(results[kind].protocol, sort_keys=True)
                files[f"{kind}/{METRICS}"] = (folder / METRICS).read_bytes()
            for name, arrays in kind_of(kind).pictures.items():
                files[f"{kind}/{name}"] = pictures.draw(folder / "examples.npz", *arrays)
        done = len(self.finished) == len(cell.stages)
        return Content(
            tags=tags,
            params={key: spell(value) for key, value in flatten(cell.config).items()},
            metrics={key: metrics[key] for key in dict.fromkeys([*telling(metrics), *metrics])},
            files=files,
            dataset=_dataset(cell, manifests.get("latents")),
            seconds=sum(manifest.get("wall_seconds") or 0 for manifest in manifests.values()),
            status="FINISHED" if done else "FAILED" if self.error else "RUNNING",
            error=self.error,
        )


class TrainingRecord:
    """The curves of a training stage, once for all cells that share it; also while it trains."""

    kind, parent = "training", ""

    def __init__(self, store: Store, id: str, cells: list[RecordedCell], stages: StageFiles):
        self.id, self.cells = id, sorted(cells, key=lambda cell: cell.name)
        self.done, self.error = stages.finished(id), stages.failure([id])
        self.store, self.stage = store, next(kind for kind, at in self.cells[0].stages.items() if at == id)
        self.name = f"{self.stage} {self.cells[0].name}"
        names, journal = [cell.name for cell in self.cells], stages.journal(id)
        self.started = journal is not None
        self.signature = digest([FORMAT, self.done, journal, names, self.error])

    def content(self) -> Content:
        cell = self.cells[0]
        manifest = self.store.manifest(self.id) if self.done else {}
        sections = kind_of(self.stage).all_sections
        config = {section: values for section, values in cell.config.items() if section in sections}
        points = [[f"{self.stage}/{key}", *rest] for key, *rest in read_journal(journal_of(self.store, self.id))]
        return Content(
            tags={"stage": self.id, "cells": ", ".join(c.name for c in self.cells)}
            | provenance({self.stage: manifest}),
            params={key: spell(value) for key, value in flatten(config).items()},
            points=points,
            seconds=manifest.get("wall_seconds") or 0,
            status="FINISHED" if self.done else "FAILED" if self.error else "RUNNING",
            error=self.error,
        )


class ReportRecord:
    """A report's pages, tables and figures."""

    kind, parent = "report", ""

    def __init__(self, name: str, folder: Path):
        self.id, self.name = name, f"report {name}"
        parts = [folder / name for name in ("index.html", "report.md", "paper.tex")]
        parts += [*(folder / "tables").rglob("*"), *(folder / "figures").rglob("*")]
        self.paths = {str(path.relative_to(folder)): path for path in sorted(parts) if path.is_file()}
        self.signature = digest([FORMAT, {name: file_hash(path) for name, path in self.paths.items()}])

    def content(self) -> Content:
        return Content(tags={"report": self.id}, files={name: path.read_bytes() for name, path in self.paths.items()})


def find_records(store: Store, ids: Iterable[str] | None) -> list[Record]:
    """Records of these cells (None: all), of their sweeps and of their trainings.

    Sweeps and trainings come first, as the runs of the cells lie under the ones and link to the others.
    """
    known = read_cells(store)
    ids = known if ids is None else list(dict.fromkeys(ids))
    for id in ids:
        if id not in known:
            raise UserError(f"cell {id} is not in {store.root / 'cells'}; run it, or choose its folder with --runs")
    cells, stages = sorted((known[id] for id in ids), key=lambda cell: cell.name), StageFiles(store)
    trained = dict.fromkeys(id for cell in cells for id in _trainings_of(cell))
    names = dict.fromkeys(name for cell in cells for name in cell.sweeps)
    members = {name: [cell for cell in known.values() if name in cell.sweeps] for name in names}
    sweeps = [SweepRecord(store, name, members[name], stages) for name in names]
    trainings = find_trainings(store, known, trained, stages)
    return [*sweeps, *trainings, *(CellRecord(store, cell, stages) for cell in cells)]


def find_trainings(
    store: Store, known: Mapping[str, RecordedCell], ids: Collection[str], stages: StageFiles
) -> list[TrainingRecord]:
    """Records of these training stages as far as they have begun."""
    sharing: dict[str, list[RecordedCell]] = {}
    for cell in known.values():
        for id in _trainings_of(cell):
            sharing.setdefault(id, []).append(cell)
    records = [TrainingRecord(store, id, sharing[id], stages) for id in ids if id in sharing]
    return [record for record in records if record.started]


def _trainings_of(cell: RecordedCell) -> list[str]:
    """Ids of the stages of a cell that leave curves."""
    return [id for kind, id in cell.stages.items() if kind_of(kind).curves]


def _dataset(cell: RecordedCell, latents: Mapping[str, Any] | None) -> tuple[str, str, str] | None:
    data = cell.config.get("data", {})
    if latents is None or not data:
        return None
    source = data.get("path") or "sklearn.datasets.load_digits"
    name = f"{Path(source).name if data.get('path') else data['source']}-{data['image_size']}"
    return name, str(latents["reads"]["images"])[:DIGEST], source
