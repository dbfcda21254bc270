"""Stages leave artifacts: folders with an id, that appear whole or not at all.

An id hashes what the stage reads of the config, the ids of its inputs and the stage's version. A stage writes into
`<id>.partial` under a file lock; the folder gets its name by an atomic rename, with a manifest inside. Asking whether
a stage is finished costs one stat call. The manifest has the SHA-256 of each file beside it (1.8 GB/s; of those that
are filled in shards, checksums.json has one a shard), and whoever reads a file whole calls `checked` first.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike, NDArray

from tokenbridge.config import UserError
from tokenbridge.store.provenance import environment, job_here

PARTIAL = ".partial"
"""ends the name of a stage's folder until it is published"""
MANIFEST = "manifest.json"
SUMS = "checksums.json"
"""SHA-256 of the parts of arrays that are filled in shards (store/shards.py)"""
CHECKPOINT, PROGRESS, NOTES = "checkpoint.pt", "progress.json", "shards"
"""of a training, the state to go on from and the steps that it has to go; of arrays, which shards are finished"""
TRANSIENT = (CHECKPOINT, PROGRESS, NOTES)
"""what a stage needs only until it is published: deleted after that, so that nothing before it costs the work again"""
WAITING_TOLD = 600.0
"""seconds between two lines of a process that waits for another"""
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=list)
_FULL = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "quota reached",
    errno.EFBIG: "file larger than its file system or the shell's limit (ulimit -f) allows",
}
_REFUSED = (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
_UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
_NO_PLACE = (errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
_REMEDY = "free space or choose another folder with"


def digest(value: Any) -> str:
    """Twelve hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stage_id(kind: str, version: int, reads: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    return f"{kind}-{digest({'kind': kind, 'version': version, 'reads': reads, 'inputs': inputs})}"


@dataclass(frozen=True)
class Store:
    """All artifacts of a project, below one folder (default `runs/`)."""

    root: Path

    def folder(self, id: str) -> Path:
        return self.root / "stages" / id

    def finished(self, id: str) -> bool:
        return (self.folder(id) / MANIFEST).exists()

    def manifest(self, id: str) -> dict[str, Any]:
        return read_manifest(self.folder(id))

    def require_room(self, ids: Iterable[str]) -> None:
        """UserError where a folder without a manifest stands in the place of a stage that is to be made."""
        for folder in map(self.folder, ids):
            if os.path.lexists(folder) and not (folder / MANIFEST).exists():
                raise UserError(f"{folder} has no {MANIFEST} and is no finished stage; delete it and run again")

    @contextmanager
    def writing(
        self, id: str, about: Mapping[str, Any], resumable: bool = False, anew: bool = False
    ) -> Iterator[Path | None]:
        """Yield the folder to write into, or None where another process has finished the stage meanwhile.

        Args:
            id: the stage's.
            about: what goes into the manifest beside versions, host and wall time.
            resumable: what an interrupted run left (its checkpoint, its shards) is kept and handed over; otherwise
                nothing half-written stays.
            anew: make a finished stage again; the new one takes the place of the old one when it is whole.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        final = self.folder(id)
        work = final.with_name(f"{id}{PARTIAL}")
        with writable(self.root), self.lock(id):
            if self.finished(id) and not anew:
                yield None
                return
            self.require_room([id])
            if not resumable:
                _remove(work)
            work.mkdir(parents=True, exist_ok=True)
            (work / MANIFEST).unlink(missing_ok=True)  # of a run that was killed between writing it and the rename
            start = time.monotonic()
            try:
                yield work
                sums = _checksums(work)
                seconds = {"wall_seconds": round(time.monotonic() - start, 2)}
                write_json(work / MANIFEST, {"id": id, **about, **environment(), **seconds, "checksums": sums})
            except BaseException as error:
                full = _full(error, self.root)
                (work / MANIFEST).unlink(missing_ok=True)
                if not resumable or not any(work.glob("*")):
                    _remove(work)
                if full:
                    raise UserError(f"{self.root}: {full} while writing {id}; {_REMEDY} --runs") from error
                raise
            if self.finished(id):
                final.rename(old := final.with_name(f"{id}.{os.getpid()}.old{PARTIAL}"))
                work.rename(final)
                _remove(old)
            else:
                work.rename(final)
            self.tidy(id)

    def tidy(self, id: str) -> None:
        """Delete what a finished stage needed before it was published; a kill may have come before that."""
        for name in TRANSIENT:
            _remove(self.folder(id) / name)

    @contextmanager
    def lock(self, name: str, wait: bool | float = True) -> Iterator[bool]:
        """One process at a time, as `locked` below.

        Args:
            name: what the process does; it names the lock's file.
            wait: False, or seconds, to yield False where another process has it then.
        """
        with locked(self.root / "locks" / f"{name}.lock", wait) as mine:
            yield mine

    def running(self, id: str) -> bool:
        """Whether a process writes this stage now. Looking takes the lock from nobody."""
        try:
            with open(self.root / "locks" / f"{id}.lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno == errno.EAGAIN
        return False


@contextmanager
def locked(path: Path, wait: bool | float = True) -> Iterator[bool]:
    """One process at a time has a file's lock, which ends with its process, however that ends.

    Who has to wait says for whom, at once and every few minutes.

    Args:
        path: the file, which stays and says who had it last.
        wait: False, or seconds, to yield False where another process has it then.

    Raises:
        UserError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)  # a file that is there or not would stay after a kill
    seconds, late = 0.1, time.monotonic() + (math.inf if wait is True else wait)
    while not _acquire(lock, seconds) and time.monotonic() < late:
        print(f"waiting for {path.stem}: {_holder(path)}", flush=True)
        seconds = min(WAITING_TOLD, max(0.1, late - time.monotonic()))
    try:
        if lock.is_locked:
            here = {"pid": os.getpid(), "host": platform.node(), "job": job_here(), "since": time.time()}
            with suppress(OSError):  # a full disk
                path.write_text(json.dumps(here))
        yield lock.is_locked
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise UserError(
            f"{lock.lock_file} cannot be locked ({error.strerror}), and locks keep processes apart; choose a folder on"
            " another file system with --runs, or mount this one with locks (Lustre: -o flock)"
        ) from error
    return True


def _holder(path: Path) -> str:
    """Who has a lock's file, since when, and how to go on where that process was stopped."""
    try:
        who = json.loads(path.read_text())
        job = f" (job {who['job']['id']})" if who["job"] else ""
        since = time.strftime("%F %T", time.localtime(who["since"]))
        text = f"process {who['pid']} on {who['host']}{job} has it since {since}"
    except (OSError, ValueError, TypeError, KeyError):  # it has just begun, or the disk is full
        return "another process has it"
    stopped = who["host"] == platform.node() and re.search(r"^State:\s+[Tt]", _status(who["pid"]), re.MULTILINE)
    return f"{text} and is stopped; kill -CONT {who['pid']} lets it go on" if stopped else text


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()  # of Linux
    except OSError:
        return ""


@contextmanager
def writable(root: Path, option: str = "--runs") -> Iterator[None]:
    """Turn what a file system refuses into one line, which names the option that chooses another place."""
    there = False
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(errno.EACCES, "Permission denied", str(root))
        there = True
        yield
    except OSError as error:
        if full := _full(error, root):
            raise UserError(f"{error.filename or root}: {full} while writing; {_REMEDY} {option}") from error
        # inside, others are errors of reading as well, unless they are about what lies in the folder itself
        if error.errno in _UNWRITABLE or (error.errno in _NO_PLACE and (not there or _parent(error) == root)):
            raise UserError(
                f"{error.filename or root} cannot be written ({error.strerror}); choose another folder with {option}"
            ) from error
        raise


def _parent(error: OSError) -> Path | None:
    return Path(error.filename).parent if isinstance(error.filename, str | Path) else None


@contextmanager
def new_file(path: Path, option: str) -> Iterator[None]:
    """As new_folder, of the folder of a file that will be written there."""
    if os.path.isdir(path):  # noqa: PTH112 - pathlib raises where a name is too long
        raise UserError(f"{option} {path} is a folder and must be a file; correct it")
    with new_folder(path.parent, option):
        probe = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # as atomic will
        try:
            with open(probe, "wb"):
                probe.unlink()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        yield


@contextmanager
def new_folder(folder: Path, option: str) -> Iterator[None]:
    """As writable; of the folders that this makes, those into which nothing came go again."""
    made = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        with writable(folder, option):
            yield
    finally:
        try:
            _remove_empty(made)
        except BaseException:  # a signal came just then
            _remove_empty(made)
            raise


def _remove_empty(folders: Iterable[Path]) -> None:
    for each in folders:
        with suppress(OSError):
            each.rmdir()


def require_folder(folder: Path, option: str = "--runs") -> None:
    """Raise UserError for a folder that cannot be written, before what goes into it is computed."""
    with new_folder(folder, option):
        pass


def damaged(path: Path, why: str) -> UserError:
    """The error for a file of a stage that cannot be used."""
    return UserError(f"{path} is damaged ({why}); delete {path.parent} and run again")


def require_read(path: Path, error: BaseException) -> None:
    """Raise UserError for an error with which the system refused to read a file, which may be whole."""
    if isinstance(error, OSError) and error.errno in _REFUSED:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend that and run again") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage. UserError where it is damaged or another stage's."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise damaged(path, "it must hold a JSON object")
    own = folder.name.removesuffix(PARTIAL)  # a kill may come between the manifest and the rename
    if manifest.get("id", own) != own:
        raise damaged(path, f"it is that of {manifest['id']}")
    return manifest


def recorded(folder: Path) -> dict[str, str]:
    """SHA-256 by file name of a finished stage; empty before it is finished, and where it was made without.

    The labels of latents that were made before manifests had checksums have theirs in checksums.json.
    """
    if folder.name.endswith(PARTIAL) or not (folder / MANIFEST).exists():
        return {}
    name, content = MANIFEST, read_manifest(folder)
    sums = content.get("checksums")
    if sums is None and (folder / SUMS).exists():
        name, content = SUMS, read_json(folder / SUMS)
        sums = content.get("files", {}) if isinstance(content, dict) else content
    if not isinstance(sums, dict | None):
        raise damaged(folder / name, "its checksums must be a JSON object")
    return sums or {}


_CHECKED: set[tuple[Any, ...]] = set()
"""files that this process has compared with their checksums, each by its path and what changes when it is written"""


def checked(path: Path) -> Path:
    """The path of a file that is about to be read. UserError where its stage has another checksum of it."""
    if not path.is_file():
        return path  # its reader says what it misses
    stat = path.stat()
    key = (str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if key not in _CHECKED:
        expected = recorded(path.parent).get(path.name)
        if expected is not None and file_hash(path) != expected:
            raise damaged(path, f"it is not what was written: {MANIFEST} has another checksum")
        _CHECKED.add(key)
    return path


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 by name of the files of a stage, but of those whose shards have theirs."""
    apart = read_json(folder / SUMS)["arrays"] if (folder / SUMS).exists() else ()
    return {
        path.name: file_hash(path)
        for path in sorted(folder.iterdir())
        if path.name not in (*apart, *TRANSIENT) and path.suffix != ".tmp" and path.is_file()
    }


def read_array(path: Path) -> np.memmap[Any, Any]:
    """An array of a .npy file of a stage, memory-mapped for reading. UserError where it is damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header ends in many kinds of error
        require_read(path, error)
        raise damaged(path, " ".join(str(error).split())[:160] or type(error).__name__) from error
    if not isinstance(array, np.memmap):
        raise damaged(path, "it is no .npy file")
    return array


def _remove(path: Path) -> None:
    """Delete a file, a folder or a link, of which what it leads to stays; what cannot be deleted stays as well."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _full(error: BaseException, root: Path) -> str:
    """How a disk let no more be written, empty for other errors; libraries wrap or lose the system's word for it."""
    if not isinstance(error, Exception) or isinstance(error, UserError):
        return ""
    for link in (error, error.__cause__, error.__context__):
        if isinstance(link, OSError) and link.errno in _FULL:
            return _FULL[link.errno]
    if not root.is_dir() or not (disk := shutil.disk_usage(root)).total:  # such as /proc, which holds no files
        return ""
    return _FULL[errno.ENOSPC] if disk.free < 65_536 else ""


def read_json(path: Path, remedy: str = "delete its folder and run again") -> Any:
    """JSON from a file, or UserError naming it and the remedy."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); {remedy}") from error


def write_json(path: Path, value: Any) -> None:
    """JSON to a file, atomically and durably."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON as our files hold it."""
    return (json.dumps(value, indent=1, default=list, allow_nan=True) + "\n").encode()


def write_atomic(path: Path, content: bytes) -> None:
    with atomic(path) as file:
        file.write(content)


def write_each(contents: Iterable[tuple[Path, bytes]]) -> None:
    """Files that take their places each whole and durably: the disk is waited for once they are all written.

    Args:
        contents: of each file, by its path; a file that is written leaves memory.
    """
    temporaries: dict[Path, Path] = {}
    try:
        for path, content in contents:
            temporaries[path] = path.with_name(path.name + ".tmp")
            temporaries[path].write_bytes(content)
        for path, temporary in temporaries.items():
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes its place whole and durably, or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_array(path: Path, array: NDArray[Any]) -> None:
    """A small array to a .npy file, atomically; np.save to a path loses the system's word for a full disk."""
    np.save(content := BytesIO(), array)
    write_atomic(path, content.getvalue())


def new_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new .npy file, memory-mapped, with its blocks reserved: a full disk is an error here and no crash later."""
    unready = path.with_name(path.name + ".tmp")
    try:
        array = open_memmap(unready, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with open(unready, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, unready.stat().st_size)
        os.replace(unready, path)
    except BaseException:
        unready.unlink(missing_ok=True)  # the next try would take it for one whose blocks are reserved
        raise
    return array
