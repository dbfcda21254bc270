"""What `import tokenbridge as tb` gives: its examples, and its numbers against the stages'."""

import ast
import doctest
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tokenbridge as tb
from tests.helpers import release
from tests.helpers.machine import ROOT
from tests.helpers.scorers import pictures, write_pictures
from tokenbridge.config import UserError
from tokenbridge.library import generators, latents, scores
from tokenbridge.store.artifacts import read_array
from tokenbridge.store.runs import read_metrics


@pytest.mark.parametrize("module", [latents, scores])
def test_the_examples_run(module):
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.slow
def test_it_takes_torch_when_it_is_asked_for_and_not_before():
    code = "import sys, tokenbridge as tb; assert 'torch' not in sys.modules; tb.score"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tb.nothing  # noqa: B018


def test_checkers_of_types_know_every_name():
    stub = ast.parse(Path(tb.__file__).with_suffix(".pyi").read_text())
    named = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    named |= {ast.unparse(node.target) for node in stub.body if isinstance(node, ast.AnnAssign)}
    assert named - {None} == set(tb.__all__) == {"ASSETS", *tb.FACE}


def test_image_shaped_and_flat_latents_have_the_same_levels():
    x = torch.randn(30, 5, 3, 3, generator=torch.Generator().manual_seed(1)) * 7
    shaped, flat = tb.quantizer(x, levels=16), tb.quantizer(x.movedim(1, -1).reshape(-1, 5), levels=16)
    tokens = shaped.encode(x)
    assert tokens.shape == x.shape
    assert torch.equal(tokens, flat.encode(x.movedim(1, -1)).movedim(-1, 1))
    assert torch.equal(shaped.decode(tokens), flat.decode(flat.encode(x.movedim(1, -1))).movedim(-1, 1))
    error = float(((shaped.decode(tokens) - x) * shaped.scale).double().square().mean())
    assert shaped.diagnostics()["mse"] == pytest.approx(error, rel=1e-5)
    assert shaped.scale == pytest.approx(1 / float(x.std(correction=0)), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("vq", "kind=vq is trained with its autoencoder"), ("quantum", "quantum")],
)
def test_a_kind_that_cannot_be_is_refused(kind, message):
    with pytest.raises(UserError, match=message):
        tb.quantizer(torch.randn(10, 2), kind=kind)


def test_floats_are_images_from_0_to_1_alone():
    shipped = tb.autoencoder("digits")
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(shipped.encode(images), shipped.encode(images / 255))
    with pytest.raises(UserError, match=r"from -1 to .* must be uint8, or floats from 0 to 1"):
        shipped.encode(images / 127.5 - 1)


def test_a_folder_is_encoded_as_its_images_are(tmp_path):
    """By class and by name, in the colours of the autoencoder; cropped where that is asked for."""
    shipped, pixels = tb.autoencoder("digits"), np.repeat(pictures(70)[:, :1], 3, 1)
    for name, part in (("b", pixels[30:]), ("a", pixels[:30])):
        write_pictures(tmp_path / "classes" / name, part)
    latents = shipped.encode(tmp_path / "classes")
    torch.testing.assert_close(latents, shipped.encode(torch.from_numpy(pixels[:, :1])), rtol=0, atol=1e-5)
    np.savez(tmp_path / "file.npz", arr_0=pixels[:, :1].transpose(0, 2, 3, 1))
    assert torch.equal(shipped.encode(str(tmp_path / "file.npz")), latents)
    write_pictures(tmp_path / "classes" / "c", pictures(1, size=40))
    with pytest.raises(UserError, match=r"must be of one size, and c/000\.png has 40 pixels where a/000\.png has 16"):
        shipped.encode(tmp_path / "classes")
    assert shipped.encode(tmp_path / "classes", size=16).shape == (71, 8, 4, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "must be a folder of images, or a file ending in .npz"),
        (lambda path: path.mkdir(), "holds no image; it needs files ending in"),
        (lambda path: write_pictures(path, pictures(1, size=18)), "sides that are multiples of 4"),
        (lambda path: np.savez(path, mu=np.zeros(2), sigma=np.eye(2)), "must hold images, not statistics or features"),
    ],
)
def test_what_cannot_be_encoded_is_named(tmp_path, make, message):
    path = tmp_path / ("file.npz" if "statistics" in message else "folder")
    make(path)
    with pytest.raises(UserError, match=message):
        tb.autoencoder("digits").encode(path)


