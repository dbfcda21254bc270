"""Stage `train`: a generator on fixed tokens. Stop it anywhere, start it again: the weights are the same bit for bit.

Every draw depends on (seed, step, index in the global batch) alone, dropout on (seed, step) and, of several processes,
rank; a checkpoint holds the rest, and any number of processes can go on from it. Without dropout they give the curve of
one process up to rounding, since sums are taken in another order: losses within 1e-5, relative, in the tests.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from tqdm import tqdm

from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.devices import pick_device
from tokenbridge.distributed import world
from tokenbridge.model.batches import Draws
from tokenbridge.model.costs import training_flops
from tokenbridge.model.generator import Generator
from tokenbridge.model.ordering import channel_order
from tokenbridge.model.trainer import Trainer
from tokenbridge.rng import seed_of
from tokenbridge.signals import interrupted, signals
from tokenbridge.stages.latents import Latents
from tokenbridge.stages.quantizer import load_quantizer
from tokenbridge.store.artifacts import write_atomic, write_json
from tokenbridge.store.runs import JOURNAL, Journal, write_metrics
from tokenbridge.weights import RUN_AGAIN, fill, read

CHECKPOINT, PROGRESS = "checkpoint.pt", "progress.json"
CURVE_POINTS = 400
CHECKS = 20  # how often the held-out loss is taken


def build_model(config: RunConfig, inputs: Mapping[str, Path]) -> Generator:
    """The generator with its initial weights, which depend on the training seed alone."""
    latents = Latents(inputs["latents"])
    tokenizer = load_quantizer(inputs["quantizer"])
    order = channel_order(config.head.order, tokenizer.channels, latents.frequency_order, config.train.seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(config.train.seed, "weights"))
        return Generator(config, tokenizer, order)


def load_model(config: RunConfig, inputs: Mapping[str, Path], device: torch.device, weights: str = "ema") -> Generator:
    """A trained generator in evaluation mode. Raises UserError for weights of another config or a damaged file."""
    model = build_model(config, inputs)
    path = inputs["train"] / ("model.safetensors" if weights == "ema" else "model_raw.safetensors")
    fill(model, read(path), path, RUN_AGAIN)
    model.tokenizer.to(device)
    return model.to(device)


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Train to the end, going on from the folder's checkpoint where there is one. Only rank 0 writes."""
    if config.train.released:
        raise UserError(f"train.released={config.train.released} is not trained; run first: tokenbridge import")
    here = world()
    device = here.device(pick_device(runtime))
    model = build_model(config, inputs).to(device).train()
    model.tokenizer.to(device)
    model.backbone.gradient_checkpointing = config.train.gradient_checkpointing
    draws = Draws(config.train, Latents(inputs["latents"]), model.head.loss_noise_shape)
    trainer = Trainer(config.train, draws, model, device, world=here, accumulate=runtime.accumulate)
    checkpoint, of = out / CHECKPOINT, out.name.removesuffix(".partial")
    if here.first(checkpoint.exists()):
        trainer.load(checkpoint, of)
    assert here.first(trainer.step) == trainer.step, "processes read different checkpoints"
    journal = Journal(out / JOURNAL, before=trainer.step + 1 if here.main else None)
    if here.main:
        print(_opening(trainer), flush=True)
        write_json(out / PROGRESS, {"steps": draws.steps})
    _loop(trainer, journal, checkpoint, of, runtime)
    if here.main:
        _finish(trainer, out)


def _opening(trainer: Trainer) -> str:
    """What is about to be trained, in a line."""
    config, shares = trainer.config, trainer.world.size * trainer.accumulate
    parts = [f"train: batch {config.batch:,}"]
    if shares > 1:
        parts[0] += f" (in {trainer.world.size} processes × {trainer.accumulate} micro-batches)"
    epochs = f"{config.epochs} epoch{'s' if config.epochs != 1 else ''}"
    parts += [f"learning rate {config.learning_rate:g}", f"{trainer.draws.steps:,} steps in {epochs}"]
    if trainer.step:
        parts[-1] += f", from step {trainer.step:,}"
    parts += [f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters"]
    parts += [config.precision + (", compiled" if config.compile else "")]
    return ", ".join(parts)


def _finish(trainer: Trainer, out: Path) -> None:
    model = trainer.model
    raw = {name: p.detach() for name, p in model.named_parameters()}
    for name, weights in (("model", trainer.ema), ("model_raw", raw)):
        write_atomic(out / f"{name}.safetensors", save({key: w.cpu().contiguous() for key, w in weights.items()}))
    for name in (CHECKPOINT, PROGRESS):
        (out / name).unlink(missing_ok=True)
    metrics = {
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in model.head.parameters()),
        "held_out_loss": trainer.held_out_loss(trainer.draws.held_out()),
        "training_tflops": training_flops(trainer.loss, trainer.draws) / 1e12,
    }
    write_metrics(out, metrics, {"held_out_loss": "a channel, averaged weights"})


def _loop(trainer: Trainer, journal: Journal, checkpoint: Path, of: str, runtime: Runtime) -> None:
    steps, here = trainer.draws.steps, trainer.world
    saved = time.monotonic()
    curves = _Curves(trainer, journal)
    bar = tqdm(initial=trainer.step, total=steps, desc="train", unit="step", leave=False, disable=runtime.no_bar)
    with signals() as noted, bar:
        while trainer.step < steps:
            rate = trainer.learning_rate()
            loss = trainer.update()
            if not math.isfinite(loss):
                raise _diverged(loss, rate, trainer.step, checkpoint)
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            curves.add(loss, rate)
            urgency = here.max(noted.urgency)
            if here.main and (urgency or time.monotonic() - saved >= runtime.checkpoint_seconds):
                trainer.save(checkpoint, of)
                saved = time.monotonic()
            if urgency and trainer.step < steps:
                print(f"stopped at step {trainer.step} of {steps}; the same command goes on from there", flush=True)
                here.barrier()  # the first process to end may take the others with it, so the checkpoint comes before
                raise interrupted(urgency)


class _Curves:
    """Points of the curves, as rank 0 writes them; all keep the window of losses, which checkpoints hold."""

    def __init__(self, trainer: Trainer, journal: Journal):
        self.trainer, self.journal, self.held_out = trainer, journal, trainer.draws.held_out()

    def add(self, loss: float, rate: float) -> None:
        trainer, steps = self.trainer, self.trainer.draws.steps
        trainer.window.append(loss)
        if self._at(max(1, steps // CURVE_POINTS)):
            if trainer.world.main:
                mean = sum(trainer.window) / len(trainer.window)
                self.journal.write(trainer.step, loss=mean, learning_rate=rate)
            trainer.window.clear()
        if trainer.world.main and self._at(max(1, steps // CHECKS)):
            self.journal.write(trainer.step, held_out_loss=trainer.held_out_loss(self.held_out))

    def _at(self, every: int) -> bool:
        return self.trainer.step % every == 0 or self.trainer.step == self.trainer.draws.steps


def _diverged(loss: float, rate: float, step: int, checkpoint: Path) -> UserError:
    last = f"{checkpoint} (step {_saved_step(checkpoint)})" if checkpoint.exists() else "none was written yet"
    return UserError(
        f"loss={loss} at step {step} with learning rate {rate:.3g} must be finite;"
        f" lower train.learning_rate or train.clip; last good checkpoint: {last}"
    )


def _saved_step(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True, map_location="cpu")["step"]
