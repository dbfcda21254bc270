"""One thread a test process: the machines are small and shared, and two thread pools on two cores fight."""

import os
import shutil

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy and torch load

import torch

torch.set_num_threads(1)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.pipeline import GENERATION, RECONSTRUCTION, Cell
from experiments.presets import DIGITS
from experiments.runner import run_cells
from tokenbridge.artifacts import Store
from tokenbridge.config import RunConfig, Runtime
from tokenbridge.overrides import override

TINY = [
    "backbone.width=16", "backbone.encoder_depth=1", "backbone.decoder_depth=1", "backbone.heads=2", "head.width=16",
    "head.depth=1", "head.heads=2", "train.epochs=2", "train.warmup_epochs=1", "train.batch=64", "sample.images=71",
    "sample.iterations=5",
    "sample.guidance=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _same_start():
    """Initial weights drawn from torch's global state do not depend on which tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    """The user's own MLflow is none of the tests' business."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., Any]:
    """The command, in a folder: call("run", "digits", cwd=...)."""
    from tests import small_command

    def run(*arguments: object, cwd: Path) -> small_command.Done:
        monkeypatch.chdir(cwd)
        return small_command.call(monkeypatch, capsys, *arguments)

    return run


@pytest.fixture
def one_figure(monkeypatch) -> None:
    """Reports draw one figure, in a tenth of the time that all take; for tests whose matter is something else."""
    from analysis import figures

    monkeypatch.setattr(figures, "MAKERS", (("1a", figures.latents.levels_used),))


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A small runs folder with an empty MLflow file; tests copy it."""
    from tests import small_runs

    return small_runs.template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    """The shipped digits and their autoencoder, with a generator that trains in seconds."""
    return override(DIGITS, TINY)


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory) -> tuple[Store, Cell]:
    """A store in which one tiny cell has run through every stage."""
    store, cell = Store(tmp_path_factory.mktemp("runs")), Cell("tiny", tiny, RECONSTRUCTION + GENERATION)
    run_cells(store, [cell], Runtime(threads=1), "tests")
    return store, cell


@pytest.fixture
def with_latents(finished) -> Callable[[Path], Store]:
    """A new store in which the digits are encoded already: with_latents(folder)."""

    def make(root: Path) -> Store:
        store, done = Store(root), finished[0]
        for folder in done.root.glob("stages/latents-*"):
            shutil.copytree(folder, store.folder(folder.name))
        return store

    return make
