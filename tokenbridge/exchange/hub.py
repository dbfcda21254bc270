"""A trained generator as a folder that huggingface_hub uploads as it is, and back: weights, settings, model card.

The autoencoder lies in it as diffusers writes one, so that others read it too. Nothing in the folder is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.utils import make_grid

from tokenbridge.autoencoders.frozen import FrozenAutoencoder
from tokenbridge.autoencoders.frozen import build as build_autoencoder
from tokenbridge.autoencoders.sources import CONFIG, WEIGHTS, Diffusers, autoencoder_of
from tokenbridge.config import RunConfig, UserError, holds_path
from tokenbridge.exchange.card import card, metrics_of
from tokenbridge.exchange.export import require_new
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import MANIFEST, Store, checked, file_hash, read_json, write_json
from tokenbridge.store.provenance import git_state
from tokenbridge.store.runs import Measured, RecordedCell, has_metrics, read_metrics
from tokenbridge.tokenizers import FILE as QUANTIZER
from tokenbridge.tokenizers.trained import rounded_from
from tokenbridge.weights import fill, read

AUTOENCODER, STATS, SAMPLES, CARD = "autoencoder", "stats.json", "samples.png", "README.md"
SHOWN, IN_A_ROW = 50, 10
"""sampled images of the card"""
AGAIN = "export it, or download it, again"


@dataclass(frozen=True)
class Exported:
    """What a folder says of its generator.

    Attributes:
        folder: where it lies; the stages that a generator reads are in it, as files of their own names.
        config: the run's settings; paths are names alone.
        metrics: what was measured of it, stage/name -> number.
        units: shift and spread of the autoencoder's latents.
    """

    folder: Path
    config: RunConfig
    metrics: dict[str, float]
    units: dict[str, Any]

    @property
    def folders(self) -> dict[str, Path]:
        return dict.fromkeys(("train", "quantizer", "latents"), self.folder)

    def autoencoder(self, device: torch.device | str) -> FrozenAutoencoder:
        """The run's autoencoder, to the same bits: as its own source would have laid its weights into memory."""
        folder = self.folder / AUTOENCODER
        source = Diffusers(self.config.autoencoder.model_copy(update={"path": str(folder)}))
        if self.config.autoencoder.source == Diffusers.name and not self.config.quantizer.trained:
            frozen = source.load()
        else:
            settings = {key: value for key, value in source.settings().items() if not key.startswith("_")}
            path = folder / f"{WEIGHTS}.safetensors"
            rounded = rounded_from(self.config) if self.config.quantizer.trained else None
            frozen = FrozenAutoencoder(fill(build_autoencoder(settings), read(path), path, AGAIN), rounded_from=rounded)
        frozen.take_units(self.units["shift"], self.units.get("spread", 1.0))
        return frozen.to(device)


def is_exported(folder: Path) -> bool:
    """Whether write_exported made a folder, or somebody copied one that it made."""
    return (folder / CONFIG).is_file() and (folder / QUANTIZER).is_file()


def read_exported(folder: Path) -> Exported:
    """Read what write_exported wrote. UserError for a folder that is not whole."""
    path = checked(folder / CONFIG)
    content = read_json(path, AGAIN)
    if not isinstance(content, dict) or not {"settings", "metrics", "units"} <= content.keys():
        raise UserError(f"{path} must hold settings, metrics and units, as tokenbridge export writes it; {AGAIN}")
    config = build(RunConfig, content["settings"])
    return Exported(folder, config, {key: float(value) for key, value in content["metrics"].items()}, content["units"])


def write_exported(store: Store, cell: RecordedCell, target: Path) -> None:
    """Write a trained generator into a new folder, which appears whole.

    Args:
        store: the runs folder.
        cell: a trained one.
        target: the folder; its name stands in the card.

    Raises:
        UserError: the target exists, the cell is not trained, or one of its files is not whole.
    """
    require_new(target)
    config = build(RunConfig, cell.config)
    folders = {kind: store.folder(id) for kind, id in cell.stages.items() if store.finished(id)}
    if "train" not in folders:
        raise UserError(f"{cell.name} is not trained in {store.root}; run it to the end first")
    results = {kind: read_metrics(folder) for kind, folder in folders.items() if has_metrics(folder)}
    frozen = autoencoder_of(config, folders, "cpu")
    work = target.with_name(f".{target.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        weights = "model" if config.sample.weights == "ema" else "model_raw"
        for kind, name in (("train", f"{weights}.safetensors"), ("quantizer", QUANTIZER), ("latents", STATS)):
            shutil.copyfile(checked(folders[kind] / name), work / name)
        _write_autoencoder(frozen, work / AUTOENCODER)
        _write_settings(config, cell, results, frozen, work / CONFIG)
        if "sample" in folders:
            _write_samples(folders["sample"], work / SAMPLES)
        text = card(target.name, f'"{target.name}"', config, results, SAMPLES if "sample" in folders else "")
        (work / CARD).write_text(text)
        kept = [path for path in sorted(work.iterdir()) if path.is_file() and path.name != CARD]  # which people edit
        write_json(work / MANIFEST, {"checksums": {path.name: file_hash(path) for path in kept}})
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _write_autoencoder(frozen: FrozenAutoencoder, folder: Path) -> None:
    frozen.model.save_pretrained(folder)  # pyright: ignore
    settings = read_json(folder / CONFIG)
    write_json(folder / CONFIG, {key: value for key, value in settings.items() if key != "_name_or_path"})


def _write_settings(
    config: RunConfig, cell: RecordedCell, results: Mapping[str, Measured], frozen: FrozenAutoencoder, path: Path
) -> None:
    content = {
        "library_name": "tokenbridge",
        "settings": _without_places(config),
        "units": frozen.units,
        "stages": cell.stages,
        "commit": git_state()["commit"],
        "metrics": metrics_of(results),
        "protocols": {kind: result.protocol for kind, result in results.items()},
    }
    write_json(path, content)


def _without_places(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Settings whose paths are names alone: where files lay is nobody's business, and they are not there elsewhere."""
    return {
        section: {
            name: Path(value).name if isinstance(value, str) and holds_path(section, name) else value
            for name, value in values.items()
        }
        for section, values in config.model_dump(mode="json").items()
    }


def _write_samples(folder: Path, path: Path) -> None:
    with np.load(checked(folder / "examples.npz")) as examples:
        images = torch.from_numpy(examples["images"][:SHOWN])
    grid = make_grid(images, IN_A_ROW, pad_value=255)
    enlarged = max(1, 64 // images.shape[-1])
    pixels = grid.permute(1, 2, 0).repeat_interleave(enlarged, 0).repeat_interleave(enlarged, 1)
    Image.fromarray(pixels.numpy()).save(path)
