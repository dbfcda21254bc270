"""Classification sets of torchvision by name, SETS. Their IDX files are read here, so that these need no torch.

torchvision is imported where another set is looked at for the first time, downloaded, or read.
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from tokenbridge.config import Data, UserError
from tokenbridge.data import contents
from tokenbridge.data.folders import files_below, printable
from tokenbridge.data.pictures import readable
from tokenbridge.data.sources import Given, Labelled
from tokenbridge.overrides import near

Keywords = dict[Given, dict[str, Any]]


def _split(train: str = "train", test: str = "test") -> Keywords:
    return {"train": {"split": train}, "test": {"split": test}}


_TRAIN: Keywords = {"train": {"train": True}, "test": {"train": False}}
SETS: dict[str, Keywords] = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "CIFAR10", "CIFAR100", "USPS"), _TRAIN),
    **dict.fromkeys(("Country211", "DTD", "FER2013", "Flowers102", "Food101", "GTSRB"), _split()),
    **dict.fromkeys(("PCAM", "RenderedSST2", "STL10", "StanfordCars", "SVHN"), _split()),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _split(train="trainval")),
    **dict.fromkeys(("ImageNet", "Imagenette"), _split(test="val")),
    **{name: {"train": {}} for name in ("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397")},
}
"""name -> what torchvision's class takes for training and test images; those without test images give shares. Of
ImageNet and Imagenette the test images are those called validation, as everywhere"""
CLASSES: dict[str, tuple[str, ...]] = {
    "MNIST": ("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven",
              "8 - eight", "9 - nine"),
    "FashionMNIST": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                     "Ankle boot"),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}  # fmt: skip
"""names of the classes of sets in IDX files, as torchvision has them"""
DEBIAN = {"FashionMNIST": Path("/usr/share/datasets/fashion-mnist")}
"""where Debian's packages have a set"""
PACKAGES = {"FashionMNIST": "dataset-fashion-mnist"}
UNLABELLED = -1
LOCK = ".download.lock"
IDX: dict[Given, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""files of a set's images and labels, gzipped or not"""


@dataclass(frozen=True, slots=True)
class Item:
    """An image of a set."""

    name: str
    root: Path
    split: Given
    number: int

    def open(self) -> Image.Image:
        return _items(self.name, self.root, self.split)[self.number][0]

    def __str__(self) -> str:
        return f"image {self.number} of {self.name} ({self.split}) in {self.root}"


class TorchvisionSet(Labelled):
    """The set that data.name names, in data.path; unset: Debian's copy, or the user's cache folder."""

    def __init__(self, config: Data):
        super().__init__(config)
        self.name = config.name or ""
        if self.name not in SETS:
            close = near(self.name, SETS)
            hint = f"did you mean {close[0]}?" if close else f"they are {', '.join(sorted(SETS))}"
            raise UserError(
                f"data.name={self.name} must be a classification set of torchvision, and is none that is read here;"
                f" {hint}"
            )

    @property
    def what(self) -> str:
        return self.name

    @property
    def gives_test(self) -> bool:
        return "test" in SETS[self.name]

    @property
    def root(self) -> Path:
        if self.config.path is not None:
            return Path(self.config.path)
        debian = DEBIAN.get(self.name)
        return debian if debian is not None and debian.is_dir() else contents.cache_folder() / "torchvision" / self.name

    @property
    def there(self) -> bool:
        return bool(_files(self.name, self.root))

    def fingerprint(self) -> str:
        """Of the pixels and labels."""
        return self._look()["digest"].tobytes().hex()

    def given(self, split: Given) -> tuple[list[Item], np.ndarray]:
        count, root = len(self._look()[split]), self.root
        return [Item(self.name, root, split, number) for number in range(count)], self.labels(split, count)

    def numbers(self, split: Given) -> np.ndarray:
        return self._look()[split]

    def names(self) -> list[str]:
        return [name for name in self._look()["names"].tobytes().decode().split("\0") if name]

    def remarks(self) -> Iterator[str]:
        for split in SETS[self.name]:
            yield self.told(split, f"{self.name}, {split}", f"in {printable(self.root)}")

    def _look(self) -> Mapping[str, NDArray[Any]]:
        """Labels, names of classes and hash of the images: found once in files that do not change."""
        name, root = self.name, self.root
        why, files = "", _files(name, root)
        for _ in range(2):
            if files:
                try:
                    return contents.kept(f"{name} 1 {_reader(name)}", root, files, lambda: _look(name, root))
                except _Absent as error:
                    why = str(error)
            _download(name, root, why)
            files = _files(name, root)
        raise UserError(f"{name} in {printable(root)} cannot be read as it was downloaded ({why}); delete it")


class _Absent(Exception):
    """A set's files are not all there, or not as they should be."""


def _reader(name: str) -> str:
    """What reads a set, for what is remembered of it."""
    return "idx" if name in CLASSES else f"torchvision {version('torchvision')}"


def _look(name: str, root: Path) -> dict[str, NDArray[Any]]:
    for held in (_items, _dataset):
        held.cache_clear()  # the files may have changed since
    hasher, found = hashlib.sha256(), dict[str, NDArray[Any]]()
    for split in SETS[name]:
        items, labels = _items(name, root, split), list[int]()
        hasher.update(f"{split}\0".encode())
        for number in tqdm(range(len(items)), f"read {name}", delay=2, leave=False, disable=None):
            with readable(Item(name, root, split, number)):
                image, label = items[number]
            hasher.update(f"{image.mode} {image.size} {label}\0".encode() + image.tobytes())
            labels.append(UNLABELLED if label is None else int(label))
        found[split] = np.array(labels, np.int64)
    names = CLASSES.get(name) or getattr(items, "classes", [])
    # of several names for a class, as ImageNet has them, the first
    texts = [each if isinstance(each, str) else each[0] for each in names]
    return found | {
        "digest": np.frombuffer(hasher.digest(), np.uint8),
        "names": np.frombuffer("\0".join(texts).encode(), np.uint8),
    }


def _files(name: str, root: Path) -> list[Path]:
    """The files in a set's root, of IDX files its own alone; UserError where some of these are not there."""
    if name not in CLASSES:
        return [path for path in files_below(root) if path.name != LOCK]
    found = {file: _idx_file(name, root, file) for files in IDX.values() for file in files}
    there = [path for path in found.values() if path is not None]
    if there and len(there) < len(found):
        lacking = next(file for file, path in found.items() if path is None)
        raise UserError(f"{printable(root)} lacks {lacking} (or .gz) of {name}; put it beside the others")
    return there


def _idx_file(name: str, root: Path, file: str) -> Path | None:
    """Where an IDX file is: as torchvision has it, or beside others in the root itself."""
    places = (folder / f"{file}{ending}" for folder in (root / name / "raw", root) for ending in ("", ".gz"))
    return next((place for place in places if place.is_file()), None)


_ERRORS = (RuntimeError, OSError, ValueError, KeyError, ImportError)
"""what torchvision raises for files that are not there or not as they should be"""


def _download(name: str, root: Path, why: str) -> None:
    """Have torchvision download a set into its root.

    Args:
        why: the files that are there are not enough.

    Raises:
        UserError: that fails.
    """
    if sys.stderr.isatty():
        print(f"{name} is not in {printable(root)}; torchvision downloads it", file=sys.stderr, flush=True)
    before = {path for path in (root, *root.parents, *root.rglob("*")) if path.exists()}
    lock = root / LOCK
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), redirect_stdout(StringIO()):
            for split in SETS[name]:
                _dataset(name, root, split, download=True)
    except _ERRORS as error:
        with suppress(OSError):
            lock.unlink()
        for folder in sorted({*root.rglob("*"), root, *root.parents} - before, reverse=True):
            with suppress(OSError):
                folder.rmdir()  # an empty one: what was downloaded stays, for another try
        package = f"; on Debian: apt-get install {PACKAGES[name]}, without data.path" if name in PACKAGES else ""
        there = f"cannot be read ({why})" if why else "is not there"
        raise UserError(
            f"{name} in {printable(root)} {there}, and cannot be downloaded ({_line(error)}); put its files there as"
            f" torchvision has them, or name their folder with data.path{package}"
        ) from error
    lock.unlink(missing_ok=True)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@lru_cache(maxsize=4)
