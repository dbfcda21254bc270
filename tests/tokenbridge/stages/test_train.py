import json
import math
import os
import signal
import threading
import time
from functools import partial
from io import BytesIO

import pytest
import torch
from safetensors.torch import load_file

from experiments.pipeline import Cell
from experiments.runner import run_stage
from tests.conftest import TINY
from tests.helpers.generators import shake
from tests.helpers.processes import start
from tokenbridge import checkpoints
from tokenbridge.checkpoints import Checkpoints
from tokenbridge.config import Runtime, UserError
from tokenbridge.data.latents import Latents
from tokenbridge.distributed import World
from tokenbridge.model.batches import Ahead, Draws
from tokenbridge.model.costs import MASK_RATIOS, training_flops
from tokenbridge.model.masking import masked_count
from tokenbridge.model.trainer import Trainer
from tokenbridge.overrides import override
from tokenbridge.stages import train
from tokenbridge.stages.train import build_model, load_model
from tokenbridge.store.artifacts import CHECKPOINT, Store
from tokenbridge.store.runs import JOURNAL, SYSTEM, read_journal, read_metrics

RUNTIME = Runtime(threads=1, checkpoint_seconds=0)  # a checkpoint after every step


def stage_of(cell, kind):
    return next(stage for stage in cell.stages() if stage.kind.name == kind)


def inputs_of(store, cell, *kinds):
    return {kind: store.folder(stage_of(cell, kind).id) for kind in ("latents", "quantizer", *kinds)}


@pytest.fixture
def work(finished, tmp_path):
    """A folder to train in, beside the finished latents and quantizer."""
    store, cell = finished
    return inputs_of(store, cell), tmp_path


def stages_of_training(config, _, root, __):
    for stage in Cell("tiny", config, ("train",)).stages():
        run_stage(Store(root), stage, RUNTIME)


@pytest.mark.slow
def test_a_killed_training_goes_on_bit_for_bit(finished, tmp_path, with_latents):
    """SIGTERM, then SIGKILL, at moments as they come; the weights and the curve equal the undisturbed run's."""
    reference, cell = finished
    store = with_latents(tmp_path / "runs")
    spot = stage_of(cell, "train")
    partial = store.folder(spot.id).with_name(spot.id + ".partial")
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start({}, store.root, 1, TINY, work=stages_of_training)
        target = saved_step(partial) + 3
        while saved_step(partial) < target and process.running():
            time.sleep(0.02)
        process.signal(0, number)
        (code,) = process.end()
        if number == signal.SIGTERM:
            assert code == 128 + signal.SIGTERM
            assert "the same command goes on from there" in process.said(0)
            assert process.said(0).startswith("train: batch 64, learning rate 0.004, 36 steps in 2 epochs, ")
        else:
            assert code == -signal.SIGKILL
        assert not store.finished(spot.id)
        assert 0 < saved_step(partial) < 36
    run_stage(store, spot, Runtime(threads=1))
    assert store.finished(spot.id)
    for name in ("model.safetensors", "model_raw.safetensors"):
        ours, theirs = load_file(store.folder(spot.id) / name), load_file(reference.folder(spot.id) / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    curves = [
        [(key, value, step) for key, value, _, step in read_journal(s.folder(spot.id) / "metrics.jsonl")]
        for s in (store, reference)
    ]
    assert curves[0] == curves[1]


def test_what_fails_at_the_very_end_goes_on_from_the_checkpoint(work, tiny, monkeypatch):
    inputs, folder = work
    config = override(tiny, ["train.epochs=1", "train.warmup_epochs=0", "train.batch=512"])

    def out_of_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(train, "training_flops", out_of_memory)
        train.run(config, inputs, folder, RUNTIME)
    assert saved_step(folder) == 2
    train.run(config, inputs, folder, RUNTIME)
    assert read_metrics(folder).metrics["steps"] == 2
    checks = [step for key, _, _, step in read_journal(folder / JOURNAL) if key == "validation_loss"]
    assert checks == [1, 2]  # each once
    machine = [line[:2] for line in read_journal(folder / JOURNAL, system=True) if line[0].startswith(SYSTEM)]
    assert {key for key, _ in machine} == {"system/process_cpu_percent", "system/process_peak_memory_mb"}
    assert all(value > 0 for _, value in machine)


def half_written(config, inputs, out, _):
    """A training that is killed in its thread when half of its third checkpoint is in the file."""
    real, calls = torch.save, []

    def save(state, file):
        calls.append(state["step"])
        if len(calls) == 3:
            real(state, whole := BytesIO())
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        real(state, file)

    torch.save = save
    train.run(config, inputs, out, RUNTIME)


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(work, finished):
    (out := work[1] / "out").mkdir()
    process = start(work[0], out, 1, TINY, work=half_written)
    assert process.end() == [-signal.SIGKILL]
    assert saved_step(out) == 2
    train.run(finished[1].config, work[0], out, Runtime(threads=1))
    reference = finished[0].folder(stage_of(finished[1], "train").id)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, reference))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def small_trainer(config, inputs):
    draws, model = Draws(config.train, Latents(inputs["latents"])), build_model(config, inputs).train()
    return Trainer(config.train, draws, model, torch.device("cpu"))


