"""From a folder of images to a file of settings that fits them, and what is refused before anything is written."""

import os
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.cli.init import init
from experiments.fitting import scored
from experiments.presets import base
from tests.helpers.machine import ROOT
from tokenbridge.data.files import split_of, splits

DRAWS = np.random.default_rng(3)


def images(folder, classes, each, size, colour=False, ending="png"):
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            shape = (size[1], size[0], 3) if colour else (size[1], size[0])
            Image.fromarray(DRAWS.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{i}.{ending}")
    return folder


def made(call, tmp_path, *words):
    done = call("init", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_small_grey_images(call, tmp_path):
    images(tmp_path / "clothes", ("bag", "sandal", "trouser"), 20, (28, 28))
    (tmp_path / "clothes" / "bag" / "notes.txt").write_text("left out")
    said = made(call, tmp_path, "clothes")
    assert "60 images in 3 classes, grey, 28 × 28 pixels\nlabels: 0 bag, 1 sandal, 2 trouser\n" in said
    assert "left out: 1 .txt" in said
    assert said.endswith("  tokenbridge train-autoencoder clothes.toml\n  tokenbridge run clothes.toml\n")
    text = (tmp_path / "clothes.toml").read_text()
    written = tomllib.loads(text)
    assert (written["preset"], written["name"], written["data"]["name"]) == ("small", "clothes", "clothes")
    assert (written["data"]["path"], written["autoencoder"]["path"]) == ("clothes", "clothes-autoencoder")
    config = base(str(tmp_path / "clothes.toml")).config
    assert (config.data.image_size, config.data.image_channels, config.data.classes) == (28, 1, 3)
    assert (config.autoencoder.stride, config.positions) == (4, 49)
    counts = [len(split_of(config.data, split)[1]) for split in splits(config.data)]
    assert config.train.batch <= counts[0] == 39
    assert "images: 39 train, 9 validation, 12 test" in text
    assert config.sample.iterations <= config.positions
    assert (config.score.features, config.score.weights) == ("autoencoder", config.autoencoder.path)
    assert '# features = "own", weights = "clothes-classifier"\n' in text
    assert "# a small one, which tokenbridge train-autoencoder clothes.toml trains and puts there\n" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_photographs_of_several_sizes_and_settings_that_are_given(call, tmp_path):
    images(tmp_path / "photos", ("",), 10, (333, 300), True, "jpg")
    images(tmp_path / "photos", ("",), 11, (290, 400), True, "webp")
    made(call, tmp_path, "photos", "--name", "mine", "--out", "there/own.toml", "data.image_size=128", "train.epochs=1")
    read = base(str(tmp_path / "there" / "own.toml"))
    config = read.config
    assert read.name == "mine"
    assert (config.data.classes, config.data.image_size, config.data.image_channels) == (1, 128, 3)
    assert (config.autoencoder.stride, config.train.epochs, config.train.warmup_epochs) == (16, 1, 0.1)
    assert config.sample.guidance == 1
    assert (config.data.path, config.autoencoder.path) == (
        str(tmp_path / "photos"),
        str(tmp_path / "there" / "mine-autoencoder"),
    )
    made(call, tmp_path, "photos", "--out", "there/own.toml", "--force")
    assert base(str(tmp_path / "there" / "own.toml")).config.data.image_size == 64


def test_sizes_of_an_autoencoder_are_its_own(call, tmp_path):
    images(tmp_path / "numbers", map(str, range(12)), 4, (30, 34))
    made(call, tmp_path, "numbers", "--autoencoder", "digits")
    config = base(str(tmp_path / "numbers.toml")).config
    assert config.data.class_order == "numeric"
    assert (config.autoencoder.source, config.autoencoder.channels, config.autoencoder.stride) == ("digits", 8, 4)
    assert (config.score.features, config.score.weights) == ("own", str(tmp_path / "numbers-classifier"))
    assert config.data.image_size == 32  # of 28 and 32, both as near, the larger
    weights = ROOT / "tests" / "data" / "kl16_weights.safetensors"
    made(call, tmp_path, "numbers", "--autoencoder", weights, "--out", "ldm.toml")
    config = base(str(tmp_path / "ldm.toml")).config
    assert (config.autoencoder.source, config.autoencoder.path) == ("ldm", str(weights))
    assert config.data.image_channels == 3  # grey images, as the autoencoder takes them
    assert config.data.image_size % config.autoencoder.stride == 0


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere must be a folder of images, with one sub-folder per class or none"),
        (("empty",), "must hold one sub-folder per class, at least 2, or images alone, and holds 0"),
        (("single",), "give single/a itself, or sort the images into such folders"),
        (("few",), "few holds 6 images and must hold at least 8"),
        (("scant",), "scant: 3 images would be for the test, and 4 at least can be measured"),
        (("uneven",), "leave no training image in class 1 (2 images)"),
        (("hollow",), "hollow/b holds no image"),
        (("damaged",), "damaged/a/0.png cannot be read as an image"),
        (("pipe",), "a.png must be a regular file"),
        (("good", "--out", "mine"), "--out mine must end in .toml"),
        (("good", "--out", "here.toml"), "here.toml is there already; give --force to write over it"),
        (("good", "--out", "folder.toml", "--force"), "folder.toml is there already"),
        (("good", "--out", "file/x.toml"), "cannot be written"),
        (("good", "--name", "a/b"), "--name=a/b must be letters"),
        (("good", "--autoencoder", "nothing"), "--autoencoder nothing must be digits, a diffusers folder"),
        (("good", "--autoencoder", "file"), "file"),
        (("good", "--autoencoder", "folder.toml"), "must hold config.json"),
        (("good", "data.image_size=30"), "data.image_size=30 must be a multiple of autoencoder.stride=4"),
        (("good", "data.image_size=big"), "data.image_size='big' must be a whole number"),
        (("good", "autoencoder.stride=0"), "autoencoder.stride=0 must be >= 1"),
        (("good", "autoencoder.stride=3"), "autoencoder.stride=3 must be a power of two from 2 to 32"),
        (("good", "--out", "/proc/own.toml"), "/proc/own.toml cannot be written"),
        (("good", "train.epoch=3"), "train.epoch is no setting; did you mean train.epochs?"),
        (("good", "train.epochs=3", "train.warmup_epochs=3"), "warmup_epochs=3 must be < epochs=3"),
        (("good", "sample.iterations=50"), "sample.iterations=50 must be at most 49"),
        (("good", "sample.images=3"), "sample.images=3 must be 4 at least to be scored; take more"),
        (("good", "train.batch=16"), "train.batch=16 must be at most 15, the images to train"),
        (("good", "head.kind=flow"), "quantizer.kind=gaussian cannot go with head.kind=flow"),
        (("good", "data.path=other"), "data.path is what IMAGES and --autoencoder say"),
        (("good", "data.classes=4"), "data.classes=4 must be 3"),
        (("good", "data.class_list=nowhere.txt"), "data.class_list=nowhere.txt must be a text file"),
        (("good", "words"), "'words' must have the form key=value"),
        (("good", "train.epochs=3", "sample.images=9", "train.epochs=4"), "train.epochs is given 2 times and must be"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(call, tmp_path, words, said):
    for name in ("empty", "hollow/b", "pipe", "folder.toml"):
        (tmp_path / name).mkdir(parents=True)
    images(tmp_path / "good", "abc", 8, (28, 28))
    images(tmp_path / "single", "a", 9, (28, 28))
    images(tmp_path / "few", "ab", 3, (28, 28))
    images(tmp_path / "scant", "abc", 3, (28, 28))
    images(tmp_path / "uneven", "a", 9, (28, 28))
    images(tmp_path / "uneven", "b", 2, (28, 28))
    images(tmp_path / "hollow", "a", 9, (28, 28))
    images(tmp_path / "damaged", "ab", 9, (28, 28))
    for name in ("a/0.png", "a/5.png", "b/1.png", "b/2.png"):
        cut(tmp_path / "damaged" / name)
    images(tmp_path / "pipe", ("",), 9, (28, 28))
    os.mkfifo(tmp_path / "pipe" / "a.png")
    (tmp_path / "here.toml").write_text("mine")
    (tmp_path / "file").write_text("words")
    before = Counter(tmp_path.rglob("*"))
    done = call("init", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert Counter(tmp_path.rglob("*")) == before
    assert (tmp_path / "here.toml").read_text() == "mine"
    if words == ("damaged",):
        assert "; and 1 more; replace or delete these 4 of 18 images" in done.stderr


@pytest.mark.parametrize(
    ("words", "score"),
    [
        (("score.features=own",), {"features": "own", "weights": "clothes-classifier"}),
        (("score.features=own", "score.weights=mine"), {"features": "own", "weights": "mine"}),
        (("score.features=inception",), {"features": "inception"}),
        (("score.features=clean", "score.weights=there"), {"features": "clean", "weights": "there"}),
        (("score.features=autoencoder",), {"features": "autoencoder", "weights": "clothes-autoencoder"}),
    ],
)
def test_given_scorers_have_weights_of_their_kind(tmp_path, monkeypatch, words, score):
    images(tmp_path / "clothes", ("bag", "sandal"), 8, (28, 28))
    monkeypatch.chdir(tmp_path)
    init(Path("clothes"), list(words))
    assert tomllib.loads((tmp_path / "clothes.toml").read_text())["score"] == score


def test_a_file_scores_by_its_classifier_where_it_is_as_written(call, tmp_path):
    images(tmp_path / "clothes", ("bag", "sandal", "trouser"), 8, (28, 28))
    made(call, tmp_path, "clothes")
    text = (tmp_path / "clothes.toml").read_text()
    changed = scored(text)
    assert changed is not None
    (tmp_path / "clothes.toml").write_text(changed)
    before, after = tomllib.loads(text), tomllib.loads(changed)
    assert after.pop("score") == {"features": "own", "weights": "clothes-classifier"}
    assert before.pop("score") == {"features": "autoencoder", "weights": "clothes-autoencoder"}
    assert before == after
    config = base(str(tmp_path / "clothes.toml")).config
    assert config.score.weights == str(tmp_path / "clothes-classifier")
    assert scored(changed) is None
    assert scored(text.replace('weights = "clothes-autoencoder"', 'weights = "mine"\nlpips = "vgg.pth"')) is not None
    assert scored(text.replace('features = "autoencoder"', 'features = "inception"')) is None


def test_names_that_toml_must_escape(call, tmp_path):
    name = 'a "b"\\é\t#'
    images(tmp_path / name, ("x\ny", "z"), 10, (16, 16))
    made(call, tmp_path, name, "--out", "odd.toml")
    config = base(str(tmp_path / "odd.toml")).config
    assert (config.data.path, config.data.name) == (str(tmp_path / name), 'a "b"\\é\\t#')
