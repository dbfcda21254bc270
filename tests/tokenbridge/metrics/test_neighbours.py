"""Precision, recall, density, coverage and scores by class against their definitions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from tokenbridge.data.images import in_turn
from tokenbridge.metrics import sets
from tokenbridge.metrics.extraction import Extracted, Real
from tokenbridge.metrics.frechet import frechet_distance
from tokenbridge.metrics.measures import FEWEST, Scored, by_class, distance, infinity, mixed
from tokenbridge.metrics.reference import Reference
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.metrics.sets import density_coverage, kernel_distance, precision_recall

K = 3
SMALL = replace(SCORERS["digits"], width=5)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(sets, "_kept", {})  # distances in pieces of another size have other last bits


def normal(n: int, seed: int, shift: float = 0.0, f: int = 5) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, f)) + shift).astype(np.float32)


def definition(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Equations 2 and 3 of arXiv 2002.09797, image by image; x generated, y real."""
    radius = [np.sort(np.linalg.norm(y - centre, axis=1))[K] for centre in y]
    inside = np.array([[np.linalg.norm(a - b) < r for b, r in zip(y, radius, strict=True)] for a in x])
    return inside.sum() / (K * len(x)), inside.any(0).mean()


@pytest.mark.parametrize("batch", [7, 1000])
def test_density_and_coverage_are_their_definition(batch, monkeypatch):
    monkeypatch.setattr(sets, "BATCH", batch)
    x, y = normal(37, 1, 0.5), normal(53, 2)
    assert density_coverage(x, y, K) == pytest.approx(definition(x, y))
    assert density_coverage(x, y, K) != density_coverage(y, x, K)


