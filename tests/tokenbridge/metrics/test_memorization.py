"""The share of memorized images, by brute force and on known truths."""

import numpy as np
import pytest

from tokenbridge.metrics import memorization
from tokenbridge.metrics.memorization import memorized


def normal(count, seed):
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


def test_it_counts_whose_neighbour_is_unseen(monkeypatch):
    monkeypatch.setattr(memorization, "AT_ONCE", 5)
    features, train, others = normal(83, 1), normal(37, 2), normal(11, 3)
    real = np.concatenate([train, others]).astype(float)
    unseen = [np.linalg.norm(real - image, axis=1).argmin() >= 37 for image in features]
    share, error = memorized(features, train, others)
    assert share == pytest.approx(1 - np.mean(unseen) * 48 / 11)
    nearest = np.array([np.linalg.norm(real - image, axis=1).argmin() for image in features])
    random = np.random.default_rng(0)
    shuffled = [1 - np.mean(random.permutation(48)[nearest] < 11) * 48 / 11 for _ in range(4000)]
    assert error == pytest.approx(np.std(shuffled), rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_model_that_generalizes_reads_zero_with_the_error_that_it_has(scale):
    """40 worlds; of a narrower model too, whose images lie near to a few of all real ones."""
    found = [memorized(scale * normal(200, 9 * i), normal(300, 9 * i + 1), normal(80, 9 * i + 2)) for i in range(40)]
    shares, errors = np.array(found).T
    assert abs(shares.mean()) < 3 * np.std(shares, ddof=1) / np.sqrt(40)
    assert np.std(shares / errors, ddof=1) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("copies", [0.3, 1.0])
def test_a_share_of_copies_is_read_as_such(copies):
    train, others = normal(900, 2), normal(300, 3)
    number = round(copies * 800)
    share, error = memorized(np.concatenate([train[:number], normal(800 - number, 4)]), train, others)
    assert share == pytest.approx(copies, abs=4 * error + 1e-12)


def test_equal_distances_count_half():
    real = normal(20, 2)
    assert memorized(normal(7, 1), real, real)[0] == 0


def test_of_more_training_images_than_it_compares_it_says_how_many(monkeypatch):
    """A copy of one that is left out counts as none, so half of the copies are seen where half are compared."""
    train, others = normal(900, 2), normal(300, 3)
    assert memorization.memorization_protocol(900) == {}
    assert memorized(train, train, others)[0] == 1
    monkeypatch.setattr(memorization, "MOST", 450)
    assert memorization.memorization_protocol(900) == {"memorized_train_images": 450}
    share, error = memorized(train, train, others)
    assert share == pytest.approx(0.5, abs=4 * error)
