"""What tracking reads of a runs folder: cells, and how far each of their stages is."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenbridge.config import UserError
from tokenbridge.store.artifacts import JOURNAL, MANIFEST, Store, read_json

Stamp = list[int] | None
"""time of change and size of a file; None where there is none"""


@dataclass(frozen=True)
class Cell:
    """cells/<id>.json: one RunConfig, the stages that it runs, the sweeps that it belongs to."""

    id: str
    name: str
    experiment: str
    config: dict[str, Any]
    stages: dict[str, str]
    sweeps: list[str] = field(default_factory=list)


def read_cells(store: Store) -> dict[str, Cell]:
    """All cells of a store by id."""
    cells = {}
    for path in sorted((store.root / "cells").glob("*.json")):
        try:
            cells[path.stem] = Cell(**read_json(path))
        except TypeError as error:
            raise UserError(f"{path} is no cell ({error}); delete it and run again") from error
    return cells


class Stages:
    """The stages' folders, each looked at once: the cells of a sweep share most of them."""

    def __init__(self, store: Store):
        self.root, self.events = str(store.root / "stages"), str(store.root / "sweeps" / "events")
        self.seen: dict[str, tuple[Stamp, Stamp, Stamp]] = {}
        self.journals: dict[str, Stamp] = {}
        self.failures: dict[str, str] = {}

    def stamps(self, id: str) -> tuple[Stamp, Stamp, Stamp]:
        """Of the manifest, of the metrics and, unless it is finished, of what jobs said of it."""
        if id not in self.seen:
            folder = f"{self.root}/{id}"
            manifest = _stamp(f"{folder}/{MANIFEST}")
            if manifest:
                self.seen[id] = manifest, _stamp(f"{folder}/metrics.json"), None
            else:
                self.seen[id] = None, None, _stamp(f"{self.events}/{id}.jsonl")
        return self.seen[id]

    def finished(self, id: str) -> bool:
        return self.stamps(id)[0] is not None

    def journal(self, id: str) -> Stamp:
        """Of a training's journal, finished or under way."""
        if id not in self.journals:
            folder = f"{self.root}/{id}" if self.finished(id) else f"{self.root}/{id}.partial"
            self.journals[id] = _stamp(f"{folder}/{JOURNAL}")
        return self.journals[id]

    def failure(self, id: str) -> str:
        """Last line of the error of a stage whose last job failed; nothing where it did not."""
        if self.stamps(id)[2] is None:
            return ""
        if id not in self.failures:
            self.failures[id] = _failure(Path(self.events, f"{id}.jsonl"))
        return self.failures[id]


def _failure(path: Path) -> str:
    last: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # what a kill has cut, or what is being written, and empty lines
            last = json.loads(line)
    if last.get("event") != "failed":
        return ""
    lines = str(last.get("error") or "").strip().splitlines()
    return lines[-1].strip() if lines else "no word of why"


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


def _stamp(path: str) -> Stamp:
    try:
        stat = os.stat(path)  # noqa: PTH116 - pathlib takes three times as long, and there may be thousands
    except FileNotFoundError:
        return None
    return [stat.st_mtime_ns, stat.st_size]
