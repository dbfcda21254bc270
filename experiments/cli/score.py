"""`tokenbridge score`: any images against any others, by any scorers."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.common import show_json
from experiments.cli.exchange import sample_stage
from experiments.cli.headline import line_width, number_lines
from experiments.cli.options import DEFAULT_RUNS, CheckData, Device, Json, Runs, TrustWeights
from tokenbridge.config import Runtime, Score, UserError
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store, digest, new_folder, write_json
from tokenbridge.store.runs import read_cells, read_classes

if TYPE_CHECKING:
    from tokenbridge.library.compare import ScorerResult
    from tokenbridge.library.image_sets import ImageSet

SCORES = "scores"
"""folder of what was measured, in the runs folder"""
SETS = (
    "a folder of images, with class folders or without; .npz of images (arr_0) or statistics; kept features"
    " (.safetensors); digits or a file of settings with a split behind it (digits:test); a cell or sample stage"
)


def score(
    samples: Annotated[str, typer.Argument(help=SETS)],
    reference: Annotated[str, typer.Option("--reference", help="what SAMPLES are measured against: as SAMPLES")],
    features: Annotated[
        str,
        typer.Option(
            "--features",
            help="scorers: inception,clean,dinov2,clip are published; own (of train-classifier) and autoencoder (of"
            " train-autoencoder) need --weights and no download; digits is the shipped one",
        ),
    ] = "inception",
    weights: Annotated[str, typer.Option("--weights", help="as score.weights")] = "",
    reference_features: Annotated[
        str, typer.Option("--reference-features", help="as score.reference_features, of statistics that do not say it")
    ] = "",
    train: Annotated[
        str, typer.Option("--train", help="what SAMPLES's model was trained on: gives the share of memorized ones")
    ] = "",
    size: Annotated[int | None, typer.Option("--size", min=4, help="crop folders' images to it (ADM's crop)")] = None,
    as_json: Json = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="images at once")] = 64,
    runs: Runs = DEFAULT_RUNS,
    device: Device = "auto",
    trust_weights: TrustWeights = False,
    check_data: CheckData = False,
) -> None:
    """Score any images against any others: Fréchet distances, KID, IS, precision, recall, by class, with protocol."""
    require_one("score")
    words = {"weights": weights, "reference_features": reference_features}
    settings = build(Score, {"features": features} | {key: value for key, value in words.items() if value})
    runtime = build(Runtime, {"device": device, "batch": batch, "trust_weights": trust_weights})
    store = Store(runs)
    from tokenbridge.library.compare import compare  # torch

    first, second = opened(store, samples, size), opened(store, reference, size)
    seen = opened(store, train, size) if train else None
    if isinstance(seen, Path):
        raise UserError(f"--train={train} must be images, not statistics or features; name their folder")
    with new_folder(runs / SCORES, "--runs"):
        found = compare(first, second, settings, store, runtime, seen)
        kept = [{"command": ["tokenbridge", *sys.argv[1:]], **_plain(each)} for each in found]
        path = runs / SCORES / f"{digest([each.protocol for each in found])}.json"
        write_json(path, kept)
    if as_json:
        show_json(kept)
    else:
        print("\n".join([*_lines(found), f"kept in {path}"]))


def opened(store: Store, word: str, size: int | None) -> ImageSet | Path:
    """The set that a word of the command line names (SETS); files of statistics and features as their path.

    Args:
        store: the runs folder, whose cells are known by name.
        word: as the user wrote it.
        size: side that images of folders are cropped to; None: their own, the same of all.

    Raises:
        UserError: nothing is called so, or it holds no images.
    """
    from tokenbridge.library import image_sets

    if not word:  # the path of the folder that one is in
        raise UserError("'' must name images; give a folder, a file, a cell or digits:test")
    path = Path(word)
    if path.is_dir() or path.suffix in (".npz", ".safetensors"):
        return image_sets.of_path(path, size)
    name, colon, split = word.rpartition(":")
    if (known := _data(name if colon else word)) is not None:
        from tokenbridge.data.files import SPLITS, Split

        wanted: Split | None = next((each for each in SPLITS if each == (split if colon else "test")), None)
        if wanted is None:
            raise UserError(f"{word} must end in one of {', '.join(SPLITS)}; correct it")
        return image_sets.of_split(word, known, wanted)
    if not colon and ("/" in word or path.suffix):
        raise UserError(f"{word} is no folder or file; correct the path")
    return _drawn(store, word)


def _data(name: str) -> Any:
    """The data settings of a preset or a file of settings; None for another word."""
    from experiments import presets

    return presets.base(name).config.data if name in presets.PRESETS or name.endswith(presets.ENDING) else None


def _drawn(store: Store, what: str) -> ImageSet:
    import numpy as np

    from tokenbridge.exchange.export import Samples
    from tokenbridge.library import image_sets

    try:
        stage = sample_stage(store, what)
    except UserError as error:
        raise UserError(f"{error} (and it is no folder or file)") from error
    drawn, cells = Samples(store.folder(stage)), read_cells(store).values()
    latents = next((cell.stages.get("latents") for cell in cells if stage in cell.stages.values()), None)
    names = read_classes(store.folder(latents)) if latents else []
    return image_sets.of_arrays(what, stage, np.asarray(drawn.images), drawn.labels, names)


def _plain(found: ScorerResult) -> dict[str, Any]:
    return {
        "scorer": found.scorer,
        "metrics": found.metrics,
        "half_widths": found.half_widths(),
        "protocol": found.protocol,
        "classes": found.classes,
        "warnings": found.warnings,
    }


def _lines(scored: list[ScorerResult]) -> Iterator[str]:
    width = line_width()
    for found in scored:
        yield from _numbers(found, width)
        yield from _by_class(found)
        told = ", ".join(f"{key}={value}" for key, value in found.protocol.items() if value is not None)
        yield from textwrap.wrap(f"protocol: {told}", width, subsequent_indent="  ", break_on_hyphens=False)
        for line in found.warnings:
            yield from textwrap.wrap(f"caution: {line}", width, subsequent_indent="  ", break_on_hyphens=False)
        yield ""


def _numbers(found: ScorerResult, width: int) -> Iterator[str]:
    """A line for each number: value ± half a 95 % interval over images, direction, meaning."""
    from tokenbridge.metrics.catalogue import find

    halves = found.half_widths()
    shown = [name for name in found.metrics if not name.endswith("_se")]
    longest = max(len(name) for name in shown)
    for name in shown:
        metric = find(f"score/{name}")
        scale, decimals, unit = (metric.scale, metric.decimals, metric.unit) if metric else (1.0, 3, "")
        value = f"{found.metrics[name] * scale:.{decimals}f}"
        if name in halves:
            value += f" ± {halves[name] * scale:.{decimals}f}"
        number = f"{name:<{longest}}  {f'{value} {unit}'.rstrip():<16}"
        better, text = (metric.better, metric.meaning) if metric else ("", "")
        yield from number_lines(number, better, text, width)


def _by_class(found: ScorerResult) -> Iterator[str]:
    if not found.classes:
        return
    names = list(dict.fromkeys(key for row in found.classes for key in row))
    table = [names, *([_cell(row.get(name)) for name in names] for row in found.classes)]
    widths = [max(len(line[i]) for line in table) for i in range(len(names))]
    yield "by class:"
    for line in table:
        yield "  " + "  ".join(f"{text:>{wide}}" for text, wide in zip(line, widths, strict=True))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