@pytest.mark.slow
def test_a_hugging_face_id_is_an_autoencoder_of_the_hub_s_cache(tmp_path):
    """Without internet: what was downloaded once is read, and what never was is one line."""
    folder = tmp_path / "hub" / "models--some--vae"
    release.autoencoder(folder / "snapshots" / "0123")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    lines = ["import tokenbridge as tb", "print(tb.autoencoder('some/vae').channels)", "tb.autoencoder('no/vae')"]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "16\n"
    assert "UserError: no/vae is no folder here, and Hugging Face does not give it (" in done.stderr


def test_what_is_no_autoencoder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"must hold config\.json and diffusion_pytorch_model\.safetensors"):
        tb.autoencoder(tmp_path)


@pytest.fixture(scope="module")
def trained(finished):
    store, cell = finished
    return store, cell, tb.load(store.root, cell.name)


def test_a_loaded_run_draws_the_images_of_its_stage(trained):
    store, cell, model = trained
    (stage,) = [stage for stage in cell.stages() if stage.kind.name == "sample"]
    drawn = read_array(store.folder(stage.id) / "samples.npy")
    labels = np.arange(len(drawn)) % cell.config.data.classes
    np.testing.assert_array_equal(model.sample(labels.tolist()).numpy(), drawn)
    assert not torch.equal(model.sample(labels, seed=5), torch.from_numpy(np.array(drawn)))


def test_a_loaded_run_knows_its_settings_and_numbers(trained):
    store, cell, model = trained
    assert model.config == cell.config
    (stage,) = [stage for stage in cell.stages() if stage.kind.name == "train"]
    expected = {f"train/{name}": value for name, value in read_metrics(store.folder(stage.id)).metrics.items()}
    assert expected.items() <= model.metrics.items()


def test_the_likelihood_is_that_of_the_stage_but_for_its_draws(trained):
    from tokenbridge.data import images

    _, cell, model = trained
    shown = images.load(cell.config.data, "test")
    pixels, labels = images.stack(shown)
    found = model.likelihood(torch.from_numpy(pixels), torch.from_numpy(labels))
    assert found.shape == (len(pixels),)
    se = model.metrics["likelihood/bits_per_dim_se"]
    assert float(found.mean()) == pytest.approx(model.metrics["likelihood/bits_per_dim"], abs=4 * se)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.sample([10]), "label 10 must be from 0 to 9"),
        (lambda model: model.sample([0], guidance="much"), "sample.guidance"),
        (lambda model: model.sample([0], guidanse=1), "guidanse"),
    ],
)
def test_what_cannot_be_drawn_is_refused(trained, call, message):
    with pytest.raises(UserError, match=message):
        call(trained[2])


def test_an_unknown_run_is_named(trained):
    with pytest.raises(UserError, match="is no cell of"):
        generators.load(trained[0].root, "nowhere")


def test_tensors_and_files_have_the_same_scores(tmp_path):
    first, second = (np.repeat(pictures(12, seed=seed)[:, :1], 3, 1) for seed in (1, 2))
    folders = [write_pictures(tmp_path / name, each) for name, each in (("a", first), ("b", second))]
    of_files = tb.score(*folders, features="digits", runs=tmp_path / "runs")
    of_tensors = tb.score(torch.from_numpy(first), torch.from_numpy(second) / 255, features="digits")
    assert of_files.metrics == pytest.approx(of_tensors.metrics, rel=1e-6)
    assert of_files["fd_digits"] > 0
    assert list((tmp_path / "runs" / "features").iterdir())
