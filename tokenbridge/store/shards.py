"""Filling one array in shards: what a kill left is checked and kept, and several processes each fill their own.

A shard is a range of rows. When its rows are on the disk, a note beside the array holds the SHA-256 of their bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray

from tokenbridge.config import UserError
from tokenbridge.distributed import World
from tokenbridge.store.artifacts import file_hash, new_array, read_json, write_json

NOTES = "shards"
"""folder of notes in a store under way"""
SUMS = "checksums.json"
"""file in a finished store"""
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

    def fill(self, world: World, rows: Callable[[range], NDArray[Any]]) -> None:
        """Compute those of this process's shards that are not finished.

        Args:
            world: this process among those that share the shards.
            rows: computes the array's rows of a range, of at most `shard` rows.
        """
        array = open_memmap(self.path, mode="r+")
        starts = range(0, self.shape[0], self.shard)
        for number in range(world.rank, len(starts), world.size):
            chosen = range(starts[number], min(starts[number] + self.shard, self.shape[0]))
            note = self.notes / f"{number}.json"
            if note.exists():
                if read_json(note) == _about(array, chosen):
                    continue
                print(f"{self.path} has lost rows {chosen.start} to {chosen.stop - 1}; they are made again", flush=True)
                note.unlink()
            array[chosen.start : chosen.stop] = rows(chosen)
            array.flush()
            write_json(note, _about(array, chosen))

    def begun(self) -> bool:
        """Whether there is a finished shard."""
        return any(self.notes.glob("*.json"))

    def sums(self) -> list[dict[str, Any]]:
        """Notes of all shards in order, once all are finished."""
        count = len(range(0, self.shape[0], self.shard))
        return [read_json(self.notes / f"{number}.json") for number in range(count)]

    def _usable(self) -> bool:
        try:
            there = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError):
            return False
        return there.shape == self.shape and there.dtype == np.dtype(self.dtype)


def publish(folder: Path, fillings: list[Filling], others: list[Path]) -> None:
    """Write the checksums of the filled arrays and of other small files, and delete the notes.

    Args:
        folder: the stage's.
        fillings: its arrays, all finished.
        others: files beside them.
    """
    arrays = {filling.path.name: filling.sums() for filling in fillings}
    write_json(folder / SUMS, {"arrays": arrays, "files": {path.name: file_hash(path) for path in others}})
    shutil.rmtree(folder / NOTES)


def damaged(folder: Path) -> Iterator[str]:
    """Name each part of a finished store that does not match its checksums. UserError where it has none."""
    if not (folder / SUMS).exists():
        raise UserError(f"{folder} was written without checksums and cannot be checked; {REMEDY} to have them")
    sums = read_json(folder / SUMS)
    for name, shards in sums["arrays"].items():
        try:
            array = np.load(folder / name, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            yield f"{name} is missing or cut"
            continue
        for shard in shards:
            rows = range(shard["start"], shard["stop"])
            if len(array) < rows.stop or _about(array, rows) != shard:
                yield f"{name}, rows {rows.start} to {rows.stop - 1}"
    for name, sha256 in sums["files"].items():
        if not (folder / name).is_file() or file_hash(folder / name) != sha256:
            yield name


def _about(array: NDArray[Any], rows: range) -> dict[str, Any]:
    content = np.ascontiguousarray(array[rows.start : rows.stop])
    return {"start": rows.start, "stop": rows.stop, "sha256": hashlib.sha256(content.data).hexdigest()}
