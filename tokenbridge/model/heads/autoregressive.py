"""Autoregressive head over channels: p(q) = Π_c p(q_c | q_<c, z) (arXiv 2503.16430, section 3.2).

N positions, T steps (channels or groups of them), V classes, D width, R = N, or 2N where logits are guided.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbridge import config
from tokenbridge.config import Sample
from tokenbridge.model.heads.categorical import Cache, CategoricalHead, draw_class
from tokenbridge.model.heads.contract import guide


class AutoregressiveHead(CategoricalHead):
    """A causal transformer reads the feature, then the classes drawn so far; channel c is predicted at step c.

    Sampling keeps keys and values of earlier channels (T token passes; recomputing the prefix needs T²/2), and computes
    the adaLN modulations of all T steps at once, since they depend on the feature alone.
    """

    def __init__(self, c: config.Head, width: int, levels: tuple[int, ...], order: tuple[int, ...]):
        super().__init__(c, width, levels, order)
        self.start = c.start
        self.embedding = nn.Embedding((self.steps - 1) * self.most, c.width)  # one table per step but the last

    def _embed(self, classes: Tensor, first: int) -> Tensor:
        """Classes (N, S) of steps first, first+1, … -> (N, S, D)."""
        tables = torch.arange(first, first + classes.shape[1], device=classes.device) * self.most
        return self.embedding(classes + tables)

    def logits(self, z: Tensor, target: Tensor) -> Tensor:
        condition = self.condition(z)[:, None]
        return self._forward(torch.cat([condition, self._embed(target[:, :-1], 0)], dim=1), condition + self.step)

    def _forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Logits (N, T, V) from the sequence of start and classes (N, S, D); of the last step alone where S < T."""
        steps = x.shape[1]
        x = x + self.position[:steps]
        modulations, final = self.modulations(condition)
        for block, modulation in zip(self.layers, modulations, strict=True):
            x = block(x, modulation, causal=True)
        x = self.finish(x, final)
        if steps == self.steps:
            return self.classify(x)
        return F.linear(x[:, -1:], self.out_weight[steps - 1], self.out_bias[steps - 1])

    def draw(self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None, guidance: float) -> Tensor:
        z, copies = (z, 1) if unconditional is None else (torch.cat([z, unconditional]), 2)
        condition, start = self._conditions(z)
        modulations, final = self.modulations(condition)
        caches = self._caches(z)
        classes = torch.empty(len(noise), self.steps, dtype=torch.int64, device=z.device)
        for c in range(self.steps):
            x = (start if c == 0 else self._embed(classes[:, c - 1 : c], c - 1).repeat(copies, 1, 1)) + self.position[c]
            for block, modulation, cache in zip(self.layers, modulations, caches, strict=True):
                x = block(x, modulation[:, c : c + 1], causal=False, cache=cache, step=c)
            x = self.finish(x, final[:, c : c + 1])
            logits = F.linear(x[:, 0], self.out_weight[c], self.out_bias[c])
            classes[:, c] = self._class(logits, c, noise, how, guidance)
        return classes

    def draw_recomputing(self, z: Tensor, noise: Tensor, how: Sample) -> Tensor:
        """Draw the same classes without a cache, as the released sampler does: the opponent of the speed benchmark.

        Args:
            z: (N, D) features.
            noise: (N, T) uniforms.
            how: temperature, top_k and top_p; the draw is unguided.

        Returns:
            (N, T) int64 classes.
        """
        condition, start = self._conditions(z)
        sequence = [start]
        classes = torch.empty(len(z), self.steps, dtype=torch.int64, device=z.device)
        for c in range(self.steps):
            logits = self._forward(torch.cat(sequence, dim=1), condition[:, : c + 1])[:, -1]
            classes[:, c] = self._class(logits, c, noise, how, 1.0)
            if c + 1 < self.steps:
                sequence.append(self._embed(classes[:, c : c + 1], c))
        return classes

    def _conditions(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions of all steps (R, T, D) and the first element of the sequence (R, 1, D)."""
        condition = self.condition(z)[:, None]
        return condition + self.step, condition + self.step[:1] if self.start == "released" else condition

    def _class(self, logits: Tensor, c: int, noise: Tensor, how: Sample, guidance: float) -> Tensor:
        """Classes (N) int64 of step c from logits (R, V)."""
        if len(logits) > len(noise):
            conditional, free = logits.chunk(2)
            logits = guide(conditional.float(), free.float(), guidance)
        if self.uneven:
            logits = logits.masked_fill(self.invalid[c], -torch.inf)
        return draw_class(logits, noise[:, c], how, c)

    def _caches(self, z: Tensor) -> list[Cache]:
        shape = (len(z), self.heads, self.steps, self.position.shape[1] // self.heads)
        kind = z.device.type
        low = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if low else z.dtype  # attention would copy them in each step
        return [Cache(z.new_empty(shape, dtype=dtype), z.new_empty(shape, dtype=dtype)) for _ in self.blocks]
