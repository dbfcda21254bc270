"""The reconstruct stage on the shipped digits, and on a folder that the digits' features do not measure."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ttest_rel

from tests.helpers.generators import arrays_of
from tests.helpers.scorers import write_dinov2
from tokenbridge.config import Data, Quantizer, RunConfig, Runtime, Sample, Score
from tokenbridge.data import images as data
from tokenbridge.data.latents import Latents
from tokenbridge.metrics import extraction
from tokenbridge.metrics.images import psnr
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.reference import Reference
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.stages import latents, reconstruct
from tokenbridge.stages import quantizer as quantize
from tokenbridge.store.runs import read_images
from tokenbridge.tokenizers import load as load_tokenizer
from tokenbridge.tokenizers.scalar import IdentityQuantizer

CONFIG = RunConfig(sample=Sample(iterations=1))
RUNTIME = Runtime(device="cpu", threads=1, batch=128)


def with_quantizer(**settings) -> RunConfig:
    return CONFIG.model_copy(update={"quantizer": Quantizer(**settings)})


def reconstructed(config: RunConfig, encoded: Path, folder: Path, runtime: Runtime = RUNTIME) -> Path:
    """Folder of a reconstruct stage, its quantizer beside it."""
    quantizer, out = folder / "quantizer", folder / "reconstruct"
    quantizer.mkdir(parents=True)
    out.mkdir()
    quantize.run(config, {"latents": encoded}, quantizer, runtime)
    reconstruct.run(config, {"latents": encoded, "quantizer": quantizer}, out, runtime)
    return out


def report(out: Path) -> tuple[dict, dict]:
    read = json.loads((out / "metrics.json").read_text())
    return read["metrics"], read["protocol"]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("latents")
    latents.run(CONFIG, {}, folder, RUNTIME)
    return folder


@pytest.fixture(scope="module")
def cells(encoded, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cells")
    kinds = {"continuous": {"kind": "identity"}, "b64": {"levels": 64}, "b4": {"levels": 4}}
    return {name: reconstructed(with_quantizer(**s), encoded, root / name) for name, s in kinds.items()}


def test_fewer_levels_cost_quality_and_save_bits(cells):
    continuous, b64, b4 = (report(cells[name])[0] for name in ("continuous", "b64", "b4"))
    assert continuous["psnr"] >= 32  # the shipped autoencoder's promise
    assert continuous["psnr"] > b64["psnr"] > b4["psnr"] + 3
    assert 1 > continuous["ssim"] > b64["ssim"] > b4["ssim"] > 0
    assert b64["fd_digits_originals"] < b4["fd_digits_originals"]
    assert b64["agreement"] >= 0.95
    assert continuous["fd_digits_floor"] == b64["fd_digits_floor"] > 0
    assert 0 < b4["effective_bits"] < 8 * 16 * 2 < b64["effective_bits"] < 8 * 16 * 6
    assert "effective_bits" not in continuous


def test_every_metric_is_a_number(cells):
    names = {"psnr", "psnr_se", "ssim", "ssim_se", "fd_digits", "fd_digits_se", "fd_digits_floor"}
    names |= {"fd_digits_originals", "is_digits", "agreement"}
    assert set(report(cells["continuous"])[0]) == names
    metrics, protocol = report(cells["b64"])
    assert set(metrics) == names | {"effective_bits"}
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert protocol == report(cells["continuous"])[1]  # so that both may stand in one column
    assert protocol["images"] == len(data.load(CONFIG.data, "test"))
    assert protocol["reference"] == "train"
    assert protocol["ssim"].endswith("window of 7")


def test_each_image_keeps_its_own_values_so_that_two_tokenizers_pair(cells):
    """64 levels cost 0.18 dB on every image nearly alike, which the errors of the two means do not see."""
    values = {name: read_images(cells[name]) for name in ("continuous", "b64")}
    for name, columns in values.items():
        metrics = report(cells[name])[0]
        assert columns.keys() == {"psnr", "ssim"}
        assert {key: x.mean(dtype=np.float64) for key, x in columns.items()} == pytest.approx(
            {key: metrics[key] for key in columns}, rel=1e-5
        )
    paired = ttest_rel(values["b64"]["psnr"], values["continuous"]["psnr"])
    assert paired.statistic < -10
    metrics = {name: report(cells[name])[0] for name in values}
    apart = metrics["b64"]["psnr"] - metrics["continuous"]["psnr"]
    assert abs(apart) < 1.96 * math.hypot(*(m["psnr_se"] for m in metrics.values()))
    left = json.loads((cells["b64"] / "metrics.json").read_text())["left_out"]["fd_digits"]
    assert len(left) == 20


def test_effective_bits_are_those_of_the_tokens(cells, encoded):
    quantizer = load_tokenizer(cells["b4"].with_name("quantizer"))
    tokens = quantizer.encode(Latents(encoded).posterior_mean("test")).numpy()
    bits = 0.0
    for channel in range(8):
        _, counts = np.unique(tokens[..., channel], return_counts=True)
        share = counts / counts.sum()
        bits -= 16 * float(np.sum(share * np.log2(share)))
    assert report(cells["b4"])[0]["effective_bits"] == pytest.approx(bits)
    assert reconstruct.effective_bits(torch.tensor([[5, 5, 0, 0], [1, 1, 1, 1]]), 7) == pytest.approx(7 * (1 + 2))


def test_examples_are_the_first_image_of_each_class(cells):
    images, labels = data.stack(data.load(CONFIG.data, "test"))
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(10)]
    found = arrays_of(cells["b64"] / "examples.npz")
    assert found["labels"].tolist() == list(range(10))
    np.testing.assert_array_equal(found["original"], images[first])
    assert found["reconstructed"].dtype == np.uint8
    pairs = psnr(*(torch.from_numpy(found[key]) for key in ("reconstructed", "original")))
    assert pairs.min() > 25  # each beside its own original


def test_latents_and_quantizer_leave_what_figures_count(cells, encoded):
    spectra, found = arrays_of(encoded / "examples.npz"), Latents(encoded)
    assert tuple(spectra["order"]) == found.frequency_order
    assert spectra["share"].tolist() == found.stats["low_frequency_share"]
    assert spectra["power"].shape == (8, len(spectra["frequencies"])) == (8, 6)
    folder = cells["b64"].with_name("quantizer")
    share = arrays_of(folder / "examples.npz")["counts"] / (16 * len(found.labels("test")))
    np.testing.assert_allclose(share.sum(1), 1)
    bits = -np.sum(share * np.log2(share, where=share > 0, out=np.zeros_like(share))) / 8
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert bits == pytest.approx(metrics["entropy_bits"])
    assert (share == 0).sum() / 8 == metrics["unused_levels"]


def test_batch_size_changes_nothing(cells, encoded, tmp_path):
    out = reconstructed(with_quantizer(levels=4), encoded, tmp_path, RUNTIME.model_copy(update={"batch": 77}))
    assert report(out)[0] == pytest.approx(report(cells["b4"])[0], rel=1e-3)


def test_data_that_the_features_do_not_measure_keep_their_pixel_metrics(tmp_path):
    images, labels = data.stack(data.load(CONFIG.data, "test"))
    for label in range(3):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for i, image in enumerate(images[labels == label][:5]):
            Image.fromarray(image[0]).save(folder / f"{i}.png")
    config = CONFIG.model_copy(update={"data": Data(source="folder", path=str(tmp_path / "images"), classes=3)})
    encoded = tmp_path / "latents"
    encoded.mkdir()
    latents.run(config, {}, encoded, RUNTIME)
    out = reconstructed(config, encoded, tmp_path / "cell")
    metrics, protocol = report(out)
    assert set(metrics) == {"psnr", "psnr_se", "ssim", "ssim_se", "effective_bits"}
    assert metrics["psnr"] > 28
    assert protocol["features"] is None
    assert "data.classes=3 must be 10" in protocol["features_left_out"]
    assert arrays_of(out / "examples.npz")["labels"].tolist() == [0, 1, 2]


def test_published_scorers_name_their_rfid_and_what_it_is_against(encoded, tmp_path):
    """rFID to the reference (the paper's 1.11) and to the originals (0.53), of one pass with two scorers."""
    write_dinov2(tmp_path)
    how = Score(features=("digits", "dinov2"), weights=str(tmp_path))
    (tmp_path / "quantizer").mkdir()
    quantize.run(with_quantizer(kind="identity"), {"latents": encoded}, tmp_path / "quantizer", RUNTIME)
    quantizer = load_tokenizer(tmp_path / "quantizer")
    images, labels = data.stack(data.load(CONFIG.data, "test"))
    images, labels = torch.from_numpy(images[:7]), labels[:7]
    extractors = {name: load_extractor(name, score=how, trusted=True) for name in how.scorers}
    tally = reconstruct._Tally(labels, quantizer, extractors, None)
    for part in (slice(0, 4), slice(4, 7)):
        tally.add(images[part], 255 - images[part], torch.zeros(len(labels[part]), 16, 8, dtype=torch.long))
    real = extraction.extract(extractors["dinov2"], images.numpy(), 7)
    reference = Reference("train", extraction.Real(real, None, ""))
    left = tally.left_out(SCORERS["dinov2"], reference)
    found = tally.feature_metrics(SCORERS["dinov2"], reference, real.features, left)
    assert found.keys() == {"rfd_dinov2", "rfd_dinov2_se", "rfd_dinov2_floor", "rfd_dinov2_originals"}
    assert found["rfd_dinov2"] > 0
    assert found["rfd_dinov2"] == pytest.approx(found["rfd_dinov2_originals"])
    assert found["rfd_dinov2_floor"] == pytest.approx(0, abs=1e-6)


def test_an_exact_image_leaves_all_numbers_finite():
    originals = torch.randint(1, 256, (3, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    made = originals.clone()
    made[1:] -= 1
    tally = reconstruct._Tally(np.arange(3), IdentityQuantizer(torch.zeros(2, 8)), {}, None)
    for part in (slice(0, 2), slice(2, 3)):
        tally.add(originals[part], made[part], torch.zeros(len(originals[part]), 16, 8))
    values = [10 * math.log10(255**2 * 256), *2 * [20 * math.log10(255)]]
    metrics = tally.pixel_metrics(16)
    assert metrics["psnr"] == pytest.approx(np.mean(values), abs=1e-4)
    assert metrics["psnr_se"] == pytest.approx(np.std(values, ddof=1) / 3**0.5, abs=1e-4)
    assert "1 of 3 reconstructions equal their originals" in tally.warnings()[0]
