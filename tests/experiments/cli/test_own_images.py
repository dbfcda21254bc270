"""The whole way with one's own images, nothing typed twice: six commands and the file that the first of them writes."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.experiments.cli.test_init import images
from tests.helpers.runs import with_database
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_cells

SMALL = (
    "backbone.width=16", "backbone.heads=2", "backbone.encoder_depth=1", "backbone.decoder_depth=1", "head.width=16",
    "head.heads=2", "head.depth=1", "train.epochs=1", "train.warmup_epochs=0", "sample.images=50",
    "sample.iterations=2",
)  # fmt: skip


@pytest.fixture
def way(call, tmp_path, template):
    """The command in a folder with three classes of images, whose runs folder is there."""
    images(tmp_path / "clothes", ("bag", "sandal", "trouser"), 8, (28, 28))
    with_database(Store(tmp_path / "runs"), template / "mlflow.db")

    def run(*words):
        done = call(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_six_commands_from_images_to_a_report(way, tmp_path, no_figures):
    way("init", "clothes", *SMALL)
    said = way("train-autoencoder", "clothes.toml", "--epochs", "1")  # of noise nothing can be learnt
    assert "next: tokenbridge train-autoencoder clothes.toml --epochs 4; or, as it is: tokenbridge run clothes" in said
    card = json.loads((tmp_path / "clothes-autoencoder" / "card.json").read_text())
    assert (card["train_images"], card["image_size"], card["channels"], card["stride"]) == (15, 28, 8, 4)  # the run's
    said = way("reconstruct", "clothes.toml", "--levels", "8", "--name", "quantizing")
    assert "continuous" in said or "none" in said
    said = way("run", "clothes.toml")
    assert "score/fd_autoencoder" in said
    (sheet,) = (line.partition(": ")[0] for line in said.splitlines() if "samples, their classes in turn" in line)
    assert np.asarray(Image.open(tmp_path / sheet)).ndim == 2  # grey
    way("grid", "clothes.toml", "--axis", "quantizer.levels=8,16", "--axis", "sample.temperature=0.9,1", "--jobs", "1")
    assert "clothes" in way("status", "clothes")
    assert (tmp_path / way("report", "clothes").split("report: ")[-1].strip().splitlines()[0]).exists()
    title = json.loads((tmp_path / "reports" / "clothes" / "source" / "plan.json").read_text())["title"]
    assert "clothes" in title
    configs = [cell.config for cell in read_cells(Store(tmp_path / "runs")).values()]
    assert {config["data"]["path"] for config in configs} == {str(tmp_path / "clothes")}


@pytest.mark.slow
def test_a_classifier_of_the_same_images(way, tmp_path):
    way("init", "clothes", "--autoencoder", "digits", "--out", "own.toml", *SMALL)
    said = way("train-classifier", "own.toml", "--epochs", "1")
    assert "clothes-classifier: own.toml scores by it (fd_own, class agreement)" in said
    assert (tmp_path / "clothes-classifier").is_dir()
    assert "score/fd_own" in way("run", "own.toml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train-autoencoder", "own.toml", "--size", "32"), "--size is what own.toml says; leave it out"),
        (("train-autoencoder", "own.toml", "--channels", "4", "--colour"), "--grey, --channels is what own.toml says"),
        (
            ("train-autoencoder", "digits.toml"),
            "digits.toml must name images, with data.source=folder and data.path or another source",
        ),
        (
            ("train-classifier", "digits.toml"),
            "digits.toml must name images, with data.source=folder and data.path or another source",
        ),
        (("train-classifier", "own.toml", "--grey"), "--grey is what own.toml says"),
        (("train-autoencoder", "shipped.toml"), "shipped.toml must say in [autoencoder] where a trained one goes"),
        (("train-autoencoder", "fashion", "--size", "32"), "--size is what fashion says; leave it out"),
        (("train-autoencoder", "fashions"), "fashions must be a folder of images"),
        (("train-autoencoder", "missing.toml"), "missing.toml must be a file of settings, and is none"),
        (("reconstruct", "own.toml", "--autoencoder", "other"), "--autoencoder other is what own.toml says"),
        (("reconstruct", "own.toml", "--train", "other"), "--train other is what own.toml says"),
        (("run", "own.toml"), "clothes-autoencoder must hold config.json"),
    ],
)
def test_what_cannot_go_with_a_file(call, tmp_path, words, said):
    images(tmp_path / "clothes", ("bag", "sandal", "trouser"), 8, (28, 28))
    call("init", "clothes", "--out", "own.toml", cwd=tmp_path)
    (tmp_path / "digits.toml").write_text('preset = "digits"')
    shipped = (
        '[data]\nclasses = 3\npath = "clothes"\nimage_channels = 1\n[autoencoder]\nsource = "digits"\npath = "none"\n'
    )
    (tmp_path / "shipped.toml").write_text('preset = "small"\n' + shipped)
    before = {*tmp_path.rglob("*")}
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert {*tmp_path.rglob("*")} == before