def _dataset(name: str, root: Path, split: Given, download: bool = False) -> Any:
    """torchvision's own object."""
    import inspect

    from torchvision import datasets

    kind = getattr(datasets, name)
    can = any("download" in inspect.signature(each.__init__).parameters for each in kind.__mro__)
    return kind(root, **SETS[name][split], **({"download": True} if download and can else {}))


class _Idx:
    """A set in IDX files, as torchvision would give it: item i is an image and its label."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[number]), int(self.labels[number])


@lru_cache(maxsize=4)
def _items(name: str, root: Path, split: Given) -> Any:
    """The images and labels of a split, by number. UserError or _Absent: the files are not as they should be."""
    if name not in CLASSES:
        try:
            return _dataset(name, root, split)
        except _ERRORS as error:
            raise _Absent(_line(error)) from error
    images, labels = (_idx(_idx_file(name, root, each) or root / each) for each in IDX[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{name} ({split}) in {printable(root)} has images {images.shape} and labels {labels.shape}, which must be"
            " one for each image; get it again"
        )
    return _Idx(images, labels)


def _idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of bytes, gzipped or not. UserError for one that is not whole."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if data[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as one of bytes does")
        shape = np.frombuffer(data, ">u4", data[3], 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"{printable(path)} cannot be read as an IDX file ({error}); get it again") from error
