"""A file of settings stands wherever a preset's name does, in any folder; what of it cannot be is one line."""

import os

import pytest

from experiments.pipeline import Cell
from experiments.presets import base, preset
from experiments.trained import models
from tests.experiments.cli.test_main import folder_of_images
from tests.helpers.runs import with_database
from tests.tokenbridge.autoencoders.test_frozen import save_tiny
from tokenbridge.config import RunConfig, UserError, holds_path
from tokenbridge.overrides import override, settings, typed, value_of
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_cells

OWN = """
preset = "small"
name = "three"
[data]
name = "three greys"
path = "images"
image_size = 16
image_channels = 1
classes = 3
[autoencoder]
source = "digits"
path = "none"
[train]
epochs = 1
warmup_epochs = 0
batch = 8
[sample]
iterations = 5
images = 9
[score]
features = "autoencoder"
weights = "encoder"
"""


@pytest.fixture
def own(tmp_path):
    """A file of settings beside its images, and the folder of another place."""
    (home := tmp_path / "home").mkdir()
    (home / "own.toml").write_text(OWN)
    folder_of_images(home / "images", ("a", "b", "c"), 8)
    save_tiny(home / "encoder", in_channels=1, out_channels=1)
    (away := tmp_path / "away").mkdir()
    return home / "own.toml", away


def test_a_file_is_its_preset_with_its_settings(own):
    path, _ = own
    read = base(str(path))
    assert (read.name, read.preset, read.threads) == ("three", "small", None)
    words = [
        "data.name=three greys", f"data.path={path.parent / 'images'}", "data.image_size=16", "data.image_channels=1",
        "data.classes=3", "autoencoder.source=digits", "autoencoder.path=none", "train.epochs=1",
        "train.warmup_epochs=0", "train.batch=8", "sample.iterations=5", "sample.images=9",
        "score.features=autoencoder", f"score.weights={path.parent / 'encoder'}",
    ]  # fmt: skip
    assert read.config == override(preset("small"), words)
    assert override(preset("small"), read.settings) == read.config  # as typed, for another process
    unnamed = override(read.config, {"data.name": None})
    ids = [[stage.id for stage in Cell("x", config).stages()] for config in (read.config, unnamed)]
    assert ids[0] == ids[1]  # what the images are called changes no stage


def test_the_name_and_the_least_that_a_file_holds(tmp_path):
    for stem, name in (("my images", "my-images"), ("-.x", "x"), ("é", "é"), ("(", "own")):
        (tmp_path / f"{stem}.toml").write_text('preset = "digits"')
        read = base(str(tmp_path / f"{stem}.toml"))
        assert (read.name, read.config, read.threads) == (name, preset("digits"), 1)


@pytest.mark.slow
def test_every_command_takes_it_in_any_folder(call, own, template):
    path, away = own
    with_database(Store(away / "runs"), template / "mlflow.db")
    relative = "../home/own.toml"
    runs = ("--runs", away / "runs")
    done = call("run", relative, "--only", "quantizer", "quantizer.levels=8", *runs, cwd=away)
    assert done.returncode == 0, done.stderr
    (cell,) = read_cells(Store(away / "runs")).values()
    assert cell.name == "three-levels8"
    assert cell.config["data"]["path"] == str(path.parent / "images")
    again = call("run", path, "--only", "quantizer", "quantizer.levels=8", *runs, cwd=path.parent)
    assert "[1/" not in again.stdout  # the same stages from another folder
    assert [*read_cells(Store(away / "runs"))] == [cell.id]
    planned = call("plan", relative, "--devices", 1, cwd=away)
    assert "15 train, 3 validation, 6 test images (counted)" in planned.stdout, planned.stderr
    for words in ((relative,), ("--preset", relative)):
        grid = call("grid", *words, "--axis", "quantizer.levels=8,16", "--dry-run", *runs, cwd=away)
        assert grid.returncode == 0, grid.stderr
        assert "2 cells" in grid.stdout
    tuned = call("tune", relative, *runs, cwd=away)
    assert tuned.returncode == 2
    assert f"run first: tokenbridge run {relative} --only train" in tuned.stderr
    duel = call("duel", relative, "2a:parallel", "2a:autoregressive", "--dry-run", *runs, cwd=away)
    assert duel.returncode == 0, duel.stderr