def test_a_checkpoint_is_of_its_step_whatever_happens_while_it_is_written(work, tiny, monkeypatch):
    """The training goes on beside it, no other one is begun, and the time that it took sets that to the next."""
    real, free = checkpoints.write_checkpoint, threading.Event()
    monkeypatch.setattr(checkpoints, "write_checkpoint", lambda *given: (free.wait(60), real(*given)))
    monkeypatch.setattr(checkpoints, "SHORTEST", 0.0)
    trainer, checkpoint = small_trainer(tiny, work[0]), Checkpoints.of_stage(work[1], None)
    began, weights = time.monotonic(), []
    for _ in range(3):
        trainer.update()
        weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
        checkpoint.save(trainer, urgent=False)
    time.sleep(0.3)
    free.set()
    checkpoint.wait()
    took = time.monotonic() - began
    assert not torch.equal(weights[0]["head.out_bias"], weights[2]["head.out_bias"])
    other = small_trainer(tiny, work[0])
    other.load(checkpoint.path, work[1].name)
    assert other.step == 1
    assert all(torch.equal(p, weights[0][name]) for name, p in other.model.named_parameters())
    assert 0.3 / checkpoints.SHARE <= checkpoint.seconds <= took / checkpoints.SHARE
    checkpoint.save(trainer, urgent=False)
    assert saved_step(work[1]) == 1
    checkpoint.save(trainer, urgent=True)
    assert saved_step(work[1]) == 3


def test_what_fails_in_writing_a_checkpoint_stops_the_training(work, tiny):
    """At the next step, and at the end at the latest; but it hides no other error."""
    trainer, gone = small_trainer(tiny, work[0]), work[1] / "gone"
    checkpoint = Checkpoints.of_stage(gone, 0)
    checkpoint.save(trainer, urgent=False)
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt"):
        checkpoint.save(trainer, urgent=False)
    with pytest.raises(FileNotFoundError), Checkpoints.of_stage(gone, 0) as checkpoint:
        checkpoint.save(trainer, urgent=False)
    with pytest.raises(MemoryError), Checkpoints.of_stage(gone, 0) as checkpoint:
        checkpoint.save(trainer, urgent=False)
        raise MemoryError


def test_the_time_between_checkpoints_is_as_asked_or_within_bounds(work, tiny):
    trainer = small_trainer(tiny, work[0])
    for seconds, wanted in ((None, checkpoints.SHORTEST), (7.0, 7.0)):
        with Checkpoints.of_stage(work[1], seconds) as checkpoint:
            checkpoint.save(trainer, urgent=True)
        assert checkpoint.seconds == wanted  # a small one costs little


def test_a_gradient_that_is_not_finite_changes_no_weight(work, tiny):
    """Though the loss is: the training stops before a checkpoint could be taken."""
    trainer = small_trainer(tiny, work[0])
    trainer.update()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.model.head.out_bias.register_hook(lambda gradient: gradient * torch.nan)
    assert not math.isfinite(trainer.update())
    assert trainer.step == 1
    assert all(torch.equal(p, old) for p, old in zip(trainer.model.parameters(), before, strict=True))


def test_batches_come_ahead_as_they_are_drawn(work, tiny):
    """In their order from any step on, and also when they are asked for out of it; none after the last."""
    draws, device = Draws(tiny.train, Latents(work[0]["latents"])), torch.device("cpu")
    parts = [range(0, 64, 2), range(1, 64, 2)]
    ahead = Ahead(draws, parts, device)
    for step, part in ((17, 0), (17, 1), (18, 0), (18, 1), (19, 0), (3, 1), (4, 0), (35, 0), (35, 1)):
        ours, plain = ahead.take(step, part), draws.batch(step, parts[part])
        assert torch.equal(ours.latents, plain.latents)
        assert torch.equal(ours.mask, plain.mask)
        assert (ahead._next is None) == ((step, part) == (35, 1))


