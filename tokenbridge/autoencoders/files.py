"""Which weights are read, and their hashes. Needs no torch: planning asks for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenbridge.config import Autoencoder, RunConfig, UserError
from tokenbridge.store.artifacts import file_hash

ASSETS = Path(__file__).resolve().parents[1] / "assets"
DIGITS = ASSETS / "digits_autoencoder.safetensors"
CLASSIFIER = ASSETS / "digits_classifier.safetensors"
"""whose features score digits"""

DIGITS_ARCHITECTURE: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (32, 48, 64),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 8,
    "sample_size": 16,
    "mid_block_add_attention": False,  # 16 positions: the convolutions see all of them
}


class Sizes(NamedTuple):
    """What an autoencoder's architecture says."""

    channels: int
    stride: int
    image_channels: int


def settings_of(config: Autoencoder) -> dict[str, Any]:
    """Settings of diffusers' AutoencoderKL for the given one: of its config or, of an LDM checkpoint, by its shapes."""
    if config.source == "digits":
        return DIGITS_ARCHITECTURE
    if config.source == "ldm":
        from tokenbridge.autoencoders import ldm

        path = autoencoder_file(config)
        return ldm.settings_of(ldm.read_weights(path), path)
    return folder_settings(autoencoder_folder(config, weights=False))


def folder_settings(folder: Path) -> dict[str, Any]:
    """config.json of a diffusers folder, if it is of an AutoencoderKL."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} must be JSON, and is not ({error}); save the model again") from error
    if settings.get("_class_name") != "AutoencoderKL":
        raise UserError(
            f"{path} is of class {settings.get('_class_name')} and must be of AutoencoderKL; save one there"
        )
    return settings


def sizes_of(settings: Mapping[str, Any]) -> Sizes:
    """Of an AutoencoderKL with these settings; what is left out is diffusers' default."""
    levels = len(settings.get("block_out_channels", (64,)))
    return Sizes(settings.get("latent_channels", 4), 2 ** (levels - 1), settings.get("in_channels", 3))


def require_sizes(config: Autoencoder, found: Sizes) -> None:
    """Raise UserError unless channels and stride are those of the weights."""
    where = config.path or "the shipped digits autoencoder"
    for name in ("channels", "stride"):
        wanted, there = getattr(config, name), getattr(found, name)
        if wanted != there:
            raise UserError(f"autoencoder.{name}={wanted} must be {there}, that of {where}; correct autoencoder.{name}")


def require_fit(config: RunConfig, settings: Mapping[str, Any]) -> None:
    """Raise UserError unless a run's settings are those of its given autoencoder, which has these (settings_of)."""
    where = config.autoencoder.path or "the shipped digits autoencoder"
    found = sizes_of(settings)
    require_sizes(config.autoencoder, found)
    if config.data.image_channels != found.image_channels:
        raise UserError(
            f"data.image_channels={config.data.image_channels} must be {found.image_channels}, that of {where};"
            " correct data.image_channels"
        )
    if config.latents.scale == "autoencoder" and settings.get("scaling_factor") is None:
        raise UserError(
            f"latents.scale=autoencoder needs a scaling_factor in the config of {where}, which has none; take"
            " latents.scale=auto or give the number"
        )


def fingerprint(config: Autoencoder) -> str:
    """SHA-256 of the weights, hex; for a folder, of its config and of each weights file with its name."""
    if config.source == "digits":
        return file_hash(DIGITS)
    if config.source == "ldm":
        return file_hash(autoencoder_file(config))
    folder = autoencoder_folder(config)
    text = "".join(f"{path.name}\0{file_hash(path)}\n" for path in [folder / "config.json", *weights_in(folder)])
    return hashlib.sha256(text.encode()).hexdigest()


def autoencoder_folder(config: Autoencoder, weights: bool = True) -> Path:
    if config.path is None:
        raise UserError("autoencoder.path=None must name a folder where autoencoder.source=diffusers; give it")
    folder = Path(config.path)
    if not (folder / "config.json").is_file() or (weights and not weights_in(folder)):
        files = "config.json and *.safetensors" if weights else "config.json"
        raise UserError(
            f"autoencoder.path={folder} must hold {files} (AutoencoderKL.save_pretrained writes them); correct the path"
        )
    return folder


def autoencoder_file(config: Autoencoder) -> Path:
    """The checkpoint of autoencoder.source=ldm."""
    if config.path is None or not Path(config.path).is_file():
        raise UserError(
            f"autoencoder.path={config.path} must be a file where autoencoder.source=ldm (kl16.ckpt of MAR or LDM);"
            " correct the path"
        )
    return Path(config.path)


def weights_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))
