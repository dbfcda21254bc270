"""The stage `autoencoder`: what enters its id, what it leaves, and that the run uses it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.grid.request import Request
from experiments.pipeline import RECONSTRUCTION, Cell
from experiments.runner import run_cells
from experiments.tracking.records import find_trainings
from tests.conftest import SHORT
from tests.helpers.scorers import pictures, write_pictures
from tokenbridge.autoencoders.sources import BODY_WEIGHTS, Digits, Trained, autoencoder_of, weights_of
from tokenbridge.autoencoders.train import Budget, evidence_loss
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import override
from tokenbridge.stages import STAGES
from tokenbridge.stages.autoencoder import mean_correlation
from tokenbridge.store.artifacts import CHECKPOINT, PROGRESS, Store, file_hash
from tokenbridge.store.runs import JOURNAL, StageFiles, read_cells, read_metrics

TRAINED = ["autoencoder.source=trained", "autoencoder.epochs=1"]


def ids(config):
    return {stage.kind.name: stage.id for stage in Cell("x", config, ("latents",)).stages()}


def test_its_settings_enter_the_ids_of_what_it_makes_and_no_others(tiny):
    base, others = ids(override(tiny, TRAINED)), [["autoencoder.seed=1"], ["autoencoder.free_nats=0.5"]]
    others += [["autoencoder.ema=0.9"], ["autoencoder.adversarial=0.5"]]
    others += [["autoencoder.adversarial=0.5", "autoencoder.adversarial_start=3"]]
    assert list(base) == ["autoencoder", "latents"]
    for words in others:
        changed = ids(override(tiny, [*TRAINED, *words]))
        assert not {*base.values()} & {*changed.values()}
    assert "autoencoder" not in ids(tiny)
    assert "free_nats" not in tiny.model_dump()["autoencoder"]  # cells of pretrained ones keep their ids
    tokens = override(tiny, [*TRAINED, "quantizer.kind=vq"])
    assert list(ids(tokens)) == ["tokenizer", "latents"]  # which trains its own
    assert ids(override(tokens, ["autoencoder.ema=0.9"])) != ids(tokens)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["autoencoder.seed=1"], "autoencoder.seed=1 goes with autoencoder.source=trained only; leave it out"),
        (["autoencoder.free_nats=-1"], "autoencoder.free_nats=-1 must be >= 0"),
        (["autoencoder.ema=0.9"], "autoencoder.ema=0.9 goes with an autoencoder that is trained, alone"),
        ([*TRAINED, "autoencoder.perceptual=1"], "autoencoder.perceptual_weights=None must be given together"),
        ([*TRAINED, "autoencoder.adversarial_start=3"], "autoencoder.adversarial_start=3 goes with autoencoder.adve"),
        (
            [*TRAINED, "autoencoder.perceptual=1", "autoencoder.perceptual_weights=none.pth"],
            "none.pth must be a file of weights or a folder of train-classifier (No such file or directory)",
        ),
        ([*TRAINED, "autoencoder.path=x"], "autoencoder.path=x needs autoencoder.source=diffusers or ldm"),
        ([*TRAINED, "autoencoder.stride=2", "data.image_size=8"], "autoencoder.stride=2 must be 4"),
        ([*TRAINED, "latents.scale=autoencoder"], "latents.scale=autoencoder needs a scaling_factor"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tiny, words, part):
    with pytest.raises(UserError) as error:
        Cell("x", override(tiny, words)).stages()
    assert part in str(error.value)


@pytest.mark.parametrize("words", [[], [*TRAINED, "quantizer.kind=vq", "quantizer.levels=64"]])
def test_it_is_no_stage_of_a_run_that_trains_none(tiny, words):
    assert STAGES["autoencoder"].refusal(override(tiny, words))


def test_the_floor_of_information_is_that_of_the_loss():
    """By hand: a posterior of variance 1 and mean 0 has no information, so each channel costs the floor itself."""

    class Body:
        def encode(self, images):
            zeros = torch.zeros(len(images), 8, 4, 4)
            posterior = type("P", (), {"mean": zeros, "std": zeros + 1, "var": zeros + 1, "logvar": zeros})
            return type("E", (), {"latent_dist": posterior})

        def decode(self, latents):
            return type("D", (), {"sample": torch.zeros(len(latents), 1, 16, 16)})

    losses = [evidence_loss(Body(), torch.zeros(3, 1, 16, 16), torch.Generator(), floor) for floor in (0.0, 0.5)]
    assert (losses[1] - losses[0]).item() == pytest.approx(0.5 * 8 * 16 / 256)


def test_mean_correlation_leaves_out_each_channel_with_itself():
    correlation = np.array([[1.0, -0.5, 0.25], [-0.5, 1.0, 0.0], [0.25, 0.0, 1.0]])
    assert mean_correlation(correlation) == pytest.approx((0.5 + 0.25 + 0.0) / 3)
    assert mean_correlation(np.array([[1.0]])) == 0


def test_the_table_has_an_autoencoder_for_each_training_seed_which_both_heads_share():
    grid = Request(name="x", tables=("autoencoders",), seeds=3).grid()
    cells = {(row.label, row.cell.config.train.seed): row.cell.config.autoencoder for row in grid.rows}
    assert len(cells) == 6 * 3
    assert all(autoencoder.seed == seed for (_, seed), autoencoder in cells.items())
    assert len({*cells.values()}) == 3 * 3
    assert cells["0 nats, parallel", 2] == cells["0 nats, autoregressive", 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autoencoder", "tokenizer"])
def test_its_terms_are_curves_of_mlflow(kind, tiny, tmp_path):
    """By the road of every training: its journal, once for the cells that share it."""
    for seed, name in enumerate("ab"):
        write_pictures(tmp_path / "images" / name, pictures(60, seed, 16))
    words = [f"data.path={tmp_path / 'images'}", "data.source=folder", "data.classes=2", "autoencoder.ema=0.5",
             "autoencoder.adversarial=0.1", "autoencoder.adversarial_start=0"]  # fmt: skip
    words += TRAINED if kind == "autoencoder" else ["quantizer.kind=vq", "quantizer.levels=5", "quantizer.epochs=1"]
    store, cell = Store(tmp_path / "runs"), Cell("x", override(tiny, words), (kind,))
    run_cells(store, [cell], Runtime(threads=1, bars=False), "tests")
    (stage,) = cell.stages()
    assert stage.kind.name == kind
    files = {path.name for path in store.folder(stage.id).iterdir()}
    assert JOURNAL in files
    assert not files & {CHECKPOINT, PROGRESS}
    protocol = read_metrics(store.folder(stage.id)).protocol
    assert [protocol[name] for name in ("ema", "adversarial", "adversarial_start")] == [0.5, 0.1, 0]
    (record,) = find_trainings(store, read_cells(store), [stage.id], StageFiles(store))
    content = record.content()
    terms = {"loss", "squared_error", "adversarial", "adaptive_weight", "discriminator", "learning_rate"}
    assert {(key, step) for key, _, _, step in content.points} == {(f"{kind}/{term}", 1) for term in terms}
    assert content.params["autoencoder.adversarial"] == "0.1"


@pytest.mark.slow
def test_from_images_to_reconstructions_and_samples(tiny, tmp_path):
    store = Store(tmp_path)
    config = override(tiny, [*SHORT, *TRAINED, "autoencoder.channels=5", "head.order=stored"])
    cell = Cell("x", config, (*RECONSTRUCTION, "score"))
    run_cells(store, [cell], Runtime(threads=1, bars=False), "tests")
    folders = {stage.kind.name: store.folder(stage.id) for stage in cell.stages()}
    measured = read_metrics(folders["autoencoder"])
    assert 0 < measured.metrics["mean_correlation"] < 1
    assert (measured.protocol["train_images"], measured.protocol["epochs"]) == (1198, 1)
    assert read_metrics(folders["reconstruct"]).metrics["psnr"] == pytest.approx(measured.metrics["psnr"], abs=0.5)
    path = folders["autoencoder"] / BODY_WEIGHTS
    assert weights_of(config, folders) == file_hash(path)
    assert read_metrics(folders["reconstruct"]).protocol["autoencoder"] == file_hash(path)[:12]
    frozen = autoencoder_of(config, folders, "cpu")
    state = load_file(path)
    assert all(torch.equal(value, state[name]) for name, value in frozen.model.state_dict().items())
    assert frozen.channels == 5
    assert Trained(config.autoencoder).settings() == Digits().settings() | {"latent_channels": 5}
    assert Budget().epochs == tiny.autoencoder.epochs  # the default is that of the shipped one
