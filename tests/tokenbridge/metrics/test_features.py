"""The in-domain extractor: quality as shipped, spread of its features, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenbridge.config import Data, UserError
from tokenbridge.data import images as data
from tokenbridge.data.images import ArrayImages, load, stack
from tokenbridge.metrics import extraction, networks
from tokenbridge.metrics.scorers import CLASSIFIER
from tokenbridge.metrics.train_classifier import augment, evaluate, train_classifier
from tokenbridge.rng import generator
from tokenbridge.store.artifacts import Store


@pytest.fixture(scope="module")
def digits():
    pixels, labels = stack(load(Data(), "test"))
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def test_shipped_classifier_is_as_good_as_its_card_says():
    card = json.loads(CLASSIFIER.with_suffix(".json").read_text())
    measured = evaluate(CLASSIFIER)
    assert measured["test_accuracy"] >= 0.97
    assert measured == pytest.approx(card["quality"], abs=0.005)
    assert card["command"].startswith("tokenbridge train-classifier")


def test_features_have_their_form_and_no_dead_dimension(digits):
    extractor = networks.load_extractor("digits")
    found, logits = extractor(digits[0])
    assert (found.shape, logits.shape) == ((359, 64), (359, 10))
    assert found.dtype == logits.dtype == torch.float32
    assert 0.5 < found.std(0).min() <= found.std(0).max() < 2
    alone = extractor(digits[0][:1])[0]
    assert torch.allclose(alone, found[:1], atol=1e-4)


def test_grey_images_read_as_rgb_have_the_same_features(digits):
    extractor = networks.load_extractor("digits")
    grey = digits[0][:7]
    assert torch.allclose(extractor(grey)[0], extractor(grey.expand(-1, 3, -1, -1))[0], atol=1e-4)


def test_wrong_input_is_refused(digits):
    extractor = networks.load_extractor("digits")
    with pytest.raises(ValueError, match="must be uint8"):
        extractor(digits[0].float())
    with pytest.raises(UserError, match="16×16"):
        extractor(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))


def test_augmentation_keeps_form_and_depends_on_its_generator_alone(digits):
    images = digits[0][:5]
    first, again, other = (augment(images, generator(seed)) for seed in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # a small map: the picture stays about where it was
    assert torch.corrcoef(torch.stack([first.flatten(), images.flatten()]).float())[0, 1] > 0.5


@pytest.mark.slow
def test_training_repeats_itself(tmp_path):
    cards = [train_classifier(tmp_path / name, epochs=1, seed=3, batch=256) for name in ("a", "b")]
    assert cards[0] == cards[1]
    files = [(tmp_path / name / "digits_classifier.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_kept_features_notice_another_crop_in_the_code(tmp_path, monkeypatch):
    store, extractor, images = Store(tmp_path), networks.load_extractor("digits"), load(Data(), "test")

    def kept(pixels):
        return extraction.kept(store, "digits", extractor, "w", 256, lambda: ArrayImages(pixels, images.labels))

    pixels = stack(images)[0]
    before = kept(pixels)
    assert kept(pixels[..., ::-1]).pixel_hash == before.pixel_hash  # kept
    changed = tmp_path / "images.py"
    source = Path(data.__file__).read_text()
    assert "(image.width - size) // 2" in source
    changed.write_text(source.replace("(image.width - size) // 2", "0"))
    monkeypatch.setattr(extraction, "READING", (changed, *extraction.READING[1:]))
    assert kept(pixels[..., ::-1]).pixel_hash != before.pixel_hash  # read again


def test_several_scorers_read_each_image_once_and_get_what_each_gets_alone(tmp_path):
    images = load(Data(), "test")
    classifier = networks.load_extractor("digits")
    other = networks.DigitsClassifier(width=8).eval().requires_grad_(False)
    reads = []

    class Counted(type(images)):
        def __getitems__(self, indices):
            reads.extend(indices)
            return super().__getitems__(indices)

    counted = Counted(images.pixels, images.labels)
    paths = extraction.keep(Store(tmp_path), "digits", {"a": classifier, "b": other}, 100, lambda: counted)
    assert reads == list(range(len(images)))
    for path, extractor in zip(paths, (classifier, other), strict=True):
        alone = extraction.extract_set(extractor, images, 100)
        found, _ = extraction.read(path)
        assert np.array_equal(found.extracted.features, alone.extracted.features)
        assert (found.pixel_hash, found.labels.tolist()) == (alone.pixel_hash, alone.labels.tolist())
    extraction.keep(Store(tmp_path), "digits", {"b": other, "a": classifier}, 100, None)  # nothing is read again
