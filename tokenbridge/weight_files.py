"""Which weights are read, and their hashes. Needs no torch: planning asks for it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokenbridge.artifacts import file_hash
from tokenbridge.config import Autoencoder, UserError

ASSETS = Path(__file__).resolve().parent / "assets"
DIGITS = ASSETS / "digits_autoencoder.safetensors"
CLASSIFIER = ASSETS / "digits_classifier.safetensors"
"""whose features score digits"""


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
