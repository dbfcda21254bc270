"""Small data sets in the formats in which they are shipped, all of the same images."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

Pixels = np.ndarray


def drawn(count: int, side: int = 16, seed: int = 5, channels: int = 1) -> tuple[Pixels, Pixels]:
    """Images uint8 (N, side, side[, 3]), and labels of three classes in turn, int64 (N,)."""
    draws = np.random.default_rng(seed)
    shape = (count, side, side) if channels == 1 else (count, side, side, channels)
    return draws.integers(0, 256, shape, dtype=np.uint8), np.arange(count) % 3


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path, images: Pixels, labels: Pixels) -> Path:
    """Class folders 0, 1, 2, whose files sort as the images lie."""
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        (root / str(label) / f"{number:05}.png").write_bytes(png(pixels))
    return root


def write_parquet(
    path: Path,
    images: Sequence[Pixels],
    labels: Sequence[int] | Pixels,
    names: Sequence[str] = (),
    rows: int = 4,
    plain: bool = False,
) -> Path:
    """A file as Hugging Face's datasets write it, of groups of so many rows; plain: images as bytes alone."""
    files = [png(pixels) for pixels in images]
    column = files if plain else [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)]
    kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(column, kind), "label": pa.array(np.asarray(labels), pa.int64())})
    if names:
        about = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows)
    return path


def write_tar(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> Path:
    """A shard: of each sample its key, and its members by ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, members in samples:
            for ending, data in members.items():
                about = tarfile.TarInfo(f"{key}.{ending}")
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
    return path


def samples(images: Pixels, labels: Pixels, first: int = 0) -> list[tuple[str, dict[str, bytes]]]:
    pairs = enumerate(zip(images, labels, strict=True), first)
    return [(f"{i:06}", {"cls": str(label).encode(), "png": png(pixels)}) for i, (pixels, label) in pairs]


def write_idx(root: Path, train: tuple[Pixels, Pixels], test: tuple[Pixels, Pixels], packed: bool = False) -> Path:
    """The four files of MNIST and its like, gzipped or not."""
    root.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in {"train": train, "t10k": test}.items():
        for array, kind in ((images, "images"), (labels.astype(np.uint8), "labels")):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            data, file = head + array.tobytes(), root / f"{name}-{kind}-idx{array.ndim}-ubyte"
            if packed:
                file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(data))
            else:
                file.write_bytes(data)
    return root
