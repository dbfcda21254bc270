"""Autoregressive head over channels: p(q) = Π_c p(q_c | q_<c, z) (arXiv 2503.16430, section 3.2).

N positions, C channel, V level, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbridge import config
from tokenbridge.heads.categorical import Cache, CategoricalHead, draw_level


class AutoregressiveHead(CategoricalHead):
    """A causal transformer reads the feature, then the levels drawn so far; channel c is predicted at step c.

    Sampling keeps keys and values of earlier channels (C token passes; recomputing the prefix needs C²/2), and computes
    the adaLN modulations of all C steps at once, since they depend on the feature alone.
    """

    def __init__(self, c: config.Head, width: int, levels: tuple[int, ...], order: tuple[int, ...]):
        super().__init__(c, width, levels, order)
        self.start = c.start
        self.embedding = nn.Embedding((self.channels - 1) * self.most, c.width)  # one table a channel but the last

    def _embed(self, tokens: Tensor, first: int) -> Tensor:
        """Levels (N, S) of channels first, first+1, … -> (N, S, D)."""
        tables = torch.arange(first, first + tokens.shape[1], device=tokens.device) * self.most
        return self.embedding(tokens + tables)

    def logits(self, z: Tensor, target: Tensor) -> Tensor:
        condition = self.condition(z)[:, None]
        return self._forward(torch.cat([condition, self._embed(target[:, :-1], 0)], dim=1), condition + self.step)

    def _forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Logits (N, S, V) of the first S channels from the sequence of start and levels (N, S, D)."""
        steps = x.shape[1]
        x = x + self.position[:steps]
        modulations, final = self.modulations(condition)
        for block, modulation in zip(self.layers, modulations, strict=True):
            x = block(x, modulation, causal=True)
        x = self.finish(x, final)
        if steps == self.channels:
            return self.classify(x)
        return F.linear(x[:, -1:], self.out_weight[steps - 1], self.out_bias[steps - 1])

    def draw(self, z: Tensor, noise: Tensor, temperature: float) -> Tensor:
        condition = self.condition(z)[:, None]
        start = condition + self.step[:1] if self.start == "released" else condition
        condition = condition + self.step
        modulations, final = self.modulations(condition)
        caches = self._caches(z)
        tokens = torch.empty(len(z), self.channels, dtype=torch.int64, device=z.device)
        for c in range(self.channels):
            x = (start if c == 0 else self._embed(tokens[:, c - 1 : c], c - 1)) + self.position[c]
            for block, modulation, cache in zip(self.layers, modulations, caches, strict=True):
                x = block(x, modulation[:, c : c + 1], causal=False, cache=cache, step=c)
            x = self.finish(x, final[:, c : c + 1])
            tokens[:, c] = self._level(F.linear(x[:, 0], self.out_weight[c], self.out_bias[c]), c, noise, temperature)
        return tokens

    def draw_recomputing(self, z: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """The same draw without a cache, as the released sampler does it: the slow opponent of the speed benchmark."""
        condition = self.condition(z)[:, None]
        sequence = [condition + self.step[:1] if self.start == "released" else condition]
        condition = condition + self.step
        tokens = torch.empty(len(z), self.channels, dtype=torch.int64, device=z.device)
        for c in range(self.channels):
            logits = self._forward(torch.cat(sequence, dim=1), condition[:, : c + 1])[:, -1]
            tokens[:, c] = self._level(logits, c, noise, temperature)
            if c + 1 < self.channels:
                sequence.append(self._embed(tokens[:, c : c + 1], c))
        return tokens

    def _level(self, logits: Tensor, c: int, noise: Tensor, temperature: float) -> Tensor:
        if self.uneven:
            logits = logits.masked_fill(self.invalid[c], -torch.inf)
        return draw_level(logits, noise[:, c], temperature)

    def _caches(self, z: Tensor) -> list[Cache]:
        shape = (len(z), self.heads, self.channels, self.position.shape[1] // self.heads)
        return [Cache(z.new_empty(shape), z.new_empty(shape)) for _ in self.blocks]
