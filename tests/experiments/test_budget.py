"""What a plan says is what is there: parameters, bytes of the store, operations, memory of the backward pass."""

import re
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.budget import Machine, estimate, image_counts, lines
from experiments.presets import PRESETS
from tests.experiments.alive import Alive
from tests.helpers import generators as small
from tests.helpers.machine import ROOT
from tests.tokenbridge.autoencoders.test_frozen import TINY
from tests.tokenbridge.stages.test_train import stage_of
from tokenbridge.autoencoders import frozen as autoencoder
from tokenbridge.autoencoders.sources import Digits
from tokenbridge.config import UserError
from tokenbridge.data.latents import Latents, stored_bytes
from tokenbridge.model import costs
from tokenbridge.model.costs import training_flops
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads import contract
from tokenbridge.model.masking import mask_from_order
from tokenbridge.model.trainer import Trainer
from tokenbridge.overrides import override
from tokenbridge.speed.models import RepeatedBatch
from tokenbridge.store.artifacts import read_json

HEADS = ("autoregressive", "parallel", "diffusion", "flow", "mixture")
SOME = [head if head == "autoregressive" else pytest.param(head, marks=pytest.mark.slow) for head in HEADS]
MATH = SDPBackend.MATH  # its products are counted; those of the CPU's own attention are not


def config_of(kind, *settings):
    tokens = ["quantizer.kind=identity"] if kind in HEADS[2:] else []
    return override(small.config(kind), [*tokens, *settings])


def model_of(config):
    tokenizer = costs.placeholder_tokenizer(config)
    return small.shake(Generator(config, tokenizer, tuple(range(tokenizer.channels))))


@pytest.mark.parametrize("kind", SOME)
def test_operations_of_a_step(kind):
    """With gradient checkpointing, which runs each block's forward pass again."""
    config = config_of(kind, "train.gradient_checkpointing=true")
    model = model_of(config).train()
    model.backbone.gradient_checkpointing = True
    draws = RepeatedBatch(config, model)
    trainer = Trainer(config.train, draws, model, torch.device("cpu"))
    with sdpa_kernel(MATH):
        counted = training_flops(trainer.loss, draws, trainer.device) / draws.steps
    assert costs.training_step_flops(config) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("kind", [HEADS[0], pytest.param("diffusion", marks=pytest.mark.slow)])
def test_operations_of_a_training_are_those_of_a_pass_at_each_mask_ratio(kind):
    """Attention included, whose operations grow with the square of the seen positions."""
    config = config_of(kind, "train.mask_ratio_min=0.2")
    model = model_of(config).train()
    draws = RepeatedBatch(config, model)
    trainer = Trainer(config.train, draws, model, torch.device("cpu"))
    batch = draws.batch(0, range(1))
    order = torch.arange(batch.mask.shape[1])[None]
    masks = [draws.mask(order, (i + 0.5) / costs.MASK_RATIOS) for i in range(costs.MASK_RATIOS)]
    assert len({int(mask.sum()) for mask in masks}) > 3, "more than are run"
    total = 0
    with sdpa_kernel(MATH):
        for mask in masks:
            with FlopCounterMode(display=False) as counter:
                trainer.loss(replace(batch, mask=mask)).backward()
            total += counter.get_total_flops()
        counted = training_flops(trainer.loss, draws, trainer.device)
    assert counted == total * config.train.batch / costs.MASK_RATIOS * draws.steps


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_operations_of_an_image(kind):
    assert_sampling(config_of(kind, "sample.head_steps=3", "sample.guidance=3"))


@pytest.mark.slow
def test_operations_of_an_image_by_confidence():
    assert_sampling(
        config_of("autoregressive", "sample.confidence=2", "sample.guidance=2", "sample.guidance_on=logits")
    )


def assert_sampling(config):
    model = model_of(config)

    def counted(images):
        labels, orders = torch.zeros(images, dtype=torch.int64), torch.stack([torch.randperm(9)] * images)
        noise = torch.rand(images, *model.noise_shape(config.sample))
        with sdpa_kernel(MATH), FlopCounterMode(display=False) as counter:
            model.sample(labels, orders, noise, config.sample)
        return counter.get_total_flops()

    assert costs.sampling_flops(config) == pytest.approx(counted(2) - counted(1), rel=1e-3)


