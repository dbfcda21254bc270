"""The MLflow run of a sweep, under which those of its cells lie: what they share, what varies, the best of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.tracking.content import Content, Status, spell
from experiments.tracking.views import MEMBER, direction, member_tag, of_sweep
from tokenbridge.overrides import flatten
from tokenbridge.stages import kind_of
from tokenbridge.store.artifacts import Store, digest
from tokenbridge.store.runs import Measured, RecordedCell, StageFiles, Sweep, is_sweep, read_metrics, read_sweep

FORMAT = 2
"""raise it when the content changes"""
VALUES_SHOWN = 12
"""of a setting that varies, in the note"""


class SweepRecord:
    kind, parent = "sweep", ""

    def __init__(self, store: Store, name: str, cells: Sequence[RecordedCell], stages: StageFiles):
        self.store, self.id, self.name, self.stages = store, name, name, stages
        self.cells = sorted(cells, key=lambda cell: cell.name)
        self.submission: Sweep | None = read_sweep(store, name) if is_sweep(store, name) else None
        self.command = self.submission.command if self.submission else ""
        states = {id: stages.stamps(id) for cell in self.cells for id in cell.stages.values()}
        self.signature = digest([FORMAT, self.command or None, [[cell.id, cell.name] for cell in self.cells], states])

    def content(self) -> Content:
        settings = [flatten(cell.config) for cell in self.cells]
        values = {key: list(dict.fromkeys(spell(each.get(key)) for each in settings)) for key in settings[0]}
        varying = {key: seen for key, seen in values.items() if len(seen) > 1}
        states = Counter(self._state(cell) for cell in self.cells)
        found = self._measured()
        best, of = _best(found)
        tags = {"sweep": self.id, "states": ", ".join(f"{state} {count}" for state, count in sorted(states.items()))}
        tags[member_tag(self.id)] = MEMBER
        if self.command:
            tags["command"] = self.command
        return Content(
            tags=tags | {f"best.{key.removeprefix('best/')}": name for key, name in of.items()},
            params={key: seen[0] for key, seen in values.items() if len(seen) == 1},
            metrics=best | {"cells": len(self.cells), "cells_finished": states["finished"]},
            seconds=self._seconds(),
            started=self.submission.submitted if self.submission else 0.0,
            status=_status(states),
            error=self.stages.failure([id for cell in self.cells for id in cell.stages.values()]),
            note=self._note(varying),
            view=of_sweep(self.id, list(varying), found),
        )

    def _state(self, cell: RecordedCell) -> str:
        if all(self.stages.finished(id) for id in cell.stages.values()):
            return "finished"
        return "failed" if self.stages.failure(cell.stages.values()) else "open"

    def _measured(self) -> dict[str, list[tuple[float, float, str]]]:
        """Metrics that say better or worse: of each cell that has one the images (negative), the value and the name."""
        found: dict[str, list[tuple[float, float, str]]] = {}
        read: dict[str, Measured] = {}
        for cell in self.cells:
            for kind, id in cell.stages.items():
                if not kind_of(kind).compared or not self.stages.stamps(id)[1]:
                    continue
                metrics, protocol, _ = read[id] = read.get(id) or read_metrics(self.store.folder(id))
                for name, value in metrics.items():
                    if direction(key := f"{kind}/{name}") and value == value:
                        found.setdefault(key, []).append((-float(protocol.get("images", 0)), value, cell.name))
        return found

    def _seconds(self) -> float:
        """From the submission to the last result so far; where nothing was submitted, those that its stages took."""
        stages = dict.fromkeys(id for cell in self.cells for id in cell.stages.values() if self.stages.finished(id))
        if self.submission is None:
            return sum(self.store.manifest(id).get("wall_seconds") or 0.0 for id in stages)
        ends = (self.stages.stamps(id)[0] for id in stages)
        last = max((end[0] / 1e9 for end in ends if end), default=0.0)
        return max(0.0, last - self.submission.submitted)

    def _note(self, varying: dict[str, list[str]]) -> str:
        lines = [f"{len(self.cells)} cells" + (", which differ in" if varying else "")]
        for key, seen in varying.items():
            more = f", … ({len(seen)})" if len(seen) > VALUES_SHOWN else ""
            lines.append(f"- `{key}`: {', '.join(sorted(seen[:VALUES_SHOWN], key=_order))}{more}")
        if self.command:
            lines += ["", f"`{self.command}`"]
        return "\n".join(lines)


def _status(states: Counter[str]) -> Status:
    if states["open"]:
        return "RUNNING"
    return "FAILED" if states["failed"] else "FINISHED"


def _best(found: Mapping[str, Sequence[tuple[float, float, str]]]) -> tuple[dict[str, float], dict[str, str]]:
    """best/<metric> and the name of the cell that has it, among those measured on the most images."""
    best, of = dict[str, float](), dict[str, str]()
    for key, seen in found.items():
        kind, _, metric = key.partition("/")
        name, sign = f"best/{metric if kind_of(kind).result == 'generation' else key}", direction(key)
        _, best[name], of[name] = min(seen, key=lambda each: (each[0], sign * each[1], each[2]))
    return best, of


def _order(text: str) -> tuple[float, str]:
    try:
        return float(json.loads(text)), text
    except (TypeError, ValueError):
        return 0.0, text
