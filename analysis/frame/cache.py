"""The frame of a SQLite store, kept beside it as an Arrow stream until somebody writes to the store.

A server cannot say cheaply whether anything changed, so its frames are not kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.frame.mlflow import database
from tokenbridge.config import RunConfig
from tokenbridge.overrides import settings

FORMAT = 2
"""raise it when the frame's columns, order or types change"""
KEY = b"tokenbridge"
"""of the stream's own notes: what the frame was made from, and which columns are JSON"""
WORD = 8
"""bytes"""
COUNTERS = slice(24, 28), slice(92, 96)
"""bytes of a SQLite file that every transaction changes: https://sqlite.org/fileformat.html"""


def cached(uri: str, read: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """read(), or what it gave before if the store is unchanged since. A cache that cannot be read is made anew; one
    that cannot be written is left out.
    """
    path = database(uri)
    stamp = None if path is None else stamp_of(path)
    if path is None or stamp is None:
        return read()
    file = file_of(path)
    with suppress(Exception):  # whatever a damaged file makes the reader raise, the store has the numbers
        frame = _load(file, stamp)
        if frame is not None:
            return frame
    frame = read()
    if stamp_of(path) == stamp:  # nobody wrote while it was read
        with suppress(OSError):
            _save(file, frame, stamp)
    return frame


def file_of(database: Path) -> Path:
    name = hashlib.sha256(str(database.resolve()).encode()).hexdigest()[:12]
    return database.parent / "cache" / f"frame-{name}.arrow"


def stamp_of(path: Path) -> str | None:
    """Changes whenever anybody commits to this SQLite file; None where there is none.

    Time and size can stay equal within one tick of the file system's clock; SQLite's own counters do not. With a
    write-ahead log, the log changes first.
    """
    try:
        stat = path.stat()
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return None
    parts: list[Any] = [FORMAT, pd.__version__, *settings(RunConfig)]
    parts += [stat.st_ino, stat.st_mtime_ns, stat.st_size, *(head[part].hex() for part in COUNTERS)]
    with suppress(OSError):
        log = path.with_name(f"{path.name}-wal").stat()
        parts += [log.st_mtime_ns, log.st_size]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _save(file: Path, frame: pd.DataFrame, stamp: str) -> None:
    """An Arrow stream, which is read in place, and the sum of its 64-bit words, which shows damage."""
    import pyarrow as pa

    objects = [str(name) for name in frame if frame[name].dtype == object]
    columns = {str(name): _column(values) for name, values in frame.items()}
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps({"stamp": stamp, "objects": objects}).encode()})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    content = stream.getvalue()
    words = np.frombuffer(content + bytes(-len(content) % WORD), np.uint64)
    file.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    os.close(handle)
    try:
        np.append(words, words.sum()).tofile(name)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _column(values: pd.Series) -> Any:
    """NaN stays a number: a mask beside the numbers would cost a copy. Arrow has one type a column and no None in it,
    so objects are JSON, each text once.
    """
    import pyarrow as pa

    if values.dtype == object:
        return pa.array(values.map(json.dumps)).dictionary_encode()
    return pa.array(values, from_pandas=False if values.dtype == float else None)


def _load(file: Path, stamp: str) -> pd.DataFrame | None:
    """None where it is another state of the store, or damaged."""
    if not file.exists():
        return None
    import pyarrow as pa

    words = np.memmap(file, np.uint64, "r")
    if words[:-1].sum() != words[-1]:
        return None
    with pa.ipc.open_stream(words[:-1]) as stream:
        notes = json.loads(stream.schema.metadata[KEY])
        if notes["stamp"] != stamp:
            return None
        table = stream.read_all()
    frame = table.drop_columns(notes["objects"]).to_pandas(ignore_metadata=True)  # the types say what its notes would
    for name in notes["objects"]:
        column = table[name].combine_chunks()
        seen = np.empty(len(column.dictionary), dtype=object)
        seen[:] = [json.loads(text) for text in column.dictionary.to_pylist()]
        frame.insert(table.column_names.index(name), name, pd.Series(seen[column.indices.to_numpy()], dtype=object))
    return frame
