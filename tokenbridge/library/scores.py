"""Scores of images against others, from Python.

Letters: N images, H and W sides.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tokenbridge.config import Runtime, Score, UserError
from tokenbridge.library.compare import compare
from tokenbridge.library.image_sets import ImageSet, of_arrays, of_path
from tokenbridge.library.latents import whole
from tokenbridge.metrics.extraction import pixel_hash
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store

Given = str | Path | Tensor


@dataclass(frozen=True)
class Scores:
    """What scorers say of images against others; `scores["fid_tf"]` is a number.

    Attributes:
        metrics: name -> number; a name ends in that of its scorer.
        half_widths: name -> half the width of a 95 % interval over images, where there is one.
        protocols: scorer -> what its numbers depend on beside the images.
        classes: scorer -> scores of each class, where both sets name them.
        warnings: what a reader must know.
    """

    metrics: dict[str, float]
    half_widths: dict[str, float]
    protocols: dict[str, dict[str, Any]]
    classes: dict[str, list[dict[str, Any]]]
    warnings: list[str]

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]


def score(
    samples: Given,
    reference: Given,
    features: str = "inception",
    weights: str | Path | None = None,
    train: Given | None = None,
    size: int | None = None,
    runs: str | Path | None = None,
    **settings: Any,
) -> Scores:
    """Score images against others.

    >>> import tokenbridge as tb
    >>> images = torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    >>> scores = tb.score(images[:20], images[20:], features="digits")
    >>> scores["fd_digits"] > 0, scores.protocols["digits"]["images"]
    (True, 20)

    Args:
        samples: a folder of images, a file (.npz of images or statistics, kept features), or uint8 or floats in [0, 1]
            (N, 1 or 3, H, H).
        reference: what they are measured against, likewise.
        features: one or several scorers, such as "inception,clean,dinov2,clip".
        weights: as score.weights.
        train: images that the model was trained on; gives the share of memorized ones.
        size: side that images of folders are cropped to (ADM's crop); by default their own.
        runs: a runs folder that keeps features, so that the next call takes no time; by default nothing is kept.
        settings: device, batch, trust_weights.

    Raises:
        UserError: sizes that differ, a scorer that the images do not fit, weights that are not to be had.
    """
    wanted = build(Score, {"features": features} | ({} if weights is None else {"weights": str(weights)}))
    runtime = build(Runtime, {"batch": 64} | settings)
    seen = None if train is None else _opened(train, size, "train")
    if isinstance(seen, Path):
        raise UserError(f"train={train} must be images, not statistics or features; name their folder")
    with tempfile.TemporaryDirectory() as nowhere:
        store = Store(Path(nowhere if runs is None else runs))
        sets = _opened(samples, size, "samples"), _opened(reference, size, "reference")
        found = compare(*sets, wanted, store, runtime, seen)
    return Scores(
        {name: value for each in found for name, value in each.metrics.items()},
        {name: value for each in found for name, value in each.half_widths().items()},
        {each.scorer: each.protocol for each in found},
        {each.scorer: each.classes for each in found},
        [line for each in found for line in each.warnings],
    )


def _opened(given: Given, size: int | None, name: str) -> ImageSet | Path:
    if not isinstance(given, Tensor):
        return of_path(Path(given), size)
    pixels = np.ascontiguousarray(whole(given).cpu().numpy())
    return of_arrays(name, f"pixels:{pixel_hash(pixels)}", pixels, None)
