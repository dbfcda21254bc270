"""Stage `train`: a generator on fixed tokens. Stop it anywhere, start it again: the weights are the same bit for bit.

Every draw depends on (seed, step, index in the global batch) alone, dropout on (seed, step); a checkpoint holds the
rest. B images of the batch, L position, C channel.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.func import functional_call
from tqdm import tqdm

from tokenbridge.artifacts import JOURNAL, Journal, write_atomic, write_json
from tokenbridge.batches import Batch, Draws
from tokenbridge.config import RunConfig, Runtime, Train, UserError
from tokenbridge.devices import pick_device
from tokenbridge.flops import training_flops
from tokenbridge.generator import Generator
from tokenbridge.latents import Latents
from tokenbridge.ordering import channel_order
from tokenbridge.quantize import load_quantizer
from tokenbridge.rng import seed_of
from tokenbridge.weights import RUN_AGAIN, fill, read

CHECKPOINT, PROGRESS = "checkpoint.pt", "progress.json"
CURVE_POINTS = 400
CHECKS = 20  # how often the held-out loss is taken


class Interrupted(SystemExit):
    """Training stopped on a signal after writing a checkpoint."""


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


@dataclass
class Trainer:
    """The state that moves: weights, their average, the optimizer, the step."""

    config: Train
    draws: Draws
    model: Generator
    device: torch.device
    ema: dict[str, Tensor] = field(init=False)
    step: int = 0
    window: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ema = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, self.config.learning_rate, self.config.betas, fused=True)

    def learning_rate(self) -> float:
        """Linear warm-up, then cosine to 0, by step."""
        warm = self.config.warmup_epochs * self.draws.epoch_steps
        if self.step < warm:
            return self.config.learning_rate * (self.step + 1) / warm
        return (
            self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * (self.step - warm) / (self.draws.steps - warm)))
        )

    def update(self) -> float:
        """One step; returns the loss a channel (nats, where the head has a density)."""
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.config.seed, "dropout", self.step))
            loss = self.loss(self.draws.batch(self.step))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        value = loss.item()
        if not math.isfinite(value):
            return value
        self.optimizer.step()
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.ema[name].lerp_(parameter, 1 - keep)
        self.step += 1
        return value

    def held_out_loss(self, batch: Batch) -> float:
        """Loss a channel of the averaged weights."""
        self.model.eval()
        with torch.no_grad():
            value = self.loss(batch, self.ema).item()
        self.model.train()
        return value

    def loss(self, batch: Batch, weights: dict[str, Tensor] | None = None) -> Tensor:
        """Of masked positions, a channel; of other weights than the model's where they are given."""
        inputs = (batch.latents, batch.labels, batch.mask, batch.noise)
        arguments = tuple(each.to(self.device) for each in inputs)
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            losses = functional_call(self.model, weights, arguments) if weights else self.model(*arguments)
        return losses.float().sum() / (len(losses) * self.model.tokenizer.channels)

    def save(self, path: Path, of: str) -> None:
        state = {
            "of": of,
            "step": self.step,
            "window": self.window,
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_name(path.name + ".tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load(self, path: Path, of: str) -> None:
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location=self.device)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{path} is no whole checkpoint ({first}); delete it to train from the start") from error
        if state.get("of") != of:
            raise UserError(f"{path} belongs to {state.get('of')}, not to {of}; delete it to train from the start")
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.window = state["step"], state["window"]


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Train to the end, going on from the folder's checkpoint where there is one."""
    device = pick_device(runtime)
    model = build_model(config, inputs).to(device).train()
    model.tokenizer.to(device)
    model.backbone.gradient_checkpointing = config.train.gradient_checkpointing
    draws = Draws(config.train, Latents(inputs["latents"]), model.head.loss_noise_shape)
    trainer = Trainer(config.train, draws, model, device)
    checkpoint, of = out / CHECKPOINT, out.name.removesuffix(".partial")
    if checkpoint.exists():
        trainer.load(checkpoint, of)
    journal = Journal(out / JOURNAL, before=trainer.step + 1)
    write_json(out / PROGRESS, {"steps": trainer.draws.steps})
    _loop(trainer, journal, checkpoint, of, runtime)
    raw = {name: p.detach() for name, p in model.named_parameters()}
    for name, weights in (("model", trainer.ema), ("model_raw", raw)):
        write_atomic(out / f"{name}.safetensors", save({key: w.cpu().contiguous() for key, w in weights.items()}))
    for path in (checkpoint, out / PROGRESS):
        path.unlink(missing_ok=True)
    metrics = {
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in model.head.parameters()),
        "held_out_loss": trainer.held_out_loss(trainer.draws.held_out()),
        "training_tflops": training_flops(trainer.loss, draws) / 1e12,
    }
    write_json(out / "metrics.json", {"metrics": metrics, "protocol": {"held_out_loss": "a channel, averaged weights"}})


def _loop(trainer: Trainer, journal: Journal, checkpoint: Path, of: str, runtime: Runtime) -> None:
    steps = trainer.draws.steps
    point, check = max(1, steps // CURVE_POINTS), max(1, steps // CHECKS)
    check_batch = trainer.draws.held_out()
    saved = time.monotonic()
    bar = tqdm(initial=trainer.step, total=steps, desc="train", unit="step", leave=False, disable=runtime.no_bar)
    with _signals() as caught, bar:
        while trainer.step < steps:
            rate = trainer.learning_rate()
            loss = trainer.update()
            if not math.isfinite(loss):
                last = (
                    f"{checkpoint} (step {_saved_step(checkpoint)})" if checkpoint.exists() else "none was written yet"
                )
                raise UserError(
                    f"loss={loss} at step {trainer.step} with learning rate {rate:.3g} must be finite;"
                    f" lower train.learning_rate or train.clip; last good checkpoint: {last}"
                )
            trainer.window.append(loss)
            bar.update()
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            if trainer.step % point == 0 or trainer.step == steps:
                journal.write(trainer.step, loss=sum(trainer.window) / len(trainer.window), learning_rate=rate)
                trainer.window.clear()
            if trainer.step % check == 0 or trainer.step == steps:
                journal.write(trainer.step, held_out_loss=trainer.held_out_loss(check_batch))
            if caught or time.monotonic() - saved >= runtime.checkpoint_seconds:
                trainer.save(checkpoint, of)
                saved = time.monotonic()
            if caught and trainer.step < steps:
                print(f"stopped at step {trainer.step} of {steps}; the same command goes on from there", flush=True)
                raise Interrupted(128 + caught[0])


def _saved_step(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True, map_location="cpu")["step"]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT are noted; the loop writes a checkpoint after its step and stops."""
    caught: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    try:
        before = [signal.signal(number, lambda n, _: caught.append(n)) for number in numbers]
    except ValueError:  # not the main thread: signals go elsewhere
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
