"""Tables 1a and 1b on any images and autoencoder: a cell for each quantizer, the images encoded once."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from experiments.paper import RECONSTRUCT, plan
from experiments.pipeline import RECONSTRUCTION, Cell
from experiments.presets import ENDING
from experiments.presets import base as base_of
from tokenbridge.autoencoders.autoencoder_kl import KL, class_of, sizes_of
from tokenbridge.autoencoders.sources import CARD, recognized, source_of
from tokenbridge.config import Autoencoder, RunConfig, Sample, UserError
from tokenbridge.data.class_folders import class_count
from tokenbridge.data.survey import Survey, survey, survey_of
from tokenbridge.metrics.catalogue import ARROWS, find
from tokenbridge.metrics.reference_files import FEWEST
from tokenbridge.metrics.scorers import ENCODER
from tokenbridge.overrides import build, override, plain
from tokenbridge.store.artifacts import Store, read_json, writable, write_atomic
from tokenbridge.store.runs import read_metrics

DIGITS = "digits"
HIDDEN = ("_floor", "agreement", "agreement_own")
"""endings of metrics that only the CSV file has"""
BITS = "bits"
"""column of the bits that an image's tokens take without a code"""


def cells(
    images: str, train: str | None, autoencoder: str, grid: Mapping[str, Sequence[Any]], assignments: Sequence[str]
) -> list[Cell]:
    """Continuous latents, then each pair of range and levels.

    Args:
        images: a folder of images, with class folders or without, or "digits": each image is reconstructed. Or a file
            of settings, which names images and autoencoder: those of its test split are.
        train: what scale, fitted levels and the reference of rFID are of, in the same form; without it, of `images`.
        autoencoder: "digits", a diffusers folder or an LDM checkpoint.
        grid: values of "levels" and of "range".
        assignments: settings to change beside these, as section.key=value.

    Raises:
        UserError: what cannot work.
    """
    for name, values in grid.items():
        if twice := next((value for i, value in enumerate(values) if value in values[:i]), None):
            raise UserError(f"--{name} has {plain(twice)} twice; give each value once")
    base = _base(images, train, autoencoder, assignments)
    of = f"{base_of(images).name}-" if images.endswith(ENDING) else ""
    cells = [Cell(f"{of}continuous", override(base, {"quantizer.kind": "identity"}), RECONSTRUCTION)]
    for wide in grid["range"]:
        for levels in grid["levels"]:
            name = f"{of}{base.quantizer.kind}-b{plain(levels)}" + (
                f"-r{plain(wide)}" if len(grid["range"]) > 1 else ""
            )
            changes = {"quantizer.levels": levels, "quantizer.range": wide}
            cells.append(Cell(name, override(base, changes), RECONSTRUCTION))
    return cells


def _base(images: str, train: str | None, autoencoder: str, assignments: Sequence[str]) -> RunConfig:
    if images.endswith(ENDING):
        return _of_file(images, train, autoencoder, assignments)
    source = {"source": DIGITS} if autoencoder == DIGITS else _source(Path(autoencoder))
    settings = source_of(build(Autoencoder, source)).settings()
    sizes = sizes_of(settings)
    pretrained = {**source, "channels": sizes.channels, "stride": sizes.stride}
    data: dict[str, Any] = {"image_channels": sizes.image_channels, "image_size": 16}
    score: dict[str, Any] = {}
    if images == DIGITS:
        if train is not None:
            raise UserError(f"--train {train} goes with a folder of images; the shipped digits have a training split")
    else:
        classes = class_count(Path(images), f", or {DIGITS}")
        data |= {"source": "folder", "path": train or images, "test_path": images, "classes": classes}
        data["validation_fraction"] = 0.0  # nothing is chosen
        if autoencoder != DIGITS:
            given = {word.partition("=")[0] for word in assignments}
            data["image_size"] = (
                4 * sizes.stride if "data.image_size" in given else _size(autoencoder, images, settings)
            )
            few = _survey(images).images < FEWEST  # too few for distances with errors
            few = few or class_of(settings) != KL  # whose encoder alone has features
            score = {} if few or "score.features" in given else {"features": ENCODER, "weights": autoencoder}
    # nothing is generated, and 1 iteration fits every number of positions
    whole = {"data": data, "autoencoder": pretrained, "sample": Sample(iterations=1).model_dump(), "score": score}
    return override(build(RunConfig, whole), assignments)


def _of_file(file: str, train: str | None, autoencoder: str, assignments: Sequence[str]) -> RunConfig:
    for option, value in (("--train", train), ("--autoencoder", autoencoder if autoencoder != DIGITS else None)):
        if value is not None:
            raise UserError(f"{option} {value} is what {file} says; leave it out, or change the file")
    config = override(base_of(file).config, assignments)
    return override(config, {"quantizer.kind": "gaussian"}) if config.quantizer.kind == "identity" else config


@cache
def _survey(images: str) -> Survey:
    return survey(Path(images))


