"""Tar shards as WebDataset writes them: members of one name but for its ending are a sample. Without torch.

A name's ending begins at the first dot of its last part; samples lie one behind the other. Images are read where they
lie, so shards are not compressed.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenbridge.config import UserError
from tokenbridge.data import contents
from tokenbridge.data.folders import EXTENSIONS, printable
from tokenbridge.data.shard_files import Sharded
from tokenbridge.data.sources import Given

LABEL = "cls"
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")
"""key and ending, as WebDataset parts them"""
_LONGEST_LABEL = 32
"""bytes"""


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a shard: its bytes from `start` on."""

    shard: Path
    name: str
    start: int
    size: int

    def open(self) -> Image.Image:
        with open(self.shard, "rb") as file:
            file.seek(self.start)
            data = file.read(self.size)
        if len(data) < self.size:
            raise ValueError("its shard ends before it")
        return Image.open(BytesIO(data))

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"


class Tar(Sharded):
    """The samples of all shards, in the order of the shards' names."""

    ending = ".tar"

    def given(self, split: Given) -> tuple[list[Member], np.ndarray]:
        part, found = self.splits[split], self._index(split)
        places = zip(found["shards"].tolist(), found["starts"].tolist(), found["sizes"].tolist(), strict=True)
        names = found["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
        members = [
            Member(part.files[shard], name, start, size)
            for name, (shard, start, size) in zip(names, places, strict=True)
        ]
        return members, self.labels(split, len(members))

    def numbers(self, split: Given) -> np.ndarray:
        return self._index(split)["labels"]

    def names(self) -> list[str]:
        return []

    def _index(self, split: Given) -> Mapping[str, NDArray[Any]]:
        """Where the images are, and their labels: read once of shards that do not change."""
        part, image = self.splits[split], self.config.image_column
        label = self.config.label_column or LABEL if self.config.classes > 1 else ""
        what = f"tar 1 {split} {image} {label}"
        return contents.kept(what, part.folder, part.files, lambda: _index(part.files, image, label))


def _index(shards: list[Path], image: str | None, label: str) -> dict[str, NDArray[Any]]:
    """Shard, name, start and size of each image, and its label; label: the ending of labels, empty for none."""
    found = [(number, *sample) for number, shard in enumerate(shards) for sample in _samples(shard, image, label)]
    if not found:
        raise UserError(f"{printable(shards[0])} and others hold no sample with an image; correct the path")
    numbers, names, starts, sizes, labels = zip(*found, strict=True)
    joined = "\0".join(names).encode("utf-8", "surrogateescape")
    columns = {"shards": numbers, "starts": starts, "sizes": sizes, "labels": labels}
    return {name: np.array(values, np.int64) for name, values in columns.items()} | {
        "names": np.frombuffer(joined, np.uint8)
    }


def _samples(shard: Path, image: str | None, label: str) -> Iterator[tuple[str, int, int, int]]:
    """Name, start, size and label (0 where none is read) of the image of each sample of a shard."""
    with open(shard, "rb") as file:
        for key, members in _grouped(shard):
            endings = [image.lower()] if image else [each[1:] for each in EXTENSIONS]
            images = [ending for ending in endings if ending in members]
            if len(images) != 1:
                have = ", ".join(members)
                raise UserError(
                    f"{printable(shard)}: sample {printable(key)} must have one image, and has {have};"
                    " data.image_column says by its ending which it is"
                )
            where = members[images[0]]
            number = _number(shard, key, members, label, file) if label else 0
            yield where.name, where.offset_data, where.size, number


def _number(shard: Path, key: str, members: Mapping[str, tarfile.TarInfo], label: str, file: Any) -> int:
    """The label of a sample, a whole number as text. UserError where there is none."""
    if label.lower() not in members:
        raise UserError(
            f"{printable(shard)}: sample {printable(key)} has no label (.{label}); name its ending with"
            " data.label_column, or read none with data.classes=1"
        )
    where = members[label.lower()]
    file.seek(where.offset_data)
    text = file.read(min(where.size, _LONGEST_LABEL)).strip()
    if not re.fullmatch(rb"[+-]?\d{1,18}", text):
        raise UserError(
            f"{printable(shard)}: label of sample {printable(key)} is {text.decode('utf-8', 'backslashreplace')!r}, and"
            " must be a whole number; name another ending with data.label_column"
        )
    return int(text)


def _grouped(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Key and members by ending of each sample, in their order."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in _members(shard):
        name = _NAME.fullmatch(member.name)
        if name is None or re.match(r"__[^/]*__($|/)", member.name):  # what WebDataset takes for no data
            continue
        ending = name[2].lower()
        if members and name[1] != key:
            yield key, members
            members = {}
        key = name[1]
        if ending in members:
            line = f"{printable(shard)} holds {printable(member.name)} twice; write the shard again"
            raise UserError(line)
        members[ending] = member
    if members:
        yield key, members


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of a shard; UserError for one that is no whole archive: tarfile ends at what it cannot read."""
    broken = f"{printable(shard)} cannot be read as a tar file"
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - it would hold all of them
                if member.isreg() and member.sparse is None:
                    yield member
            file.seek(archive.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise UserError(f"{broken} (it is damaged at byte {archive.offset}, or cut off there); get it again")
            while rest := file.read(2**20):
                if rest.strip(b"\0"):
                    raise UserError(f"{broken} (data follow its end); take archives apart that were joined")
    except UserError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        remedy = "shards must not be compressed: unpack it" if _is_compressed(shard) else "get it again"
        raise UserError(f"{broken} ({error}); {remedy}") from error


def _is_compressed(shard: Path) -> bool:
    """Whether a file begins as one of gzip, bzip2, xz or Zstandard does."""
    with suppress(OSError), open(shard, "rb") as file:
        return file.read(6).startswith(COMPRESSED)
    return False
