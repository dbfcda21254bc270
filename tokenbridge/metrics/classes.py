"""Scores of each class, from features that are there: which classes a model draws well, and which not.

N images of a class, M real ones of it, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenbridge.metrics import frechet
from tokenbridge.metrics import sets as fidelity
from tokenbridge.metrics.extraction import Array, Found, Labels, Real
from tokenbridge.metrics.scorers import Scorer

FEWEST = 10
"""images of a class in each set"""


def by_class(scorer: Scorer, found: Found, labels: Labels, real: Real) -> list[dict[str, Any]]:
    """For each class with images enough in both sets: their numbers, KID, and agreement of a scorer that knows classes.

    The Fréchet distance is given where both numbers exceed F: of fewer images it says how many there are. KID has no
    such bias. Nothing where the classes of the real images are not known.
    """
    if real.labels is None:
        return []
    rows = []
    for label in np.unique(labels):
        mine, theirs = labels == label, real.labels == label
        fewest = min(mine.sum(), theirs.sum())
        if fewest < FEWEST:
            continue
        pair = found.features[mine], real.found.features[theirs]
        row: dict[str, Any] = {"class": int(label), "images": int(mine.sum()), "reference_images": int(theirs.sum())}
        row[f"kid_{scorer.suffix}_x1e3"] = 1000 * kernel_distance(*pair)
        if fewest > scorer.width:
            row[f"{scorer.distance}_{scorer.suffix}"] = frechet.frechet_distance(*pair)
        if scorer.own and found.logits is not None:
            row["agreement"] = fidelity.agreement(found.logits[mine], labels[mine])
        rows.append(row)
    return rows


def kernel_distance(first: Array, second: Array) -> float:
    """KID of all images at once, unbiased (arXiv 1801.01401): kernel (x·y/F + 1)³. first (N, F), second (M, F)."""
    x, y = first.astype(np.float64), second.astype(np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    own = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(own) - 2 * kernel(x, y).mean())