def _size(autoencoder: str, images: str, settings: Mapping[str, Any]) -> int:
    """Pixels per side: those on the card of an own autoencoder; else what most images have, at most its config's."""
    folder = Path(autoencoder)
    card = read_json(folder / CARD, "delete it, or train it again") if (folder / CARD).is_file() else {}
    if isinstance(card, dict) and type(card.get("image_size")) is int:
        return card["image_size"]
    sizes, of_config = sizes_of(settings), settings.get("sample_size")
    if sizes.image_size:
        return sizes.image_size
    fitting = _survey(images).size(sizes.stride)
    return min(of_config // sizes.stride * sizes.stride or fitting, fitting) if type(of_config) is int else fitting


def crop(config: RunConfig) -> str:
    """A line on how images are cropped; empty for the digits."""
    size = config.data.image_size
    if config.data.source == DIGITS or (of := survey_of(config.data)).smallest == of.largest == size:
        return ""
    sizes = of.sizes()
    if config.data.padded and of.smallest < size:
        return f"images of {sizes} pixels on the shorter side are padded to {size}×{size} where they are smaller"
    return f"images of {sizes} pixels on the shorter side are scaled and cropped to {size}×{size} (data.image_size)"


def _source(path: Path) -> dict[str, str]:
    if name := recognized(path):
        return {"source": name, "path": str(path)}
    raise UserError(f"--autoencoder {path} must be {DIGITS}, a diffusers folder or an LDM checkpoint; correct it")


def label(cell: Cell, cells: Sequence[Cell]) -> str:
    """The row's label in the report: continuous, B=8, or B=8, ±3 where ranges vary."""
    how = cell.config.quantizer
    if how.kind == "identity":
        return "continuous"
    several = len({each.config.quantizer.range for each in cells if each.config.quantizer.kind != "identity"}) > 1
    return f"B={plain(how.levels)}" + (f", ±{how.range:g}" if several else "")


def write_plan(store: Store, name: str, cells: Sequence[Cell], command: str) -> None:
    """Write the plan of the report.

    Args:
        store: the runs folder, in which the cells are recorded.
        name: of the report.
        cells: as `cells` gives them.
        command: what was typed.
    """
    base = cells[-1].config
    data, autoencoder = base.data.test_path or base.data.path, base.autoencoder
    images = base.data.name or (Path(data).absolute().name if data else "handwritten digits")
    by = Path(autoencoder.path).name if autoencoder.path else f"the {autoencoder.source} autoencoder"
    plan.write(store.root, {
        "name": name,
        "title": f"What quantizing costs: {images}, through {by}",
        "preset": DIGITS,
        "base": base.model_dump(mode="json"),
        "tables": [RECONSTRUCT],
        "rows": [{"table": RECONSTRUCT, "label": label(cell, cells), "cell": cell.id} for cell in cells],
        "command": command,
    })  # fmt: skip


def rows(store: Store, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """A row per cell: its settings, bits per image (not for continuous latents), and the metrics of its last stage.

    Args:
        store: the runs folder, in which the cells are finished.
        cells: as `cells` gives them.
    """
    rows = []
    for cell in cells:
        how, levels = cell.config.quantizer, cell.config.token_levels
        settings: dict[str, Any] = {"quantizer": "none" if how.kind == "identity" else how.kind}
        settings |= {"levels": plain(how.levels) if levels else "", "range": how.range if levels else ""}
        metrics = read_metrics(store.folder(cell.stages()[-1].id)).metrics
        bits = {BITS: cell.config.positions * sum(map(math.log2, levels))} if levels else {}
        rows.append(settings | bits | metrics)
    return rows


def remarks(store: Store, cells: Sequence[Cell]) -> Iterator[str]:
    """Sentences below the table: what was left out and why, and what the reference is."""
    protocol = read_metrics(store.folder(cells[0].stages()[-1].id)).protocol
    data, score = cells[0].config.data, cells[0].config.score
    if reason := protocol.get("features_left_out"):
        yield f"No Fréchet distance and no inception-style score: {reason}."
    else:
        same = data.path is not None and data.path == data.test_path
        reference = (
            ("the images themselves" if same else "the training images") if score.reference_split else score.reference
        )
        yield f"Fréchet distances are to {reference}; those with originals in their name to the originals."
    if ENCODER in score.scorers and not protocol.get("features_left_out"):
        yield "fd_autoencoder sees what the autoencoder's encoder sees, which favours what it has decoded."
    if score.lpips is None:
        yield "No LPIPS: score.lpips names no weights (torchvision's VGG-16 or AlexNet)."
    where = cells[0].config.autoencoder.path or cells[0].config.autoencoder.source
    yield (
        f"{protocol['images']} images of {protocol['image_size']} pixels; autoencoder {where}"
        f" ({protocol['autoencoder']}). ±: standard error over images."
    )


def markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table: a metric with its standard error in one column, under its title, unit and direction."""
    keys = [key for key in _keys(rows) if not key.endswith(("_se", *HIDDEN))]
    lines = ["| " + " | ".join(map(_title, keys)) + " |", "|" + "---|" * len(keys)]
    return lines + ["| " + " | ".join(_cell(row, key) for key in keys) + " |" for row in rows]


def table_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _keys(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(folder: Path, lines: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write reconstruction.md and reconstruction.csv into a folder."""
    with writable(folder, "--out"):
        write_atomic(folder / "reconstruction.md", ("\n".join(lines) + "\n").encode())
        write_atomic(folder / "reconstruction.csv", table_csv(rows).encode())


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))


def _title(key: str) -> str:
    """Of a column: a metric's title with unit and direction, the name of what is none."""
    if key == BITS:
        return "bits/image"
    of = find(f"reconstruct/{key}")
    if of is None:
        return key
    return " ".join(filter(None, [f"{of.title}, {of.unit}" if of.unit else of.title, ARROWS[of.better]]))


def _cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, float):
        return str(value)
    error = row.get(f"{key}_se")
    return f"{value:.4g}" + (f" ± {error:.2g}" if error is not None else "")