def test_a_trained_cell_is_found_by_its_file(call, own, template):
    path, away = own
    with_database(Store(away / "runs"), template / "mlflow.db")
    small = ["backbone.width=16", "backbone.heads=2", "head.width=16", "head.heads=2"]
    done = call("run", path, *small, "--only", "train", "--runs", away / "runs", cwd=away)
    assert done.returncode == 0, done.stderr
    assert models(Store(away / "runs"), str(path), small).name.startswith("three-")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'must name what it changes, as in preset = "small"'),
        ('preset = "smal"', "smal is no preset; did you mean small?"),
        ('preset = "quite another"', "quite another is no preset; presets are digits, fashion, small, imagenet256-B"),
        ("preset = 3", "preset=3 must be text in quotes"),
        ('preset = "other.toml"', "other.toml is no preset"),
        ('preset = "small"\nname = "a/b"', "name=a/b must be letters"),
        ('preset = "small"\nname = ["a"]', 'name=["a"] must be text in quotes'),
        ('preset = "small"\nnme = "a"', "nme is neither a section of settings nor preset or name; did you mean name?"),
        ('preset = "small"\nepochs = 3', "epochs is neither a section"),
        ('preset = "small"\ndata = 3', "data=3 must be a section, as in [data]"),
        ('preset = "small"\n[[data]]\nclasses = 3', "must be a section, as in [data]"),
        ('preset = "small"\n[dta]\nclasses = 3', "did you mean data?"),
        ('preset = "small"\n[data]\nclases = 3', "data.clases is no setting; did you mean data.classes?"),
        ('preset = "small"\n[data.more]\nclasses = 3', "data.more.classes is no setting; did you mean data.classes?"),
        ('preset = "small"\n[data]\nclasses = 0', "data.classes=0 must be >= 1"),
        ('preset = "small"\n[data]\nclasses = "3"', "data.classes='3' must be a whole number"),
        ('preset = "small"\n[data]\nclasses = true', "data.classes=True must be a whole number"),
        ('preset = "small"\n[data]\nname = ""', "data.name="),
        ('preset = "small"\n[data]\npath = ""', "data.path='' must name a file or folder"),
        ('preset = "small"\n[data]\npath = 2020-01-01', "data.path=2020-01-01 must be a number, text in quotes"),
        ('preset = "small"\n[train]\nlearning_rate = nan', "train.learning_rate='nan' must be a number"),
        ('preset = "small"\n[train]\nbetas = [2020-01-01]', "train.betas=2020-01-01 must be a number, text"),
        ('preset = "small"\n[train]\nepochs = 1e400', "train.epochs='inf' must be a whole number"),
        ('preset = "small"\n[quantizer]\nrange = 0', "quantizer.range=0 must be >= 1e-06"),
        ('preset = "small"\n[quantizer]\nrange = 3\nrange = 3', "must be a TOML file: Cannot overwrite a value"),
        ('preset = "small', "must be a TOML file: "),
        ("[" * 5000, "must be a TOML file: "),
        (b"\xff\xfe", "must be a TOML file in UTF-8, and cannot be read as one"),
    ],
)
def test_what_cannot_be_in_a_file(tmp_path, text, said):
    (path := tmp_path / "own.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        base(str(path))
    assert said in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_no_file_and_a_name_without_its_ending(call, tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    for name in ("missing.toml", "folder.toml", "pipe.toml"):
        assert "must be a file of settings, and is none" in call("run", name, cwd=tmp_path).stderr
    (tmp_path / "mine.toml").write_text('preset = "digits"')
    assert "did you mean mine.toml, a file of settings?" in call("run", "mine", cwd=tmp_path).stderr
    (tmp_path / "pictures").mkdir()
    assert "tokenbridge init pictures makes a file" in call("run", "pictures", cwd=tmp_path).stderr
    two = call("grid", "mine.toml", "other.toml", "--axis", "quantizer.levels=8,16", cwd=tmp_path)
    assert "mine.toml and other.toml are 2 bases" in two.stderr
    two = call("grid", "mine.toml", "--preset", "small", "--axis", "quantizer.levels=8,16", cwd=tmp_path)
    assert "mine.toml and small are 2 bases" in two.stderr


def test_which_settings_are_paths():
    paths = {key for key in settings(RunConfig) if holds_path(*key.split("."))}
    assert paths == {
        "data.path", "data.test_path", "data.class_list", "autoencoder.path", "autoencoder.perceptual_weights",
        "score.weights", "score.reference", "score.lpips",
    }  # fmt: skip


@pytest.mark.parametrize("value", ["2012", "true", "none", "[1]", '"x"', "a b", "ö", "1e5", 3, 0.5, True, [1, 2], None])
def test_typed_is_read_again(value):
    assert value_of(typed(value)) == value
