"""Files that hold many images each (parquet, tar): which there are, and whose split. Without torch: planning asks."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tokenbridge.config import UserError
from tokenbridge.data import contents
from tokenbridge.data.folders import files_below, printable
from tokenbridge.data.sources import KEYS, Given, Labelled

NAMED = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
"""words by which a file's name, or that of a folder above it, says its split (those of Hugging Face's datasets)"""
_WORD = {split: re.compile(rf"(^|[-._ 0-9])({words})([-._ 0-9]|$)") for split, words in NAMED.items()}
_BRACES = re.compile(r"\{(\d{1,6})\.\.(\d{1,6})\}")
_PATTERN = re.compile(rf"[*?\[]|{_BRACES.pattern}")


class Listed(NamedTuple):
    """The files that a setting names, and the folder from which their names are told."""

    folder: Path
    files: list[Path]


class Sharded(Labelled):
    """Images in files of many: data.path, and data.test_path or what data.path names test."""

    ending: str
    """of the files' names"""

    @property
    def what(self) -> str:
        return f"data.path={self.config.path}"

    @property
    def gives_test(self) -> bool:
        return "test" in self.splits

    @cached_property
    def splits(self) -> dict[Given, Listed]:
        """The files by split.

        Raises:
            UserError: there are none, one belongs to both splits, or their names tell other splits and no test.
        """
        folder, files = self._listed("train", self.config.path or "")
        parts: dict[Given, Listed] = {"train": Listed(folder, files)}
        if (by_name := _by_name(folder, files)) and Path(self.config.path or "").is_dir():
            if "train" not in by_name:
                raise UserError(
                    f"{self.what} has files whose names say {' and '.join(by_name)}, and none that says train; name the"
                    f" training files by a pattern (data.path=…/NAME-*{self.ending})"
                )
            parts = {"train": Listed(folder, by_name["train"])}
            if "test" in by_name and self.config.test_path is None:
                parts["test"] = Listed(folder, by_name["test"])
        if self.config.test_path is not None:
            parts["test"] = self._listed("test", self.config.test_path)
        elif "test" not in parts and "validation" in by_name:
            raise UserError(
                f"{self.what} has files whose names say {' and '.join(by_name)}, and none that says test; name test"
                f" images (data.test_path={folder}/{by_name['validation'][0].name}, or a pattern)"
            )
        if "test" in parts and (both := set(parts["train"].files) & set(parts["test"].files)):
            raise UserError(f"{printable(min(both))} is of data.path and data.test_path; an image has one split")
        return parts

    def fingerprint(self) -> str:
        """Of names within a folder and contents of the files."""
        hasher = hashlib.sha256()
        for split, (folder, files) in self.splits.items():
            hasher.update(os.fsencode(f"{split}\0") + contents.digest_of(folder, files))
        return hasher.hexdigest()

    def remarks(self) -> Iterator[str]:
        kind, used = self.ending[1:], set[Path]()
        for split, (_, files) in self.splits.items():
            key = KEYS[split] if split == "train" or self.config.test_path is not None else "data.path, test"
            used.update(files)
            yield self.told(split, key, f"in {len(files):,} {kind} file{'' if len(files) == 1 else 's'}")
        if left_out := [path for path in self._listed("train", self.config.path or "").files if path not in used]:
            names = ", ".join(printable(path.name) for path in left_out[:3]) + (", …" if left_out[3:] else "")
            yield f"data.path: left out: {len(left_out):,} files of other splits: {names}"

    def _listed(self, split: Given, word: str) -> Listed:
        """The files that a word names: one, those in a folder and below, or those of a pattern. UserError for none."""
        path, key = Path(word), KEYS[split]
        if path.is_file():
            found = Listed(path.parent, [path])
        elif path.is_dir():
            found = Listed(
                path, [each for each in files_below(path) if each.suffix == self.ending and _seen(each, path)]
            )
        elif _PATTERN.search(word):
            folder = next(each for each in path.parents if not _PATTERN.search(str(each)))
            names = {str(each.relative_to(folder)) for each in map(Path, _spelled(word))}
            found = Listed(folder, sorted({each for name in names for each in folder.glob(name) if each.is_file()}))
        else:
            raise UserError(
                f"{key}={word} must be a {self.ending} file, a folder of them or a pattern, and is none; correct the"
                " path"
            )
        if not found.files:
            raise UserError(f"{key}={word} names no {self.ending} file; correct it")
        if wrong := next((each for each in found.files if each.suffix != self.ending), None):
            raise UserError(f"{key}: {printable(wrong)} must end in {self.ending} for data.source={self.config.source}")
        return found


def _seen(path: Path, folder: Path) -> bool:
    """Whether no part of a path below a folder is hidden."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _by_name(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that their names say, or the nearest folder above them; those that say none are left out."""
    parts: dict[str, list[Path]] = {}
    for path in files:
        names = reversed(path.relative_to(folder).parts)
        said = next((split for name in names for split, word in _WORD.items() if word.search(name.lower())), None)
        if said is not None:
            parts.setdefault(said, []).append(path)
    return parts


def _spelled(word: str) -> list[str]:
    """A pattern with braces ({000..012}) as one word for each number, with as many digits as the first."""
    if (braces := _BRACES.search(word)) is None:
        return [word]
    first, last = braces.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [each for n in numbers for each in _spelled(word[: braces.start()] + n + word[braces.end() :])]