@pytest.mark.parametrize("kind", SOME)
def test_memory_of_the_backward_pass(kind, monkeypatch):
    """Within 1 % of what is alive between the two passes of a real step; with gradient checkpointing, whose backward
    pass makes the rest anew, within 15 % of the most that is alive at any moment."""
    for module in (costs, contract):
        monkeypatch.setattr(module, "POSITIONS_AT_ONCE", 128)
    told, images = {}, 64
    for again in (False, True):
        settings = {"backbone.encoder_depth": 3, "backbone.decoder_depth": 3, "train.gradient_checkpointing": again}
        config = override(config_of(kind), settings)
        model = model_of(config).train()
        model.backbone.gradient_checkpointing = again
        told[again] = costs.activation_bytes(config)(images)
        mask = torch.zeros(images, 9, dtype=torch.bool)
        mask[:, : costs._masked(config, 0.5)] = True
        noise = torch.randn(images, 9, *(model.head.loss_noise_shape or (0,)))
        given = torch.randn(images, 9, small.CHANNELS), torch.zeros(images, dtype=torch.int64), mask, noise
        with Alive(model) as alive:
            loss = model(*given).sum()
            between = alive.bytes()
            loss.backward()
        assert told[again] == pytest.approx(alive.most if again else between, rel=0.15 if again else 0.01)
    assert told[True] < 0.3 * told[False]


@pytest.mark.parametrize("kind", SOME)
def test_the_loss_in_parts_is_the_loss(kind, monkeypatch):
    monkeypatch.setattr(contract, "POSITIONS_AT_ONCE", 7)
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        model = model_of(config_of(kind)).train()
        model.backbone.gradient_checkpointing = again
        order = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(i)) for i in range(4)])
        noise = small.normals(4, 9, *(model.head.loss_noise_shape or (0,)))
        loss = model(small.normals(4, 9, small.CHANNELS), torch.arange(4) % 3, mask_from_order(order, 6), noise)
        loss.mean().backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    largest = max(float(plain.abs().max()) for plain in found[0])
    for plain, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, plain, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.slow
def test_micro_batches_that_fit(tiny):
    """The fewest that do, as Machine.accumulate they are what is told."""
    config = override(tiny, {"train.batch": 96})
    fixed = 24 * costs.parameters(costs.empty_generator(config))
    activations = costs.activation_bytes(config)

    def said(images, accumulate=1, **settings):
        memory = (fixed + activations(images)) / 0.9e9 * (1 + 1e-9)
        machine = Machine(devices=2, memory=memory, accumulate=accumulate)
        plan = override(config, settings)
        return estimate(plan, machine, {})["memory"], "\n".join(lines(plan, machine, {}))

    memory, text = said(48)
    assert (memory["accumulate_to_fit"], memory["bytes_then"]) == (1, memory["bytes"])
    assert "            fits in 90% of 0.0" in text
    memory, text = said(11)
    assert memory["accumulate_to_fit"] == 5  # of 10 images; of 12, 4 would do
    assert memory["bytes"] == fixed + activations(48)
    assert memory["bytes_then"] == fixed + activations(10)
    assert "GB (--memory): it fits with --accumulate 5, in " in text
    memory, text = said(11, accumulate=5)
    assert memory["bytes"] == memory["bytes_then"]
    assert "fits in 90%" in text
    memory, text = said(0)
    assert memory["accumulate_to_fit"] is memory["bytes_then"] is None
    assert "one image at a time does not fit either; take train.gradient_checkpointing=true, or devices with" in text
    assert "either; take devices with more" in said(0, **{"train.gradient_checkpointing": True})[1]


@pytest.mark.parametrize("settings", [Digits().settings(), TINY | {"mid_block_add_attention": True}])
def test_the_autoencoder(settings):
    found = autoencoder.costs(settings, 16)
    frozen = autoencoder.FrozenAutoencoder(autoencoder.build(settings).eval())
    images = torch.zeros(1, settings["in_channels"], 16, 16, dtype=torch.uint8)
    assert found["encoder"] + found["decoder"] == costs.parameters(frozen)
    with sdpa_kernel(MATH), FlopCounterMode(display=False) as encoding:
        moments = frozen.moments(images)
    with sdpa_kernel(MATH), FlopCounterMode(display=False) as decoding:
        frozen.decode(moments[:, : frozen.channels])
    assert (found["encode"], found["decode"]) == (encoding.get_total_flops(), decoding.get_total_flops())


