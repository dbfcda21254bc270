"""Processes that send to MLflow, forked from one that has imported it, which takes five seconds of a processor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from experiments.tracking import sync
from tests.helpers.processes import CONTEXT
from tokenbridge.store.artifacts import Store


def start(log: Path, work: Callable[..., None], *given: Any) -> BaseProcess:
    """A process that does this work and writes into the log what it prints."""
    process = CONTEXT.Process(target=_enter, args=(log, work, given), daemon=True)
    process.start()
    return process


def _enter(log: Path, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    work(*given)


def all_at_once(root: Path, ready: Any) -> None:
    """Make the store and send everything, when the others are ready too."""
    ready.wait(60)
    sync.ensure_store(Store(root))
    sync.sync(Store(root))


def killed_at(root: Path, call: int, when: str) -> None:
    """Send everything, but die before or after the call of this number that takes a batch."""
    seen, real = [], MlflowClient.log_batch

    def log_batch(*args: Any, **words: Any) -> None:
        seen.append(1)
        if len(seen) == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(*args, **words)
        if len(seen) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    MlflowClient.log_batch = log_batch
    sync.sync(Store(root))
