"""The state of a training: one update, and its checkpoint.

B images of the batch, L position, C channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from tokenbridge.config import Train, UserError
from tokenbridge.distributed import ONE, World
from tokenbridge.model.batches import Batch, Draws
from tokenbridge.model.generator import Generator
from tokenbridge.rng import seed_of
from tokenbridge.store.artifacts import atomic


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
    world: World = ONE
    accumulate: int = 1
    """micro-batches of this process's share of a step"""

    def __post_init__(self) -> None:
        if self.config.batch < self.world.size:
            raise UserError(
                f"train.batch={self.config.batch} must be at least {self.world.size}, the number of processes; start"
                " fewer"
            )
        self.forward = torch.compile(self.model) if self.config.compile else self.model
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
        loss = self.gradients()
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

    def gradients(self) -> Tensor:
        """Put the gradients of the global batch's loss into the parameters, equal in all processes; returns the loss.

        As many positions are masked in each image, so a part's mean counts by its images.
        """
        self.optimizer.zero_grad(set_to_none=True)
        others = (self.world.rank,) if self.world.size > 1 else ()
        own = range(self.world.rank, self.config.batch, self.world.size)
        losses = []
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.config.seed, "dropout", self.step, *others))
            for first in range(min(self.accumulate, len(own))):
                images = own[first :: self.accumulate]
                loss = self.loss(self.draws.batch(self.step, images)) * (len(images) / self.config.batch)
                loss.backward()
                losses.append(loss.detach())
        total = torch.stack(losses).sum()
        self.world.sum([total, *(p.grad for p in self.model.parameters() if p.grad is not None)])
        return total

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
            losses = functional_call(self.model, weights, arguments) if weights else self.forward(*arguments)
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
        with atomic(path) as file:
            torch.save(state, file)

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
