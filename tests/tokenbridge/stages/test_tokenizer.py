"""Trained tokenizers in the pipeline: from images to samples, which stages share them, what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.pipeline import Cell, graph, wanted_of
from experiments.presets import DIGITS
from experiments.runner import run_cells
from tests.helpers.generators import arrays_of
from tests.tokenbridge.autoencoders.test_frozen import save_tiny
from tests.tokenbridge.tokenizers.test_trained import CPU, SETTINGS, config_of, few
from tokenbridge.autoencoders.sources import architecture
from tokenbridge.autoencoders.train import Budget
from tokenbridge.config import Autoencoder, Data, Runtime, UserError
from tokenbridge.data import images as data
from tokenbridge.overrides import override
from tokenbridge.stages.tokenizer import QuantizedAutoencoder, train_tokenizer
from tokenbridge.store.artifacts import Store


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A few digits as image folders: training and test."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 8), ("test", 2)):
        pixels, labels = data.stack(data.load(Data(), split))
        for label in range(10):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for i, image in enumerate(pixels[labels == label][:count]):
                Image.fromarray(image[0]).save(folder / f"{i}.png")
    return [f"data.path={root / 'train'}", f"data.test_path={root / 'test'}", "data.source=folder"]


@pytest.mark.parametrize(
    "kind", [kind if kind == "vq" else pytest.param(kind, marks=pytest.mark.slow) for kind in SETTINGS]
)
def test_from_images_to_samples(kind, folders, tmp_path):
    config = config_of(kind, *folders, "sample.images=13", "sample.iterations=3", "train.batch=16")
    store, cell = Store(tmp_path), Cell(kind, config, wanted_of(config))
    run_cells(store, [cell], Runtime(threads=1, batch=32), "tests")
    stages = {stage.kind.name: stage for stage in cell.stages()}
    assert set(stages) == {"tokenizer", "latents", "quantizer", "reconstruct", "train", "sample", "score"}
    folder = {name: store.folder(stage.id) for name, stage in stages.items()}
    measured = {
        name: json.loads((folder[name] / "metrics.json").read_text())["metrics"] for name in set(stages) - {"latents"}
    }
    assert all(math.isfinite(value) for metrics in measured.values() for value in metrics.values())
    tokens, samples = (np.load(folder["sample"] / f"{name}.npy") for name in ("tokens", "samples"))
    assert tokens.shape == (13, 16, len(config.token_levels))
    assert bool((tokens < np.array(config.token_levels)).all())
    assert samples.shape == (13, 1, 16, 16)
    assert measured["reconstruct"]["psnr"] == pytest.approx(measured["tokenizer"]["psnr"], abs=0.02)
    assert 0 < measured["reconstruct"]["effective_bits"] <= 16 * math.log2(math.prod(config.token_levels))
    assert 0 < measured["tokenizer"]["used_codes"] <= 1
    assert measured["quantizer"]["calibration_used_codes"] == pytest.approx(measured["tokenizer"]["used_codes"])
    example = arrays_of(folder["quantizer"] / "examples.npz")
    assert set(example) == {"edges", "centers", "before", "after"}
    assert example["before"].shape == example["after"].shape == (config.autoencoder.channels, 120)
    assert store.manifest(stages["train"].id)["inputs"].keys() == {"latents", "quantizer"}


def test_a_diffusers_folder_gives_its_architecture(tmp_path):
    """In colour, with other strides and channels than its weights have; the weights are not read."""
    save_tiny(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    given = ["autoencoder.source=diffusers", f"autoencoder.path={tmp_path}", "autoencoder.stride=2"]
    config = config_of("fsq", *given, "data.image_channels=3", "data.image_size=8")
    model = QuantizedAutoencoder(config).eval()
    with torch.inference_mode():
        decoded, numbers, _ = model(torch.rand(2, 3, 8, 8) * 2 - 1)
    assert decoded.shape == (2, 3, 8, 8)
    assert numbers.shape == (2, 4, 4)
    reads = architecture(config.autoencoder)
    assert reads["latent_channels"] == 3
    assert not [key for key in reads if key.startswith("_")]
    with pytest.raises(UserError, match=r"autoencoder\.stride=4 must be 2"):
        architecture(config.autoencoder.model_copy(update={"stride": 4}))
    with pytest.raises(UserError, match=r"must hold config\.json"):
        architecture(Autoencoder(source="diffusers", path=str(tmp_path / "absent")))


def test_other_tokens_read_nothing_of_this():
    """Ids of stages stay: no new input, nothing new of the config."""
    cell = Cell("digits", DIGITS)
    stages = {stage.kind.name: stage for stage in cell.stages()}
    assert list(stages) == ["latents", "quantizer", "reconstruct", "train", "likelihood", "sample", "score"]
    assert [sorted(dict(stage.inputs)) for stage in stages.values()] == [
        [], ["latents"], ["latents", "quantizer"], ["latents", "quantizer"], ["latents", "quantizer", "train"],
        ["latents", "quantizer", "train"], ["sample"],
    ]  # fmt: skip
    assert sorted(stages["latents"].about()["reads"]) == ["autoencoder", "data", "images", "scale"]
    assert sorted(stages["quantizer"].about()["reads"]) == ["edges", "kind", "levels", "per", "range", "std_range"]
    other = Cell("x", override(DIGITS, ["quantizer.epochs=7", "quantizer.seed=5"]))
    assert [stage.id for stage in other.stages()] == [stage.id for stage in stages.values()]


def test_a_tokenizer_is_trained_once_for_all_generators():
    cells = [
        Cell(kind, config_of("vq", f"head.kind={kind}"), ("score",)) for kind in ("autoregressive", "parallel")
    ] + [Cell("scale", config_of("vq", "latents.scale=0.5"), ("reconstruct",))]
    names = [stage.kind.name for stage in graph(cells).values()]
    assert (names.count("tokenizer"), names.count("latents"), names.count("train")) == (1, 2, 2)
    base = Cell("x", config_of("fsq"), ("score",)).stages()
    for change in ("quantizer.seed=1", "quantizer.epochs=2", "quantizer.levels=[3,4,7]"):
        changed = Cell("x", config_of("fsq", change), ("score",)).stages()
        assert not {stage.id for stage in base} & {stage.id for stage in changed}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ([], ("reconstruct", "likelihood", "score")),
        (["quantizer.kind=identity"], ("reconstruct",)),
        (["quantizer.kind=identity", "head.kind=mixture"], ("reconstruct", "likelihood", "score")),
        (["quantizer.kind=identity", "head.kind=diffusion"], ("reconstruct", "score")),
        (["quantizer.kind=identity", "head.kind=flow"], ("reconstruct", "score")),
        (["quantizer.kind=vq"], ("reconstruct", "score")),
        (["quantizer.kind=rvq", "quantizer.levels=[16,16]"], ("reconstruct", "score")),
        (["quantizer.kind=lfq", "quantizer.levels=2"], ("reconstruct", "score")),
        (["quantizer.kind=bsq", "quantizer.levels=2"], ("reconstruct", "score")),
    ],
)
def test_wanted_results(settings, wanted):
    config = override(DIGITS, settings)
    assert wanted_of(config) == wanted
    Cell("x", config, wanted_of(config)).stages()
    if "likelihood" not in wanted and len(wanted) > 1:
        with pytest.raises(UserError, match=r"likelihood cannot be measured: (quantizer|head)\.kind="):
            Cell("x", config, ("likelihood",)).stages()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["quantizer.kind=lfq", "quantizer.levels=2", "autoencoder.channels=17"],
            "131,072 codes of 17 channels, which",
        ),
        (
            ["quantizer.kind=bsq", "quantizer.levels=2", "autoencoder.channels=17"],
            "65,536; lower autoencoder.channels",
        ),
        (["quantizer.kind=fsq", "quantizer.levels=5"], "lower quantizer.levels"),
        (["quantizer.kind=fsq", "quantizer.levels=2"], "must each be >= 3 with quantizer.kind=fsq"),
        (["quantizer.kind=vq", "autoencoder.stride=8"], "autoencoder.stride=8 must be 4"),
    ],
)
def test_codebooks_that_cannot_be_trained_are_refused_before_anything_runs(settings, message):
    with pytest.raises(UserError) as error:
        Cell("x", override(DIGITS, [*settings, "sample.iterations=1"]), ("reconstruct",)).stages()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_refusals():
    with pytest.raises(UserError, match=r"tokenizer trains quantizer\.kind=vq, rvq, fsq, lfq or bsq, not gaussian"):
        Cell("x", DIGITS, ("tokenizer",)).stages()
    with pytest.raises(UserError, match="data holds 7 training images and must hold 64, a batch"):
        train_tokenizer(config_of("fsq"), few(7), Budget(1), CPU)
    with pytest.raises(UserError, match=r"data\.image_channels=3 must be 1"):
        train_tokenizer(config_of("fsq", "data.image_channels=3"), few(64), Budget(1), CPU)
    config_of("lfq", "autoencoder.channels=16").require_trainable()
    config_of("rvq", "quantizer.levels=[1024,1024,1024,1024]").require_trainable()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "codes"),
    [
        ({"quantizer.kind": "vq", "quantizer.levels": 1024, "autoencoder.channels": 8}, 600),
        ({"quantizer.kind": "fsq", "quantizer.levels": [8, 5, 5, 5], "autoencoder.channels": 4}, 200),
        ({"quantizer.kind": "rvq", "quantizer.levels": [32, 32]}, 600),
        ({"quantizer.kind": "lfq", "quantizer.levels": 2, "autoencoder.channels": 10}, 200),
        ({"quantizer.kind": "bsq", "quantizer.levels": 2, "autoencoder.channels": 10}, 500),
    ],
)
def test_no_codebook_collapses(settings, codes, tmp_path):
    config = override(DIGITS, settings | {"quantizer.epochs": 10})
    store, cell = Store(tmp_path), Cell("x", config, ("tokenizer",))
    run_cells(store, [cell], Runtime(threads=1), "tests")
    metrics = json.loads((store.folder(cell.stages()[0].id) / "metrics.json").read_text())["metrics"]
    assert metrics["psnr"] > 21
    assert metrics["perplexity"] > codes
