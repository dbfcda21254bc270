"""Precisions: what each does, on which devices, which ids hold it, and how the stages read it. GPUs of workers."""

import ast
import json

import numpy as np
import pytest
import torch

from experiments.pipeline import Cell
from experiments.presets import PRESETS
from experiments.runner import run_cells
from tests.helpers.generators import CHANNELS, POSITIONS, config, generator
from tests.helpers.machine import ROOT
from tokenbridge.config import HEAD_KINDS, RunConfig, Runtime, Sample, Score, UserError
from tokenbridge.devices import at_precision, device_of_worker
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.overrides import override
from tokenbridge.speed.agreement import agreement
from tokenbridge.stages import STAGES
from tokenbridge.store.artifacts import Store

CPU = torch.device("cpu")
SETTINGS = ("latents.precision", "likelihood.precision", "sample.precision", "score.precision")


@pytest.mark.parametrize(
    ("device", "gpus", "devices"),
    [
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]),
        ("cuda:1", 2, ["cuda:1"] * 5),  # named by its index
        ("cuda", 1, ["cuda"] * 5),
        ("auto", 0, ["auto"] * 5),
        ("cpu", 2, ["cpu"] * 5),
    ],
)
def test_workers_take_the_gpus_in_turn(device, gpus, devices):
    assert [device_of_worker(device, number, gpus) for number in range(5)] == devices


def test_every_fork_of_random_states_names_its_devices():
    """Without them, torch starts every GPU of the machine, and warns where there are several.

    What is seeded is seeded in one place: torch's own manual_seed is that of every GPU.
    """
    forks = [
        (str(path.relative_to(ROOT)), node.lineno, [word.arg for word in node.keywords])
        for path in sorted((ROOT / "tokenbridge").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fork_rng")
    ]
    forking = ["autoencoders/train.py", "model/costs.py", "rng.py"]
    assert [path for path, *_ in forks] == [f"tokenbridge/{name}" for name in forking]
    sources = "".join(path.read_text() for path in (ROOT / "tokenbridge").rglob("*.py"))
    assert "torch.manual_seed(" not in sources
    assert [fork for fork in forks if fork[2] != ["devices"]] == []


def test_bfloat16_holds_inside_alone():
    a = torch.full((3, 3), 1 + 2**-12)  # needs more than 8 bits
    with at_precision(CPU, "bfloat16", "x"):
        assert (a @ a).dtype == torch.bfloat16
    with at_precision(CPU, "float32", "x"):
        assert float((a @ a - 3 * (1 + 2**-12) ** 2).abs().max()) < 1e-6
    assert (a @ a).dtype == torch.float32


def test_tf32_is_a_gpus():
    with (
        pytest.raises(UserError, match=r"sample\.precision=tf32 needs a CUDA device, not cpu; take float32"),
        at_precision(CPU, "tf32", "sample.precision"),
    ):
        pass
    with pytest.raises(UserError, match=r"score\.precision=tf32 needs a CUDA device"):
        load_extractor("digits", CPU, Score(precision="tf32"))


@pytest.mark.parametrize("setting", SETTINGS)
def test_float32_enters_no_id_and_another_precision_does(setting):
    """Of the stages that read it, and of those after them alone."""
    section = setting.split(".")[0]
    base = PRESETS["digits"]
    assert section not in base.model_dump() or "precision" not in base.model_dump()[section]
    first = {"latents": "latents", "likelihood": "likelihood", "sample": "sample", "score": "score"}[section]

    def ids(config: RunConfig) -> dict[str, str]:
        cell = Cell("x", config, ("likelihood", "score"))
        return {stage.kind.name: stage.id for stage in cell.stages()}

    plain, same, low = (
        ids(c) for c in (base, override(base, {setting: "float32"}), override(base, {setting: "bfloat16"}))
    )
    assert plain == same
    changed = {kind for kind, id in low.items() if id != plain[kind]}
    after = {"latents": set(plain), "likelihood": {"likelihood"}, "sample": {"sample", "score"}}
    assert changed == after.get(first, {"score"})


def test_the_presets_of_imagenet_run_in_bfloat16_and_the_small_ones_in_float32():
    for name, preset in PRESETS.items():
        low = "bfloat16" if name.startswith("imagenet") else "float32"
        assert (preset.latents.precision, preset.likelihood.precision, preset.sample.precision) == (low, low, low)
        assert preset.score.precision == "float32"  # published scores are


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_every_head_samples_in_bfloat16(kind):
    model, how = generator(kind), Sample(iterations=4, guidance=2.0, head_steps=3)
    order, noise = model.draws(how, range(3))
    with at_precision(CPU, "bfloat16", "x"):
        tokens = model.sample(torch.arange(3), order, noise, how)
    assert tokens.shape == (3, POSITIONS, CHANNELS)
    assert tokens.dtype == model.tokenizer.dtype
    assert bool(torch.isfinite(tokens.float()).all())


@pytest.mark.parametrize("kind", ["autoregressive", "mixture", "flow"])
def test_agreement_is_whole_with_itself_and_near_with_bfloat16(kind):
    model, c = generator(kind), override(config(), {"sample.head_steps": 3})
    c = c.model_copy(update={"head": c.head.model_copy(update={"kind": kind})})
    itself = agreement(model, c, CPU, "float32")
    assert itself.tokens == 1
    assert itself.bits == (0 if HEAD_KINDS[kind].density else None)
    near = agreement(model, c, CPU, "bfloat16")
    assert 0 < near.tokens <= 1
    assert near.bits is None or 0 < near.bits < 1


def test_scores_features_in_bfloat16_are_near_and_float32():
    images = torch.randint(256, (5, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    exact, low = (load_extractor("digits", CPU, Score(precision=p)) for p in ("float32", "bfloat16"))
    with torch.inference_mode():
        (features, _), (near, _) = exact(images), low(images)
    assert near.dtype == torch.float32
    assert 0 < float((near - features).abs().max()) < 0.1 * float(features.abs().max())


@pytest.mark.slow
def test_stages_run_in_the_precision_they_are_told(tmp_path):
    """Two cells that differ in precision alone share what comes before, and say theirs."""
    small = {"train.epochs": 1, "train.warmup_epochs": 0, "sample.images": 8, "sample.iterations": 2}
    base = override(PRESETS["digits"], small)
    low = override(base, {setting: "bfloat16" for setting in SETTINGS[1:]})
    store, folders = Store(tmp_path), []
    for c in (base, low):
        cell = Cell("x", c, ("likelihood", "sample"))
        run_cells(store, [cell], Runtime(device="cpu"), "tests")
        folders.append({stage.kind.name: store.folder(stage.id) for stage in cell.stages()})
    assert folders[0]["train"] == folders[1]["train"]
    for kind in ("likelihood", "sample"):
        plain, said = (json.loads((each[kind] / "metrics.json").read_text())["protocol"] for each in folders)
        assert "precision" not in plain
        assert said["precision"] == "bfloat16"
    exact, near = (np.load(each["sample"] / "samples.npy").astype(float) for each in folders)
    assert exact.shape == near.shape
    with pytest.raises(UserError, match="needs a CUDA device"):
        run_cells(
            store,
            [Cell("y", override(base, {"sample.precision": "tf32"}), ("sample",))],
            Runtime(device="cpu"),
            "tests",
        )


def test_every_stage_with_products_has_a_precision():
    assert {setting.split(".")[0] for setting in SETTINGS} <= set(STAGES)
