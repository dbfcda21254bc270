"""Fréchet distance between two sets of features, each taken as a normal distribution (arXiv 1706.08500, eq. 6).

|μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½, in float64. With Σ = AᵀA the last trace is the sum of the singular values
of A₁A₂ᵀ. No root is taken of a zero's rounding, so the value is exact where Σ is singular (fewer images than features,
dead features); libraries that take roots of the eigenvalues of Σ₁Σ₂ read about 4e-8 low there and sometimes below 0.

With many features (2,048 of Inception) and a regular Σ, A is Cholesky's root, and the singular values come from the
eigenvalues of A₁A₂ᵀ(A₁A₂ᵀ)ᵀ: several times as fast, and the roots of well conditioned eigenvalues lose nothing.

Letters: N images, F features, R rank of a covariance (at most min(N, F)).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenbridge.config import UserError

Array = NDArray[np.float64]
Groups = NDArray[np.int64]

LARGE = 512
"""features from which on time and memory count"""
CHUNK = 10_000
"""images at once"""
REGULAR = 1e-6
"""smallest of Cholesky's pivots over the largest, of a covariance that is well conditioned: eigenvalues of the product
of two are as far apart as its square, and float64 holds 1e-16"""
GROUPS = 20
"""of images, each left out in turn by the jackknife"""


@dataclass(frozen=True)
class Statistics:
    """Mean (F,) of a set of features and a root of its covariance: root (R, F), rootᵀ·root = covariance (F, F)."""

    mean: Array
    root: Array
    regular: bool = False
    """whether root is triangular and well conditioned"""


def from_features(features: ArrayLike, name: str = "features") -> Statistics:
    """Statistics of features (N, F), with the N − 1 denominator.

    Raises UserError (which calls them `name`) for fewer than 2 images, another shape or a value that is not finite.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or x.shape[1] < 1:
        raise UserError(f"{name} of shape {x.shape} must have two axes, images and features; correct the array")
    if len(x) < 2:
        raise UserError(f"{name} of {len(x)} images must have at least 2, or there is no covariance; take more images")
    _require_finite(x, name)
    if x.shape[1] >= LARGE and len(x) > x.shape[1]:
        mean, scatter = x.mean(0), np.zeros(2 * x.shape[1:])
        for start in range(0, len(x), CHUNK):
            part = x[start : start + CHUNK] - mean
            scatter += part.T @ part
        return _statistics(mean, scatter / (len(x) - 1))
    mean = x.mean(0)
    root = (x - mean) / np.sqrt(len(x) - 1)
    return Statistics(mean, root if len(x) <= x.shape[1] else _root(root.T @ root))


def from_moments(mu: ArrayLike, sigma: ArrayLike, name: str = "statistics") -> Statistics:
    """Statistics from a mean (F,) and a covariance (F, F), as reference files keep them (`mu`, `sigma`).

    Raises UserError (which calls them `name`) for shapes that do not match, a value that is not finite, or a matrix
    that is no covariance.
    """
    mean, covariance = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or not len(mean):
        raise UserError(
            f"{name} with mu {mean.shape} and sigma {covariance.shape} must be (F,) and (F, F); correct the file"
        )
    _require_finite(mean, f"mu of {name}")
    _require_finite(covariance, f"sigma of {name}")
    # a file may be float32: its rounding breaks symmetry and puts eigenvalues of 0 slightly below 0
    scale = max(float(np.abs(covariance).max()), np.finfo(np.float64).tiny)
    symmetric = np.abs(covariance - covariance.T).max() <= 1e-4 * scale
    statistics = _statistics(mean, (covariance + covariance.T) / 2)
    least = 0.0 if statistics.regular else np.linalg.eigvalsh(covariance)[0]
    if not symmetric or least < -1e-4 * scale:
        raise UserError(
            f"sigma of {name} must be symmetric with eigenvalues >= 0 (least {least:.3g}); correct the file"
        )
    return statistics


def frechet_distance(first: ArrayLike | Statistics, second: ArrayLike | Statistics) -> float:
    """Distance of two sets, each features (N, F) or Statistics; at least 0, unit: feature².

    Raises UserError for two widths F, and what from_features raises.
    """
    a = first if isinstance(first, Statistics) else from_features(first, "first features")
    b = second if isinstance(second, Statistics) else from_features(second, "second features")
    if len(a.mean) != len(b.mean):
        raise UserError(
            f"widths {len(a.mean)} and {len(b.mean)} of the features must be equal; use one extractor for both"
        )
    difference = a.mean - b.mean
    shift, spread = float(difference @ difference), float(np.sum(a.root**2) + np.sum(b.root**2))
    product = a.root @ b.root.T
    if a.regular and b.regular:
        common = float(np.sqrt(np.linalg.eigvalsh(product @ product.T).clip(0)).sum())
    else:
        common = float(np.linalg.svd(product, compute_uv=False).sum()) if product.size else 0.0
    distance = shift + spread - 2 * common
    assert distance >= -1e-12 * (shift + spread) * len(difference), distance
    return max(distance, 0.0)  # what is below 0 is rounding


