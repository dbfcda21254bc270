"""Run one stage, in one process or in several together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.pipeline import Stage
from tokenbridge.config import Runtime, UserError
from tokenbridge.distributed import World, joined
from tokenbridge.store.artifacts import Store


def run_stage(store: Store, stage: Stage, runtime: Runtime) -> float:
    """Run one stage unless it is finished, by this process or another; returns the seconds it took.

    Of several processes (tokenbridge.distributed), each calls this; an error in one ends them all.
    """
    start = time.monotonic()
    with joined() as world:
        if not world.main:
            runtime = runtime.model_copy(update={"bars": False})
        with _writing(store, stage, world) as out:
            if out is not None and (world.main or stage.kind.shared):
                inputs = {kind: store.folder(id) for kind, id in stage.inputs}
                stage.kind.run(stage.config, inputs, out, runtime)
        world.barrier()  # it is published
    return time.monotonic() - start


@contextmanager
def _writing(store: Store, stage: Stage, world: World) -> Iterator[Path | None]:
    """The folder that all processes work in, None where the stage is finished; rank 0 locks and publishes it."""
    if not world.main:
        out = world.first(None)
        if out is not None and not out.is_dir():
            raise UserError(
                f"{out} is not there for process {world.rank} of {world.size}; choose a folder with --runs that all"
                " nodes share"
            )
        yield out
    elif store.finished(stage.id):
        yield world.first(None)
    else:
        about = stage.about() | ({"processes": world.size} if world.size > 1 and stage.kind.shared else {})
        with store.writing(stage.id, about, stage.kind.resumable) as out:
            yield world.first(out)
