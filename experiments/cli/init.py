"""The command `tokenbridge init`: from a folder of images to a file of settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import PATH, Settings, path_of
from tokenbridge.config import RunConfig, UserError
from tokenbridge.distributed import require_one


def init(
    images: Annotated[
        Path,
        typer.Argument(
            help="folder with one sub-folder per class, of images alone, of parquet or of tar files; or a set of"
            " torchvision",
            parser=path_of,
        ),
    ],
    settings: Settings = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(
            "--autoencoder",
            help="a diffusers folder, an LDM checkpoint (kl16.ckpt) or digits; without it, one to train",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="the file, ending in .toml (default: NAME.toml here)", **PATH)
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="of runs and reports (default: the folder's)")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
) -> None:
    """Look at a folder of images, and write the settings that fit it into a file that every command takes.

    Example: tokenbridge init my-images; tokenbridge train-autoencoder my-images.toml; tokenbridge run my-images.toml
    """
    from experiments.fitting import fitting, place_of, text_of, unscored
    from experiments.presets import ENDING
    from tokenbridge.data.survey import survey
    from tokenbridge.metrics.scorers import ENCODER
    from tokenbridge.overrides import typed_settings
    from tokenbridge.store.artifacts import new_file, write_atomic
    from tokenbridge.store.runs import require_name

    require_one("init")
    words = [word.partition("=")[0] for word in settings or ()]
    if twice := next((key for key in words if words.count(key) > 1), ""):
        raise UserError(f"{twice} is given {words.count(twice)} times and must be once; leave the others out")
    given = typed_settings(settings or (), RunConfig)
    if name is None:
        name = re.sub(r"[^\w.=-]+", "-", images.resolve().name).lstrip(".=-") or "own"
    require_name(name)
    path = out or Path(f"{name}{ENDING}")
    if path.suffix != ENDING:
        raise UserError(f"--out {path} must end in {ENDING}, by which commands tell it from a preset")
    if path.exists() and not (force and path.is_file()):
        raise UserError(f"{path} is there already; give --force to write over it, or --out another name")
    place = place_of(autoencoder, path.parent / f"{name}-autoencoder")
    seen = survey(images, given)
    classifier = path.parent / f"{name}-classifier"
    fit = fitting(seen, place, classifier, given)
    file = shlex.quote(str(path))
    train, classify = f"tokenbridge train-autoencoder {file}", f"tokenbridge train-classifier {file}"
    notes = {} if place.there else {"autoencoder": [f"a small one, which {train} trains and puts there"]}
    features = next((each.value for each in fit if each.key == "score.features"), "")
    if seen.classes > 1 and features == ENCODER:
        notes["score"] = [*unscored(classify, classifier.name)]
    text = text_of(seen, name, fit, path, notes)
    with new_file(path, "--out"):
        write_atomic(path, text.encode())
    print("\n".join(seen.lines()))
    print(f"{path} has the settings that fit, with reasons; next:")
    first = [] if place.there else [train]
    first += [classify] if place.path is None and any(each.value == str(classifier) for each in fit) else []
    print("\n".join(f"  {line}" for line in [*first, f"tokenbridge run {file}"]))
