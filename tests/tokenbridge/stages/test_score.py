"""The score stage on folders as the sample stage leaves them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenbridge.config import Data, RunConfig, Runtime, Sample, Score, UserError
from tokenbridge.data import images as data
from tokenbridge.stages import score

CONFIG = RunConfig(sample=Sample(iterations=1))
RUNTIME = Runtime(device="cpu", threads=1, batch=128)


def write_samples(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    folder.mkdir()
    np.save(folder / "samples.npy", images)
    np.save(folder / "labels.npy", labels)
    report = {"metrics": {}, "protocol": {"guidance": 1.5, "weights": "ema"}}
    (folder / "metrics.json").write_text(json.dumps(report))
    return folder


def scored(config: RunConfig, samples: Path) -> tuple[dict, dict]:
    out = samples.with_name(samples.name + "-score")
    out.mkdir()
    score.run(config, {"sample": samples}, out, RUNTIME)
    report = json.loads((out / "metrics.json").read_text())
    return report["metrics"], report["protocol"]


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    torch.set_num_threads(1)
    return data.stack(data.load(CONFIG.data, "test"))


@pytest.fixture(scope="module")
def of_real(real, tmp_path_factory) -> tuple[dict, dict]:
    """Real test images scored as if they were samples."""
    return scored(CONFIG, write_samples(tmp_path_factory.mktemp("score") / "real", *real))


def test_real_images_score_exactly_the_floor(of_real, real):
    metrics, _ = of_real
    assert metrics["fd_digits"] == metrics["fd_digits_floor"] == metrics["fd_digits_at_floor_images"] > 0
    assert metrics["fd_digits_floor_images"] == len(real[0])
    assert metrics["agreement"] >= 0.97
    assert 0 < metrics["fd_digits_se"] < metrics["fd_digits"]


def test_every_metric_is_a_number(of_real):
    names = {"fd_digits", "fd_digits_se", "fd_digits_floor", "fd_digits_floor_images", "fd_digits_at_floor_images"}
    names |= {"is_digits", "kid_digits_x1e3", "precision_digits", "recall_digits", "agreement"}
    names |= {"memorized_digits", "memorized_digits_se"}
    assert set(of_real[0]) == names
    assert all(type(value) is float and np.isfinite(value) for value in of_real[0].values())


def test_training_images_are_memorized_and_unseen_ones_are_not(of_real, tmp_path):
    images, labels = data.stack(data.load(CONFIG.data, "train"))
    copied, _ = scored(CONFIG, write_samples(tmp_path / "copied", images[::3], labels[::3]))
    assert copied["memorized_digits"] == 1
    assert of_real[0]["memorized_digits"] < -2  # all of them are nearest to an unseen image, itself


def test_protocol_is_complete(of_real, real):
    protocol = of_real[1]
    assert protocol["reference"] == "train"
    assert protocol["floor"] == "test against train"
    assert protocol["images"] == len(real[0])
    assert protocol["reference_images"] == len(data.load(CONFIG.data, "train"))
    assert protocol["image_size"] == 16
    assert protocol["resize"] == "none"
    assert protocol["features"] == "digits"
    assert len(protocol["features_weights"]) == 64
    assert (protocol["sample.guidance"], protocol["sample.weights"]) == (1.5, "ema")


def test_worse_samples_score_worse_on_each_metric(of_real, real, tmp_path):
    """Noise lowers quality, wrong labels lower agreement, missing classes lower recall and variety."""
    images, labels = real
    noisy = np.clip(images + np.random.default_rng(0).normal(0, 60, images.shape), 0, 255).astype(np.uint8)
    few = labels < 3
    good = of_real[0]
    bad, _ = scored(CONFIG, write_samples(tmp_path / "noisy", noisy, (labels + 1) % 10))
    narrow, _ = scored(CONFIG, write_samples(tmp_path / "narrow", images[few], labels[few]))
    for key in ("fd_digits", "kid_digits_x1e3"):
        assert bad[key] > 2 * abs(good[key])
        assert narrow[key] > 2 * abs(good[key])
    assert bad["precision_digits"] < good["precision_digits"]
    assert bad["agreement"] < 0.1 < good["agreement"]
    assert narrow["recall_digits"] < good["recall_digits"] / 2
    assert narrow["is_digits"] < 3.1 < good["is_digits"]
    assert "fd_digits_at_floor_images" not in narrow  # fewer samples than the floor has


def test_reference_can_be_the_test_split(real, tmp_path):
    config = CONFIG.model_copy(update={"score": Score(reference="test")})
    metrics, protocol = scored(config, write_samples(tmp_path / "real", *real))
    assert metrics["fd_digits"] < 1e-9
    assert metrics["fd_digits_floor"] > 0.01
    assert metrics["precision_digits"] == metrics["recall_digits"] == 1
    assert protocol["floor"] == "train against test"
    assert protocol["reference_images"] == len(real[0])


def test_cut_samples_and_other_data_are_refused(real, tmp_path):
    folder = write_samples(tmp_path / "cut", *real)
    whole = (folder / "samples.npy").read_bytes()
    (folder / "samples.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"samples\.npy is damaged .*; delete .*cut and run again"):
        scored(CONFIG, folder)
    folder = write_samples(tmp_path / "large", *real)
    config = CONFIG.model_copy(update={"data": Data(image_size=32)})
    with pytest.raises(UserError, match="no measure of other data"):
        scored(config, folder)
