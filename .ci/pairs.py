"""Every head on every token, as `tokenbridge run`: it trains and samples, or is refused with the reason beforehand.

Two commands run at a time, each forked from a process that has imported what all of them need: 50 starts of an
interpreter with torch and MLflow would take longer than their work.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from itertools import product

from experiments.cli.main import main
from tokenbridge.autoencoders.autoencoder_kl import autoencoder_kl
from tokenbridge.config import HEAD_KINDS
from tokenbridge.stages import STAGES

TOKENS = (
    "quantizer.kind=gaussian",
    "quantizer.kind=uniform",
    "quantizer.kind=quantile",
    "quantizer.kind=lloyd-max",
    "quantizer.kind=vq quantizer.levels=64",
    "quantizer.kind=rvq quantizer.levels=[16,16]",
    "quantizer.kind=fsq quantizer.levels=[8,5,5,5] autoencoder.channels=4",
    "quantizer.kind=lfq quantizer.levels=2 autoencoder.channels=6",
    "quantizer.kind=bsq quantizer.levels=2 autoencoder.channels=6",
    "quantizer.kind=identity",
)
TINY = (
    "backbone.width=16 backbone.encoder_depth=1 backbone.decoder_depth=1 backbone.heads=2 head.width=16 head.depth=1"
    " head.heads=2 train.epochs=2 train.warmup_epochs=1 sample.images=360 sample.iterations=4 sample.head_steps=4"
    " quantizer.epochs=1"
)
SECONDS = 600  # then a command hangs


def command(head: str, token: str) -> tuple[int, str]:
    """Exit code of `tokenbridge run` with these settings, in this process, and what it printed."""
    settings = f"{TINY} head.kind={head} {token}".split()
    with tempfile.TemporaryFile("w+") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
        sys.argv = ["tokenbridge", "run", "digits", *settings, "--only", "score", "--name", f"pair-{head}"]
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 1
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        out.seek(0)
        return (code if isinstance(code, int) else int(code is not None)), out.read()


def told(head: str, code: int, out: str) -> str:
    """The score of a command that ran, the reason of one that was refused; AssertionError for anything else."""
    lines = out.splitlines()
    if code:
        assert len(lines) == 1, out
        assert f"cannot go with head.kind={head}" in out, out
        return lines[0]
    (score,) = (line for line in lines if line.startswith("score/fd_digits "))
    return score


if __name__ == "__main__":
    stages = [f"tokenbridge.stages.{name}" for name in STAGES]
    for module in (
        *stages,
        "experiments.runner",
        "experiments.tracking.sync",
        "mlflow.store.tracking.sqlalchemy_store",
    ):
        importlib.import_module(module)
    autoencoder_kl()
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        pairs = list(product(HEAD_KINDS, TOKENS))
        under_way = [pool.apply_async(command, pair) for pair in pairs]
        for (head, token), result in zip(pairs, under_way, strict=True):
            print(f"{head} on {token}: {told(head, *result.get(SECONDS))}", flush=True)
