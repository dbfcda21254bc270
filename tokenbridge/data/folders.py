"""Image folders: the one walk over them that every reader shares. Without torch: planning asks.

torchvision's ImageFolder imports torch and follows link loops up to the system's limit, so the walk is ours; its order
is theirs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenbridge.config import UserError, on_one_line

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""torchvision's"""
SYSTEM = frozenset(
    {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
)
"""names, in lower case, that systems leave in folders; those that begin with a dot are hidden as well"""
HIDDEN = "hidden or system"


@dataclass
class Walk:
    """What a walk over folders met.

    Attributes:
        images: per folder, its images and those below in torchvision's order: by directory, then by name.
        left_out: how many entries were passed over, by their ending or as hidden.
        loops: links to directories that the walk was in or reads elsewhere.
    """

    images: list[list[Path]]
    left_out: Counter[str] = field(default_factory=Counter[str])
    loops: list[Path] = field(default_factory=list[Path])


def walk(root: Path, folders: Sequence[Path]) -> Walk:
    """Find the images in folders of a root and below. Links are followed, each real directory is read once.

    A real directory counts where it stands, before any link to it.

    Args:
        root: folder that holds them, or the only one of them.
        folders: directories, or links to some.

    Raises:
        UserError: a directory that cannot be read, a link to nothing, an image name that is no regular file.
    """
    met, seen, links = Walk([[] for _ in folders]), set[str](), list[tuple[int, Path]]()
    for index, folder in enumerate(folders):
        if folder.is_symlink() and folder != root:
            links.append((index, folder))
        else:
            _read(met, seen, links, index, folder)
    for index, link in links:  # grows as links are met behind links
        real, inside = os.path.realpath(link), os.path.realpath(link.parent)
        if real in seen or _holds(real, inside) or _holds(real, os.path.realpath(root)):
            met.loops.append(link)
        else:
            _read(met, seen, links, index, link)
    for images in met.images:
        images.sort(key=lambda path: (str(path.parent), path.name))
    return met


def files_below(root: Path) -> list[Path]:
    """All files in a folder and below, sorted; none where it is no folder. Links are followed, each directory once.

    Raises:
        UserError: a link to nothing.
    """
    found, seen = list[Path](), set[str]()
    for folder, below, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        found += [Path(folder, name) for name in names]
    if lost := next((path for path in found if path.is_symlink() and not path.exists()), None):
        raise UserError(f"{printable(lost)} is a link to nothing; mend or delete it")
    return sorted(path for path in found if path.is_file())


def class_names(root: Path) -> tuple[list[str], Counter[str]]:
    """Names of the class folders, sorted as text; how many hidden ones and files lie beside them.

    Args:
        root: a directory, or a link to one.
    """
    names, others = [], Counter[str]()
    for entry in _entries(root):
        if _hidden(entry.name):
            others[HIDDEN] += 1
        elif _is_directory(entry):
            names.append(entry.name)
        else:
            others["beside the class folders"] += 1
    return sorted(names), others


def printable(name: str | Path) -> str:
    """A name for a line of text: bytes that are no UTF-8 are escaped, as is what would break or colour the line."""
    return on_one_line(os.fsencode(name).decode("utf-8", "backslashreplace"))


def _read(met: Walk, seen: set[str], links: list[tuple[int, Path]], index: int, folder: Path) -> None:
    """Read a directory and the real ones below; links to others are put off."""
    waiting = [folder]
    while waiting:
        directory = waiting.pop()
        real = os.path.realpath(directory)
        if real in seen:
            met.loops.append(directory)
            continue
        seen.add(real)
        for entry in _entries(directory):
            path = directory / entry.name
            if _hidden(entry.name):
                met.left_out[HIDDEN] += 1
            elif _is_directory(entry):
                if entry.is_symlink():
                    links.append((index, path))
                else:
                    waiting.append(path)
            elif path.suffix.lower() not in EXTENSIONS:
                met.left_out[path.suffix.lower() or "without an ending"] += 1
            elif entry.is_file():
                met.images[index].append(path)
            else:
                raise UserError(f"{printable(path)} must be a regular file, as an image is; delete or rename it")


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError as error:
        raise UserError(
            f"{printable(directory)} cannot be read as a folder ({error.strerror}); correct the path or its rights"
        ) from error


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Raises UserError for a link that leads nowhere: it may stand for an image or a class."""
    if entry.is_symlink():
        try:
            entry.stat()
        except OSError as error:
            line = f"{printable(entry.path)} is a link to nothing ({error.strerror}); mend or delete it"
            raise UserError(line) from error
    return entry.is_dir()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _holds(outer: str, inner: str) -> bool:
    """Whether a real directory is another or holds it."""
    return os.path.commonpath([outer, inner]) == outer
