"""Samples of a cell or a stage as files for other evaluators."""

from __future__ import annotations

import difflib
from pathlib import Path

from experiments.pipeline import JOINT
from experiments.trained import SHOWN, command
from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store, digest, writable
from tokenbridge.store.rows import progress
from tokenbridge.store.runs import Cell, read_cells

PREFIX = "sample-"


def export(store: Store, what: str, png: Path | None, npz: Path | None) -> list[str]:
    """Write what is asked for; a line for each target. UserError: no target, an existing one, or no whole samples."""
    if png is None and npz is None:
        raise UserError(f"export {what} needs a target; give --png FOLDER or --npz FILE")
    folder = store.folder(sample_stage(store, what))
    from tokenbridge.exchange.export import Samples, write_npz, write_png  # torch, only for what is there

    samples = Samples(folder)
    said = []
    for option, target, write in (("--png", png, write_png), ("--npz", npz, write_npz)):
        if target is None:
            continue
        with writable(target.parent, option), store.lock(f"export-{digest(str(target.resolve()))}"):
            write(samples, target)
        said.append(f"{len(samples)} images of {folder.name}: {target}")
    return said


def sample_stage(store: Store, what: str) -> str:
    """Id of the finished stage that `what` names: itself, or a cell by id or name. UserError where there is none."""
    cells = read_cells(store)
    if what.startswith(PREFIX):
        cell = next((cell for cell in cells.values() if what in cell.stages.values()), None)
        return _finished(store, what, what, cell)
    found = [cell for id, cell in cells.items() if what in (id, cell.name, *cell.name.split(JOINT))]
    if not found:
        names = [*{name: None for cell in cells.values() for name in cell.name.split(JOINT)}, *cells]
        near = difflib.get_close_matches(what, names, SHOWN, 0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "tokenbridge run makes one"
        raise UserError(f"{what} is no cell of {store.root / 'cells'}; {hint}")
    found = [cell for cell in found if "sample" in cell.stages] or found  # imported weights are a cell without samples
    stages = {cell.stages.get("sample"): cell for cell in found}
    if len(stages) > 1:
        ids = ", ".join(cell.id for cell in found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
        raise UserError(f"{what} names {len(found)} cells with different samples; give an id: {ids}")
    ((id, cell),) = stages.items()
    if id is None:
        raise UserError(f"{what} draws no samples; run first: {_command(cell)} --only sample")
    return _finished(store, id, what, cell)


def _finished(store: Store, id: str, what: str, cell: Cell | None) -> str:
    if store.finished(id):
        return id
    drawn, count = progress(store.folder(f"{id}.partial"))
    if cell is None and not count:
        raise UserError(f"{id} is no stage of {store.root / 'stages'}; give a cell's name or id")
    begun = f" ({drawn} of {count} images are drawn)" if count else ""
    run = f"run first: {_command(cell)} --only sample" if cell else "run its cell to the end first"
    raise UserError(f"{what if what == id else f'{id} of {what}'} is not finished{begun}; {run}")


def _command(cell: Cell) -> str:
    return command(build(RunConfig, cell.config))