def jackknife_groups(labels: ArrayLike, count: int = GROUPS) -> Groups:
    """Groups (N) of images with labels (N): sizes differ by 1 at most, and so do each class's shares of the groups.

    Stratified because a conditional sample has fixed class counts: groups of few classes would count the spread
    between classes as an error of sampling.
    """
    labels = np.asarray(labels)
    group = np.empty(len(labels), np.int64)
    group[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % count
    return group


def jackknife_error(left: ArrayLike) -> float:
    """Delete-a-group jackknife (Kott 2001): √((G − 1)/G · Σ (d₋g − mean d₋g)²) of values (G,) without each group."""
    values = np.asarray(left, np.float64)
    return float(np.sqrt((len(values) - 1) / len(values) * np.sum((values - values.mean()) ** 2)))


def frechet_left_out(features: ArrayLike, reference: ArrayLike | Statistics, group: Groups) -> Array:
    """The distance of features (N, F) from the reference without each group in turn, (G), for group (N).

    Two sets with the same groups and the noise of the same images: the jackknife of the differences of these is that
    of the difference of the two distances, paired over images.
    """
    x = np.asarray(features, np.float64)
    names = np.unique(group)
    if len(names) < 2 or len(x) - np.bincount(group).max() < 2:
        raise UserError(f"{len(x)} images in {len(names)} groups are too few for a standard error; take more images")
    fixed = reference if isinstance(reference, Statistics) else from_features(reference, "reference features")
    if x.shape[1] >= LARGE and len(x) - np.bincount(group).max() > x.shape[1]:
        return np.array([frechet_distance(rest, fixed) for rest in _without_each(x, group)])
    return np.array([frechet_distance(x[group != name], fixed) for name in names])


def groups(images: int) -> int:
    """The number of groups of a jackknife of so many images."""
    return min(GROUPS, images // 2)


def left_out(features: ArrayLike, labels: ArrayLike, reference: Statistics) -> list[float]:
    """frechet_left_out of a jackknife stratified by label; features (N, F), labels (N)."""
    return frechet_left_out(features, reference, jackknife_groups(labels, groups(np.size(labels)))).tolist()


def frechet_metrics(fd: str, features: ArrayLike, reference: Statistics, left: list[float]) -> dict[str, float]:
    """The distance under its name fd, and under fd_se its standard error over draws of the images, from left_out."""
    return {fd: frechet_distance(features, reference), f"{fd}_se": jackknife_error(left)}


def extrapolated(features: ArrayLike, reference: ArrayLike | Statistics, points: int = 15) -> float:
    """FD∞ (arXiv 1911.07023): what a line through distances of N images against 1/N reads for infinitely many.

    features (N, F), in random order of images or in one in which every part is like the whole (classes in turn). Needs
    N >= 2 max(2F, 10): of fewer, the line is a curve.
    """
    x = np.asarray(features, np.float64)
    least = max(2 * x.shape[1], 10)
    if len(x) < 2 * least:
        raise UserError(f"{len(x)} images must be at least {2 * least} to extrapolate from; take more images")
    fixed = reference if isinstance(reference, Statistics) else from_features(reference, "reference features")
    sizes = np.linspace(max(least, len(x) // 10), len(x), points).astype(int)
    distances = [frechet_distance(x[:size], fixed) for size in sizes]
    return float(np.polyfit(1 / sizes, distances, 1)[1])


def _without_each(x: Array, group: Groups) -> Iterator[Statistics]:
    """Statistics of x (N, F) without each group in turn: the sums of the groups are taken off those of all."""
    mean = x.mean(0)
    sums, scatters = [], []
    for name in np.unique(group):
        part = x[group == name] - mean
        sums.append((len(part), part.sum(0)))
        scatters.append(part.T @ part)
    whole = np.sum(scatters, 0)
    for (count, total), scatter in zip(sums, scatters, strict=True):
        left = len(x) - count
        shift = -total / left  # all of x sums to 0
        covariance = (whole - scatter - left * np.outer(shift, shift)) / (left - 1)
        yield _statistics(mean + shift, covariance)


def _statistics(mean: Array, covariance: Array) -> Statistics:
    """Statistics by Cholesky's root where the covariance is large and regular, else by its eigenvectors."""
    if len(mean) >= LARGE:
        try:
            root: Array = np.linalg.cholesky(covariance).T  # pyright: ignore[reportAssignmentType] (stubs lose float64)
        except np.linalg.LinAlgError:
            return Statistics(mean, _root(covariance))
        pivots = np.diag(root) ** 2
        if pivots.min() > REGULAR * pivots.max():
            return Statistics(mean, root, regular=True)
    return Statistics(mean, _root(covariance))


def _root(covariance: Array) -> Array:
    """A root (R, F), rootᵀ·root = covariance (F, F)."""
    values, vectors = np.linalg.eigh(covariance)
    # below this, eigenvalues are rounding of 0, and their roots (1e-8 of the largest) would not be small
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def _require_finite(values: Array, name: str) -> None:
    wrong = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise UserError(
            f"{wrong} of {values.size} values in {name} are not finite (NaN or infinite); find what made them"
        )
