"""The memory of what was sent to each tracking URI, in tracking.json of the runs folder.

It saves time and may be deleted. A batch that is under way stands in a file of its own, tracking-sending.json: it is
written twice for each, and the whole memory grows with the runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.tracking.content import Record, key_of
from tokenbridge.store.artifacts import Store, digest, write_atomic
from tokenbridge.store.runs import database

FILE, SENDING_FILE = "tracking.json", "tracking-sending.json"
SAVE_SECONDS, SAVE_SHARE = 2.0, 0.05
"""between two saves, at least; the share of the time that they may take"""
PARTS = ("records", "runs", "sending")


class Memory:
    """What was sent to one tracking URI."""

    def __init__(self, store: Store, uri: str):
        self.path, self.uri, self.key = store.root / FILE, uri, digest(uri)
        self.all = _read(self.path)
        here = self.all.setdefault(self.key, {})
        self.here = here
        self.sent: dict[str, list[Any]] = here.setdefault("records", {})
        """by record: its signature, and the run that its own lies under"""
        self.runs: dict[str, str] = here.setdefault("runs", {})
        older = here.pop("sending", {})
        self.all_sending = _read(store.root / SENDING_FILE)
        self.sending: dict[str, list[list[Any]]] = self.all_sending.setdefault(self.key, {})
        """by training: the points of a batch whose answer never came"""
        if older:  # where earlier versions kept them
            self.sending |= {id: points for id, points in older.items() if id not in self.sending}
            self._save_sending()
        self.saved, self.cost = time.monotonic(), 0.0

    def up_to_date(self, records: Sequence[Record], trusting: bool) -> bool:
        """Whether all was sent and nobody touched the store since.

        Args:
            records: what MLflow should have.
            trusting: believe a server to have what it got before; only of a local store can it be seen.
        """
        now = _stamp(self.uri)
        untouched = now is not None and now == self.here.get("stamp")
        return (untouched or (trusting and database(self.uri) is None)) and all(map(self.has, records))

    def has(self, record: Record) -> bool:
        return self.sent.get(key_of(record)) == [record.signature, self.runs.get(record.parent)]

    def has_content(self, record: Record) -> bool:
        """Whether all was sent but, maybe, which run its own lies under."""
        return self.sent.get(key_of(record), [None])[0] == record.signature

    def vanished(self, records: Sequence[Record]) -> bool:
        """Whether a row was sent that is not among the records of all that the runs folder has."""
        here = {key_of(record) for record in records}
        return any(key.startswith("row/") and key not in here for key in self.sent)

    def forget(self, key: str) -> None:
        self.sent.pop(key, None)
        self.runs.pop(key, None)

    def keep(self, record: Record) -> None:
        self.sent[key_of(record)] = [record.signature, self.runs.get(record.parent)]
        if time.monotonic() - self.saved > max(SAVE_SECONDS, self.cost / SAVE_SHARE):
            self.save()

    def remember(self, runs: Mapping[str, str]) -> None:
        self.runs |= runs

    def sends(self, training: str, points: Sequence[Sequence[Any]]) -> None:
        """Note a batch before it goes out, so that it is known after a kill; without points: the last one has arrived.

        Args:
            training: the training's key.
            points: of its curves, as they are sent.
        """
        if points:
            self.sending[training] = [list(point) for point in points]
        else:
            self.sending.pop(training, None)
        self._save_sending()

    def _save_sending(self) -> None:
        write_atomic(self.path.with_name(SENDING_FILE), json.dumps(self.all_sending).encode())

    def save(self) -> None:
        start = time.monotonic()
        write_atomic(self.path, json.dumps(self.all).encode())  # in one line, which is ten times as fast
        self.saved = time.monotonic()
        self.cost = self.saved - start

    def save_all_sent(self) -> None:
        self.here["stamp"] = _stamp(self.uri)
        self.save()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What was remembered; nothing where that is damaged: MLflow itself is asked then."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    parts = [content] if isinstance(content, dict) else []
    parts += [here for part in parts for here in part.values()]
    parts += [here.get(key, {}) for here in parts[1:] if isinstance(here, dict) for key in PARTS]
    whole = bool(parts) and all(isinstance(part, dict) for part in parts)
    return content if whole else {}


def _stamp(uri: str) -> list[Any] | None:
    """What tells whether anyone wrote to a local store since; None for a server."""
    path = database(uri)
    if path is None or not path.exists():
        return None
    stat = path.stat()
    return [stat.st_ino, stat.st_mtime_ns, stat.st_size]
