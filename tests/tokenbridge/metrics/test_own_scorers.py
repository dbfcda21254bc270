"""Scorers of own images: a classifier that is trained on them, and the encoder of an autoencoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits

from experiments.pipeline import Cell
from experiments.presets import DIGITS
from tests.helpers.scorers import pictures, write_pictures
from tests.tokenbridge.stages.test_score import write_samples
from tokenbridge.config import Data, RunConfig, Runtime, Sample, Score, UserError
from tokenbridge.data.images import load, stack
from tokenbridge.metrics import extraction
from tokenbridge.metrics.networks import OwnClassifier, load_extractor
from tokenbridge.metrics.scorers import misfit, own_cautions
from tokenbridge.metrics.train_classifier import train_own_classifier
from tokenbridge.overrides import override
from tokenbridge.stages import score
from tokenbridge.store.artifacts import file_hash

RUNTIME = Runtime(device="cpu", threads=1, batch=50)
NAMES = ("one", "two", "zero")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Digits 0, 1 and 2 as PNG files of 12 pixels, 60 each, in folders named in words."""
    root, digits = tmp_path_factory.mktemp("images"), load_digits()
    for label, name in enumerate(("zero", "one", "two")):
        (root / name).mkdir()
        for i, image in enumerate(digits.images[digits.target == label][:60]):
            Image.fromarray((image * 15.9).astype(np.uint8)).resize((12, 12)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def data(folder) -> Data:
    return Data(source="folder", path=str(folder), image_size=12, classes=3)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a classifier, and its card."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("classifier")
    return out, train_own_classifier(out, data, "words", epochs=15, seed=0, batch=32)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    """A diffusers folder of random weights: grey, 3 channels, 2 pixels a position, 8 features."""
    torch.manual_seed(0)
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    sizes = {"latent_channels": 3, "block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1}
    channels = {"in_channels": 1, "out_channels": 1, "mid_block_add_attention": False}
    model = AutoencoderKL(down_block_types=down, up_block_types=up, **sizes, **channels)
    model.save_pretrained(out := tmp_path_factory.mktemp("autoencoder"))
    return out


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """The Fréchet distance by SciPy's root of a matrix, of more images than features."""
    (a, s), (b, t) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (first.astype(float), second.astype(float)))
    return float(((a - b) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real))


def scored(data: Data, features: str, weights: Path, out: Path, reference: str = "train") -> tuple[dict, dict]:
    """Metrics and protocol of the test images, as if they were samples."""
    of = Score(features=features, weights=str(weights), reference=reference)
    config = RunConfig(data=data, sample=Sample(iterations=1), score=of)
    samples = write_samples(out / "sample", *stack(load(data, "test")))
    (out / "score").mkdir()
    score.run(config, {"sample": samples}, out / "score", RUNTIME)
    whole = json.loads((out / "score" / "metrics.json").read_text())
    return whole["metrics"], whole["protocol"]


def test_a_card_says_how_good_a_classifier_is(trained, data):
    out, card = trained
    quality = card["quality"]
    assert card == json.loads((out / "classifier.json").read_text())
    assert (card["name"], card["classes"], card["image_size"], card["image_channels"]) == ("words", [*NAMES], 12, 1)
    assert card["sha256"] == file_hash(out / "classifier.safetensors")
    assert (quality["train_images"], quality["test_images"], quality["chance"]) == (120, 36, 0.3333)
    assert quality["test_accuracy"] > 0.9
    model = load_extractor("own", score=Score(features="own", weights=str(out)))
    train, test = (extraction.extract(model, stack(load(data, split))[0], 60) for split in ("train", "test"))
    images, labels = stack(load(data, "test"))
    assert quality["test_accuracy"] == round(float((test.logits.argmax(1) == labels).mean()), 4)
    assert test.features.shape == (36, 64)
    alone = model(torch.from_numpy(images[:1]))[0].numpy()
    np.testing.assert_allclose(alone, test.features[:1], atol=1e-4)
    spread = np.linalg.eigvalsh(np.cov(train.features, rowvar=False))
    share = spread / spread.sum()
    assert quality["effective_dimensions"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), abs=0.01)
    assert 0 < quality["fd_own_halves"] < quality["fd_own_test"] * 3


def test_samples_are_scored_by_own_features(trained, data, tmp_path):
    metrics, protocol = scored(data, "own", trained[0], tmp_path)
    assert metrics["fd_own"] == metrics["fd_own_floor"] == pytest.approx(trained[1]["quality"]["fd_own_test"], abs=1e-4)
    assert metrics["agreement_own"] == pytest.approx(trained[1]["quality"]["test_accuracy"], abs=1e-4)
    assert {"is_own", "kid_own_x1e3", "precision_own", "recall_own", "memorized_own"} <= metrics.keys()
    assert not [key for key in metrics if "digits" in key or key == "agreement"]
    assert (protocol["features"], protocol["features_name"]) == ("own", "words")
    assert protocol["features_weights"] == trained[1]["sha256"]


