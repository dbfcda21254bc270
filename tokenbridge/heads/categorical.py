"""What the categorical heads share: a transformer over the C channels of one position, conditioned by adaLN.

N positions, C channel (in the order of prediction), V level, D width of the head, S steps computed at once (1 or C).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbridge import config
from tokenbridge.backbone import EPSILON, initialize, mlp


class Cache(NamedTuple):
    """Keys and values of one block for the channels so far: each (N, heads, C, D / heads)."""

    keys: Tensor
    values: Tensor


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
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


class CategoricalHead(nn.Module):
    """Base of the heads that predict levels; see tokenbridge.heads for the contract.

    levels: V of each channel, in stored order; order: channels in the order of prediction. Tokens go in and come out in
    stored order. Channels with fewer levels than the largest have the rest masked out.
    """

    noise = "uniform"
    guidance_on = "features"
    order: Tensor
    inverse: Tensor
    invalid: Tensor

    def __init__(self, c: config.Head, width: int, levels: tuple[int, ...], order: tuple[int, ...]):
        super().__init__()
        assert sorted(order) == list(range(len(levels)))
        self.channels, self.most, self.heads = len(levels), max(levels), c.heads
        self.noise_shape = (self.channels,)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("inverse", self.order.argsort(), persistent=False)
        in_order = torch.tensor(levels)[self.order]
        self.register_buffer("invalid", torch.arange(self.most) >= in_order[:, None], persistent=False)  # (C, V)
        self.uneven = len(set(levels)) > 1

        self.condition = nn.Linear(width, c.width)
        self.position = nn.Parameter(torch.empty(self.channels, c.width))
        self.step = nn.Parameter(torch.empty(self.channels, c.width))
        self.blocks = nn.ModuleList(ChannelBlock(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width, eps=EPSILON)
        self.final_norm = nn.LayerNorm(c.width, eps=EPSILON, elementwise_affine=False)
        self.final_modulation = nn.Linear(c.width, 2 * c.width)
        self.out_weight = nn.Parameter(torch.empty(self.channels, self.most, c.width))
        self.out_bias = nn.Parameter(torch.zeros(self.channels, self.most))
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

    def logits(self, z: Tensor, target: Tensor) -> Tensor:
        """(N, C, V) from features (N, D) and, where the head reads it, target (N, C), in the order of prediction."""
        raise NotImplementedError

    def draw(self, z: Tensor, noise: Tensor, temperature: float) -> Tensor:
        """Tokens (N, C) int64 in the order of prediction from features (N, D) and uniforms (N, C)."""
        raise NotImplementedError

    def log_prob(self, z: Tensor, target: Tensor) -> Tensor:
        target = target[:, self.order]
        logits = self.logits(z, target)
        return -F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none").view_as(target).sum(1)

    def loss(self, z: Tensor, target: Tensor) -> Tensor:
        return -self.log_prob(z, target)

    def sample(
        self,
        z: Tensor,
        noise: Tensor,
        temperature: float = 1.0,
        unconditional: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        if unconditional is not None:
            z = unconditional + guidance * (z - unconditional)
        return self.draw(z, noise, temperature)[:, self.inverse]

    def modulations(self, condition: Tensor) -> tuple[list[Tensor], Tensor]:
        """All blocks' modulations and the final one for condition (N, S, D), in one product each."""
        active = F.silu(condition)
        weight = torch.cat([block.modulation.weight for block in self.layers])
        bias = torch.cat([block.modulation.bias for block in self.layers])
        return list(F.linear(active, weight, bias).chunk(len(self.blocks), dim=-1)), self.final_modulation(active)

    def finish(self, x: Tensor, final: Tensor) -> Tensor:
        scale, shift = final.chunk(2, dim=-1)
        return modulate(self.final_norm(self.norm(x)), shift, scale)

    def classify(self, x: Tensor) -> Tensor:
        """(N, C, D) -> logits (N, C, V), each channel with its own weights."""
        logits = torch.einsum("ncd,cvd->ncv", x, self.out_weight) + self.out_bias
        return logits.masked_fill(self.invalid, -torch.inf) if self.uneven else logits


def draw_level(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Levels (...) int64 from logits (..., V) by inverse CDF of uniforms (...); temperature 0 takes the largest."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits.float() / temperature).softmax(-1).cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)
