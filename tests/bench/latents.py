"""Reading batches of latents against a plain memory-mapped numpy read of the same rows: python -m tests.bench.latents.

The store's own read must reach 0.9 of numpy's. Each round both read the same random batches, in changing order; the
ratio is of medians. Below it, what training takes from the store: float32 mean and deviation, computed from the rows.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tokenbridge.data.latents import STORED, Latents
from tokenbridge.store.artifacts import new_array, write_json

SHAPE = (32, 16, 16)  # KL-16 at 256×256: mean and log-variance of 16 channels
BATCH, BATCHES, ROUNDS = 256, 8, 15


def make(folder: Path, dtype: str, flip: bool, images: int) -> Latents:
    shape = (images, *((2,) if flip else ()), *SHAPE)
    array = new_array(folder / "train_moments.npy", STORED[dtype], shape)
    draws = np.random.default_rng(0)
    for start in range(0, images, 512):
        part = array[start : start + 512]
        part[...] = draws.integers(0, 1000, part.shape) if dtype == "bfloat16" else draws.standard_normal(part.shape)
    array.flush()
    write_json(folder / "stats.json", {"scale": 1.0, "frequency_order": list(range(16))})
    return Latents(folder)


def ratios(latents: Latents, images: int) -> dict[str, float]:
    """Speed of each way, relative to numpy's."""
    path, draws = latents.folder / "train_moments.npy", np.random.default_rng(1)
    plain = np.load(path, mmap_mode="r")
    flips = latents.flips

    def numpy(index: np.ndarray, mirrored: np.ndarray) -> object:
        return plain[index, mirrored] if flips else plain[index]

    def read(index: np.ndarray, mirrored: np.ndarray) -> object:
        return latents.read("train", index, mirrored if flips else None)

    def posterior(index: np.ndarray, mirrored: np.ndarray) -> object:
        return latents.posterior("train", index, mirrored if flips else None)

    ways: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
        "numpy": numpy, "read": read, "posterior": posterior,
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        chosen = [(draws.integers(0, images, BATCH), draws.integers(0, 2, BATCH)) for _ in range(BATCHES)]
        for name in list(ways)[:: 1 if number % 2 else -1]:
            start = time.perf_counter()
            for index, mirrored in chosen:
                ways[name](index, mirrored)
            times[name].append(time.perf_counter() - start)
    first = statistics.median(times["numpy"][1:])
    return {name: first / statistics.median(times[name][1:]) for name in ("read", "posterior")}


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
    for dtype, flip in (("float32", False), ("float16", False), ("float16", True), ("bfloat16", True)):
        with tempfile.TemporaryDirectory() as name:
            found = ratios(make(Path(name), dtype, flip, images), images)
        about = f"{dtype}{', mirror images' if flip else ''}"
        print(
            f"{about:<24} read {found['read']:.2f} of numpy (bound 0.9), posterior {found['posterior']:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
