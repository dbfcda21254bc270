"""Scorers: networks whose features score images, and the files that their weights are in. Needs no torch.

Each has a name of its own, which ends the names of its metrics: numbers by two of them never meet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenbridge import ASSETS
from tokenbridge.config import Score, UserError
from tokenbridge.store.artifacts import file_hash

CLASSIFIER = ASSETS / "digits_classifier.safetensors"
"""the shipped weights whose features score digits"""
DINOV2_CODE = "facebookresearch_dinov2_main"
DINOV2_REPOSITORY = "facebookresearch/dinov2:main"


@dataclass(frozen=True)
class Scorer:
    """A network: its features, and its weights with their public source."""

    name: str
    """in score.features"""
    suffix: str
    """ends the names of its metrics"""
    fd: str
    """name of its Fréchet distance: fid_ where the literature calls it FID, else fd_"""
    rfd: str
    """name of the same for reconstructions"""
    by: str
    """who sees the images, in the words of tables and reports"""
    width: int
    """F, of its features"""
    resize: str
    file: str = ""
    source: str = ""
    sha256: str = ""
    """its first digits, where its publisher names them"""
    spatial: int = 0
    """width of its spatial features, of which sFID is made"""
    classifies: bool = False
    """whether it gives logits too, of which the Inception score is made"""
    code: str = ""
    """a folder beside the weights that it needs too"""
    caveat: str = ""
    """what is said behind the meaning of its Fréchet distance"""

    @property
    def own(self) -> bool:
        """Whether it ships, is made for this data alone and knows its classes."""
        return not self.source

    @property
    def published(self) -> bool:
        return not self.own


OWN = "digits"
SCORERS = {
    scorer.name: scorer
    for scorer in (
        Scorer(
            OWN,
            "digits",
            "fd_digits",
            "fd_digits",
            "the shipped digit classifier",
            64,
            "none",
            classifies=True,
            caveat="; it is not FID, which needs Inception features",
        ),
        Scorer(
            "inception",
            "tf",
            "fid_tf",
            "rfid_tf",
            "torch-fidelity's Inception",
            2048,
            "bilinear to 299 as TensorFlow 1 does it, by torch-fidelity",
            "weights-inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
            "6726825d",  # of the file's name, as torch.hub reads it
            spatial=2023,
            classifies=True,
        ),
        Scorer(
            "clean",
            "clean",
            "fid_clean",
            "rfid_clean",
            "clean-fid's Inception and resize",
            2048,
            "bicubic with antialiasing to 299 by PIL, not rounded, by clean-fid",
            "inception-2015-12-05.pt",
            "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
        ),
        Scorer(
            "dinov2",
            "dinov2",
            "fd_dinov2",
            "rfd_dinov2",
            "torch-fidelity's DINOv2",
            1024,
            "bilinear to 224 as TensorFlow 1 does it, by torch-fidelity",
            "dinov2_vitl14_pretrain.pth",
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            code=DINOV2_CODE,
        ),
    )
}


def qualified(conditions: Mapping[str, Any], scorer: Scorer, score: Score) -> dict[str, Any]:
    """A scorer's part of a stage's protocol; where several score, its keys begin with the scorer's suffix."""
    prefix = "" if len(score.scorers) == 1 else f"{scorer.suffix}."
    return {f"{prefix}{key}": value for key, value in conditions.items()}


def conditions_in(protocol: Mapping[str, Any], scorer: Scorer) -> dict[str, Any]:
    """What a stage's protocol says for a scorer: what is common to all, and its own part (see qualified)."""
    prefix = f"{scorer.suffix}."
    own = {key.removeprefix(prefix): value for key, value in protocol.items() if key.startswith(prefix)}
    return {**protocol, **own}


def unqualified(field: str) -> tuple[str, str]:
    """A field of a protocol as the scorer that it is of, empty for none, and its name (see qualified)."""
    suffix, point, name = field.partition(".")
    scorer = next((scorer.name for scorer in SCORERS.values() if scorer.suffix == suffix and point), "")
    return (scorer, name) if scorer else ("", field)


def cautions(scorer: Scorer, distance: str, weights: str, images: Mapping[str, int | None]) -> list[str]:
    """What a reader of a Fréchet distance must know beside its protocol, a sentence each, without a full stop.

    weights: their SHA-256, hex. images: what they are -> how many, None where that is not known.
    """
    sentences = [
        f"{count} {what} are too few for the {scorer.width} features of {scorer.name}: their covariance is singular"
        f" and {distance} reads high; it compares with others of as many images only"
        for what, count in images.items()
        if count is not None and count <= scorer.width
    ]
    if not weights.startswith(scorer.sha256):
        sentences.append(
            f"weights {weights[:8]} are not the published {scorer.file} ({scorer.sha256}): no number of {scorer.name}"
            " compares with published ones"
        )
    return sentences


def weights_of(score: Score, name: str) -> Path:
    """The file of a scorer's weights; where score.weights is unset and torch.hub's folder lacks it, it is downloaded.

    Raises UserError naming the file, its source and its hash where it is not to be had.
    """
    scorer = SCORERS[name]
    if scorer.own:
        return CLASSIFIER
    place = Path(score.weights) if score.weights else hub()
    if place.is_file() and place.name == scorer.file and not scorer.code:
        return place
    # code that comes with weights looks for them in torch.hub's order only
    candidates = [place / "checkpoints" / scorer.file, *(() if scorer.code else [place / scorer.file])]
    found = next((path for path in candidates if path.is_file()), None)
    if found and (not scorer.code or (place / scorer.code / "hubconf.py").is_file()):
        return found
    if score.weights is None:
        return _download(scorer, place)
    raise UserError(f"score.weights={score.weights} {_must_hold(scorer)}")


def weights_hash(score: Score, name: str) -> str:
    """SHA-256 of a scorer's weights, hex."""
    path = weights_of(score, name)
    return _hash(path, path.stat().st_mtime_ns)


@cache
def _hash(path: Path, changed: int) -> str:
    return file_hash(path)


def hub() -> Path:
    """torch.hub's own folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(os.environ.get("TORCH_HOME", home)).expanduser() / "hub"


def _download(scorer: Scorer, place: Path) -> Path:
    import torch.hub  # torch: only where there is something to download

    path = place / "checkpoints" / scorer.file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            torch.hub.download_url_to_file(scorer.source, str(path), scorer.sha256 or None, progress=False)
        if scorer.code and not (place / scorer.code / "hubconf.py").is_file():
            torch.hub.list(DINOV2_REPOSITORY, trust_repo="check", verbose=False)
    except (OSError, RuntimeError) as error:  # no internet; another hash
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{place} {_must_hold(scorer)}; downloading it failed ({reason})") from error
    return path


def _must_hold(scorer: Scorer) -> str:
    file = f"checkpoints/{scorer.file}" if scorer.code else scorer.file
    repository = f"https://github.com/{DINOV2_REPOSITORY.partition(':')[0]}"
    beside = f" and {scorer.code} (a clone of {repository})" if scorer.code else ""
    known = f"its SHA-256 begins with {scorer.sha256}" if scorer.sha256 else "its publisher names no hash"
    return (
        f"must hold {file}{beside} for score.features={scorer.name}; get it from {scorer.source} ({known}) and name its"
        " folder in score.weights"
    )
