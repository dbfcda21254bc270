"""A small folder of images, and processes that encode it together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.presets import DIGITS
from tests.helpers.processes import CONTEXT, Group
from tests.helpers.server import free_port
from tokenbridge.config import RunConfig
from tokenbridge.overrides import override

SHARD = 4


def make_images(root: Path, classes: int = 2, each: int = 10) -> Path:
    draws = np.random.default_rng(5)
    for label in range(classes):
        (root / f"c{label}").mkdir(parents=True)
        for i in range(each):
            Image.fromarray(draws.integers(0, 256, (16, 16), dtype=np.uint8)).save(root / f"c{label}" / f"{i}.png")
    return root


def config_of(images: Path, *settings: str) -> RunConfig:
    """The images with the digits' autoencoder: 12 to train, 2 to validate, 6 to test."""
    words = ["data.source=folder", f"data.path={images}", "data.classes=2", "data.test_fraction=0.3", *settings]
    return override(DIGITS, words)


def start(images: Path, out: Path, size: int, settings: Sequence[str] = (), seconds: float = 0.0) -> Group:
    """Encode in so many processes. Each notes in <out>-<rank>.rows what it encodes; seconds: that each shard takes."""
    port, logs, processes = free_port(), [out.with_name(f"{out.name}-{rank}.out") for rank in range(size)], []
    for rank, log in enumerate(logs):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        process = CONTEXT.Process(target=_encode, args=(names, log, images, out, tuple(settings), seconds))
        process.daemon = True
        process.start()
        processes.append(process)
    return Group(processes, logs)


def _encode(
    names: dict[str, object], log: Path, images: Path, out: Path, settings: Sequence[str], seconds: float
) -> None:
    for stream, path in ((1, log), (2, log.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ.update({name: str(value) for name, value in names.items()})
    import torch

    from tokenbridge.config import Runtime
    from tokenbridge.distributed import joined
    from tokenbridge.stages import latents

    class Noting(latents._Encoder):
        def __call__(self, parts: Sequence[range]) -> Iterator[np.ndarray]:
            for part, moments in zip(parts, super().__call__(parts), strict=True):
                with open(log.with_suffix(".rows"), "a") as file:
                    file.write(f"{self.split} {part.start}\n")
                time.sleep(seconds)
                yield moments

    torch.set_num_threads(1)
    latents._Encoder, latents.SHARD = Noting, SHARD
    with joined():
        latents.run(config_of(images, *settings), {}, out, Runtime(threads=1, batch=3))
