"""Samples as other evaluators read them: one .npz in the layout of ADM's evaluator, or a folder of PNG files.

N images of H×W pixels; grey ones get three equal channels. A few are in memory at a time.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from tokenbridge.config import UserError
from tokenbridge.stages.sample import ARRAYS
from tokenbridge.store.artifacts import atomic, checked, read_array
from tokenbridge.store.rows import RECORD, Rows

AT_ONCE = 256


class Samples:
    """Images and labels that a sample stage left in a folder. Raises UserError where they are not whole."""

    def __init__(self, folder: Path):
        self.folder = folder
        # sampled before there was a record: nothing to check against
        self.rows = Rows(folder, ARRAYS) if (folder / RECORD).exists() else None
        self.images: NDArray[np.uint8] = read_array(
            folder / "samples.npy" if self.rows else checked(folder / "samples.npy")
        )
        self.labels: NDArray[np.int64] = np.array(read_array(checked(folder / "labels.npy")))
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise _damaged(folder, f"samples are {self.images.dtype} {self.images.shape}")
        if len(self.labels) != len(self.images):
            raise _damaged(folder, f"{len(self.images)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the images in order, uint8 (n, H, W, 3), AT_ONCE at a time, each checked against its record."""
        for first in range(0, len(self), AT_ONCE):
            here = range(first, min(first + AT_ONCE, len(self)))
            if self.rows and len(wrong := self.rows.missing(here)):
                raise _damaged(self.folder, f"image {wrong[0]} is not as it was drawn")
            part = np.array(self.images[here.start : here.stop]).transpose(0, 2, 3, 1)
            yield np.ascontiguousarray(np.broadcast_to(part, (*part.shape[:3], 3)))


def write_npz(samples: Samples, target: Path) -> None:
    """Write `arr_0`, uint8 (N, H, W, 3), and `arr_1`, labels int64 (N,).

    Args:
        samples: of a finished stage.
        target: a new file, which appears whole.

    Raises:
        UserError: the target exists.
    """
    require_new(target)
    n, _, height, width = samples.images.shape
    with atomic(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            _header(member, (n, height, width, 3), np.dtype(np.uint8))
            for part in samples.pixels():
                member.write(part.data)
        with archive.open("arr_1.npy", "w") as member:
            _header(member, samples.labels.shape, samples.labels.dtype)
            member.write(samples.labels.data)


def write_png(samples: Samples, target: Path) -> None:
    """Write RGB files 000000.png and so on in the images' order.

    Args:
        samples: of a finished stage.
        target: a new folder, which appears whole.

    Raises:
        UserError: the target exists.
    """
    require_new(target)
    work = target.with_name(f".{target.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    digits = max(6, len(str(len(samples) - 1)))
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # zlib runs beside Python
            done = 0
            for part in samples.pixels():
                paths = [work / f"{i:0{digits}d}.png" for i in range(done, done + len(part))]
                list(pool.map(_save, part, paths))  # raises what a thread raised
                done += len(part)
        assert done == len(samples), (done, len(samples))
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(path)


def _header(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    npy.write_array_header_1_0(
        member, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )  # version 1, which ADM's evaluator streams


def require_new(target: Path) -> None:
    """Raise UserError for a target that is there."""
    if os.path.lexists(target):
        raise UserError(f"{target} is there already; it must be new: choose another name or delete it")


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(f"{folder} must hold whole samples ({why}); delete it and run again")
