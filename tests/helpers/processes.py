"""Processes that train or sample together, forked from one that has imported torch and MLflow, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.server import free_port

WAIT_SECONDS = 600  # then a process hangs
CHECKS = 4
"""times that a training looks at the test images: each takes longer than a step"""
BUCKET_BYTES = 5000
"""of gradients sent together: a small model has several such, too"""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tokenbridge.stages.sample",
        "experiments.presets",
        "diffusers.models.autoencoders.autoencoder_kl",
        "experiments.tracking.sync",
        "mlflow.store.tracking.sqlalchemy_store",
    ]
)


@dataclass(frozen=True)
class Group:
    """Processes by rank, and the files of what they say."""

    processes: Sequence[Any]
    logs: Sequence[Path]

    def running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def signal(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.processes[rank].pid, number)

    def end(self) -> list[int | None]:
        """Exit codes; None of one that hung."""
        try:
            for process in self.processes:
                process.join(WAIT_SECONDS)
            return [process.exitcode for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def said(self, rank: int) -> str:
        return self.logs[rank].read_text()

    def complained(self, rank: int) -> str:
        return self.logs[rank].with_suffix(".err").read_text()


def start(
    inputs: Mapping[str, Path],
    out: Path,
    size: int,
    settings: Sequence[str],
    fails_at: int | None = None,
    work: Callable[..., None] | None = None,
) -> Group:
    """Train the digits with these settings, or do other work, in the environment that torchrun and submitit set."""
    port = free_port()
    logs = [out.with_name(f"{out.name}-{rank}.out") for rank in range(size)]
    processes = []
    for rank, log in enumerate(logs):
        log.touch()
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        failing = fails_at if rank == 1 else None
        given = (names, log, dict(inputs), out, tuple(settings), failing, work or _train)
        process = CONTEXT.Process(target=_enter, args=given)
        process.daemon = True  # it ends with the tests
        process.start()
        processes.append(process)
    return Group(processes, logs)


def _enter(
    names: Mapping[str, object],
    log: Path,
    inputs: Mapping[str, Path],
    out: Path,
    settings: Sequence[str],
    fails_at: int | None,
    work: Callable[..., None],
) -> None:
    for stream, path in ((1, log), (2, log.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.update({name: str(value) for name, value in names.items()})
    import torch

    from experiments.presets import DIGITS
    from tokenbridge.distributed import joined
    from tokenbridge.overrides import override

    torch.set_num_threads(1)
    with joined():
        work(override(DIGITS, settings), inputs, out, fails_at)


def _train(config: Any, inputs: Mapping[str, Path], out: Path, fails_at: int | None) -> None:
    from tokenbridge.config import Runtime
    from tokenbridge.model import gradients
    from tokenbridge.stages import train

    class Failing(train.Trainer):
        def update(self) -> float:
            if self.step == fails_at:
                raise MemoryError("rank 1 is out of memory")
            return super().update()

    train.CHECKS = CHECKS
    gradients.BUCKET_BYTES = BUCKET_BYTES
    if fails_at is not None:
        train.Trainer = Failing
    train.run(config, inputs, out, Runtime(threads=1, checkpoint_seconds=0))


def sampling(config: Any, inputs: Mapping[str, Path], out: Path, dies_at: int | None) -> None:
    """Sample in small batches. dies_at: the write in which a process is killed, its images half on the disk."""
    from tokenbridge.config import Runtime
    from tokenbridge.stages import sample

    class Dying(sample.Rows):
        writes = 0

        def write(self, first: int, **parts: Any) -> None:
            self.writes += 1
            if self.writes == dies_at:
                self._put("samples", first, 255 - parts["samples"])
                os.kill(os.getpid(), signal.SIGKILL)
            super().write(first, **parts)

    if dies_at is not None:
        sample.Rows = Dying
    sample.run(config, inputs, out, Runtime(threads=1, batch=8))
