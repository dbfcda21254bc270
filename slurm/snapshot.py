"""The code that a sweep runs: a copy made at submission, so that edits after it change no queued job."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tokenbridge.store.artifacts import Store, digest, file_hash, write_json
from tokenbridge.store.provenance import git_state
from tokenbridge.store.runs import sweep_folder

HERE = Path(__file__).parents[1]
PACKAGES = ("tokenbridge", "experiments", "analysis", "slurm")
LEFT_OUT = {".pyc", ".pyo"}


def take(store: Store) -> str:
    """Copy the project's packages to sweeps/code/HASH below the runs folder, once for the same content; that path.

    snapshot.json in it names the commit, from which the stages' manifests take it.
    """
    files = [path for name in PACKAGES for path in sorted((HERE / name).rglob("*")) if _wanted(path)]
    state = git_state()
    hash = digest([state, {str(path.relative_to(HERE)): file_hash(path) for path in files}])
    final = sweep_folder(store, "code") / hash
    if not final.exists():
        work = final.with_name(f"{hash}.{os.getpid()}.partial")
        try:
            for path in files:
                copy = work / path.relative_to(HERE)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            write_json(work / "snapshot.json", state)
            _publish(work, final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return str(final.relative_to(store.root))


def _wanted(path: Path) -> bool:
    return path.is_file() and path.suffix not in LEFT_OUT and "__pycache__" not in path.parts


def _publish(work: Path, final: Path) -> None:
    try:
        work.rename(final)
    except OSError:
        if not final.exists():  # another submission made the same one meanwhile
            raise
