"""Reference files: statistics as .npz, images as .npz or in a folder, kept features. Without torch: planning asks.

Statistics have `mu` (F,) and `sigma` (F, F), as adm_in256_stats.npz; those of ADM's evaluator also `mu_s` and `sigma_s`
of spatial features and, in `arr_0`, the images. Of a file without a word of its features, score.reference_features says
it: those of torch-fidelity and of clean-fid cannot be told apart by their numbers.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tokenbridge.config import Score, UserError
from tokenbridge.data.contents import digest_of
from tokenbridge.data.folders import EXTENSIONS, walk
from tokenbridge.metrics.scorers import ENCODER, Scorer, channels_of, scorer_of, weights_hash
from tokenbridge.store.artifacts import atomic, file_hash

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]
IMAGES, LABELS = "arr_0", "arr_1"
ABOUT = "about"
BROKEN = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
FEWEST = 4
"""images of a set, at least, for nearest neighbours (sets.NEIGHBORHOOD) and for an error by the jackknife"""
SYMMETRIC = 1e-4
"""of the largest entry: what rounding to float32 may break"""


@dataclass(frozen=True)
class StatisticsFile:
    """Moments of features and, in some files, of spatial features; about: their features, weights, number of images."""

    pool: Moments
    spatial: Moments | None
    about: Mapping[str, Any]


def fingerprint(score: Score, image_size: int | None = None) -> str:
    """The hash of the reference. Raises UserError, before anything runs, where it does not fit the scorers.

    image_size: side of the images that are measured; a file of images of another size is refused.
    """
    path = Path(score.reference)
    if path.is_dir():
        _require_images(path, len(files_in(path)), FEWEST)
        return f"folder:{digest_of(path, files_in(path)).hex()[:12]}"
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise UserError(
            f"score.reference={path} must be train, validation, test, a folder of images, or a file: statistics or"
            " images (.npz), kept features (.safetensors); correct it"
        )
    if path.is_file():
        for name in score.scorers:
            _require_fit(path, path.stat().st_mtime_ns, name, score, image_size)  # pyright: ignore[reportArgumentType] (frozen)
    return f"sha256:{file_hash(path)[:12]}"


def files_in(folder: Path) -> list[Path]:
    """All images in a folder and below, by directory and name. Raises UserError where there is none."""
    (images,) = walk(folder, [folder]).images
    if not images:
        raise UserError(f"{folder} holds no image; it needs files ending in {' '.join(EXTENSIONS)}")
    return images


def holds(path: Path) -> set[str]:
    """The names of the arrays in an .npz file."""
    with _opened(path) as file:
        return set(file.files)


def images_of(path: Path) -> NDArray[np.uint8]:
    """The images of an .npz file (arr_0, uint8, N × height × width × 3), as (N, 3, height, width)."""
    images_shape(path)
    try:
        with _opened(path) as file:
            return file[IMAGES].transpose(0, 3, 1, 2)
    except BROKEN as error:
        raise UserError(f"{path} must be a whole .npz file ({error}); get it again") from error


def labels_of(path: Path) -> NDArray[np.int64] | None:
    """The labels of the images of an .npz file, int64 (N,), where arr_1 holds them as ADM's evaluator writes them."""
    (count, *_), labels = images_shape(path), None
    try:
        with _opened(path) as file:
            if LABELS in file.files:
                labels = file[LABELS]
    except BROKEN as error:
        raise UserError(f"{path} must be a whole .npz file ({error}); get it again") from error
    if labels is None or labels.dtype.kind not in "iu" or labels.shape != (count,) or labels.min(initial=0) < 0:
        return None
    return labels.astype(np.int64)


