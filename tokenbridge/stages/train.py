"""Stage `train`: a generator on fixed tokens. Stop it anywhere, start it again: the weights are the same bit for bit.

Every draw depends on (seed, step, index in the global batch) alone, dropout on (seed, step) and, of several processes,
rank; a checkpoint holds the rest, and any number of processes can go on from it. Without dropout they give the curve of
one process up to rounding, since sums are taken in another order: losses within 1e-5, relative, in the tests.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tqdm import tqdm

from tokenbridge.checkpoints import Checkpoints
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.data.latents import Latents
from tokenbridge.devices import Usage, pick_device
from tokenbridge.distributed import world
from tokenbridge.model.batches import Batch, Draws
from tokenbridge.model.costs import training_flops
from tokenbridge.model.generator import Generator
from tokenbridge.model.ordering import channel_order
from tokenbridge.model.trainer import Trainer
from tokenbridge.rng import drawn_from
from tokenbridge.signals import interrupted, signals
from tokenbridge.store.artifacts import PROGRESS, write_atomic, write_json
from tokenbridge.store.runs import JOURNAL, SYSTEM, Journal, read_journal, write_metrics
from tokenbridge.tokenizers import load as load_tokenizer
from tokenbridge.weights import RUN_AGAIN, fill, read

CURVE_POINTS = 400
CHECKS = 20  # how often the validation loss is taken


def build_model(config: RunConfig, inputs: Mapping[str, Path]) -> Generator:
    """The generator with its initial weights, which depend on the training seed alone."""
    latents = Latents(inputs["latents"])
    tokenizer = load_tokenizer(inputs["quantizer"])
    order = channel_order(config.head.order, tokenizer.channels, latents.frequency_order, config.train.seed)
    with drawn_from(config.train.seed, "weights"):
        return Generator(config, tokenizer, order)


def load_model(config: RunConfig, inputs: Mapping[str, Path], device: torch.device, weights: str = "ema") -> Generator:
    """A trained generator in evaluation mode, to be used without gradients.

    Args:
        config: the training's.
        inputs: folders of latents, quantizer and train, by kind.
        device: where it goes.
        weights: "ema" for the averaged ones, "raw" for the last.

    Raises:
        UserError: weights of another config, or a damaged file.
    """
    model = build_model(config, inputs)
    path = inputs["train"] / ("model.safetensors" if weights == "ema" else "model_raw.safetensors")
    fill(model, read(path), path, RUN_AGAIN)
    model.tokenizer.to(device)
    # autocast keeps copies of those weights alone that could have a gradient, and would convert frozen ones at each use
    return model.to(device).requires_grad_(True)


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Train to the end, going on from the folder's checkpoint where there is one. Only rank 0 writes.

    Leaves model.safetensors (averaged weights), model_raw.safetensors, metrics.json and the journal of the losses.
    """
    if config.train.released:
        raise UserError(f"train.released={config.train.released} is not trained; run first: tokenbridge import")
    trainer, checkpoint = _trainer(config, inputs, runtime), Checkpoints.of_stage(out, runtime.checkpoint_seconds)
    steps, here = trainer.draws.steps, trainer.world
    if here.first(checkpoint.path.exists()):
        trainer.load(checkpoint.path, checkpoint.of)
    assert here.first(trainer.step) == trainer.step, "processes read different checkpoints"
    curves = _Curves(trainer, Journal(out / JOURNAL, before=trainer.step + 1 if here.main else None))
    if here.main:
        print(_opening(trainer), flush=True)
        if curves.validation is None:
            print("train: no validation images (data.validation_fraction=0), so no validation loss", flush=True)
        write_json(out / PROGRESS, {"steps": steps})
    bar = tqdm(initial=trainer.step, total=steps, desc="train", unit="step", leave=False, disable=runtime.no_bar)
    with signals() as noted, bar, checkpoint:
        while trainer.step < steps:
            rate = trainer.learning_rate()
            loss = trainer.update()
            if not math.isfinite(loss):
                checkpoint.wait()
                raise _diverged(loss, rate, trainer.step, checkpoint.path)
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            curves.add(loss, rate)
            urgency = here.max(noted.urgency)
            if here.main:
                checkpoint.save(trainer, urgent=urgency > 0 or trainer.step == steps)
            if urgency and trainer.step < steps:
                print(f"stopped at step {trainer.step} of {steps}; the same command goes on from there", flush=True)
                here.barrier()  # the first process to end may take the others with it, so the checkpoint comes before
                raise interrupted(urgency)
    if not here.main:
        return
    try:
        _finish(trainer, curves, out)
    except Exception:
        print(f"train: all {steps} steps are kept; the same command goes on after them", file=sys.stderr)
        raise


