"""What cannot be measured with a configuration, its weights and its data is refused before any stage runs."""

import numpy as np
import pytest
import torch

from experiments.pipeline import Cell, wanted_of
from experiments.presets import DIGITS
from experiments.runner import attempt_cells
from tests.conftest import SHORT
from tests.helpers.scorers import pictures, write_pictures
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import EXPERIMENT

FOLDER = ("data.source=folder", "data.path=images", "data.classes=2")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Folders of two classes of ten images each, and of nine, three images and one without classes."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        write_pictures(tmp_path / "images" / name, pictures(10, seed))
    for name, count in (("flat", 9), ("few", 3), ("one", 1)):
        write_pictures(tmp_path / name, pictures(count))
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "settings", "said"),
    [
        ("score", (*FOLDER, "data.image_size=32"), "samples cannot be scored: images of 32×32 pixels must have 16×16"),
        ("score", FOLDER, "samples cannot be scored: data.classes=2 must be 10 for the features of digits"),
        ("score", ("sample.images=3",), "sample.images=3 must be 4 at least to be scored"),
        ("score", ("score.reference=few",), "few holds 3 images and must hold 4 at least"),
        ("likelihood", ("data.source=folder", "data.path=flat", "data.test_path=one", "data.classes=1"),
         "the test split holds 1 images and must hold 2 at least for bits"),
        ("likelihood", ("head.kind=mixture", "quantizer.kind=identity", "likelihood.bins=[8,2000]"),
         "likelihood.bins=[8, 2000]: levels=2000 must be at most"),
    ],
)  # fmt: skip
def test_planning_refuses(here, wanted, settings, said):
    config = override(DIGITS, settings)
    with pytest.raises(UserError) as refused:
        Cell("x", config, (wanted,)).stages()
    assert said in str(refused.value)


def test_the_remedy_is_one_that_helps(here):
    with pytest.raises(UserError, match=r"tokenbridge train-classifier IMAGES --out FOLDER.*or leave score out"):
        Cell("x", override(DIGITS, FOLDER), ("score",)).stages()
    assert Cell("x", override(DIGITS, [*FOLDER, "data.image_channels=1", "train.batch=8"]), ("sample",)).stages()


def test_reconstructions_of_few_images_have_no_error(here):
    config = override(DIGITS, ["data.test_fraction=0.002", "data.validation_fraction=0"])
    assert Cell("x", config, ("reconstruct",)).stages()  # one image of each class: ten
    flat = ["data.source=folder", "data.path=flat", "data.classes=1", "score.features=inception"]
    (here / "weights-inception-2015-12-05-6726825d.pth").write_bytes(b"none")
    config = override(DIGITS, [*flat, "score.weights=weights-inception-2015-12-05-6726825d.pth"])
    with pytest.raises(UserError, match="the test split holds 2 images and must hold 4 at least for Fréchet"):
        Cell("x", config, ("reconstruct",)).stages()


@pytest.mark.parametrize("wanted", ["reconstruct", "score"])
def test_weights_that_do_not_fit_stop_a_run_before_its_first_stage(here, wanted):
    torch.save({"fc.weight": torch.zeros(3)}, here / "weights-inception-2015-12-05-6726825d.pth")
    settings = [*SHORT, "score.features=inception", "score.weights=weights-inception-2015-12-05-6726825d.pth"]
    with pytest.raises(UserError, match="must hold the weights of torch-fidelity's Inception"):
        attempt_cells(Store(here / "runs"), [Cell("x", override(DIGITS, settings), (wanted,))], Runtime(), EXPERIMENT)
    assert not (here / "runs" / "stages").exists()


def test_another_network_is_no_lpips_before_the_first_stage(here):
    np.savez(here / "lpips.npz", x=np.zeros(3))
    cells = [Cell("x", override(DIGITS, ["score.lpips=lpips.npz"]), ("reconstruct",))]
    with pytest.raises(UserError, match=r"lpips\.npz must be a whole checkpoint of torch\.save and is an \.npz file"):
        attempt_cells(Store(here / "runs"), cells, Runtime(), EXPERIMENT)
    assert not (here / "runs" / "stages").exists()


def test_what_can_be_measured_of_the_digits_is_wanted():
    assert {"reconstruct", "likelihood", "score"} == set(wanted_of(DIGITS))