def saved_step(partial):
    try:
        return torch.load(partial / CHECKPOINT, weights_only=True)["step"]
    except (OSError, RuntimeError, EOFError):
        return 0


def test_the_journal_and_the_metrics_of_a_finished_training(finished):
    store, cell = finished
    folder = store.folder(stage_of(cell, "train").id)
    lines = read_journal(folder / "metrics.jsonl")
    assert {line[0] for line in lines} == {"loss", "learning_rate", "validation_loss"}
    loss = [line[1] for line in lines if line[0] == "loss"]
    assert loss[-1] < loss[0]
    rates = {line[3]: line[1] for line in lines if line[0] == "learning_rate"}
    assert max(rates, key=rates.get) == 18  # the end of the warm-up
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["steps"] == 36
    assert not (folder / CHECKPOINT).exists()


def test_a_loss_that_is_not_finite_stops_with_what_one_needs_to_know(work, tiny):
    inputs, out = work
    hotter = tiny.train.model_copy(update={"learning_rate": 1e18, "clip": 1e18})  # more than a setting may be
    hot = tiny.model_copy(update={"train": hotter})
    pattern = (
        r"loss=(nan|inf) at step \d+ with learning rate \S+ must be finite; "
        r".*last good checkpoint: .*checkpoint\.pt \(step \d+\)"
    )
    with pytest.raises(UserError, match=pattern):
        train.run(hot, inputs, out, RUNTIME)
    trainer = Trainer(
        hot.train, Draws(hot.train, Latents(inputs["latents"])), build_model(hot, inputs), torch.device("cpu")
    )
    trainer.load(out / CHECKPOINT, out.name)
    assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())


@pytest.mark.parametrize("damage", ["truncated", "of another config"])
def test_a_checkpoint_that_does_not_belong_is_refused(work, tiny, damage):
    inputs, out = work
    trainer = Trainer(
        tiny.train, Draws(tiny.train, Latents(inputs["latents"])), build_model(tiny, inputs), torch.device("cpu")
    )
    trainer.save(out / CHECKPOINT, "train-other")
    if damage == "truncated":
        os.truncate(out / CHECKPOINT, 5000)
    before = (out / CHECKPOINT).read_bytes()
    with pytest.raises(
        UserError,
        match=r"checkpoint\.pt (is no whole checkpoint|belongs to train-other, not to).*delete it to train from",
    ):
        train.run(tiny, inputs, out, RUNTIME)
    assert [path.name for path in out.iterdir()] == [CHECKPOINT]
    assert (out / CHECKPOINT).read_bytes() == before


def test_weights_of_another_config_are_refused(finished, tiny):
    store, cell = finished
    inputs = inputs_of(store, cell, "train")
    load_model(tiny, inputs, torch.device("cpu"))
    with pytest.raises(UserError, match=r"model\.safetensors must hold exactly the weights of Generator"):
        load_model(override(tiny, ["head.width=18"]), inputs, torch.device("cpu"))


def test_the_average_moves_fast_at_first(work, tiny):
    inputs, _ = work
    trainer = Trainer(
        tiny.train,
        Draws(tiny.train, Latents(inputs["latents"])),
        build_model(tiny, inputs).train(),
        torch.device("cpu"),
    )
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.update()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(trainer.ema[name], 0.1 * before[name] + 0.9 * parameter.detach())


def test_draws_depend_on_seed_step_and_index_alone(work, tiny):
    inputs, _ = work
    latents = Latents(inputs["latents"])
    first, again = Draws(tiny.train, latents), Draws(tiny.train, latents)
    again.batch(3)
    a, b = first.batch(17), again.batch(17)
    assert torch.equal(a.latents, b.latents)
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.labels, b.labels)
    assert bool((a.mask.sum(1) == a.mask[0].sum()).all())
    other = Draws(tiny.train.model_copy(update={"seed": 1}), latents).batch(17)
    assert not torch.equal(a.latents, other.latents)
    seen = [first.batch(step) for step in range(first.epoch_steps)]
    dropped = torch.cat([batch.labels for batch in seen]) < 0
    assert 0.05 < float(dropped.float().mean()) < 0.15


