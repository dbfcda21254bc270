"""References that images are measured against: a split of the data, a folder, a file of statistics, images or features.

M real images, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tokenbridge.config import Data, Runtime, Score, UserError
from tokenbridge.data import images as data
from tokenbridge.devices import pick_device
from tokenbridge.metrics import extraction, frechet, reference_files
from tokenbridge.metrics.extraction import Real
from tokenbridge.metrics.frechet import Statistics
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.programs import code_hash
from tokenbridge.metrics.reference_files import StatisticsFile
from tokenbridge.metrics.scorers import OWN, SCORERS, channels_of, own_about, scorer_of, weights_hash, weights_of
from tokenbridge.store.artifacts import Store

NOT_SAID = "not said by the file"


@dataclass(frozen=True)
class Reference:
    """Real images, the moments of their features, or both."""

    name: str
    real: Real | None
    file: StatisticsFile | None = None
    hash: str = ""
    """of the file or folder; of the pixels where they are all that there is"""

    @cached_property
    def statistics(self) -> Statistics:
        """Those of the file, where there is one: published numbers were measured against it."""
        if self.file is not None:
            return frechet.from_moments(*self.file.pool, self.name)
        assert self.real is not None
        return frechet.from_features(self.real.extracted.features)

    @cached_property
    def spatial(self) -> Statistics | None:
        if self.file is not None and self.file.spatial is not None:
            return frechet.from_moments(*self.file.spatial, self.name)
        if self.real is None or self.real.extracted.spatial is None or self.file is not None:
            return None
        return frechet.from_features(self.real.extracted.spatial)

    @property
    def unsaid(self) -> str:
        """Its name where it is a file of statistics that does not say of which weights it is; else empty."""
        return self.name if self.file is not None and not self.file.about.get("weights") else ""

    @property
    def images(self) -> int | None:
        """The number of images, as far as is known."""
        if self.file is not None:
            return self.file.about.get("images")
        return None if self.real is None else len(self.real)


class References:
    """References for one extractor, whose features of images are kept in the store."""

    def __init__(self, store: Store, config: Data, extractor: nn.Module, score: Score, name: str, batch: int):
        self.store, self.config, self.extractor = store, config, extractor
        self.score, self.scorer, self.batch = score, scorer_of(score, name), batch
        self.weights, self.code = weights_hash(score, name), code_hash(score, name)

    def protocol(self, reference: Reference) -> dict[str, Any]:
        """What a stage's protocol says of them beside sets.set_protocol: the code that ran, weights nobody named.

        And the name of an own classifier, and the width of features where the scorer's declaration does not say it.
        """
        about: dict[str, Any] = {"features_code": self.code} if self.code else {}
        if self.scorer.name == OWN:
            about["features_name"] = own_about(weights_of(self.score, OWN))["name"]
        if not SCORERS[self.scorer.name].width:
            about["features_width"] = self.scorer.width
        return about | ({"reference_weights": NOT_SAID} if reference.unsaid else {})

    def split(self, split: data.Split) -> Reference:
        real = extraction.real(self.store, self.config, split, self.extractor, self.weights, self.batch)
        return Reference(split, real, hash=real.pixel_hash)

    def configured(self) -> Reference:
        """The reference that score.reference names."""
        if self.score.reference_split:
            return self.split(self.score.reference_split)
        return self.of_path(self.score, self.config.image_size)

    def of_path(self, score: Score, size: int | None) -> Reference:
        """The folder or file that score.reference names, of images of so many pixels, None where that is all one."""
        path = Path(score.reference)
        hash = reference_files.fingerprint(score, size)
        if path.is_dir():
            channels = channels_of(score, self.scorer.name)
            padded = self.config.padded
            what = [hash, size, *(["padded"] if padded else [])]
            real = self._kept(what, lambda: folder(path, size, channels, padded))
            return Reference(path.name, real, hash=hash)
        if path.suffix == ".safetensors":
            reference_files.require_kept(path, self.scorer, self.weights)
            return Reference(path.name, extraction.read(path)[0], hash=hash)
        keys = reference_files.holds(path)
        real = self._kept([hash, size], lambda: _array(path)) if reference_files.IMAGES in keys else None
        if real is not None and "mu" not in keys:
            return Reference(path.name, real, None, hash)
        file = reference_files.read_statistics(path, self.scorer, score.reference_features, self.weights)
        return Reference(path.name, real, file, hash)

    def _kept(self, what: Any, load: Any) -> Real:
        real = extraction.kept(self.store, what, self.extractor, self.weights, self.batch, load)
        return replace(real, labels=None)  # nobody has said them


def folder(path: Path, size: int | None, channels: int = 3, padded: bool = False) -> data.Images:
    """All images in a folder and below, as RGB or grey.

    Args:
        size: side in pixels that they are cropped to; None: the shorter side, the same of all.
        padded: whether smaller images are padded, not enlarged.

    Raises:
        UserError: no image, an unreadable one, or shorter sides that differ where no size is given.
    """
    paths = reference_files.files_in(path)
    size = data.one_size(path, paths) if size is None else size
    return data.FileImages(paths, np.zeros(len(paths), np.int64), size, channels, padded)


def write_statistics(path: Path, images: Path, score: Score, size: int | None, runtime: Runtime) -> dict[str, Any]:
    """Write statistics of the images in a folder or .npz file, by the one scorer of `score`; returns their settings.

    Args:
        path: the .npz file to write.
        size: side in pixels that the images of a folder are cropped to, by default the shorter one, the same of all.
    """
    name, *others = score.scorers
    if others:
        raise UserError(f"--features={','.join(score.scorers)} must be one scorer, whose statistics a file holds")
    if path.suffix != ".npz":
        raise UserError(f"--out={path} must end in .npz; correct it")
    extractor = load_extractor(name, pick_device(runtime), score, runtime.trust_weights)
    shown = _array(images) if images.is_file() else folder(images, size, channels_of(score, name))
    real = extraction.extract_set(extractor, shown, runtime.batch)
    if len(real) < 2:
        raise UserError(f"{images} holds {len(real)} image and must hold 2 at least, or there is no covariance")
    about = {
        "features": name,
        "weights": weights_hash(score, name),
        "resize": SCORERS[name].resize,
        "images": len(real),
        "image_size": shown[0][0].shape[-1],
        "pixel_hash": real.pixel_hash,
    }
    spatial = real.extracted.spatial
    moments = None if spatial is None else _moments(spatial)
    reference_files.write_statistics(path, _moments(real.extracted.features), moments, about)
    return about


def _array(path: Path) -> data.Images:
    pixels = reference_files.images_of(path)
    return data.ArrayImages(pixels, np.zeros(len(pixels), np.int64))


def _moments(features: extraction.Array) -> reference_files.Moments:
    x = features.astype(np.float64)
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))
