"""A trained generator as a folder for Hugging Face, and back, to the same images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from huggingface_hub import ModelCard
from PIL import Image

import tokenbridge as tb
from experiments.pipeline import Cell
from experiments.runner import run_cells
from tests.conftest import SHORT
from tests.helpers import release
from tokenbridge.autoencoders.train import train_own_autoencoder
from tokenbridge.config import Runtime, UserError
from tokenbridge.exchange import hub
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store, read_array
from tokenbridge.store.runs import read_cell, read_metrics

HELD = {
    "README.md", "config.json", "manifest.json", "model.safetensors", "quantizer.safetensors", "samples.png",
    "stats.json", "autoencoder/config.json", "autoencoder/diffusion_pytorch_model.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    store, cell = finished
    target = tmp_path_factory.mktemp("hub") / "tiny-digits"
    hub.write_exported(store, read_cell(store, cell.id), target)
    return target


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def folder_of(finished, kind):
    store, cell = finished
    (stage,) = [stage for stage in cell.stages() if stage.kind.name == kind]
    return store.folder(stage.id)


def test_it_draws_the_images_of_the_run_bit_for_bit(finished, exported):
    drawn = read_array(folder_of(finished, "sample") / "samples.npy")
    model = tb.load(exported)
    labels = np.arange(len(drawn)) % 10
    np.testing.assert_array_equal(model.sample(labels.tolist()).numpy(), drawn)
    of_runs = tb.load(finished[0].root, finished[1].name)
    assert torch.equal(model.sample([3, 7], seed=2, guidance=1.5), of_runs.sample([3, 7], seed=2, guidance=1.5))
    images = torch.from_numpy(np.array(drawn[:5]))
    assert torch.equal(model.likelihood(images, labels[:5].tolist()), of_runs.likelihood(images, labels[:5].tolist()))
    assert model.metrics == of_runs.metrics
    assert model.config == of_runs.config  # which names no file


def test_the_card_is_one_of_hugging_face_s(finished, exported):
    card = ModelCard.load(exported / "README.md")
    assert card.data.library_name == "tokenbridge"
    assert {"class-conditional", "gaussian", "autoregressive-head"} <= set(card.data.tags)
    measured = read_metrics(folder_of(finished, "score"))
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["score/fd_digits"] == measured.metrics["fd_digits"]
    assert {result.dataset_type for result in card.data.eval_results} == {"handwritten digits"}
    bits, se = (tb.load(exported).metrics[f"likelihood/bits_per_dim{end}"] for end in ("", "_se"))
    assert f"| likelihood/bits_per_dim | {bits:.3f} ± {1.96 * se:.3f}" in card.text
    assert json.dumps(measured.protocol, indent=1, sort_keys=True) in card.text
    with Image.open(exported / "samples.png") as picture:
        assert picture.size == (10 * 18 * 4 + 8, 5 * 18 * 4 + 8)


def test_it_holds_safetensors_and_nothing_that_runs_or_tells_places(exported):
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()}
    assert names == HELD
    model = AutoencoderKL.from_pretrained(exported / "autoencoder")  # as others read it
    assert model.config["latent_channels"] == 8
    for path in exported.rglob("*.json"):
        assert str(Path.home()) not in path.read_text()
        assert "/tmp" not in path.read_text()


def test_paths_become_names(finished, tmp_path):
    config = finished[1].config.model_copy(
        update={"data": finished[1].config.data.model_copy(update={"source": "folder", "path": "/home/me/secret/cats"})}
    )
    assert hub._without_places(config)["data"]["path"] == "cats"


@pytest.mark.parametrize("source", ["diffusers", "ldm"])
def test_an_autoencoder_of_any_source_decodes_the_same(source, finished, tmp_path):
    from safetensors.torch import load_file

    from tests.helpers.release import DATA
    from tokenbridge.autoencoders.sources import source_of
    from tokenbridge.config import Autoencoder, RunConfig

    path = tmp_path / ("kl16.ckpt" if source == "ldm" else "vae")
    if source == "ldm":
        torch.save({"state_dict": load_file(DATA / "kl16_weights.safetensors")}, path)
    else:
        release.autoencoder(path)
    config = Autoencoder(source=source, path=str(path), channels=16, stride=16)
    frozen = source_of(config).load()
    frozen.take_units(0.5, 1.0)
    hub._write_autoencoder(frozen, tmp_path / hub.AUTOENCODER)
    run = RunConfig.model_construct().model_copy(update={"autoencoder": config})
    again = hub.Exported(tmp_path, run, {}, frozen.units).autoencoder("cpu")
    latents = torch.randn(2, frozen.channels, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.decode(latents), frozen.decode(latents))


OWN = {
    "a stage": ["autoencoder.source=trained", "autoencoder.epochs=1"],
    "a folder": ["autoencoder.source=diffusers"],
    "with its tokens": ["quantizer.kind=vq", "quantizer.levels=31", "quantizer.epochs=1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN)
def test_an_autoencoder_of_our_own_goes_along(kind, tiny, tmp_path, monkeypatch):
    """Trained as a stage, by `train-autoencoder` or with its tokens; the original is gone when the folder is read."""
    here, away = tmp_path / "here", tmp_path / "away"
    words = [*SHORT, *OWN[kind], "autoencoder.channels=5", "head.order=stored", "sample.images=7"]
    if kind == "a folder":
        (here / "own").mkdir(parents=True)
        train_own_autoencoder(here / "own", tiny.data, 5, 4, 1, 0, torch.device("cpu"), 64)
        words.append(f"autoencoder.path={here / 'own'}")
    store, cell = Store(here / "runs"), Cell("mine", override(tiny, words), ("sample",))
    run_cells(store, [cell], Runtime(threads=1, bars=False), "tests")
    expected = tb.load(store.root, "mine").sample([0, 5], seed=3)
    away.mkdir()
    hub.write_exported(store, read_cell(store, cell.id), away / "mine")
    shutil.rmtree(here)
    monkeypatch.chdir(away)
    model = tb.load("mine")
    assert torch.equal(model.sample([0, 5], seed=3), expected)
    assert AutoencoderKL.from_pretrained("mine/autoencoder").config["latent_channels"] == 5
    names = {str(path.relative_to("mine")) for path in Path("mine").rglob("*") if path.is_file()}
    assert names == HELD
    for path in Path("mine").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{}"), "another checksum"),
        (lambda folder: (folder / "config.json").unlink(), "must be a folder that tokenbridge export CELL --hub wrote"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors"),
        (lambda folder: (folder / "autoencoder" / "config.json").unlink(), r"must hold config\.json"),
    ],
)
def test_a_damaged_folder_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message):
        tb.load(copy).sample([0])


def test_a_card_that_was_edited_is_nobody_s_business(copy):
    (copy / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert len(tb.load(copy).sample([0])) == 1


def test_the_command_writes_it_and_refuses_what_cannot_be(finished, call, tmp_path):
    store, cell = finished
    target = tmp_path / "out" / "model"
    done = call("export", cell.name, "--hub", target, "--runs", store.root, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"hf upload NAME/model {target}" in done.stdout
    assert hub.is_exported(target)
    again = call("export", cell.name, "--hub", target, "--runs", store.root, cwd=tmp_path)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "is there already; it must be new" in again.stderr
    unknown = call("export", "nothing", "--hub", tmp_path / "new", "--runs", store.root, cwd=tmp_path)
    assert (unknown.returncode, (tmp_path / "new").exists()) == (2, False)
    stage = call("export", "sample-0123456789ab", "--hub", tmp_path / "new", "--runs", store.root, cwd=tmp_path)
    assert "needs a cell, not a stage" in stage.stderr