def test_gradient_checkpointing_changes_no_gradient(work, tiny):
    inputs, _ = work
    gradients = []
    for on in (False, True):
        model = shake(build_model(tiny, inputs)).train()
        model.backbone.gradient_checkpointing = on
        Trainer(tiny.train, Draws(tiny.train, Latents(inputs["latents"])), model, torch.device("cpu")).update()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_validation_takes_no_more_images_at_once_than_a_step_that_just_fits(work, tiny):
    inputs, _ = work
    found, sizes = [], []
    for on in (False, True):
        config = override(tiny, {"train.gradient_checkpointing": on, "train.batch": 32}).train
        model = shake(build_model(tiny, inputs))
        model.backbone.gradient_checkpointing = on
        trainer = Trainer(config, draws := Draws(config, Latents(inputs["latents"])), model, torch.device("cpu"))
        sizes.clear()
        with model.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0]))):
            found.append(trainer.validation_loss(draws.validation()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert max(sizes) == 32
    assert sum(sizes) == len(draws.validation().labels) > 32


def test_bfloat16_trains(work, tiny):
    inputs, _ = work
    low = override(tiny, ["train.precision=bfloat16"]).train
    trainer = Trainer(
        low, Draws(low, Latents(inputs["latents"])), build_model(tiny, inputs).train(), torch.device("cpu")
    )
    losses = [trainer.update() for _ in range(12)]
    assert losses[-1] < losses[0]
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of the compiler's own look at z
def test_compiled_training_has_the_same_losses(work, tiny, monkeypatch):
    """To float32 rounding, without dropout; at masks of several sizes. The compiler's graphs are run as they are: its
    machine code takes one and a half minutes to make (and gave the same losses within 1e-5)."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))

    def losses(compiled):
        config = override(tiny, {"train.compile": compiled, "backbone.attention_dropout": 0})
        draws = Draws(config.train, Latents(work[0]["latents"]))
        trainer = Trainer(config.train, draws, build_model(config, work[0]).train(), torch.device("cpu"))
        return torch.tensor([trainer.update() for _ in range(3)])

    torch.testing.assert_close(losses(True), losses(False), rtol=1e-5, atol=0)


def test_compiling_enters_an_id_only_where_it_is_asked_for(tiny):
    off, on = (stage_of(Cell("x", override(tiny, {"train.compile": each})), "train").id for each in (False, True))
    assert off == stage_of(Cell("x", tiny), "train").id != on


def test_a_training_says_what_it_is(work, tiny):
    """Its first line; the killed training's test sees it printed."""
    draws, model = Draws(tiny.train, Latents(work[0]["latents"])), build_model(tiny, work[0])
    trainer = Trainer(tiny.train, draws, model, torch.device("cpu"), step=7, world=World(0, 2), accumulate=3)
    count = sum(p.numel() for p in model.parameters())
    assert train._opening(trainer) == (
        "train: batch 64 (in 2 processes × 3 micro-batches), learning rate 0.004, 36 steps in 2 epochs, from step 7,"
        f" {count:,} parameters, float32"
    )


def test_a_batch_larger_than_the_data_is_refused(work, tiny):
    inputs, _ = work
    with pytest.raises(UserError, match=r"train\.batch=5000 must be at most 1198"):
        Draws(override(tiny, ["train.batch=5000"]).train, Latents(inputs["latents"]))


def test_cells_that_share_a_training_share_its_id(tiny):
    ids = {stage_of(Cell("x", override(tiny, [f"sample.temperature={t}"])), "train").id for t in (0.9, 1.0)}
    assert len(ids) == 1


def test_flops_of_a_training_are_those_of_its_matrix_products(work, tiny):
    """One product of the masked latents with a weight: forward and the weight's gradient, 2 operations an entry."""
    draws = Draws(tiny.train, Latents(work[0]["latents"]))
    weight = torch.zeros(8, 5, requires_grad=True)
    quantiles = (torch.arange(MASK_RATIOS) + 0.5) / MASK_RATIOS
    counts = [masked_count(float(u), 16, tiny.train.mask_ratio_min, tiny.train.mask_ratio_deviation) for u in quantiles]
    state = torch.get_rng_state()
    counted = training_flops(lambda batch: (batch.latents[batch.mask] @ weight).sum(), draws, torch.device("cpu"))
    assert counted == pytest.approx(4 * 64 * sum(counts) / len(counts) * 8 * 5 * draws.steps)
    assert torch.equal(torch.get_rng_state(), state)
