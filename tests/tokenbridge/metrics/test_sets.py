"""Set metrics on real digits against their definitions."""

import numpy as np
import pytest
import torch
import torch_fidelity
from torch.utils.data import TensorDataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from tokenbridge.config import Data, Score, UserError
from tokenbridge.data import images as data
from tokenbridge.metrics import extraction
from tokenbridge.metrics import sets as fidelity
from tokenbridge.metrics.frechet import frechet_distance, frechet_metrics, from_features, left_out
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.scorers import SCORERS, misfit
from tokenbridge.store.artifacts import Store

DIGITS = SCORERS["digits"]


@pytest.fixture(scope="module")
def extractor():
    torch.set_num_threads(1)
    return load_extractor("digits")


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    """53 noisy digits as the images and 71 others as the reference."""
    images, _ = data.stack(data.load(Data(), "test"))
    noise = np.random.default_rng(0).normal(0, 40, images[:53].shape)
    return np.clip(images[:53] + noise, 0, 255).astype(np.uint8), images[100:171]


@pytest.fixture(scope="module")
def extracted(extractor, sets) -> list[extraction.Extracted]:
    return [extraction.extract(extractor, images, 19) for images in sets]


@pytest.fixture(scope="module")
def features(extracted) -> tuple[np.ndarray, np.ndarray]:
    first, second = (found.features.astype(np.float64) for found in extracted)
    return first, second


@pytest.fixture(scope="module")
def found(extracted) -> dict[str, float]:
    images, reference = extracted
    score = fidelity.inception_style_score("digits", images.logits)
    return score | fidelity.set_metrics(DIGITS, images.features, reference.features)


class Registered(FeatureExtractorBase):
    """The extractor as torch-fidelity wants it."""

    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list)
        self.extractor = load_extractor("digits")

    @staticmethod
    def get_provided_features_list():
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, input):
        features, logits = self.extractor(input)
        return tuple({"features": features, "logits": logits}[layer] for layer in self.features_list)


class Bare(TensorDataset):
    """torch-fidelity wants images alone, not tuples."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0]


def test_equal_to_torch_fidelity_from_images_to_the_last_bit(found, sets, capfd):
    torch_fidelity.register_feature_extractor("digits-of-the-test", Registered)
    first, second = (Bare(torch.from_numpy(images)) for images in sets)
    theirs = torch_fidelity.calculate_metrics(
        input1=first, input2=second, feature_extractor="digits-of-the-test", batch_size=19, cuda=False, cache=False,
        isc=True, isc_splits=1, kid=True, kid_subsets=20, kid_subset_size=53, prc=True, prc_neighborhood=3, rng_seed=0,
        save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    assert found == {
        "is_digits": theirs["inception_score_mean"],
        "kid_digits_x1e3": 1000 * theirs["kernel_inception_distance_mean"],
        "precision_digits": theirs["precision"],
        "recall_digits": theirs["recall"],
    }
    assert capfd.readouterr() == ("", "")


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
    logits = extraction.extract(extractor, sets[0], 53).logits
    p = torch.from_numpy(logits).double().softmax(1).numpy()
    expected = np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(0))), 1)))
    assert found["is_digits"] == pytest.approx(expected, rel=1e-6)


def test_score_is_cut_into_parts_only_where_they_are_large():
    logits = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32) * 2
    p = torch.from_numpy(logits).double().softmax(1)
    whole = float((p * (p.log() - p.mean(0).log())).sum(1).mean().exp())
    assert (fidelity.is_splits(999), fidelity.is_splits(1000)) == (1, 10)
    assert fidelity.inception_style_score("digits", logits)["is_digits"] < whole  # parts of 100 read low


def test_features_do_not_depend_on_the_batch(extractor, sets):
    one, many = (extraction.extract(extractor, sets[0], batch) for batch in (1, 53))
    for a, b in zip(one.arrays().values(), many.arrays().values(), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_frechet_metrics(features):
    x, y = features
    labels = np.arange(53) % 10
    found = frechet_metrics("fd_digits", x, from_features(y), left_out(x, labels, from_features(y)))
    assert found["fd_digits"] == frechet_distance(x, y)
    assert 0 < found["fd_digits_se"] < found["fd_digits"]


def test_agreement_is_the_share_of_right_labels():
    logits = np.array([[2, 1, 0], [0, 1, 2], [0, 5, 1], [9, 0, 0]], np.float32)
    assert fidelity.agreement(logits, np.array([0, 2, 1, 1])) == 0.75


@pytest.mark.parametrize("few", ["images", "reference"])
def test_too_few_images_are_refused(extracted, few):
    features, reference = (found.features for found in extracted)
    pair = (features[:3], reference) if few == "images" else (features, reference[:3])
    with pytest.raises(UserError, match="must each have over 3"):
        fidelity.set_metrics(DIGITS, *pair)


def test_misfit_names_what_does_not_fit():
    assert misfit(Score(), "digits", Data()) == ""
    assert "16×16" in misfit(Score(), "digits", Data(image_size=32))
    assert "data.classes=7 must be 10" in misfit(Score(), "digits", Data(source="folder", path="x", classes=7))


def test_protocol_names_reference_weights_and_settings():
    protocol = fidelity.set_protocol(DIGITS, "w", 16, 53, 71, "abc")
    assert (protocol["features"], protocol["features_weights"]) == ("digits", "w")
    assert (protocol["images"], protocol["reference_images"], protocol["image_size"]) == (53, 71, 16)
    assert protocol["reference_hash"] == "abc"
    assert fidelity.kid_protocol(DIGITS, 53, 71)["kid_subset_size"] == 53


def test_pixel_hash_tells_sets_apart(sets):
    changed = sets[1].copy()
    changed[0, 0, 0, 0] ^= 1
    assert extraction.pixel_hash(sets[1]) == extraction.pixel_hash(sets[1].copy()) != extraction.pixel_hash(changed)


def test_features_of_real_images_are_kept_by_what_changes_them(extractor, tmp_path, monkeypatch):
    store, config = Store(tmp_path), Data()

    def real(split="test", weights="w", batch=97):
        return extraction.real(store, config, split, extractor, weights, batch)

    first = real()
    pixels, _ = data.stack(data.load(config, "test"))
    np.testing.assert_array_equal(first.extracted.features, extraction.extract(extractor, pixels, 97).features)
    assert first.pixel_hash == extraction.pixel_hash(pixels)
    monkeypatch.setattr(extraction, "extract_sets", None)  # not asked again
    np.testing.assert_array_equal(real().extracted.features, first.extracted.features)
    for other in ({"split": "train"}, {"weights": "v"}, {"batch": 96}):
        with pytest.raises(TypeError):
            real(**other)
    (kept,) = (tmp_path / "features").iterdir()
    kept.write_bytes(kept.read_bytes()[:99])
    with pytest.raises(UserError, match="must be a whole file of features"):
        real()
