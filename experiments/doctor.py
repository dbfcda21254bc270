"""`tokenbridge doctor`: what is there and what is missing, a line each with the remedy. It needs none of it itself."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tokenbridge import ASSETS
from tokenbridge.config import Runtime, UserError
from tokenbridge.store.artifacts import Store, file_hash
from tokenbridge.store.provenance import git_state

LEAST_FREE = 2.0
"""GB; the demo's stages take less"""
WAIT = 10
"""seconds that a server or Slurm may take to answer"""


@dataclass(frozen=True)
class Check:
    """ok: True is there, None is missing and not needed here, False is missing and needed."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        word = {True: "ok", None: "--", False: "MISSING"}[self.ok]
        return f"{word:<8}{self.name:<14}{self.detail}" + (f"; {self.remedy}" if self.remedy and not self.ok else "")


def checks(store: Store, runtime: Runtime) -> list[Check]:
    """All checks, in the order in which a run would miss them."""
    return [
        _python(),
        *_guarded("torch", lambda: _torch(runtime), "install torch and torchvision again, as `make test` does"),
        *_guarded(
            "torchvision", _torchvision, "torch and torchvision must be built for each other: install both again"
        ),
        *weights(ASSETS),
        runs_folder(store.root),
        _disk(store.root),
        *_guarded("MLflow", lambda: [mlflow(store)], "install mlflow again"),
        slurm(),
        _git(),
    ]


def exit_status(checks: Iterable[Check]) -> int:
    """1 where something needed is missing."""
    return int(any(check.ok is False for check in checks))


def _guarded(name: str, check: Callable[[], list[Check]], remedy: str) -> list[Check]:
    """A broken installation raises anything at import, and its line is what the user came for."""
    try:
        return check()
    except UserError as error:
        return [Check(name, False, str(error))]
    except Exception as error:
        return [Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}", remedy)]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), version, "needs Python 3.11 or newer")


def _torch(runtime: Runtime) -> list[Check]:
    import torch

    from tokenbridge.devices import pick_device

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    device = pick_device(runtime)
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} processors"
    return [
        Check("torch", True, f"{torch.__version__}, {threads}"),
        Check("device", True, f"{device} is used; GPUs: {', '.join(gpus) or 'none'}"),
    ]


def _torchvision() -> list[Check]:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    # the operator is compiled against one torch; with another it is missing or crashes
    kept = torch.ops.torchvision.nms(boxes, torch.tensor([1.0, 0.5]), 0.5).tolist()
    assert kept == [0], f"torchvision::nms kept {kept} of two equal boxes"
    return [Check("torchvision", True, f"{torchvision.__version__}, fits torch {torch.__version__}")]


def weights(folder: Path) -> list[Check]:
    """Shipped weights against the sha256 in the JSON beside them."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        return [Check("weights", False, f"no *.safetensors in {folder}", "reinstall tokenbridge")]
    lines = []
    for path in paths:
        actual, size = file_hash(path), path.stat().st_size / 1e6
        try:
            expected = json.loads(path.with_suffix(".json").read_text()).get("sha256")
        except (OSError, ValueError, AttributeError) as error:
            lines.append(
                Check(
                    "weights", False, f"{path.stem}: {path.stem}.json is unreadable ({error})", "reinstall tokenbridge"
                )
            )
            continue
        detail = f"{path.stem}, {size:.1f} MB, sha256 {actual[:12]}"
        if expected is None:
            lines.append(Check("weights", True, f"{detail} (nothing to compare with: {path.stem}.json names none)"))
        elif expected == actual:
            lines.append(Check("weights", True, f"{detail} as shipped"))
        else:
            lines.append(
                Check(
                    "weights", False, f"{detail}, must be {expected[:12]}", "the file is damaged: reinstall tokenbridge"
                )
            )
    return lines


def runs_folder(root: Path) -> Check:
    """Check that artifacts can be written to a folder; nothing stays there."""
    folder, remedy = _existing(root), "choose another folder with --runs"
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("runs folder", False, f"{root} cannot be written ({error.strerror})", remedy)
    return Check("runs folder", True, f"{root} can be written" + ("" if root.exists() else ", made at the first run"))


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(_existing(root)).free / 1e9
    remedy = f"at least {LEAST_FREE:g} GB: free space or choose another folder with --runs"
    return Check("free disk", free >= LEAST_FREE, f"{free:.1f} GB at {root}", remedy)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def mlflow(store: Store) -> Check:
    """The tracking store, asked without importing MLflow (3.7 s)."""
    from tokenbridge.store.runs import database, tracking_uri, without_credentials

    uri = tracking_uri(store)
    about, remedy = (
        f"{metadata.version('mlflow')}, {without_credentials(uri)}",
        "start the server or correct MLFLOW_TRACKING_URI",
    )
    path = database(uri)
    if path is not None:
        return _sqlite(path, about)
    if not uri.startswith(("http://", "https://")):
        return Check("MLflow", True, f"{about} (not asked)")
    try:
        with urllib.request.urlopen(f"{without_credentials(uri).rstrip('/')}/health", timeout=WAIT) as answer:
            return Check("MLflow", True, f"{about} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Check(
                "MLflow",
                True,
                f"{about} answers ({error.code}: it wants MLFLOW_TRACKING_USERNAME and _PASSWORD or a token)",
            )
        return Check("MLflow", False, f"{about} answers {error.code}", remedy)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Check("MLflow", False, f"{about} does not answer ({reason})", remedy)


def _sqlite(path: Path, about: str) -> Check:
    if not path.exists():
        return Check("MLflow", True, f"{about}, made at the first run")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=WAIT)) as connection:
            runs = connection.execute("SELECT COUNT(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone()[0]
    except sqlite3.Error as error:
        remedy = f"delete {path.name} and run `tokenbridge sync`, which makes it again from the stages"
        return Check("MLflow", False, f"{about} is unreadable ({error})", remedy)
    return Check("MLflow", True, f"{about}, {runs} runs")


def slurm() -> Check:
    """Optional: a cluster that answers."""
    lacking = [name for name in ("sbatch", "sinfo") if shutil.which(name) is None]
    if lacking:
        return Check(
            "Slurm", None, f"{' and '.join(lacking)} not on the PATH", "needed only to run stages on a cluster"
        )
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%P %a %D"], capture_output=True, text=True, timeout=WAIT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("Slurm", None, f"sinfo does not answer ({type(error).__name__})", "see that slurmctld runs")
    if done.returncode:
        reason = " ".join(done.stderr.split())[:120]
        return Check("Slurm", None, f"sinfo failed ({reason})", "see that slurmctld runs")
    partitions = [line.split() for line in done.stdout.splitlines() if line.strip()]
    named = ", ".join(f"{name} ({nodes} nodes, {state})" for name, state, nodes in partitions)
    accounting = (
        "" if _accounting() else "; no accounting: states come from squeue and from what the jobs said themselves"
    )
    return Check("Slurm", True, f"partitions: {named or 'none'}{accounting}")


def _accounting() -> bool:
    """Whether sacct answers; it fails where accounting is off, or its daemon away."""
    try:
        return not subprocess.run(["sacct", "--starttime=now"], capture_output=True, timeout=WAIT).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _git() -> Check:
    state = git_state()
    if state["commit"] is None:
        return Check("git", None, "no checkout: runs do not name a commit", "run from a git clone to have it recorded")
    changed = ", with uncommitted changes" if state["dirty"] else ""
    return Check("git", True, f"{state['commit'][:12]}{changed}")
