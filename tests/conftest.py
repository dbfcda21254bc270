"""One thread a test process: the machines are small and shared, and two thread pools on two cores fight."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy and torch load

import torch

torch.set_num_threads(1)

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
