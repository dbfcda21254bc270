"""Arrays of one row per image that processes fill together, at any pace, and that a kill leaves usable.

Each row is written at its place in the file, flushed to disk, and only then entered into the record: its CRC-32. What
the record holds and the files confirm is never made again. N images.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenbridge.store.artifacts import damaged, new_array, read_array

RECORD = "record.npy"


def progress(folder: Path) -> tuple[int, int]:
    """Numbers of finished rows and of all rows of a folder; (0, 0) where none was begun."""
    if not Rows.begun(folder):
        return 0, 0
    record = read_array(folder / RECORD)
    return int(np.count_nonzero(record)), len(record)


class Rows:
    """Arrays of a folder, by name, and the record of the rows that are in all of them."""

    def __init__(self, folder: Path, names: Sequence[str]):
        """Open what `create` made. Raises UserError for a file that is missing, cut or of another length."""
        self.folder, self.names = folder, tuple(names)
        arrays = {name: read_array(folder / f"{name}.npy") for name in (*self.names, "record")}
        self.count = len(arrays["record"])
        for name, array in arrays.items():
            if len(array) != self.count:
                raise damaged(folder / f"{name}.npy", f"it holds {len(array)} images, the record {self.count}")
        self._offsets = {name: array.offset for name, array in arrays.items()}

    @staticmethod
    def create(folder: Path, count: int, kinds: Mapping[str, tuple[Any, tuple[int, ...]]]) -> None:
        """New files for the rows of several arrays. The record of what is written comes last.

        Args:
            folder: where they lie.
            count: rows of each.
            kinds: dtype and shape of a row by name.
        """
        made = {folder / f"{name}.npy": (dtype, (count, *shape)) for name, (dtype, shape) in kinds.items()}
        made[unready := folder / f"{RECORD}.tmp"] = (np.uint32, (count,))
        try:
            for path, (dtype, shape) in made.items():
                new_array(path, dtype, shape).flush()
        except BaseException:  # a disk without room for them all
            for path in made:
                path.unlink(missing_ok=True)
            raise
        os.replace(unready, folder / RECORD)

    @staticmethod
    def begun(folder: Path) -> bool:
        return (folder / RECORD).exists()

    def array(self, name: str) -> NDArray[Any]:
        """One of the arrays, memory-mapped for reading."""
        return read_array(self.folder / f"{name}.npy")

    def write(self, first: int, **parts: NDArray[Any]) -> None:
        """Write rows from `first` on, of all arrays; they are on disk before the record says so."""
        assert parts.keys() == set(self.names), parts.keys()
        for name, rows in parts.items():
            self._put(name, first, rows)
        checks = [_check([rows[i] for rows in parts.values()]) for i in range(len(next(iter(parts.values()))))]
        self._put("record", first, np.array(checks, np.uint32))

    def missing(self, among: range | None = None) -> NDArray[np.int64]:
        """Numbers, ascending, of the rows (all, or `among` these) that are not as they were recorded."""
        arrays, record = [self.array(name) for name in self.names], self.array("record")

        def there(i: int) -> bool:
            return bool(record[i]) and _check([array[i] for array in arrays]) == record[i]

        return np.fromiter((i for i in among or range(self.count) if not there(i)), np.int64)

    def _put(self, name: str, first: int, rows: NDArray[Any]) -> None:
        # written, not through a map: where nodes share a file system, maps of one page would overwrite each other
        with open(self.folder / f"{name}.npy", "r+b") as file:
            file.seek(self._offsets[name] + first * (rows.nbytes // len(rows)))
            file.write(np.ascontiguousarray(rows).data)
            file.flush()
            os.fsync(file.fileno())


def _check(parts: Sequence[NDArray[Any]]) -> int:
    """CRC-32 of one row of all arrays, never 0: that stands for a row that is not written."""
    check = 0
    for part in parts:
        check = zlib.crc32(np.ascontiguousarray(part).data, check)
    return check or 1