def test_parameters_and_store_of_a_finished_run(finished):
    store, cell = finished
    metrics = read_json(store.folder(stage_of(cell, "train").id) / "metrics.json")["metrics"]
    model = costs.empty_generator(cell.config)
    assert all(p.is_meta for p in model.parameters())
    assert costs.parameters(model) == metrics["parameters"]
    assert costs.parameters(model.head) == metrics["head_parameters"]
    folder = store.folder(stage_of(cell, "latents").id)
    counts, source = image_counts(cell.config, {})
    assert source == "counted"
    assert counts["train"] == len(Latents(folder).labels("train"))
    assert stored_bytes(cell.config, counts) == sum(path.stat().st_size for path in folder.glob("*.npy"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "levels"), [("vq", 32), ("fsq", 3)])
def test_trained_tokens_have_a_plan_and_an_autoencoder_that_is_not_here(tiny, tmp_path, kind, levels):
    away = ["autoencoder.source=diffusers", f"autoencoder.path={tmp_path / 'none'}"]
    config = override(tiny, [f"quantizer.kind={kind}", f"quantizer.levels={levels}", *away])
    text = "\n".join(lines(config, Machine(devices=1), {}))
    assert f"parameters  {costs.parameters(costs.empty_generator(config)):,}" in text
    assert "autoencoder unknown, for" in text
    assert "decoder left out" in text


def test_what_is_not_here_is_said(tiny, tmp_path):
    path = ["data.source=folder", f"data.path={tmp_path / 'none'}"]
    with pytest.raises(UserError, match=r"none is not here, and data\.classes=10 is not ImageNet's.*--train-images"):
        image_counts(override(tiny, path), {"train": None, "test": 7})
    counts = {"train": 8, "validation": 1, "test": 7}
    assert image_counts(override(tiny, path), {"train": 9, "test": 7}) == (counts, "given")
    whole = override(tiny, [*path, "data.validation_fraction=0"])
    assert image_counts(whole, {"train": 9, "test": 7}) == ({"train": 9, "test": 7}, "given")
    imagenet = image_counts(PRESETS["imagenet256-L"], {"train": None, "test": None})
    assert imagenet == (
        {"train": 1_268_355, "validation": 12_812, "test": 50_000},
        "ImageNet's, for imagenet/train is not here",
    )
    with pytest.raises(UserError, match=r"train\.batch=64 must be at most 8"):
        lines(override(tiny, path), Machine(), {"train": 9, "test": 7})
    with pytest.raises(UserError, match=r"autoencoder\.channels=3 must be 8"):
        lines(override(tiny, ["autoencoder.channels=3"]), Machine(), {})


def test_of_a_small_model_no_number_is_zero(tiny):
    """Of few bytes and operations; four bytes are a weight's."""
    text = "\n".join(lines(tiny, Machine(devices=1), {}))
    weights = 4 * costs.parameters(costs.empty_generator(tiny)) / 1e6
    stored = stored_bytes(tiny, image_counts(tiny, {})[0]) / 1e6
    assert f"weights {weights:.1f} MB" in text
    assert f"latents     {stored:.2f} MB of float32" in text
    assert "under 0.01 device-hours, under 1 s on 1" in text
    assert " 0 s" not in text


@pytest.mark.slow
def test_the_plan_of_the_paper(call, tmp_path):
    """In a folder without data and weights; nothing is left there."""
    done = call("plan", "imagenet256-L", "latents.dtype=float16", "latents.flip=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "parameters  486,889,472: backbone 406,095,872, head 80,793,600; autoencoder 69,610,963" in done.stdout
    assert (
        "42.60 GB of float16, mirror images as well: 1,268,355 train, 12,812 validation, 50,000 test images (ImageNet's"
        in done.stdout
    )
    assert "495,200 steps of 2,048 images" in done.stdout
    assert "more than 90% of 80 GB (--memory): it fits with --accumulate 10, in " in done.stdout
    training, samples = re.search(
        r"training +([\d,]+)\.\d+ device-hours.*\n +50,000 samples +([\d.]+)", done.stdout
    ).groups()
    readme = (ROOT / "README.md").read_text()
    assert f"| ImageNet 256×256, `imagenet256-L`: training | | {training} h |" in readme
    assert f"| the same, 50,000 samples | | {float(samples):.1f} h |" in readme
    assert list(tmp_path.iterdir()) == []
