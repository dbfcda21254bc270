"""The preset `fashion` and what ships for it: its cards are true, and it runs from the published files to scores."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.presets import FASHION
from tests.helpers.image_sets import write_idx
from tests.helpers.machine import ROOT, missing
from tokenbridge.autoencoders.frozen import to_signed
from tokenbridge.autoencoders.sources import FASHION as AUTOENCODER
from tokenbridge.config import UserError
from tokenbridge.data.images import load, stack
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.scorers import FASHION_CLASSIFIER, misfit


@pytest.fixture(scope="module")
def test_images() -> tuple[np.ndarray, np.ndarray]:
    try:
        return stack(load(FASHION.data, "test"))
    except UserError:
        missing("no Fashion-MNIST here; on Debian: apt-get install dataset-fashion-mnist")


@pytest.mark.slow
def test_the_card_of_the_autoencoder_is_true(test_images):
    """Against diffusers' class called directly, on the images that the card names."""
    from diffusers import AutoencoderKL

    quality = json.loads((AUTOENCODER / "card.json").read_text())["quality"]
    pixels = torch.from_numpy(test_images[0][: quality["images"]])
    model = AutoencoderKL.from_pretrained(AUTOENCODER, variant="fp16", torch_dtype=torch.float32)
    with torch.inference_mode():
        means = model.encode(to_signed(pixels)).latent_dist.mean
        decoded = ((model.decode(means).sample + 1) * 127.5).round().clamp(0, 255)
    error = (decoded.double() - pixels.double()).square().mean()
    assert 10 * np.log10(255**2 / float(error)) == pytest.approx(quality["psnr_db"], abs=0.02)
    flat = means.double().movedim(1, 0).flatten(1).numpy()
    assert np.allclose(np.corrcoef(flat), quality["channel_correlation"], atol=2e-3)
    assert means.shape[1:] == (16, 4, 4)


@pytest.mark.slow
def test_the_card_of_the_classifier_is_true(test_images):
    quality = json.loads(FASHION_CLASSIFIER.with_suffix(".json").read_text())["quality"]
    network = load_extractor("fashion")
    with torch.inference_mode():
        logits = torch.cat([network(part)[1] for part in torch.from_numpy(test_images[0]).split(500)])
    right = float((logits.argmax(1).numpy() == test_images[1]).mean())
    assert right == pytest.approx(quality["test_accuracy"], abs=5e-4)
    assert right >= 0.92


def test_what_ships_is_small():
    assert sum(path.stat().st_size for path in AUTOENCODER.iterdir()) < 3e6
    assert sum(path.stat().st_size for path in FASHION_CLASSIFIER.parent.iterdir()) < 1e6


@pytest.mark.slow
def test_the_commands_of_the_committed_report(call, tmp_path: Path, test_images):
    page = (ROOT / "tokenbridge" / "README.md").read_text()
    (block,) = re.findall(r"```text\n(tokenbridge grid 1a .*?)```", page, re.S)
    whole, duel = block.replace("\\\n", "").splitlines()
    (costs,) = re.findall(r"`(tokenbridge grid 1a 1b --preset fashion [^`]*)`", page)
    told = {
        whole: "53 cells of tables 1a, 1b, 2a, 2b, 2c, figure-8, heads",
        duel: "10 cells of the duel of heads B=16, autoregressive and heads continuous, flow",
        costs: "11 cells of tables 1a, 1b",
    }
    for command, cells in told.items():
        done = call(*shlex.split(command)[1:], "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert cells in done.stdout


@pytest.mark.slow
def test_it_runs_from_published_files_to_scores(call, tmp_path: Path, test_images):
    """A few hundred real images in the published format."""
    images, labels = test_images
    few = [
        np.concatenate([np.flatnonzero(labels == label)[part] for label in range(10)])
        for part in (slice(30), slice(30, 40))
    ]
    write_idx(tmp_path / "raw", *((images[index, 0, 2:30, 2:30], labels[index]) for index in few))
    settings = ["data.path=raw", "train.epochs=1", "sample.images=100", "sample.iterations=2"]
    done = call("run", "fashion", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number in ("score/fd_fashion", "score/agreement_fashion", "reconstruct/fd_fashion", "reconstruct/psnr"):
        assert number in done.stdout


def test_its_features_are_of_its_own_images_alone(test_images):
    assert misfit(FASHION.score, "fashion", FASHION.data) == ""
    for changes, rule in (
        ({"image_size": 16, "padded": False}, "data.image_size=16 must be 32"),
        ({"image_channels": 3}, "data.image_channels=3 must be 1"),
    ):
        said = misfit(FASHION.score, "fashion", FASHION.data.model_copy(update=changes))
        assert said.startswith(rule), said
        assert said.endswith("for the features of fashion, which are no measure of other data")
