"""A training: the state that moves, one update, its checkpoint.

B images of the batch, L position, C channel, N masked positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from tokenbridge.checkpoints import Of, copied, read_checkpoint, write_checkpoint
from tokenbridge.config import Train, UserError
from tokenbridge.distributed import ONE, World
from tokenbridge.model.batches import Ahead, Batch, Draws
from tokenbridge.model.generator import Generator
from tokenbridge.model.gradients import Sums
from tokenbridge.model.heads.diffusion import DiffusionHead
from tokenbridge.optimizer import AdamW
from tokenbridge.rng import drawn_from

VECTORS = ("backbone.mask_token", "backbone.unconditional")
"""of (1, 1, D) and (1, D) in the released code, and so not vectors to its rule"""


def decays(model: Generator, rule: Literal["matrices", "released"]) -> set[str]:
    """The names of the parameters that weight decay holds for.

    Args:
        model: its parameters are sorted by their names and dimensions.
        rule: matrices: all of two or more dimensions; released: add_weight_decay of the code of MAR and TokenBridge,
            which leaves out vectors, biases and the diffusion head (`diffloss`).
    """
    if rule == "matrices":
        return {name for name, p in model.named_parameters() if p.dim() > 1}
    return {
        name
        for name, p in model.named_parameters()
        if (p.dim() > 1 or name in VECTORS)
        and not name.endswith("bias")
        and not (name.startswith("head.") and isinstance(model.head, DiffusionHead))
    }


@dataclass
class Trainer:
    """Weights, their moving average (ema), the optimizer and the step.

    AdamW (arXiv 1711.05101) with weight decay on matrices alone. Sums over processes go through `world`; `window`
    holds the losses since the last point of the curves.
    """

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
        share = range(self.world.rank, self.config.batch, self.world.size)
        parts = [share[first :: self.accumulate] for first in range(min(self.accumulate, len(share)))]
        self.batches = Ahead(self.draws, parts, self.device)
        self.sums = Sums(self.model.parameters(), self.world.adding if self.world.size > 1 else None)
        self.forward = torch.compile(self.model) if self.config.compile else self.model
        self.ema = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        decayed = decays(self.model, self.config.decay)
        groups = [
            {
                "params": [p for name, p in self.model.named_parameters() if (name in decayed) == group],
                "weight_decay": self.config.weight_decay if group else 0.0,
            }
            for group in (True, False)
        ]
        self.optimizer = AdamW(groups, self.config.learning_rate, self.config.betas, fused=True)

    def learning_rate(self) -> float:
        """The rate of the next step: linear warm-up, then a cosine to 0."""
        warm = self.config.warmup_epochs * self.draws.epoch_steps
        if self.step < warm:
            return self.config.learning_rate * (self.step + 1) / warm
        return (
            self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * (self.step - warm) / (self.draws.steps - warm)))
        )

    def update(self) -> float:
        """Take one step on the global batch, whose gradients are equal in all processes.

        As many positions are masked in each image, so the mean of a micro-batch counts by its images.

        Returns:
            The loss per channel of masked positions (nats where the head has a density); not finite where it or its
            gradient is not, and then no weight of the model was changed.
        """
        self.optimizer.zero_grad(set_to_none=True)
        others = (self.world.rank,) if self.world.size > 1 else ()
        losses = []
        with drawn_from(self.config.seed, "dropout", self.step, *others, device=self.device):
            for number, images in enumerate(self.batches.parts):
                with self._precision():
                    positions = self.forward(*self._arguments(self.batches.take(self.step, number)))
                loss = self._per_channel(positions) * (len(images) / self.config.batch)
                if number == len(self.batches.parts) - 1:
                    self.sums.begin()
                loss.backward()
                losses.append(loss.detach())
        total = torch.stack(losses).sum()
        self.sums.end(total)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self._move(total.isfinite() & norm.isfinite())
        value = torch.where(
            total.isfinite() & ~norm.isfinite(), torch.nan, total
        ).item()  # only now is a GPU waited for
        self.step += math.isfinite(value)
        return value

    def _move(self, finite: Tensor) -> None:
        """Move the weights by their gradients, where those are finite, and the average after them."""
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # of torch's GradScaler: skips the step without being read here
        self.optimizer.found_inf = 1 - finite.float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        weights = dict(self.model.named_parameters())
        with torch.no_grad():  # on a GPU one launch for all, not one for each
            averages = [self.ema[name] for name in weights]
            # what torch's own optimizers use, as torch._foreach_add_ and others
            torch._foreach_lerp_(averages, list(weights.values()), 1 - keep)  # pyright: ignore[reportPrivateImportUsage]

    def validation_loss(self, batch: Batch) -> float:
        """The loss per channel of the averaged weights, in as many parts as a step is taken in, so that both fit."""
        self.model.eval()
        images = len(batch.labels)
        size = math.ceil(images / self.accumulate)
        if self.config.gradient_checkpointing:
            size = min(size, max(map(len, self.batches.parts)))
        with torch.no_grad():
            shares = [self.loss(part, self.ema).item() * (len(part.labels) / images) for part in batch.split(size)]
        self.model.train()
        return sum(shares)

    def loss(self, batch: Batch, weights: dict[str, Tensor] | None = None) -> Tensor:
        """The mean loss per channel of masked positions, () float32.

        Args:
            batch: images of this process.
            weights: by name, in place of the model's own.
        """
        arguments = self._arguments(batch)
        with self._precision():
            positions = functional_call(self.model, weights, arguments) if weights else self.forward(*arguments)
        return self._per_channel(positions)

    def _arguments(self, batch: Batch) -> tuple[Tensor, ...]:
        return tuple(
            x.to(self.device, non_blocking=True) for x in (batch.latents, batch.labels, batch.mask, batch.noise)
        )

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _per_channel(self, positions: Tensor) -> Tensor:
        return positions.float().sum() / (len(positions) * self.model.tokenizer.channels)

    def state(self, of: Of) -> dict[str, Any]:
        """A copy, in the processor's memory, of all that a training goes on from.

        Args:
            of: id of the stage, which `load` asks for again.
        """
        state = {
            "of": of,
            "step": self.step,
            "window": self.window,
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
        }
        return copied(state)

    def save(self, path: Path, of: Of) -> None:
        """Write a checkpoint of the stage `of`, which appears whole."""
        write_checkpoint(path, self.state(of))

    def load(self, path: Path, of: Of) -> None:
        """Go on from a checkpoint.

        Args:
            path: the file.
            of: id of the stage that it must be of.

        Raises:
            UserError: it is damaged, or another stage's.
        """
        state = read_checkpoint(path, of, self.device)
        self.model.load_state_dict(state["model"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.window = state["step"], state["window"]
