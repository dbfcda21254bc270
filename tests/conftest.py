"""One thread a test process: the machines are small and shared, and two thread pools on two cores fight."""

import gc
import os
import shutil
import signal
import subprocess

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # what the tests start ends with its terminal, also below nohup

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy and torch load

import torch

torch.set_num_threads(1)

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from experiments.pipeline import GENERATION, RECONSTRUCTION, Cell
from experiments.presets import DIGITS
from experiments.runner import run_cells
from tests.helpers.machine import missing
from tokenbridge.config import RunConfig, Runtime
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store

TINY = [
    "backbone.width=16", "backbone.encoder_depth=1", "backbone.decoder_depth=1", "backbone.heads=2", "head.width=16",
    "head.depth=1", "head.heads=2", "train.epochs=2", "train.warmup_epochs=1", "train.batch=64", "sample.images=71",
    "sample.iterations=5",
    "sample.guidance=2",
]  # fmt: skip


SHORT = [*TINY, "train.epochs=1", "train.warmup_epochs=0", "train.batch=256"]
"""five steps: each looks at the validation images, which takes longer than the step"""


@pytest.fixture(autouse=True)
def _same_start():
    """Initial weights drawn from torch's global state do not depend on which tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Hashes of the tests' images are none of the user's business."""
    os.environ["TOKENBRIDGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    """The user's own MLflow is none of the tests' business."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., Any]:
    """The command, in a folder: call("run", "digits", cwd=...)."""
    from tests.helpers import command as small_command

    def run(*arguments: object, cwd: Path) -> small_command.Done:
        monkeypatch.chdir(cwd)
        return small_command.call(monkeypatch, capsys, *arguments)

    return run


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """A real file system of its own: disk("256k")."""
    (folder := tmp_path / "disk").mkdir()

    def mount(size: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode != 0:
            missing("needs the rights to mount a small file system")
        return folder

    yield mount
    if folder.is_mount():
        gc.collect()  # an error may still hold an array that is mapped there, as with Python 3.12
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Reports without figures, which take most of their time; for tests whose matter is something else."""
    from analysis import figures

    monkeypatch.setattr(figures, "MAKERS", ())


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """made_once(name, make): a copy of the folder that make(folder) fills for all test processes together."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], object]) -> Path:
        whole = shared / f"{name}-once"
        with FileLock(f"{whole}.lock"):
            if not whole.exists():
                make(partial := shared / f"{name}-partial")
                partial.rename(whole)
        return shutil.copytree(whole, base / f"{name}-copy")

    return get


@pytest.fixture(scope="session")
def template(made_once) -> Path:
    """A small runs folder with an empty MLflow file; tests copy it."""
    from tests.helpers import runs as small_runs

    return made_once("template", small_runs.template)


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    """The shipped digits and their autoencoder, with a generator that trains in seconds."""
    return override(DIGITS, TINY)


@pytest.fixture(scope="session")
def finished(tiny, made_once) -> tuple[Store, Cell]:
    """A store in which one tiny cell has run through every stage."""
    cell = Cell("tiny", tiny, RECONSTRUCTION + GENERATION)
    return Store(made_once("runs", lambda root: run_cells(Store(root), [cell], Runtime(threads=1), "tests"))), cell


@pytest.fixture
def with_latents(finished) -> Callable[[Path], Store]:
    """A new store in which the digits are encoded already: with_latents(folder)."""

    def make(root: Path) -> Store:
        store, done = Store(root), finished[0]
        for folder in done.root.glob("stages/latents-*"):
            shutil.copytree(folder, store.folder(folder.name))
        return store

    return make
