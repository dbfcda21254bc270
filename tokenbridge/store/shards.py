"""Filling one array in shards: what a kill left is checked and kept, and several processes each fill their own.

A shard is a range of rows. When its rows are on the disk, a note beside the array holds the SHA-256 of their bytes. The
notes of a finished store are in checksums.json, and readers compare each shard with its own when they first come to it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray

from tokenbridge.config import UserError
from tokenbridge.distributed import World
from tokenbridge.store.artifacts import (
    NOTES,
    SUMS,
    checked,
    damaged,
    file_hash,
    new_array,
    read_array,
    read_json,
    recorded,
    write_json,
)

REMEDY = "delete its folder and run again"


@dataclass(frozen=True)
class Filling:
    """An array of `shape` that grows in `folder`, `shard` rows at a time. Each process calls begin, then fill."""

    folder: Path
    name: str
    shape: tuple[int, ...]
    dtype: DTypeLike
    shard: int

    @property
    def notes(self) -> Path:
        return self.folder / NOTES / self.name

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.npy"

    def begin(self, world: World) -> None:
        """Rank 0 makes the array, unless an earlier try left it in this form."""
        if world.main:
            if not self._usable():
                shutil.rmtree(self.notes, ignore_errors=True)
                new_array(self.path, self.dtype, self.shape).flush()
            self.notes.mkdir(parents=True, exist_ok=True)
        world.barrier()

    def fill(self, world: World, rows: Callable[[Sequence[range]], Iterator[NDArray[Any]]]) -> None:
        """Compute those of this process's shards that are not finished.

        Args:
            world: this process among those that share the shards.
            rows: gives the array's rows of each of these ranges in turn, of at most `shard` rows; asked once for all,
                so that what it prepares ahead does not end with a shard.
        """
        array = open_memmap(self.path, mode="r+")
        chosen = dict(self._unfinished(world, array))
        for (number, shard), content in zip(chosen.items(), rows([*chosen.values()]), strict=True):
            array[shard.start : shard.stop] = content
            array.flush()
            write_json(self.notes / f"{number}.json", _about(array, shard))

    def _unfinished(self, world: World, array: NDArray[Any]) -> Iterator[tuple[int, range]]:
        starts = range(0, self.shape[0], self.shard)
        for number in range(world.rank, len(starts), world.size):
            chosen = range(starts[number], min(starts[number] + self.shard, self.shape[0]))
            note = self.notes / f"{number}.json"
            if note.exists():
                if _read(note) == _about(array, chosen):
                    continue
                print(f"{self.path} has lost rows {chosen.start} to {chosen.stop - 1}; they are made again", flush=True)
                note.unlink()
            yield number, chosen

    def begun(self) -> bool:
        """Whether there is a finished shard."""
        return any(self.notes.glob("*.json"))

    def sums(self) -> list[dict[str, Any]]:
        """Notes of all shards in order, once all are finished."""
        count = len(range(0, self.shape[0], self.shard))
        return [_read(self.notes / f"{number}.json") for number in range(count)]

    def _usable(self) -> bool:
        try:
            there = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        return there.shape == self.shape and there.dtype == np.dtype(self.dtype)


def publish(folder: Path, fillings: list[Filling]) -> None:
    """Write the checksums of the filled arrays; the notes stay until the stage is published.

    Args:
        folder: the stage's.
        fillings: its arrays, all finished.
    """
    write_json(folder / SUMS, {"arrays": {filling.path.name: filling.sums() for filling in fillings}})


class Shards:
    """A finished array whose shards are checked as they are first read, once in a process.

    One that was made without checksums is taken as it is.
    """

    _seen: ClassVar[dict[tuple[Any, ...], NDArray[np.bool_]]] = {}
    """by file and what changes when it is written: which shards were checked"""

    def __init__(self, path: Path):
        """Raises UserError for a file that is damaged or that has other rows than its checksums."""
        self.path, self.mapped = path, read_array(path)
        # memmap's own indexing is slower
        self.array: NDArray[Any] = np.asarray(self.mapped)
        self.shards = _sums(path.parent).get(path.name, [])
        self._stops = np.array([shard["stop"] for shard in self.shards], np.int64)
        if self.shards and self._stops[-1] != len(self.array):
            raise damaged(path, f"it holds {len(self.array)} rows, its checksums {self._stops[-1]}")
        stat = path.stat()
        key = (str(path.resolve()), stat.st_ino, stat.st_mtime_ns, stat.st_size)
        self._checked = self._seen.setdefault(key, np.zeros(len(self.shards), np.bool_))

    def check(self, index: NDArray[np.int64] | slice) -> None:
        """Compare the shards of these rows with their checksums. UserError names rows that are not as written."""
        if self._checked.all():
            return
        rows = np.arange(len(self.array))[index]
        for number in np.unique(np.searchsorted(self._stops, rows, side="right")):
            if not self._checked[number]:
                self._require(self.shards[number])
                self._checked[number] = True

    def _require(self, shard: dict[str, Any]) -> None:
        if _about(self.array, rows := range(shard["start"], shard["stop"])) != shard:
            raise damaged(self.path, f"rows {rows.start} to {rows.stop - 1} are not what was written")


def check(folder: Path) -> None:
    """Compare all of a finished store with its checksums. UserError names what is damaged, or that it has none."""
    if not (folder / SUMS).exists():
        raise UserError(f"{folder} was written without checksums and cannot be checked; {REMEDY} to have them")
    for name in _sums(folder):
        array = Shards(folder / name)
        for shard in array.shards:
            array._require(shard)
    for name, sha256 in recorded(folder).items():
        if not (folder / name).is_file() or file_hash(folder / name) != sha256:
            raise damaged(folder / name, "it is not what was written")


def _sums(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By file name, the checksums of a finished store's shards in order; empty where it has none."""
    path = folder / SUMS
    if not path.exists():
        return {}
    try:
        return read_json(checked(path), f"delete {folder} and run again")["arrays"]
    except (TypeError, KeyError) as error:
        raise damaged(path, f"it lacks {error}") from error


def _read(note: Path) -> Any:
    """A note; None where it is damaged, so that its shard is made again."""
    try:
        return read_json(note)
    except UserError:
        return None


def _about(array: NDArray[Any], rows: range) -> dict[str, Any]:
    content = np.ascontiguousarray(array[rows.start : rows.stop])
    return {"start": rows.start, "stop": rows.stop, "sha256": hashlib.sha256(content.data).hexdigest()}
