"""Data sets in the forms in which they are shipped, by the commands: settings that fit, runs, and what is refused."""

import json

import pytest

from experiments.presets import base
from tests.helpers.image_sets import drawn, png, samples, write_idx, write_parquet, write_tar

NAMES = ("bag", "coat", "shoe")


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A set of IDX files in the cache, a folder of parquet, one of tar with labels, and one without."""
    monkeypatch.setenv("TOKENBRIDGE_CACHE", str(tmp_path / "cache"))
    images, labels = drawn(60)
    write_idx(tmp_path / "cache" / "torchvision" / "KMNIST", drawn(60), drawn(20, seed=6))
    for name in ("train", "test"):
        write_parquet(tmp_path / "table" / "data" / f"{name}-00000-of-00001.parquet", images, labels, NAMES)
    write_tar(tmp_path / "shards" / "0.tar", samples(images, labels))
    write_tar(tmp_path / "plain" / "0.tar", [(str(i), {"png": png(each)}) for i, each in enumerate(images)])
    return tmp_path


def test_init_knows_what_images_are_shipped_in(call, sets):
    for words, source, classes in (
        (["table"], "parquet", 3),
        (["shards"], "tar", 3),
        (["plain", "data.classes=1"], "tar", 1),
        (["KMNIST", "data.classes=1"], "torchvision", 1),
    ):
        done = call("init", *words, cwd=sets)
        assert done.returncode == 0, done.stderr
        config = base(str(sets / f"{words[0]}.toml")).config
        assert (config.data.source, config.data.classes, config.data.name) == (source, classes, words[0])
        assert (config.data.image_size, config.data.image_channels) == (16, 1)
        assert config.data.path == (None if words[0] == "KMNIST" else str(sets / words[0]))
        assert "60 images in " in done.stdout
        assert "grey, 16 × 16 pixels" in done.stdout
    assert "labels: 0 bag, 1 coat, 2 shoe" in call("init", "table", "--force", cwd=sets).stdout
    done = call("init", "Nowhere", cwd=sets)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "or the name of a set of torchvision; correct the path" in done.stderr


@pytest.mark.slow
def test_a_run_of_parquet(call, sets):
    words = ["data.source=parquet", "data.path=table", "data.classes=3"]
    done = call("run", "digits", *words, "--only", "latents", "--runs", "runs", cwd=sets)
    assert done.returncode == 0, done.stderr
    assert "data.path: 60 images in 1 parquet file in 3 classes: 0 bag, 1 coat, 2 shoe" in done.stdout
    (classes,) = (sets / "runs").rglob("classes.json")
    assert json.loads(classes.read_text()) == list(NAMES)


@pytest.mark.slow
def test_networks_are_trained_of_shipped_sets(call, sets):
    call("init", "table", cwd=sets)
    done = call("train-autoencoder", "table.toml", "--epochs", 1, "--batch", 16, cwd=sets)
    assert done.returncode == 0, done.stderr
    assert json.loads((sets / "table-autoencoder" / "card.json").read_text())["train_images"] == 51
    done = call("train-classifier", "table", "--epochs", 1, "--out", "classifier", cwd=sets)
    assert done.returncode == 0, done.stderr
    assert json.loads((sets / "classifier" / "classifier.json").read_text())["classes"] == list(NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("source=torchvision", "data.source=torchvision must come with data.name, such as FashionMNIST; give it"),
        ("source=torchvision name=VOCSegmentation", "data.name=VOCSegmentation must be a classification set of"),
        ("source=torchvision name=KMNST", "did you mean KMNIST?"),
        ("source=torchvision name=KMNIST test_path=x", "data.test_path=x goes with data.source=folder, parquet or tar"),
        ("source=torchvision name=KMNIST class_list=x", "data.class_list=x goes with data.source=folder only"),
        ("source=torchvision name=KMNIST classes=7", "data.classes=7 must be 10, the number of classes of KMNIST"),
        ("source=parquet", "data.source=parquet must come with data.path, its images"),
        ("source=parquet path=shards classes=3", "data.path=shards names no .parquet file; correct it"),
        (
            "source=parquet path=table classes=3 label_column=lab",
            "has no column lab and has image, label; name it with",
        ),
        ("source=parquet path=table classes=4", "data.classes=4 must be 3, the number of classes of data.path=table"),
        ("source=tar path=shards classes=2", "is 2, and must be from 0 to 1 with data.classes=2"),
        ("source=tar path=shards image_column=jpg classes=3", "must have one image, and has cls, png"),
        ("source=tar path=plain classes=3", "has no label (.cls); name its ending with data.label_column"),
        ("source=tar path=table/data/train-00000-of-00001.parquet", "must end in .tar for data.source=tar"),
        ("label_column=x", "data.label_column=x goes with data.source=parquet or tar only; leave it out"),
        ("padded=true", "data.padded=true goes with images that are read, not with the digits; leave it out"),
    ],
)
def test_bad_sets_are_refused_before_anything_runs(call, sets, words, said):
    settings = [f"data.{word}" for word in words.split()]
    done = call("run", "digits", *settings, "--only", "latents", "--runs", "runs", cwd=sets)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert not (sets / "runs").exists()
