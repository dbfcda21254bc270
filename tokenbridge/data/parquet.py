"""Parquet files with a column of images and one of labels, as Hugging Face ships them. Without torch: planning asks.

An image is a struct with its file's bytes, or the bytes alone. Rows are read a group at a time, so images are read
quickest in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from tokenbridge.config import UserError
from tokenbridge.data import contents
from tokenbridge.data.folders import printable
from tokenbridge.data.shard_files import Sharded
from tokenbridge.data.sources import Given

IMAGE, LABEL = "image", "label"


@dataclass(frozen=True, slots=True)
class Row:
    """An image in a row of a group of a file."""

    file: Path
    column: str
    group: int
    row: int

    def open(self) -> Image.Image:
        held = _group(self.file, self.column, self.group)[self.row]
        data = held["bytes"].as_py() if pa.types.is_struct(held.type) else held.as_py()
        if data is None:
            raise ValueError("it holds no bytes")
        return Image.open(BytesIO(data))

    def __str__(self) -> str:
        return f"{self.file}, row {self.row} of group {self.group}, column {self.column}"


class Parquet(Sharded):
    """The rows of all files, in the order of their names."""

    ending = ".parquet"

    @property
    def column(self) -> str:
        return self.config.image_column or IMAGE

    @property
    def label_column(self) -> str:
        return self.config.label_column or LABEL

    def given(self, split: Given) -> tuple[list[Row], np.ndarray]:
        part, found = self.splits[split], self._index(split)
        groups = zip(found["files"].tolist(), found["groups"].tolist(), found["rows"].tolist(), strict=True)
        rows = [Row(part.files[file], self.column, group, row) for file, group, n in groups for row in range(n)]
        if not rows:
            raise UserError(f"{self.what} ({split}) holds no rows; correct the path")
        return rows, self.labels(split, len(rows))

    def numbers(self, split: Given) -> np.ndarray:
        return self._index(split)["labels"]

    def names(self) -> list[str]:
        """Of the first training file, where Hugging Face's datasets wrote them."""
        return json.loads(self._index("train")["names"].tobytes())

    def _index(self, split: Given) -> Mapping[str, NDArray[Any]]:
        """Groups of rows, labels and names of classes: read once of files that do not change."""
        part, label = self.splits[split], self.label_column if self.config.classes > 1 else ""
        what = f"parquet 1 {split} {self.column} {label}"
        return contents.kept(what, part.folder, part.files, lambda: _index(part.files, self.column, label))


def _index(files: Sequence[Path], image: str, label: str) -> dict[str, NDArray[Any]]:
    """File, place and rows of each group, the label of each row, names of classes (JSON); label: empty for none."""
    _group.cache_clear()  # the files may have changed since
    groups, labels = list[tuple[int, int, int]](), [np.zeros(0, np.int64)]
    for number, path in enumerate(files):
        counts = _rows(path, image, label)
        groups += [(number, group, count) for group, count in enumerate(counts)]
        labels += [_labels(path, label)] if label else []
    places = np.array(groups, np.int64).reshape(-1, 3)
    return {
        **{"files": places[:, 0], "groups": places[:, 1], "rows": places[:, 2]},
        "labels": np.concatenate(labels),
        "names": np.frombuffer(json.dumps(_names(files[0], label)).encode(), np.uint8),
    }


def _rows(path: Path, image: str, label: str) -> list[int]:
    """Rows of each group of a file. UserError for one that cannot be read, or lacks a column of images or labels."""
    with _readable(path), parquet.ParquetFile(path) as file:
        schema, head = file.schema_arrow, file.metadata
        counts = [head.row_group(group).num_rows for group in range(head.num_row_groups)]
    for setting, name in (("image_column", image), ("label_column", label)):
        if name and name not in schema.names:
            more = "; data.classes=1 reads no labels" if setting == "label_column" else ""
            raise UserError(
                f"{printable(path)} has no column {name} and has {', '.join(map(printable, schema.names))}; name it"
                f" with data.{setting}{more}"
            )
    kind: Any = schema.field(image).type
    inside = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {"bytes": kind}
    if not _binary(inside.get("bytes", pa.null())):
        raise UserError(
            f"column {image} of {printable(path)} is {kind} and must hold the bytes of image files; name another with"
            " data.image_column"
        )
    if label and not pa.types.is_integer(kind := schema.field(label).type):
        raise UserError(
            f"column {label} of {printable(path)} is {kind} and must be whole numbers; name another with"
            " data.label_column"
        )
    return counts


def _names(path: Path, label: str) -> list[str]:
    """Names of the classes that Hugging Face's datasets wrote into a file; none where they did not."""
    with _readable(path):
        about = (parquet.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(about)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _binary(kind: Any) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _labels(path: Path, column: str) -> np.ndarray:
    with _readable(path), parquet.ParquetFile(path) as file:
        held = file.read([column]).column(column)
    if held.null_count:
        raise UserError(
            f"column {column} of {printable(path)} has {held.null_count} empty rows, and each image has a label; give"
            " them, or data.classes=1"
        )
    return held.to_numpy().astype(np.int64)


@lru_cache(maxsize=2)
def _group(path: Path, column: str, group: int) -> Any:
    """The images of a group of rows, kept for the next ones."""
    with _readable(path), parquet.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read_row_group(group, columns=[column], use_threads=False).column(column)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for a file that is no whole parquet file into a UserError with its path."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{printable(path)} cannot be read as a parquet file ({reason}); get it again") from error
