"""Commands that take in released weights and samples, and hand out samples: import, samples, export."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.common import end_with
from experiments.cli.headline import headline
from experiments.cli.options import (
    DEFAULT_BATCH,
    DEFAULT_RUNS,
    PATH,
    Batch,
    CheckData,
    Device,
    Runs,
    RunsThere,
    TrustWeights,
    complete_plans,
    path_of,
)
from experiments.trained import SHOWN, command
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import PARTIAL, Store, digest, new_file, new_folder
from tokenbridge.store.rows import progress
from tokenbridge.store.runs import EXPERIMENT, RecordedCell, cells_called, read_cells

exchange = typer.Typer()
samples = typer.Typer(help="Samples of other programs as rows of a report, scored as its own rows are.")
Name = Annotated[str, typer.Argument(help="of the sweep and its report", metavar="NAME", autocompletion=complete_plans)]
Label = Annotated[str, typer.Option("--as", help="what tables call the row, such as LlamaGen-B")]
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
    hub: Annotated[
        Path | None,
        typer.Option("--hub", help="new folder for Hugging Face: the trained generator with its model card", **PATH),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Write samples as other evaluators read them, or a trained generator for Hugging Face.

    Samples are uint8 RGB, in order; arr_0 of the .npz is (N, H, W, 3). A generator is a folder of safetensors, settings
    and model card, which huggingface_hub uploads as it is and tb.load reads.
    """
    require_one("export")
    store = Store(runs)
    if hub is not None:
        print(write_generator(store, what, hub))
    if hub is None or png or npz:
        print("\n".join(write_samples(store, what, png, npz)))


def write_generator(store: Store, what: str, target: Path) -> str:
    """Write the trained generator of a cell into a new folder for Hugging Face; returns a line that says so.

    Raises:
        UserError: the folder exists, or there is no trained cell of that name.
    """
    if what.startswith(PREFIX):
        raise UserError(f"export {what} --hub needs a cell, not a stage; give the name or id of a run")
    if os.path.lexists(target):
        raise UserError(f"{target} is there already; it must be new: choose another name or delete it")
    cells_called(store, what)  # before torch is imported
    from tokenbridge.exchange.hub import write_exported
    from tokenbridge.library.generators import trained_cell

    cell = trained_cell(store, what)
    with new_folder(target.parent, "--hub"), store.lock(f"export-{digest(str(target.resolve()))}"):
        write_exported(store, cell, target)
    return f"{cell.name}: {target}, to upload: hf upload NAME/{target.name} {shlex.quote(str(target))}"


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
        raise UserError(f"export {what} needs a target; give --png FOLDER, --npz FILE or --hub FOLDER")
    if npz is not None and npz.suffix != ".npz":
        raise UserError(f"--npz {npz} must end in .npz; call it {npz.stem or 'samples'}.npz")
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


@samples.command()
def add(
    name: Name,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="folder of images, with class folders or without, or .npz (arr_0, labels arr_1); several are several"
            " sets of one row, as seeds are",
            metavar="FOLDER|NPZ...",
            parser=path_of,
        ),
    ],
    label: Label,
    resize: Annotated[
        bool, typer.Option("--resize", help="scale and crop images of another size as the data's are (ADM's crop)")
    ] = False,
    batch: Batch = DEFAULT_BATCH,
    device: Device = "auto",
    trust_weights: TrustWeights = False,
    check_data: CheckData = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Make samples of any program a row of a report: in its tables, verdicts and MLflow, under its own protocol.

    Example: tokenbridge samples add grid samples.npz --as LlamaGen-B
    """
    from experiments import samples as rows

    require_one("samples add")
    runtime = build(Runtime, {"batch": batch, "device": device, "trust_weights": trust_weights})
    store = Store(runs)
    cells, failures = rows.add(store, name, label, paths, runtime, resize)
    end_with(failures)
    if len(cells) == 1:
        print("\n".join(headline(store, cells[0])))
    print(f"{label} is a row of {name} ({', '.join(cell.id for cell in cells)}); go on: tokenbridge report {name}")


@samples.command("list")
def list_rows(name: Name, runs: RunsThere = DEFAULT_RUNS) -> None:
    """Say which rows of a report are samples of other programs, and where they are from."""
    from experiments import samples as rows

    for row in rows.given(rows.read_plan(Store(runs), name)):
        print(f"{row['label']}: {', '.join(row['from'])} ({', '.join(row['cells'])})")


@samples.command()
def remove(name: Name, label: Label, runs: RunsThere = DEFAULT_RUNS) -> None:
    """Take samples of another program out of a report; what was measured of them stays in the runs folder."""
    from experiments import samples as rows

    count = rows.remove(Store(runs), name, label)
    sets = f"{count} set{'' if count == 1 else 's'} of samples"
    print(f"{label} ({sets}) is no row of {name} any more; go on: tokenbridge report {name}")