def _trainer(config: RunConfig, inputs: Mapping[str, Path], runtime: Runtime) -> Trainer:
    here = world()
    device = here.device(pick_device(runtime))
    model = build_model(config, inputs).to(device).train()
    model.tokenizer.to(device)
    model.backbone.gradient_checkpointing = config.train.gradient_checkpointing
    draws = Draws(config.train, Latents(inputs["latents"]), model.head.loss_noise_shape)
    return Trainer(config.train, draws, model, device, world=here, accumulate=runtime.accumulate)


def _opening(trainer: Trainer) -> str:
    """One line that says what is about to be trained."""
    config, shares = trainer.config, trainer.world.size * trainer.accumulate
    parts = [f"train: batch {config.batch:,}"]
    if shares > 1:
        parts[0] += f" (in {trainer.world.size} processes × {trainer.accumulate} micro-batches)"
    epochs = f"{config.epochs} epoch{'s' if config.epochs != 1 else ''}"
    parts += [
        f"learning rate {config.learning_rate:g}",
        f"{trainer.draws.steps:,} step{'s' if trainer.draws.steps > 1 else ''} in {epochs}",
    ]
    if trainer.step:
        parts[-1] += f", from step {trainer.step:,}"
    parts += [f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters"]
    parts += [config.precision + (", compiled" if config.compile else "")]
    return ", ".join(parts)


def _finish(trainer: Trainer, curves: _Curves, out: Path) -> None:
    """Write what the training leaves, all from its last checkpoint, which the store deletes once it is published."""
    model = trainer.model
    raw = {name: p.detach() for name, p in model.named_parameters()}
    for name, weights in (("model", trainer.ema), ("model_raw", raw)):
        write_atomic(out / f"{name}.safetensors", save({key: w.cpu().contiguous() for key, w in weights.items()}))
    # not the compiled model, whose products are hidden
    plain: dict[str, torch.Tensor] = dict(model.named_parameters())
    flops = training_flops(lambda batch: trainer.loss(batch, plain), trainer.draws, trainer.device)
    metrics = {
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in model.head.parameters()),
        "training_tflops": flops / 1e12,
    }
    protocol: dict[str, Any] = {"validation_loss": "none: data.validation_fraction=0"}
    if curves.validation is not None:
        metrics["validation_loss"] = curves.end(curves.validation)
        protocol = {
            "validation_loss": "a channel, averaged weights",
            "validation_images": len(curves.validation.labels),
        }
    write_metrics(out, metrics, protocol)


class _Curves:
    """The points of the curves: rank 0 writes them, and all keep the window of losses, which checkpoints hold."""

    def __init__(self, trainer: Trainer, journal: Journal):
        self.trainer, self.journal, self.validation = trainer, journal, trainer.draws.validation()
        self.usage = Usage(trainer.device)

    def add(self, loss: float, rate: float) -> None:
        trainer, steps = self.trainer, self.trainer.draws.steps
        trainer.window.append(loss)
        if self._at(max(1, steps // CURVE_POINTS)):
            if trainer.world.main:
                mean = sum(trainer.window) / len(trainer.window)
                machine = {f"{SYSTEM}{key}": value for key, value in self.usage.since_last().items()}
                self.journal.write(trainer.step, loss=mean, learning_rate=rate, **machine)
            trainer.window.clear()
        if self.validation and trainer.world.main and self._at(max(1, steps // CHECKS)) and trainer.step < steps:
            self.journal.write(trainer.step, validation_loss=trainer.validation_loss(self.validation))

    def end(self, validation: Batch) -> float:
        """The validation loss after the last step, which is written once, however often what follows is tried."""
        step, loss = self.trainer.step, self.trainer.validation_loss(validation)
        if ("validation_loss", step) not in {(key, at) for key, _, _, at in read_journal(self.journal.path)}:
            self.journal.write(step, validation_loss=loss)
        return loss

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
