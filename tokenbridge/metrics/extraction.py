"""Features of images, by a frozen extractor; those of real images are extracted once for all stages of a store.

Letters: N images, B of them at once, ch channels, H and W sides, F features, K classes, S spatial features; images are
uint8 (N, ch, H, W).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from tokenbridge.config import Data, UserError
from tokenbridge.data import files, folders
from tokenbridge.data import images as data
from tokenbridge.metrics import networks, reference_files
from tokenbridge.store.artifacts import Store, digest, file_hash, write_atomic

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Array = NDArray[np.float32]

FOLDER = "features"
"""of the store, beside its stages"""
READING = tuple(Path(module.__file__ or "") for module in (folders, files, data, networks, reference_files)) + tuple(
    Path(__file__).with_name(name) for name in ("extraction.py", "reference.py", "published.py")
)
"""the code between image files and features: which files, in which order, how they are cropped and seen"""
SUM = "sha256"
"""key of the checksum in a file of features"""


@dataclass(frozen=True)
class Extracted:
    """The arrays that an extractor gives for N images; None for those that it does not give."""

    features: Array
    """float32 (N, F)"""
    logits: Array | None = None
    """float32 (N, K)"""
    spatial: Array | None = None
    """float32 (N, S)"""

    def arrays(self) -> dict[str, Array]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class Real:
    """The features of real images."""

    extracted: Extracted
    labels: Labels | None
    """int64 (N), where they are known"""
    pixel_hash: str
    """as pixel_hash gives it, or another hash that tells files apart"""

    def __len__(self) -> int:
        return len(self.extracted.features)


def extract(extractor: nn.Module, images: Images, batch: int) -> Extracted:
    """The extractor's arrays of images, on its device, `batch` images at once."""
    return _extract([extractor], (images[start : start + batch] for start in range(0, len(images), batch)))[0]


@torch.inference_mode()
def _extract(extractors: Sequence[nn.Module], batches: Iterable[Images]) -> list[Extracted]:
    """What each extractor gives of the same images, of which each is asked for once."""
    columns: list[dict[str, list[Array]]] = [{} for _ in extractors]
    for part in batches:
        for extractor, seen in zip(extractors, columns, strict=True):
            given = extractor(torch.from_numpy(np.array(part)).to(next(extractor.parameters()).device))
            for name, values in zip(extractor.gives, given, strict=True):  # pyright: ignore[reportArgumentType]
                seen.setdefault(name, []).append(values.cpu().numpy())
    # each list goes as its array comes: both together are twice the memory
    return [Extracted(**{name: np.concatenate(seen.pop(name)) for name in [*seen]}) for seen in columns]


def extract_set(extractor: nn.Module, images: data.Images, batch: int) -> Real:
    """The extractor's arrays of a set that need not fit in memory, with its labels and pixel_hash."""
    return extract_sets([extractor], images, batch)[0]


def extract_sets(extractors: Sequence[nn.Module], images: data.Images, batch: int) -> list[Real]:
    """As extract_set, of several extractors in one pass, so that each image is read once."""
    seen = _PixelHash(len(images))

    def batches() -> Iterator[Images]:
        for part, _ in data.batches(images, batch):
            seen.add(part.numpy())
            yield part.numpy()

    found = _extract(extractors, batches())
    return [Real(extracted, images.labels, str(seen)) for extracted in found]


def pixel_hash(images: Images) -> str:
    """SHA-256 of shape and pixels, 12 hex digits."""
    seen = _PixelHash(len(images))
    seen.add(images)
    return str(seen)


class _PixelHash:
    """The pixel_hash of N images that come in parts."""

    def __init__(self, images: int):
        self.images, self.hasher = images, None

    def add(self, part: Images) -> None:
        self.hasher = self.hasher or hashlib.sha256(str((self.images, *part.shape[1:])).encode())
        for image in part:
            self.hasher.update(np.ascontiguousarray(image).data)

    def __str__(self) -> str:
        return "" if self.hasher is None else self.hasher.hexdigest()[:12]