def shares(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Precision and recall of arXiv 1904.06991, image by image; x generated, y real."""

    def inside(images: np.ndarray, centres: np.ndarray) -> float:
        radius = [np.sort(np.linalg.norm(centres - centre, axis=1))[K] for centre in centres]
        return np.mean([any(np.linalg.norm(centres - a, axis=1) <= radius) for a in images]).item()

    return inside(x, y), inside(y, x)


@pytest.mark.parametrize("batch", [7, 1000])
def test_precision_and_recall_are_their_definition_and_torch_fidelity_s(batch, monkeypatch):
    monkeypatch.setattr(sets, "BATCH", batch)
    sizes = [(37, 53), (37, 61), (41, 53), (29, 53)] + [(31, 50 + number) for number in range(sets.KEPT)]
    for n, m in sizes:  # references come again, with other images, and are forgotten
        x, y = normal(n, n, 0.5), normal(m, m)
        pair = torch.from_numpy(x), torch.from_numpy(y)
        theirs = prc_features_to_metric(
            *pair, prc_neighborhood=K, prc_batch_size=batch, save_cpu_ram=True, verbose=False
        )
        found = precision_recall(*pair, K)
        assert found == (theirs["precision"], theirs["recall"])
        assert found == pytest.approx(shares(x, y))
    assert len(sets._kept) == sets.KEPT
    y[0] = 9  # the same array, and another reference
    assert precision_recall(torch.from_numpy(x), torch.from_numpy(y), K) == pytest.approx(shares(x, y))


def test_real_images_cover_themselves_and_far_ones_nothing():
    y = normal(53, 2)
    density, coverage = density_coverage(y, y, K)
    assert (density, coverage) == (1, 1)  # an image's ball holds K others and not the K-th, but itself
    assert density_coverage(y + 100, y, K) == (0, 0)


def test_scores_by_class_are_those_of_the_class_alone():
    x, y = normal(60, 3), normal(80, 4, 0.2)
    labels, real = np.arange(60) % 3, np.repeat([0, 1, 2], [30, 41, FEWEST - 1])
    logits = np.eye(3, dtype=np.float32)[labels]
    logits[0] = [0, 1, 0]  # a mistake in class 0
    rows = by_class(SMALL, Extracted(x, logits), labels, Real(Extracted(y), real, ""))
    assert [row["class"] for row in rows] == [0, 1]  # the last has too few real images
    assert (rows[0]["images"], rows[0]["reference_images"], rows[0]["agreement"]) == (20, 30, 0.95)
    assert rows[0]["fd_digits"] == frechet_distance(x[labels == 0], y[real == 0])
    assert rows[1]["kid_digits_x1e3"] == 1000 * kernel_distance(x[labels == 1], y[real == 1])
    assert by_class(SMALL, Extracted(x, logits), labels, Real(Extracted(y), None, "")) == []


def test_classes_with_fewer_images_than_features_have_no_frechet_distance():
    x, labels = normal(30, 3), np.zeros(30, int)
    (row,) = by_class(SCORERS["dinov2"], Extracted(x), labels, Real(Extracted(x), labels, ""))
    assert row.keys() == {"class", "images", "reference_images", "kid_dinov2_x1e3"}


def test_kernel_distance_has_no_bias():
    """Of two sets from one distribution it is 0 on average, few images or many."""
    for n in (10, 40):
        found = [kernel_distance(normal(n, 2 * s), normal(n, 2 * s + 1)) for s in range(200)]
        assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)


@pytest.mark.parametrize("rows", [7, 1000])
def test_kernel_distance_is_its_definition(rows, monkeypatch):
    """Pair by pair, without those of an image with itself, whatever number of images is taken at once."""
    monkeypatch.setattr(sets, "ROWS", rows)
    x, y = normal(23, 1, 0.5), normal(31, 2)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        pairs = [(u, v) for i, u in enumerate(a) for j, v in enumerate(b) if a is not b or i != j]
        return np.mean([(np.dot(u.astype(float), v) / len(u) + 1) ** 3 for u, v in pairs]).item()

    assert kernel_distance(x, y) == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y), rel=1e-9)


@pytest.mark.parametrize("again", ["order", "shape", "type"])
def test_kept_radii_are_of_one_array_and_not_of_its_bytes(again):
    """Constant images, whose bytes say nothing of how many there are; and one that lies in memory the other way."""
    real, x = np.zeros((16, 4), np.float32), torch.ones(9, 4)
    precision_recall(x, torch.from_numpy(real), K)
    if again == "order":
        y = np.asfortranarray(normal(53, 2))
        found = precision_recall(torch.from_numpy(normal(37, 1)), torch.from_numpy(y), K)
        assert found == pytest.approx(shares(normal(37, 1), y))
    else:
        other = torch.zeros(32, 2) if again == "shape" else torch.zeros(8, 4, dtype=torch.float64)
        assert precision_recall(torch.ones(9, other.shape[1], dtype=other.dtype), other, K) == (0, 0)


def test_the_reference_that_was_asked_for_longest_ago_is_forgotten(monkeypatch):
    found = []
    monkeypatch.setattr(sets, "_radii", lambda centres, k: found.append(len(centres)) or torch.zeros(len(centres)))
    first = torch.from_numpy(normal(40, 0))
    for number in range(2 * sets.KEPT):
        sets._kept_radii(first, K)
        sets._kept_radii(torch.from_numpy(normal(50 + number, number)), K)
    assert found.count(40) == 1
    assert len(sets._kept) == sets.KEPT


def test_what_is_told_of_the_first_images_does_not_depend_on_their_order():
    """Of folders they come class by class: the first ones are of a class, and not like the whole."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(20), 40)
    features = (rng.normal(size=(800, 5)) + 3 * rng.normal(size=(20, 5))[labels]).astype(np.float32)
    scorer = replace(SCORERS["clip"], width=5)
    reference = Reference("r", Real(Extracted(normal(400, 6)), None, ""), hash="")

    def read(order: np.ndarray, of: np.ndarray | None) -> dict[str, float]:
        floor = Extracted(normal(100, 7))
        given = Scored(scorer, None, None, Extracted(features[order]), reference, floor, mixed(of, 800))
        return distance(given) | infinity(given)

    folder, turn = read(np.arange(800), labels), in_turn(labels)
    drawn, unknown = read(turn, labels[turn]), read(np.arange(800), None)
    assert mixed(labels[turn], 800) is None  # as generated images lie: their numbers stay what they were
    assert unknown == folder
    for key in ("fd_clip_infinity", "fd_clip_at_floor_images"):
        assert folder[key] == pytest.approx(drawn[key], rel=0.2)  # 100 images of 20 classes are few
    sliced = frechet_distance(features[:100], reference.statistics)
    assert abs(sliced / drawn["fd_clip_at_floor_images"] - 1) > 0.3
