"""Set metrics on real digits against their definitions."""

import numpy as np
import pytest
import torch

from tokenbridge import data
from tokenbridge.config import Data, UserError
from tokenbridge.metrics import fidelity
from tokenbridge.metrics.features import load_extractor, weights_hash
from tokenbridge.metrics.frechet import frechet_distance, from_features

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor():
    torch.set_num_threads(1)
    return load_extractor("digits")


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    """53 noisy digits as the images and 71 others as the reference."""
    images, _ = data.stack(data.load(Data(), "held-out"))
    noise = np.random.default_rng(0).normal(0, 40, images[:53].shape)
    return np.clip(images[:53] + noise, 0, 255).astype(np.uint8), images[100:171]


@pytest.fixture(scope="module")
def features(extractor, sets) -> tuple[np.ndarray, np.ndarray]:
    first, second = (fidelity.extract(extractor, images, 17)[0].astype(np.float64) for images in sets)
    return first, second


@pytest.fixture(scope="module")
def found(sets) -> dict[str, float]:
    return fidelity.set_metrics("digits", *sets, CPU, 19)


def test_names_carry_the_extractor(found):
    assert set(found) == {"is_digits", "kid_digits_x1e3", "precision_digits", "recall_digits"}


def test_kid_is_the_unbiased_squared_discrepancy_of_cubic_kernels(found, features):
    x, y = features

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    # 53 images are one subset; of the 71 each of the 20 subsets takes 53
    rng = np.random.RandomState(fidelity.SEED)
    values = []
    for _ in range(fidelity.KID_SUBSETS):
        a, b = x[rng.choice(53, 53, replace=False)], y[rng.choice(71, 53, replace=False)]
        own = [(k.sum() - np.trace(k)) / (53 * 52) for k in (kernel(a, a), kernel(b, b))]
        values.append(sum(own) - 2 * kernel(a, b).mean())
    assert found["kid_digits_x1e3"] == pytest.approx(1000 * np.mean(values), rel=1e-4)  # theirs is float32


def test_precision_and_recall_are_shares_within_third_neighbour_balls(found, features):
    x, y = features

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    def share(inside: np.ndarray, balls: np.ndarray) -> float:
        radius = np.sort(distances(balls, balls), axis=1)[:, 3]  # place 0 is the point itself
        return float((distances(inside, balls) <= radius).any(1).mean())

    assert found["precision_digits"] == pytest.approx(share(x, y), abs=1e-6)
    assert found["recall_digits"] == pytest.approx(share(y, x), abs=1e-6)
    assert 0 < found["precision_digits"] < 1


def test_inception_style_score_is_its_definition(found, extractor, sets):
    logits = fidelity.extract(extractor, sets[0], 53)[1]
    p = torch.from_numpy(logits).double().softmax(1).numpy()
    expected = np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(0))), 1)))
    assert found["is_digits"] == pytest.approx(expected, rel=1e-6)
    assert fidelity.inception_style_score("digits", logits)["is_digits"] == pytest.approx(expected, rel=1e-6)


def test_score_is_cut_into_parts_only_where_they_are_large():
    logits = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32) * 2
    p = torch.from_numpy(logits).double().softmax(1)
    whole = float((p * (p.log() - p.mean(0).log())).sum(1).mean().exp())
    assert (fidelity.is_splits(999), fidelity.is_splits(1000)) == (1, 10)
    assert fidelity.inception_style_score("digits", logits)["is_digits"] < whole  # parts of 100 read low


def test_same_numbers_for_each_batch_size_in_silence(found, sets, capfd):
    again = fidelity.set_metrics("digits", *sets, CPU, 7)
    assert again == pytest.approx(found, rel=1e-4)
    assert capfd.readouterr() == ("", "")


def test_features_do_not_depend_on_the_batch(extractor, sets):
    one, many = (fidelity.extract(extractor, sets[0], batch) for batch in (1, 53))
    for a, b in zip(one, many, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_frechet_metrics(features):
    x, y = features
    labels = np.arange(53) % 10
    found = fidelity.frechet_metrics("digits", x, from_features(y), fidelity.left_out(x, labels, from_features(y)))
    assert found["fd_digits"] == frechet_distance(x, y)
    assert 0 < found["fd_digits_se"] < found["fd_digits"]


def test_agreement_is_the_share_of_right_labels():
    logits = np.array([[2, 1, 0], [0, 1, 2], [0, 5, 1], [9, 0, 0]], np.float32)
    assert fidelity.agreement(logits, np.array([0, 2, 1, 1])) == 0.75


@pytest.mark.parametrize("few", ["images", "reference"])
def test_too_few_images_are_refused(sets, few):
    images, reference = sets
    pair = (images[:3], reference) if few == "images" else (images, reference[:3])
    with pytest.raises(UserError, match="must each have over 3"):
        fidelity.set_metrics("digits", *pair, CPU, 19)


def test_misfit_names_what_does_not_fit(extractor):
    assert fidelity.misfit(extractor, Data()) is None
    assert "16×16" in (fidelity.misfit(extractor, Data(image_size=32)) or "")
    assert "data.classes=7 must be 10" in (fidelity.misfit(extractor, Data(source="folder", path="x", classes=7)) or "")


def test_protocol_names_reference_weights_and_settings(sets):
    images, reference = sets
    protocol = fidelity.set_protocol("digits", len(images), reference)
    assert protocol["features_weights"] == weights_hash("digits")
    assert (protocol["images"], protocol["reference_images"], protocol["image_size"]) == (53, 71, 16)
    changed = reference.copy()
    changed[0, 0, 0, 0] ^= 1
    assert fidelity.set_protocol("digits", 53, changed)["reference_hash"] != protocol["reference_hash"]
    assert fidelity.set_protocol("digits", 53, reference.copy()) == protocol
    assert fidelity.kid_protocol(53, 71)["kid_subset_size"] == 53
