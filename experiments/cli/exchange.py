"""Commands that take in released weights and hand out samples: import, export."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import DEFAULT_RUNS, PATH, Runs, path_of
from experiments.trained import SHOWN, command
from tokenbridge.config import RunConfig, UserError
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import PARTIAL, Store, digest, new_file, new_folder
from tokenbridge.store.rows import progress
from tokenbridge.store.runs import EXPERIMENT, RecordedCell, cells_called, read_cells

exchange = typer.Typer()
PREFIX = "sample-"
OPEN = ("data", "autoencoder", "score")
"""sections of settings that released weights do not fix"""


@exchange.command("import")
def import_released(
    path: Annotated[Path, typer.Argument(help="checkpoint-last.pth of a release", parser=path_of)],
    model: Annotated[str, typer.Option("--as", help="tokenbridge-B, -L or -H, or mar-B, -L or -H")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="settings such as data.path=imagenet/train, or a file of settings (.toml, see init): its images,"
            " autoencoder and scorer",
            metavar="[FILE] [KEY=VALUE]...",
        ),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Make released weights of TokenBridge or MAR the finished training of their configuration."""
    from experiments import pipeline, presets, trained
    from tokenbridge.exchange.released import read_released, require_fit, require_told, write_released
    from tokenbridge.overrides import override

    words = [each for word in settings or () for each in _words(word)]
    config = override(presets.released(model), words)
    weights = read_released(path)
    require_fit(weights, config)
    require_told(config, presets.released(model), {word.partition("=")[0] for word in words})
    config = override(config, {"train.released": weights.id})
    store, cell = Store(runs), pipeline.Cell(model, config, ("train",))
    (stage,) = cell.stages()
    with store.writing(stage.id, stage.about()) as out:
        if out is not None:
            write_released(weights, config, out)
    pipeline.record(store, [cell], EXPERIMENT)
    print(f"{model} is {stage.id} in {runs / 'stages'}; go on: {trained.command(config)} --name {model}")


def _words(word: str) -> list[str]:
    """A setting as it is; of a file of settings those that a release leaves open, as they would be typed."""
    from experiments import presets

    if "=" in word or not word.endswith(presets.ENDING):
        return [word]
    return [each for each in presets.base(word).settings if each.partition(".")[0] in OPEN]


@exchange.command()
def export(
    what: Annotated[str, typer.Argument(help="cell (id or name) or stage (sample-…)", metavar="CELL|STAGE")],
    png: Annotated[Path | None, typer.Option("--png", help="new folder of PNG files", **PATH)] = None,
    npz: Annotated[Path | None, typer.Option("--npz", help="new file in the layout of ADM's evaluator", **PATH)] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write samples as other evaluators read them: uint8 RGB, in order; arr_0 of the .npz is (N, H, W, 3)."""
    require_one("export")
    print("\n".join(write_samples(Store(runs), what, png, npz)))


def write_samples(store: Store, what: str, png: Path | None, npz: Path | None) -> list[str]:
    """Write samples into each target that is given; returns a line for each.

    Args:
        store: the runs folder.
        what: a cell (id or name) or a sample stage's id.
        png: a new folder for PNG files.
        npz: a new file in the layout of ADM's evaluator.

    Raises:
        UserError: no target, a target that exists, or no finished samples of that name.
    """
    if png is None and npz is None:
        raise UserError(f"export {what} needs a target; give --png FOLDER or --npz FILE")
    folder = store.folder(sample_stage(store, what))
    from tokenbridge.exchange.export import Samples, require_new, write_npz, write_png  # torch, only for what is there

    samples, todo = Samples(folder), [(png, write_png), (npz, write_npz)]
    with ExitStack() as places:
        for target in (png, npz):
            if target is not None:
                require_new(target)
                places.enter_context(new_file(target, "--npz") if target is npz else new_folder(target.parent, "--png"))
        for target, write in todo:
            if target is not None:
                with store.lock(f"export-{digest(str(target.resolve()))}"):
                    write(samples, target)
    return [f"{len(samples)} images of {folder.name}: {target}" for target, _ in todo if target is not None]


def sample_stage(store: Store, what: str) -> str:
    """Id of the finished sample stage that `what` names.

    Args:
        store: the runs folder.
        what: the stage's id, or a cell's id or name.

    Raises:
        UserError: there is none, it is not finished, or the name is that of cells with different samples.
    """
    if what.startswith(PREFIX):
        cell = next((cell for cell in read_cells(store).values() if what in cell.stages.values()), None)
        return _finished(store, what, what, cell)
    matching = cells_called(store, what)
    matching = [
        cell for cell in matching if "sample" in cell.stages
    ] or matching  # imported weights are a cell without samples
    stages = {cell.stages.get("sample"): cell for cell in matching}
    if len(stages) > 1:
        ids = ", ".join(cell.id for cell in matching[:SHOWN]) + (", …" if len(matching) > SHOWN else "")
        raise UserError(f"{what} names {len(matching)} cells with different samples; give an id: {ids}")
    ((id, cell),) = stages.items()
    if id is None:
        raise UserError(f"{what} draws no samples; run first: {_command(cell)} --only sample")
    return _finished(store, id, what, cell)


def _finished(store: Store, id: str, what: str, cell: RecordedCell | None) -> str:
    if store.finished(id):
        return id
    drawn, count = progress(store.folder(f"{id}{PARTIAL}"))
    if cell is None and not count:
        raise UserError(f"{id} is no stage of {store.root / 'stages'}; give a cell's name or id")
    begun = f" ({drawn} of {count} images are drawn)" if count else ""
    run = f"run first: {_command(cell)} --only sample" if cell else "run its cell to the end first"
    raise UserError(f"{what if what == id else f'{id} of {what}'} is not finished{begun}; {run}")


def _command(cell: RecordedCell) -> str:
    return command(build(RunConfig, cell.config))