def test_a_folder_is_a_reference_for_own_features(trained, folder, data, tmp_path):
    """In the channels that they take: grey."""
    metrics, _ = scored(data, "own", trained[0], tmp_path, str(folder))
    model = load_extractor("own", score=Score(features="own", weights=str(trained[0])))
    parts = {split: stack(load(data, split))[0] for split in ("train", "validation", "test")}
    test, whole = (
        extraction.extract(model, images, 60).features for images in (parts["test"], np.concatenate([*parts.values()]))
    )
    a, b = ((x.mean(0), np.cov(x, rowvar=False, dtype=np.float64)) for x in (test, whole))
    values = np.linalg.eigvals(a[1] @ b[1]).real.clip(0)  # of fewer images than features SciPy's root is none
    expected = ((a[0] - b[0]) ** 2).sum() + np.trace(a[1]) + np.trace(b[1]) - 2 * np.sqrt(values).sum()
    assert metrics["fd_own"] == pytest.approx(expected, rel=1e-3)
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((5, 12, 12, 3), np.uint8))
    score = {"score.features": "own", "score.weights": str(trained[0]), "train.batch": 8}
    score |= {"score.reference": str(tmp_path / "images.npz")}
    with pytest.raises(UserError, match=r"is of images of 3 channels, which must be 1 for score\.features=own"):
        Cell("x", override(RunConfig(data=data, sample=Sample(iterations=1)), score), ("score",)).stages()


def test_other_splits_than_the_classifiers_are_told(trained, data):
    score = Score(features="own", weights=str(trained[0]))
    assert own_cautions(score, data) == []
    (line,) = own_cautions(score, data.model_copy(update={"split_seed": 1}))
    assert "trained with data.split_seed=0, and here it is 1: it has seen images of the test" in line


def test_the_encoder_of_an_autoencoder_scores_samples(autoencoder, data, tmp_path):
    metrics, protocol = scored(data, "autoencoder", autoencoder, tmp_path)
    model = AutoencoderKL.from_pretrained(autoencoder).eval()
    features = []
    for split in ("test", "train"):
        with torch.no_grad():
            x = torch.from_numpy(stack(load(data, split))[0]).float() / 127.5 - 1
            x = model.encoder.conv_in(x)
            for block in model.encoder.down_blocks:
                x = block(x)
            x = torch.nn.functional.silu(model.encoder.conv_norm_out(model.encoder.mid_block(x)))
        features.append(x.mean((2, 3)).numpy())
    assert features[0].shape == (36, 8)
    assert metrics["fd_autoencoder"] == pytest.approx(frechet(*features), rel=1e-3)
    assert (protocol["features"], protocol["features_width"]) == ("autoencoder", 8)
    assert not [key for key in metrics if key.startswith(("agreement", "is_"))]


@pytest.mark.parametrize(("size", "channels", "classes"), [(4, 1, 2), (28, 3, 5), (100, 3, 2)])
def test_classifiers_of_any_size(size, channels, classes):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, channels, size, size), dtype=torch.uint8)
    features, logits = OwnClassifier(size, channels, classes).eval()(images)
    assert (features.shape, logits.shape) == ((3, 64), (3, classes))


def test_features_of_other_images_are_refused_in_planning(trained, autoencoder, data, tmp_path):
    for name in ("one", "two", "zeros"):
        write_pictures((renamed := tmp_path / "renamed") / name, pictures(3))
    own, encoder = (
        Score(features="own", weights=str(trained[0])),
        Score(features="autoencoder", weights=str(autoencoder)),
    )
    assert misfit(own, "own", data) == misfit(encoder, "autoencoder", data) == ""
    for change, said in (
        ({"image_size": 16}, "data.image_size=16 must be 12 for the features of own"),
        ({"image_channels": 3}, "data.image_channels=3 must be 1 for the features of own"),
        ({"classes": 2}, "data.classes=2 must be 3 for the features of own"),
    ):
        assert said in misfit(own, "own", data.model_copy(update=change))
    other = data.model_copy(update={"path": str(renamed)})
    assert "class 2 is zeros and must be zero for the features of own" in misfit(own, "own", other)
    odd = data.model_copy(update={"image_size": 13})
    assert "data.image_size=13 must be a multiple of 2" in misfit(encoder, "autoencoder", odd)


@pytest.mark.parametrize(
    ("features", "weights", "said"),
    [
        ("own", None, "score.weights=None must be the folder that `tokenbridge train-classifier"),
        ("own", ".", "score.weights=. must be the folder that `tokenbridge train-classifier"),
        ("own", "text", "text must be a whole file of `tokenbridge train-classifier`"),
        ("own", "other.safetensors", "other.safetensors must be a whole file of `tokenbridge train-classifier`"),
        ("autoencoder", None, "score.weights=None must be an autoencoder with score.features=autoencoder"),
        ("autoencoder", "nowhere", "score.weights=nowhere must be an autoencoder"),
        ("autoencoder", ".", "must hold config.json"),
    ],
)
def test_weights_that_are_none_are_refused_in_planning(features, weights, said, tmp_path, monkeypatch):
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    Path("text").write_text("none")
    save_file({"x": np.zeros(3, np.float32)}, "other.safetensors")
    changes = {"score.features": features} | ({"score.weights": weights} if weights else {})
    with pytest.raises(UserError) as refused:
        Cell("x", override(DIGITS, changes), ("score",)).stages()
    assert said in str(refused.value)


def test_a_classifier_needs_classes(tmp_path, call):
    write_pictures(tmp_path / "flat", pictures(20))
    done = call("train-classifier", "flat", "--out", "own", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        "flat holds images of one class, and a classifier needs 2; take the features of an autoencoder" in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "own").exists()


def test_the_command_says_how_good_it_is(folder, tmp_path, call):
    done = call(
        "train-classifier", folder, "--epochs", 2, "--batch", 30, "--name", "words", "--out", "own", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "180 images, grey, of 12 pixels" in done.stdout
    assert "classifier words: 3 classes (one, two, zero), 12×12 grey" in done.stdout
    assert "own: score.features=own score.weights=own" in done.stdout
    assert "36 test images are too few for the 64 features" in done.stderr
