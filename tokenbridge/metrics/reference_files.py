"""Reference files: statistics as .npz, images as .npz or in a folder, kept features. Without torch: planning asks.

Statistics have `mu` (F,) and `sigma` (F, F), as adm_in256_stats.npz; those of ADM's evaluator also `mu_s` and `sigma_s`
of spatial features and, in `arr_0`, the images. Files without a word of their features are Inception's.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenbridge.config import Score, UserError
from tokenbridge.data.files import EXTENSIONS
from tokenbridge.metrics.scorers import SCORERS, Scorer
from tokenbridge.store.artifacts import file_hash

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]
IMAGES = "arr_0"
ABOUT = "about"
BROKEN = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)
SYMMETRIC = 1e-4
"""of the largest entry: what rounding to float32 may break"""


@dataclass(frozen=True)
class StatisticsFile:
    """Moments of features and, in some files, of spatial features; about: their features, weights, number of images."""

    pool: Moments
    spatial: Moments | None
    about: Mapping[str, Any]


def fingerprint(score: Score) -> str:
    """The hash of the reference. Raises UserError, before anything runs, where it does not fit the scorers."""
    path = Path(score.reference)
    if path.is_dir():
        return f"folder:{_folder_hash(path)}"
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise UserError(
            f"score.reference={path} must be train, held-out, a folder of images, or a file: statistics or images"
            " (.npz), kept features (.safetensors); correct it"
        )
    if path.suffix == ".npz":
        for name in score.scorers:
            _require_fit(path, path.stat().st_mtime_ns, SCORERS[name])
    return f"sha256:{file_hash(path)[:12]}"


def files_in(folder: Path) -> list[Path]:
    """All images in a folder and below, sorted. Raises UserError where there is none."""
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not images:
        raise UserError(f"{folder} holds no image; it needs files ending in {' '.join(EXTENSIONS)}")
    return images


def holds(path: Path) -> set[str]:
    """The names of the arrays in an .npz file."""
    with _opened(path) as file:
        return set(file.files)


def images_of(path: Path) -> NDArray[np.uint8]:
    """The images of an .npz file (arr_0, uint8, N × height × width × 3), as (N, 3, height, width)."""
    with _opened(path) as file:
        images = file[IMAGES]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"{IMAGES} of {path} is {images.dtype} {images.shape} and must be uint8 images (N, height, width, 3);"
            " correct the file"
        )
    return images.transpose(0, 3, 1, 2)


def read_statistics(path: Path, scorer: Scorer) -> StatisticsFile:
    """Statistics for a scorer's features. Raises UserError for other features, widths or keys, or no covariance."""
    try:
        with _opened(path) as file:
            arrays = {key: file[key] for key in file.files if key in ("mu", "sigma", "mu_s", "sigma_s", ABOUT)}
    except BROKEN as error:
        raise UserError(f"{path} must be a whole .npz file ({error}); get it again") from error
    about = json.loads(str(arrays[ABOUT])) if ABOUT in arrays else {"features": "inception"}
    if about["features"] != scorer.name:
        raise UserError(
            f"{path} holds statistics of {about['features']} features, not of score.features={scorer.name};"
            " `tokenbridge stats` makes a file for each"
        )
    pool = _moments(path, arrays, "", scorer.width)
    spatial = {"mu_s", "sigma_s"} & arrays.keys() and scorer.spatial
    return StatisticsFile(pool, _moments(path, arrays, "_s", scorer.spatial) if spatial else None, about)


def write_statistics(path: Path, pool: Moments, spatial: Moments | None, about: Mapping[str, Any]) -> None:
    """Write a file for read_statistics, and for others that look for mu and sigma."""
    arrays = {"mu": pool[0], "sigma": pool[1], ABOUT: np.array(json.dumps(about))}
    if spatial is not None:
        arrays |= {"mu_s": spatial[0], "sigma_s": spatial[1]}
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    partial.rename(path)


@cache
def _require_fit(path: Path, changed: int, scorer: Scorer) -> None:
    keys = holds(path)
    if "mu" in keys or IMAGES not in keys:
        read_statistics(path, scorer)


def _moments(path: Path, arrays: Mapping[str, Any], ending: str, width: int) -> Moments:
    names = f"mu{ending}", f"sigma{ending}"
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"{path} must hold {' and '.join(names)}, but {missing[0]} is missing; correct the file")
    mu, sigma = (np.asarray(arrays[name], np.float64) for name in names)
    if mu.shape != (width,) or sigma.shape != (width, width):
        raise UserError(
            f"{path} has {names[0]} {mu.shape} and {names[1]} {sigma.shape}, which must be ({width},) and"
            f" ({width}, {width}) for these features; take statistics of the same network"
        )
    for name, values in zip(names, (mu, sigma), strict=True):
        wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
        if wrong:
            raise UserError(f"{name} of {path} has {wrong} values that are not finite; get the file again")
    if np.abs(sigma - sigma.T).max() > SYMMETRIC * np.abs(sigma).max():
        raise UserError(f"{names[1]} of {path} must be symmetric, as a covariance is; get the file again")
    return mu, sigma


def _opened(path: Path) -> Any:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no end of a zip file is in it")
        return np.load(path, allow_pickle=False)
    except BROKEN as error:
        raise UserError(f"{path} must be a whole .npz file ({error}); get it again") from error


def _folder_hash(folder: Path) -> str:
    """A hash of relative paths and sizes: no image is read."""
    lines = [f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n" for path in files_in(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]
