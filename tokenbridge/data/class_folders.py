"""Folders with one sub-folder per class, or of images alone. Without torch: planning asks.

Letters: N images.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tokenbridge.config import UserError
from tokenbridge.data import contents
from tokenbridge.data.folders import EXTENSIONS, Walk, class_names, printable, walk
from tokenbridge.data.sources import FLAT, KEYS, Given, Source, shortened


class ClassFolders(Source):
    """The images in data.path and, where it is given, data.test_path."""

    @property
    def gives_test(self) -> bool:
        return self.config.test_path is not None

    @property
    def classless(self) -> bool:
        return self.classes() == [FLAT]

    def fingerprint(self) -> str:
        """Of names within a folder and contents of its files."""
        hasher = hashlib.sha256()
        for split, root in self._roots().items():
            names, walked = self._walked(split)
            for name, images in zip(names, walked.images, strict=True):
                hasher.update(os.fsencode(f"{split}\0{name}\0") + contents.digest_of(root / name, images))
        return hasher.hexdigest()

    def given(self, split: Given) -> tuple[list[Path], np.ndarray]:
        """Image files in the order of torchvision's ImageFolder."""
        _, walked = self._walked(split)
        labels = np.repeat(np.arange(len(walked.images)), [len(images) for images in walked.images])
        return [path for images in walked.images for path in images], labels.astype(np.int64)

    def classes(self) -> list[str]:
        return [printable(name) for name in self._classes("train")[0]]

    def _roots(self) -> dict[Given, Path]:
        """The folders of class folders by split: of training alone where the others are shares of it."""
        paths: dict[Given, str | None] = {"train": self.config.path, "test": self.config.test_path}
        return {split: Path(path) for split, path in paths.items() if path is not None}

    def remarks(self) -> Iterator[str]:
        """Lines on what folders are read as: the label of each class, what was left out, loops, a doubtful order."""
        for split in self._roots():
            key = KEYS[split]
            if split == "test" and self.config.test_path == self.config.path:
                return
            names, walked = self._walked(split)
            count = sum(map(len, walked.images))
            if names == [FLAT]:
                yield f"{key}: {count:,} images without class folders: one class"
            else:
                yield f"{key}: {count:,} images in {len(names)} classes: {shortened(names)}"
            if left_out := +walked.left_out:
                left = ", ".join(f"{number:,} {what}" for what, number in sorted(left_out.items()))
                yield f"{key}: left out: {left}; images end in {' '.join(EXTENSIONS)}"
            for link in walked.loops:
                yield f"{key}: {printable(link)} leads to a folder that is read already or holds it; it is not followed"
            numeric = sorted(names, key=int) if all(is_number(name) for name in names) else names
            if numeric != names and self.config.class_list is None:
                label = next(label for label, name in enumerate(names) if numeric[label] != name)
                yield (
                    f"{key}: class folders are numbers in the order of text, so that label {label} is {names[label]};"
                    f" with data.class_order=numeric it is {numeric[label]}, data.class_list gives any order"
                )

    def _walked(self, split: Given) -> tuple[list[str], Walk]:
        """Names of the classes by label and the images of each."""
        names, others = self._classes("train")
        if split == "test" and self.config.test_path is not None:
            theirs, others = self._classes(split)
            if theirs != names:
                name = printable(sorted(set(theirs) ^ set(names))[0])
                raise UserError(
                    f"data.test_path={self.config.test_path} must have the classes of data.path, but {name} is in one"
                    " only"
                )
        root = self._roots().get(split, Path(self.config.path or ""))
        walked = walk(root, [root / name for name in names])
        walked.left_out.update(others)
        for name, images in zip(names, walked.images, strict=True):
            folder = root / name
            if not images and folder in walked.loops:
                raise UserError(
                    f"{printable(folder)} is a link to a folder that is read already or holds it; an image has one"
                    " class: delete the link"
                )
            if not images:
                raise UserError(
                    f"{printable(folder)} holds no image; a class folder needs files ending in {' '.join(EXTENSIONS)}"
                )
        return names, walked

    def _classes(self, split: Given) -> tuple[list[str], Counter[str]]:
        """Names of the class folders by label; how many entries beside them are passed over."""
        key, root = KEYS[split], self._roots()[split]
        if not root.is_dir():
            line = f"{key}={root} must be a folder with one sub-folder per class, and is none; correct the path"
            raise UserError(line)
        names, others = _names_in(root)
        where = f"sub-folders of {root}" if names != [FLAT] else f"classes of {root}, which holds images alone"
        if (chosen := self.config.class_list) is not None:
            listed, where = _listed(Path(chosen)), f"classes of data.class_list={chosen}"
            if lacking := sorted(set(listed) - set(names)):
                raise UserError(
                    f"data.class_list={chosen} names {printable(lacking[0])}, which is no sub-folder of {root};"
                    " correct it"
                )
            others["class folders that data.class_list leaves out"] += len(names) - len(listed)
            names = listed
        elif self.config.class_order == "numeric":
            if texts := [name for name in names if not is_number(name)]:
                raise UserError(
                    f"data.class_order=numeric needs class folders that are whole numbers, and {printable(texts[0])} of"
                    f" {root} is none; take data.class_order=text or data.class_list"
                )
            names = sorted(names, key=int)
        _require_classes(f"{key}={root}", root, names)
        if len(names) != self.config.classes:
            line = f"data.classes={self.config.classes} must be {len(names)}, the number of {where}; correct it"
            raise UserError(line)
        return names, others


def class_count(folder: Path, other: str = "") -> int:
    """Number of class folders; 1 for a folder of images alone.

    Args:
        other: words for what else the user could have given.

    Raises:
        UserError: there is one class folder, or neither such folders nor images.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} must be a folder of images, with one sub-folder per class or none{other}; correct the path"
        )
    names, _ = _names_in(folder)
    _require_classes(str(folder), folder, names)
    return len(names)


def class_names_of(folder: Path) -> list[str]:
    """Names of a folder's classes, sorted as text; FLAT alone where it holds images instead."""
    return _names_in(folder)[0]


def _names_in(root: Path) -> tuple[list[str], Counter[str]]:
    """Names of the class folders in a folder, FLAT alone where it holds images instead; what lies beside them."""
    names, others = class_names(root)
    if names or not any(path.suffix.lower() in EXTENSIONS for path in root.iterdir()):
        return names, others
    return [FLAT], Counter()


def _require_classes(what: str, root: Path, names: Sequence[str]) -> None:
    """Raise UserError for a single class folder, which is most often one level too high, and for none."""
    if len(names) < 2 and names != [FLAT]:
        remedy = f"give {printable(root / names[0])} itself" if names else "put images there"
        raise UserError(
            f"{what} must hold one sub-folder per class, at least 2, or images alone, and holds {len(names)}; {remedy},"
            " or sort the images into such folders"
        )


def _listed(path: Path) -> list[str]:
    """Names of class folders, one per line in any bytes; empty lines and a byte order mark are skipped."""
    try:
        text = os.fsdecode(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        if "\0" in text:
            raise ValueError("it holds zero bytes")
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.class_list={path} must be a text file with one class folder per line ({error})"
        ) from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"data.class_list={path} names {printable(twice[0])} twice; a class has one label")
    return names


def is_number(name: str) -> bool:
    """Whether the name of a class folder is a whole number."""
    return name.isascii() and name.isdigit()
