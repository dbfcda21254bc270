"""The base of the categorical heads: a transformer over the C channels of one position, conditioned by adaLN.

N positions, C channel, G channels predicted together, T = C / G steps in the order of prediction, V classes of a step
(a level where G is 1, else a combination of levels), D width of the head, S steps computed at once (1 or T).
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbridge import config
from tokenbridge.config import Sample
from tokenbridge.model.backbone import EPSILON, initialize, mlp
from tokenbridge.model.heads.contract import Head


class Cache(NamedTuple):
    """Keys and values of one block for the channels so far: each (N, heads, T, D / heads)."""

    keys: Tensor
    values: Tensor


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN's shift and scale (arXiv 2212.09748): x · (1 + scale) + shift, broadcast."""
    return x * (1 + scale) + shift


class ChannelAttention(nn.Module):
    """Self-attention over channels with normalised queries and keys, (N, S, D) -> (N, S, D)."""

    def __init__(self, c: config.Head):
        super().__init__()
        self.heads, self.attention_dropout = c.heads, c.attention_dropout
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.query_norm = nn.LayerNorm(c.width // c.heads, eps=EPSILON)
        self.key_norm = nn.LayerNorm(c.width // c.heads, eps=EPSILON)
        self.project = nn.Linear(c.width, c.width)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, causal: bool, cache: Cache | None, step: int) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.query_norm(q), self.key_norm(k)
        if cache is not None:
            cache.keys[:, :, step : step + 1], cache.values[:, :, step : step + 1] = k, v
            k, v = cache.keys[:, :, : step + 1], cache.values[:, :, : step + 1]
            causal = False  # one query, and only earlier channels are there
        dropout = self.attention_dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout)
        return self.dropout(self.project(x.transpose(1, 2).flatten(2)))


