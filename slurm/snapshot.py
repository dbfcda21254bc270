"""The code that a sweep runs: a copy made at submission, so that edits after it change no queued job."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenbridge.packages import PACKAGES, ROOT
from tokenbridge.store.artifacts import Store, digest, file_hash, write_atomic, write_json
from tokenbridge.store.provenance import git_state
from tokenbridge.store.runs import sweep_folder

ABOUT = "snapshot.json"
LEFT_OUT = {".pyc", ".pyo"}


def setup(code: Path, sweep: str) -> list[str]:
    """Lines of shell that let a job run a snapshot, and end it with a word where that is gone.

    Without it Python would take the packages from wherever else they are, such as the checkout.

    Args:
        code: the snapshot.
        sweep: which `retry` submits again.
    """
    gone = f"{code}, the code that this job was submitted with, is gone; tokenbridge retry {sweep} copies it again"
    parts = " ".join(shlex.quote(str(code / name / "__init__.py")) for name in PACKAGES)
    return [
        f'for part in {parts}; do [ -f "$part" ] || {{ echo {shlex.quote(gone)} >&2; exit 1; }}; done',
        # safe: else Python looks first in the folder of the submission, which may be the checkout
        f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}",
    ]


def take(store: Store) -> str:
    """Copy the project's packages to sweeps/code/HASH below the runs folder, once for the same content; that path.

    snapshot.json in it names the commit, from which the stages' manifests take it.
    """
    files = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*")) if _wanted(path)]
    state = git_state()
    hash = digest([state, {str(path.relative_to(ROOT)): file_hash(path) for path in files}])
    final = sweep_folder(store, "code") / hash
    if final.exists():
        _mend(final, files, state)
    else:
        work = final.with_name(f"{hash}.{os.getpid()}.partial")
        try:
            for path in files:
                copy = work / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            write_json(work / ABOUT, state)
            _publish(work, final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return str(final.relative_to(store.root))


def _wanted(path: Path) -> bool:
    return path.is_file() and path.suffix not in LEFT_OUT and "__pycache__" not in path.parts


def _mend(final: Path, files: Iterable[Path], state: Mapping[str, Any]) -> None:
    """Put back what a clean-up of old files has taken."""
    for path in files:
        copy = final / path.relative_to(ROOT)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, path.read_bytes())
    if not (final / ABOUT).exists():
        write_json(final / ABOUT, state)


def _publish(work: Path, final: Path) -> None:
    try:
        work.rename(final)
    except OSError:
        if not final.exists():  # another submission made the same one meanwhile
            raise
