"""What files hold: SHA-256 of each, remembered by what the file system says of them, so that it is read once.

A hash is remembered by path, size, times of change, inode and device: the time that an inode changed (ctime) cannot be
set back, so a file that was replaced with its times kept is read again. Memories lie in the user's cache folder, one
file per folder of images; one that is lost or damaged costs reading the images again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tokenbridge.config import UserError
from tokenbridge.data.folders import printable

READERS = 8
CHUNK = 64
"""files per task of a reader"""
SETTLED_NS = 2_000_000_000
"""a file that changed less than this ago may change again within the same tick of the file system's clock"""
DIGEST_BYTES = 32
UNSIGNED = 2**64 - 1

Stamp = tuple[int, int, int, int, int]
"""size, times of modification and change in ns, inode, device"""
_checking = False
_checked: set[Path] = set()
_held: dict[Path, tuple[bytes, Mapping[str, NDArray[Any]]]] = {}
"""what `kept` found in this process"""


def check_all() -> None:
    """From now on, hash each folder's files once more in this process, whatever is remembered of them."""
    global _checking
    _checking = True
    _checked.clear()
    _held.clear()


def digest_of(folder: Path, files: Sequence[Path]) -> bytes:
    """SHA-256 of what files are called within a folder and what they hold, in their order.

    Args:
        folder: the folder that holds them, itself or below.

    Raises:
        UserError: a file that cannot be read.
    """
    hasher, names = hashlib.sha256(), _names(folder, files)
    for name, digest in zip(names, _digests(folder, files, names), strict=True):
        hasher.update(name + b"\0" + digest)
    return hasher.digest()


def memory(folder: Path, what: str = "") -> Path:
    """The file that remembers a folder's hashes, or what else was found in it: below the cache folder."""
    key = os.fsencode(folder.absolute()) + (b"\0" + what.encode() if what else b"")
    return Path(cache_folder(), "contents", f"{hashlib.sha256(key).hexdigest()[:24]}.npz")


def cache_folder() -> Path:
    """TOKENBRIDGE_CACHE, or ours in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - that needs a home
    return Path(os.environ.get("TOKENBRIDGE_CACHE") or Path(user, "tokenbridge"))


def kept(
    what: str, folder: Path, files: Sequence[Path], make: Callable[[], Mapping[str, NDArray[Any]]]
) -> Mapping[str, NDArray[Any]]:
    """What was found in files, remembered like their hashes until one of them changes.

    Args:
        what: was looked for, with the version of what finds it.
        folder: the folder that holds the files, itself or below.
        files: all that `make` reads.
        make: finds it, as arrays without objects.

    Raises:
        UserError: a file that cannot be read; what `make` raises.
    """
    place, stamps = memory(folder, what), [_stamp(path) for path in files]
    state = hashlib.sha256(repr(list(zip(_names(folder, files), stamps, strict=True))).encode()).digest()
    if place in _held and _held[place][0] == state:
        return _held[place][1]
    found = None if _checking else _recalled(place, state)
    if found is None:
        latest = time.time_ns() - SETTLED_NS
        found = make()
        if all(stamp[2] < latest for stamp in stamps):
            _write(place, {**found, "state": np.frombuffer(state, np.uint8)})
    _held[place] = state, found
    return found


def _names(folder: Path, files: Sequence[Path]) -> list[bytes]:
    """Paths within the folder, as bytes: a slice, where relative_to would take most of the time."""
    beginning = len(os.fsencode(folder / "_")) - 1
    return [os.fsencode(path)[beginning:] for path in files]


def _digests(folder: Path, files: Sequence[Path], names: Sequence[bytes]) -> list[bytes]:
    place = memory(folder)
    known = {} if _checking and folder not in _checked else _recall(place)
    _checked.add(folder)
    stamps = [_stamp(path) for path in files]
    digests = [known.get((name, stamp), b"") for name, stamp in zip(names, stamps, strict=True)]
    unread = [index for index, digest in enumerate(digests) if not digest]
    if unread:
        latest = time.time_ns() - SETTLED_NS
        for index, digest in zip(unread, _read(folder, [files[index] for index in unread]), strict=True):
            digests[index] = digest
        settled = [index for index, stamp in enumerate(stamps) if stamp[2] < latest]
        _remember(place, [(names[i], stamps[i], digests[i]) for i in settled])
    return digests


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror}); start again") from error
    size, modified, inode = status.st_size, status.st_mtime_ns & UNSIGNED, status.st_ino & UNSIGNED
    return size, modified, status.st_ctime_ns & UNSIGNED, inode, status.st_dev & UNSIGNED


def _read(folder: Path, files: Sequence[Path]) -> list[bytes]:
    chunks = [files[first : first + CHUNK] for first in range(0, len(files), CHUNK)]
    bar = tqdm(total=len(files), desc=f"hash {printable(folder.name)}", delay=2, leave=False, disable=None)
    digests: list[bytes] = []
    with bar, ThreadPoolExecutor(READERS) as readers:
        for part in readers.map(lambda chunk: [_digest(path) for path in chunk], chunks):
            digests += part
            bar.update(len(part))
    return digests


def _digest(path: Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror}); mend its rights or delete it") from error


def _recall(place: Path) -> dict[tuple[bytes, Stamp], bytes]:
    try:
        with np.load(BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
            names, stamps = arrays["names"].tobytes().split(b"\0"), arrays["stamps"].tolist()
            digests = arrays["digests"].tobytes()
        parts = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
        return {(name, tuple(stamp)): part for name, stamp, part in zip(names, stamps, parts, strict=True)}
    except Exception:  # a flipped bit ends in many kinds of error, and all that is lost is time
        return {}


def _remember(place: Path, lines: Sequence[tuple[bytes, Stamp, bytes]]) -> None:
    if not lines:
        return
    names, stamps, digests = zip(*lines, strict=True)
    _write(place, {
        "names": np.frombuffer(b"\0".join(names), np.uint8),
        "stamps": np.array(stamps, np.uint64),
        "digests": np.frombuffer(b"".join(digests), np.uint8),
    })  # fmt: skip


def _recalled(place: Path, state: bytes) -> Mapping[str, NDArray[Any]] | None:
    try:
        with np.load(BytesIO(place.read_bytes()), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return found if found.pop("state").tobytes() == state else None
    except Exception:  # as in _recall
        return None


def _write(place: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    file = BytesIO()
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(file.getvalue())
        partial.replace(place)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        _warn(place.parent, error.strerror)


@cache
def _warn(folder: Path, reason: str) -> None:
    """Once in a process."""
    line = f"hashes of images cannot be kept in {folder} ({reason}): each command reads all images"
    print(f"{line}; TOKENBRIDGE_CACHE names another folder", file=sys.stderr)