class ChannelBlock(nn.Module):
    """Pre-norm block with adaLN: shift, scale and gate for attention and MLP come from the condition."""

    def __init__(self, c: config.Head):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.width, eps=EPSILON)
        self.attention = ChannelAttention(c)
        self.norm2 = nn.LayerNorm(c.width, eps=EPSILON)
        self.mlp = mlp(c.width, c.mlp_ratio, c.dropout)
        self.modulation = nn.Linear(c.width, 6 * c.width)

    def forward(self, x: Tensor, modulation: Tensor, causal: bool, cache: Cache | None = None, step: int = 0) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
        x = x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1), causal, cache, step)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class CategoricalHead(Head):
    """The base of the heads that predict levels.

    Tokens go in and come out in stored order. Steps with fewer classes than the largest have the rest masked out.

    Args:
        width: of the features, D in contract.py.
        levels: (C) number of levels of each channel, in stored order.
        order: (C) channels in the order of prediction.
    """

    noise = "uniform"
    order: Tensor
    inverse: Tensor
    radix: Tensor
    bases: Tensor
    invalid: Tensor

    def __init__(self, c: config.Head, width: int, levels: tuple[int, ...], order: tuple[int, ...]):
        super().__init__(c)
        assert sorted(order) == list(range(len(levels)))
        assert len(levels) % c.group == 0
        self.steps, self.group, self.heads = len(levels) // c.group, c.group, c.heads
        groups = [[levels[i] for i in order[g : g + c.group]] for g in range(0, len(order), c.group)]
        self.most = max(map(math.prod, groups))
        self.uneven = len(set(map(math.prod, groups))) > 1
        bases = torch.tensor(groups)
        classes = bases.prod(1)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("inverse", self.order.argsort(), persistent=False)
        self.register_buffer("bases", bases, persistent=False)
        self.register_buffer("radix", classes[:, None] // bases.cumprod(1), persistent=False)
        self.register_buffer("invalid", torch.arange(self.most) >= classes[:, None], persistent=False)  # (T, V)

        self.condition = nn.Linear(width, c.width)
        self.position = nn.Parameter(torch.empty(self.steps, c.width))
        self.step = nn.Parameter(torch.empty(self.steps, c.width))
        self.blocks = nn.ModuleList(ChannelBlock(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=EPSILON)
        self.final_norm = nn.LayerNorm(c.width, eps=EPSILON, elementwise_affine=False)
        self.final_modulation = nn.Linear(c.width, 2 * c.width)
        self.out_weight = nn.Parameter(torch.empty(self.steps, self.most, c.width))
        self.out_bias = nn.Parameter(torch.zeros(self.steps, self.most))
        initialize(self)
        for parameter in (self.position, self.step):
            nn.init.normal_(parameter, std=0.02)
        for weight in self.out_weight:
            nn.init.xavier_uniform_(weight)
        for layer in [*(block.modulation for block in self.layers), self.final_modulation]:
            nn.init.zeros_(layer.weight)

    @property
    def layers(self) -> list[ChannelBlock]:
        return cast(list[ChannelBlock], list(self.blocks))

    def noise_shape(self, how: Sample) -> tuple[int, ...]:
        return (self.steps,)

    def logits(self, z: Tensor, target: Tensor) -> Tensor:
        """Logits of each step.

        Args:
            z: (N, D) features.
            target: (N, T) int64 classes, read by heads whose steps depend on earlier ones.

        Returns:
            (N, T, V), -inf where a step has fewer classes.
        """
        raise NotImplementedError

    def draw(self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None, guidance: float) -> Tensor:
        """Draw a class per step.

        Args:
            z: (N, D) features.
            noise: (N, T) uniforms in [0, 1).
            how: temperature, top_k and top_p.
            unconditional: (N, D) features without the class, to guide the logits; None for an unguided draw.
            guidance: the weight of guide().

        Returns:
            (N, T) int64 classes.
        """
        raise NotImplementedError

    def classes(self, tokens: Tensor) -> Tensor:
        """Classes (N, T) of tokens (N, C): the levels of a group are the digits of one number."""
        return (tokens[:, self.order].unflatten(1, self.radix.shape) * self.radix).sum(2)

    def tokens(self, classes: Tensor) -> Tensor:
        """Tokens (N, C) of classes (N, T)."""
        return (classes[..., None] // self.radix % self.bases).flatten(1)[:, self.inverse]

    def log_prob(self, z: Tensor, target: Tensor) -> Tensor:
        target = self.classes(target)
        logits = self.logits(z, target)
        return -F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none").view_as(target).sum(1)

    def sample(
        self, z: Tensor, noise: Tensor, how: Sample, unconditional: Tensor | None = None, guidance: float = 1.0
    ) -> Tensor:
        z, unconditional = self.mixed(z, how, unconditional, guidance)
        return self.tokens(self.draw(z, noise, how, unconditional, guidance))

    def modulations(self, condition: Tensor) -> tuple[list[Tensor], Tensor]:
        """All blocks' modulations (N, S, 6D) and the final one (N, S, 2D) for condition (N, S, D)."""
        active = F.silu(condition)
        # a product per block: putting the blocks' weights together would copy 100 MB at the paper's size, in each call
        return [block.modulation(active) for block in self.layers], self.final_modulation(active)

    def finish(self, x: Tensor, final: Tensor) -> Tensor:
        """The modulated norm in front of the logits, (N, S, D) -> (N, S, D)."""
        scale, shift = final.chunk(2, dim=-1)
        return modulate(self.final_norm(self.norm(x)), shift, scale)

    def classify(self, x: Tensor) -> Tensor:
        """Logits (N, T, V) from (N, T, D), each step with its own weights."""
        logits = torch.einsum("ncd,cvd->ncv", x, self.out_weight) + self.out_bias
        return logits.masked_fill(self.invalid, -torch.inf) if self.uneven else logits


def draw_class(logits: Tensor, uniform: Tensor, how: Sample, step: int | None = None) -> Tensor:
    """Classes (...) int64 from logits (..., V) by inverse CDF of uniforms (...); temperature 0 takes the largest.

    Args:
        step: whose temperature counts where each step has its own; None where the steps are the last dimension but V.
    """
    temperature = how.temperature
    if isinstance(temperature, tuple):
        if step is None:
            each = [draw_class(logits[..., i, :], uniform[..., i], how, i) for i in range(len(temperature))]
            return torch.stack(each, dim=-1)
        temperature = temperature[step]
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = _kept((logits.float() / temperature).softmax(-1), how).cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)


def _kept(probabilities: Tensor, how: Sample) -> Tensor:
    """Probabilities (..., V), 0 where top_k or top_p (arXiv 1904.09751) cuts them off."""
    if how.top_k is None and how.top_p == 1:
        return probabilities
    ranked, index = probabilities.sort(dim=-1, descending=True, stable=True)
    cut = ranked.cumsum(-1) - ranked >= how.top_p
    if how.top_k is not None:
        cut[..., how.top_k :] = True
    return torch.zeros_like(ranked).scatter(-1, index, ranked.masked_fill(cut, 0))
