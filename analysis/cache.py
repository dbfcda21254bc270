"""The frame of a SQLite store, kept as parquet beside it until somebody writes to the store.

A server cannot say cheaply whether anything changed, so its frames are not kept.
"""

from __future__ import annotations

import base64
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

from analysis.tracked import database
from tokenbridge.config import RunConfig
from tokenbridge.overrides import settings

FORMAT = 1
"""raise it when the frame's columns, order or types change"""
KEY = b"tokenbridge"
"""of the parquet file's own notes: what the frame was made from, and which columns are JSON"""
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
    return database.parent / "cache" / f"frame-{name}.parquet"


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
    import pyarrow as pa
    from pyarrow import parquet

    objects = [str(name) for name in frame if frame[name].dtype == object]
    texts = {name: frame[name].map(json.dumps) for name in objects}  # parquet has one type a column, and no None in it
    table = pa.Table.from_pandas(frame.assign(**texts), preserve_index=False)
    # most settings are the same in all runs; to read them again and again would take half of the time
    same = [
        name
        for name in table.column_names
        if not pa.types.is_floating(table[name].type) and len(table[name].unique()) == 1
    ]
    once = io.BytesIO()
    with pa.ipc.new_stream(once, table.schema) as stream:
        stream.write_table(table.slice(0, 1))
    notes = {"stamp": stamp, "objects": objects, "same": same, "once": base64.b64encode(once.getvalue()).decode()}
    table = table.drop_columns(same).replace_schema_metadata({KEY: json.dumps(notes).encode()})
    file.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    os.close(handle)
    try:
        # a dictionary helps where texts repeat; ids and numbers nearly all differ
        few: Any = [
            field.name
            for field in table.schema
            if pa.types.is_large_string(field.type) and 20 * len(table[field.name].unique()) < table.num_rows
        ]
        parquet.write_table(
            table, name, compression="none", use_dictionary=few, write_page_checksum=True, write_statistics=False
        )
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _load(file: Path, stamp: str) -> pd.DataFrame | None:
    """None where it is another state of the store."""
    if not file.exists():
        return None
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(file, memory_map=True, page_checksum_verification=True) as opened:
        notes = json.loads(opened.schema_arrow.metadata[KEY])
        if notes["stamp"] != stamp:
            return None
        varying = opened.read()
    once, same = pa.ipc.open_stream(base64.b64decode(notes["once"])).read_all(), set(notes["same"])
    columns = [
        pa.repeat(once[name][0], varying.num_rows) if name in same else varying[name] for name in once.column_names
    ]
    # the types say what pandas' own notes would say, which take longer to read than the numbers
    frame = pa.table(columns, schema=once.schema).to_pandas(split_blocks=True, ignore_metadata=True)
    for name in notes["objects"]:
        codes, texts = (
            (np.zeros(len(frame), int), once[name].to_pylist()) if name in same else pd.factorize(frame[name])
        )
        seen = np.empty(len(texts), dtype=object)
        seen[:] = [json.loads(text) for text in texts]
        frame[name] = pd.Series(seen[codes], dtype=object)
    return frame