def real(store: Store, config: Data, split: data.Split, extractor: nn.Module, weights: str, batch: int) -> Real:
    """The features of a split, kept in the store.

    They are kept by what changes them, down to the last bit: the images, the weights, the device, the threads, how
    many images the extractor sees at once, and the code that reads them. So no number depends on whether they were
    there.

    Args:
        weights: SHA-256 of the extractor's.
    """
    images = {"data": config.model_dump(exclude={"path", "test_path"}), "images": data.fingerprint(config)}
    return kept(store, [images, split], extractor, weights, batch, lambda: data.load(config, split))


def kept(store: Store, what: Any, extractor: nn.Module, weights: str, batch: int, load: Any) -> Real:
    """The features of load(), images that `what` tells from all others; they are extracted at the first call."""
    return read(keep(store, what, {weights: extractor}, batch, load)[0])[0]


def keep(store: Store, what: Any, extractors: Mapping[str, nn.Module], batch: int, load: Any) -> list[Path]:
    """The files of `kept` features, one for each extractor; those that are missing are extracted in one pass.

    Args:
        store: the runs folder.
        what: tells the images from all others.
        extractors: SHA-256 of the weights -> their network.
        batch: images that a network sees at once.
        load: reads the images.
    """
    ids = {
        digest([what, weights, batch, *_conditions(extractor), reading()]):
        weights
        for weights, extractor in extractors.items()
    }  # fmt: skip
    paths = {id: store.root / FOLDER / f"{id}.safetensors" for id in ids}
    with ExitStack() as locks:
        for id in sorted(ids):  # in one order everywhere, or two processes could wait for each other
            locks.enter_context(store.lock(f"{FOLDER}-{id}"))
        missing = [id for id, path in paths.items() if not path.exists()]
        if missing:
            (store.root / FOLDER).mkdir(parents=True, exist_ok=True)
            found = extract_sets([extractors[ids[id]] for id in missing], load(), batch)
            for id, real in zip(missing, found, strict=True):
                write(paths[id], real, {"weights": ids[id]})
    return list(paths.values())


def _conditions(extractor: nn.Module) -> list[Any]:
    """What the last bits of features depend on beside images and weights; no other precision than float32 is named."""
    conditions = [next(extractor.parameters()).device.type, torch.get_num_threads()]
    return [*conditions, *([precision] if (precision := getattr(extractor, "precision", "")) else [])]


def reading() -> list[str]:
    """What tells the code of READING from another version of it, and the libraries that it reads and resizes with."""
    libraries = (f"{name} {version(name)}" for name in ("pillow", "torch", "torch-fidelity", "clean-fid"))
    return [*(file_hash(path) for path in READING), *libraries]


def write(path: Path, images: Real, about: dict[str, str]) -> None:
    """A file of features: its arrays as float32, and what it is about as text, with a checksum of the arrays."""
    labels = {} if images.labels is None else {"labels": images.labels}
    arrays = images.extracted.arrays() | labels
    about = about | {"pixel_hash": images.pixel_hash}
    write_atomic(path, save(arrays, about | {SUM: _checksum(arrays, about)}))


def read(path: Path) -> tuple[Real, dict[str, str]]:
    """The images of a file that `write` wrote, and what they are about.

    Raises UserError for another file and for one that is not as it was written; older ones have no checksum.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        expected = about.pop(SUM, None)
        if expected is not None and expected != _checksum(arrays, about):
            raise UserError(f"{path} is damaged (its checksum is another); delete it and run again")
        labels, pixels = arrays.pop("labels", None), about.pop("pixel_hash")
        return Real(Extracted(**arrays), labels, pixels), about
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path} must be a whole file of features ({error}); delete it and run again") from error


def _checksum(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> str:
    """SHA-256 of arrays and of what they are about."""
    hasher = hashlib.sha256(repr(sorted(about.items())).encode())
    for name, array in sorted(arrays.items()):
        hasher.update(repr((name, array.dtype.str, array.shape)).encode())
        hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()