def images_shape(path: Path) -> tuple[int, ...]:
    """Shape (N, height, width, 1 or 3) of the images of an .npz file, from its head; UserError where it holds none."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{IMAGES}.npy") as member:
            head = npy.read_array_header_1_0 if npy.read_magic(member) == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = head(member)
    except (*BROKEN, KeyError) as error:
        raise UserError(f"{path} must be a whole .npz file ({error}); get it again") from error
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] not in (1, 3):
        raise UserError(
            f"{IMAGES} of {path} is {dtype} {shape} and must be uint8 images (N, height, width, 3); correct the file"
        )
    return shape


def read_statistics(
    path: Path, scorer: Scorer, declared: str | None = None, weights: str | None = None
) -> StatisticsFile:
    """Statistics for a scorer's features. Raises UserError for other features, widths or keys, or no covariance.

    Args:
        declared: score.reference_features, whose features they are where the file does not say it.
        weights: SHA-256 of the scorer's weights; a file that says it was made by others is refused.
    """
    try:
        with _opened(path) as file:
            arrays = {key: file[key] for key in file.files if key in ("mu", "sigma", "mu_s", "sigma_s", ABOUT)}
    except BROKEN as error:
        raise UserError(f"{path} must be a whole .npz file ({error}); get it again") from error
    about = _about(path, arrays, scorer, declared)
    _require_features(path, about, scorer, weights)
    pool = _moments(path, arrays, "", scorer.width)
    spatial = {"mu_s", "sigma_s"} & arrays.keys() and scorer.spatial
    return StatisticsFile(pool, _moments(path, arrays, "_s", scorer.spatial) if spatial else None, about)


def write_statistics(path: Path, pool: Moments, spatial: Moments | None, about: Mapping[str, Any]) -> None:
    """Write a file for read_statistics, and for others that look for mu and sigma."""
    arrays = {"mu": pool[0], "sigma": pool[1], ABOUT: np.array(json.dumps(about))}
    if spatial is not None:
        arrays |= {"mu_s": spatial[0], "sigma_s": spatial[1]}
    with atomic(path) as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def require_kept(path: Path, scorer: Scorer, weights: str) -> None:
    """Raise UserError unless a file holds kept features of 2 images at least, of a scorer with these weights."""
    try:
        with safe_open(path, framework="numpy") as file:
            about, features = file.metadata() or {}, file.get_tensor("features")
            labels = file.get_slice("labels").get_shape() if "labels" in file.keys() else [len(features)]  # noqa: SIM118
            if "pixel_hash" not in about or labels != [len(features)]:
                raise ValueError("it lacks pixel_hash, or its labels are not one for each image")
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path} must be a whole file of features ({error}); extract them again") from error
    if about.get("weights") != weights or features.ndim != 2 or features.shape[1] != scorer.width:
        raise UserError(
            f"{path} holds features of other weights than score.features={scorer.name} has here; extract them"
            " again, or give score.weights as they were"
        )
    _require_images(path, len(features), FEWEST)
    if wrong := int(features.size - np.count_nonzero(np.isfinite(features))):
        raise UserError(f"features of {path} has {wrong} values that are not finite; extract them again")


@cache
def _require_fit(path: Path, changed: int, name: str, score: Score, image_size: int | None) -> None:
    scorer, weights = scorer_of(score, name), weights_hash(score, name)
    if path.suffix == ".safetensors":
        require_kept(path, scorer, weights)
        return
    keys, sizes = holds(path), list[Any]()
    if "mu" in keys or IMAGES not in keys:
        sizes.append(read_statistics(path, scorer, score.reference_features, weights).about.get("image_size"))
    if IMAGES in keys:
        images, *sides, channels = images_shape(path)
        if (scorer.tells_images or name == ENCODER) and channels != channels_of(score, name):
            raise UserError(
                f"{path} is of images of {channels} channels, which must be {channels_of(score, name)} for"
                f" score.features={name}; take other images"
            )
        _require_images(path, images, FEWEST)
        sizes += sides
    if (other := [size for size in sizes if size not in (None, image_size)]) and image_size is not None:
        raise UserError(
            f"{path} is of images of {other[0]} pixels, which must be data.image_size={image_size}; take statistics"
            f" of images of that size (`tokenbridge stats IMAGES --size {image_size}`)"
        )


def _require_images(path: Path, images: int, least: int) -> None:
    if images < least:
        raise UserError(f"{path} holds {images} images and must hold {least} at least; take more")


def _about(path: Path, arrays: Mapping[str, Any], scorer: Scorer, declared: str | None) -> dict[str, Any]:
    """What a file says of itself, with the features that it or score.reference_features names."""
    try:
        about = json.loads(str(arrays[ABOUT])) if ABOUT in arrays else {}
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise UserError(
            f"{ABOUT} of {path} must be a JSON object, as `tokenbridge stats` writes it; make the file again"
        )
    if "images" in about and (type(about["images"]) is not int or about["images"] < 2):
        raise UserError(
            f"{path} says images={about['images']!r} and must be of 2 images at least; take statistics of more images"
        )
    named = about.get("features")
    if named is None and declared is None:
        raise UserError(
            f"{path} does not say whose features its statistics are of; if they are those of score.features="
            f"{scorer.name}, say so: score.reference_features={scorer.name} (inception: torch-fidelity, ADM, MAR;"
            " clean: clean-fid)"
        )
    if named is not None and declared not in (None, named):
        raise UserError(
            f"score.reference_features={declared} must be {named}, of whose features {path} is; leave it out"
        )
    return {"features": declared} | about


def _require_features(path: Path, about: Mapping[str, Any], scorer: Scorer, weights: str | None) -> None:
    if about["features"] != scorer.name:
        raise UserError(
            f"{path} holds statistics of {about['features']} features, not of score.features={scorer.name};"
            " `tokenbridge stats` makes a file for each"
        )
    theirs = about.get("weights")
    if weights is not None and theirs not in (None, weights):
        raise UserError(
            f"{path} holds statistics by weights {str(theirs)[:12]} of {scorer.name}, and those here are"
            f" {weights[:12]}; take statistics again, or give score.weights as they were"
        )


def _moments(path: Path, arrays: Mapping[str, Any], ending: str, width: int) -> Moments:
    names = f"mu{ending}", f"sigma{ending}"
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"{path} must hold {' and '.join(names)}, but {missing[0]} is missing; correct the file")
    if wrong := [name for name in names if arrays[name].dtype.kind not in "fiu"]:
        raise UserError(f"{wrong[0]} of {path} is {arrays[wrong[0]].dtype} and must be numbers; correct the file")
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
    try:
        np.linalg.cholesky(sigma + SYMMETRIC * max(np.abs(sigma).max(), np.finfo(np.float64).tiny) * np.eye(width))
    except np.linalg.LinAlgError:
        raise UserError(f"{names[1]} of {path} must have no eigenvalue below 0; get the file again") from None
    return mu, sigma


def _opened(path: Path) -> Any:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no end of a zip file is in it")
        return np.load(path, allow_pickle=False)
    except BROKEN as error:
        raise UserError(f"{path} must be a whole .npz file ({error}); get it again") from error
