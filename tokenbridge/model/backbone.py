"""Masked encoder and decoder over positions (MAR, arXiv 2406.11838; bidirectional, as in MAE).

B image, L position, E embedding of a token, D width, M class tokens in front, U unmasked and R wanted positions, T
places of a block: class tokens and positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenbridge import config

EPSILON = 1e-6
UNCONDITIONAL = -1
"""label of an image without a class"""
FEWEST = 4
"""queries of an attention: for fewer, a CPU's kernels add in another order, and the last bits would be others"""


def take(x: Tensor, at: Tensor) -> Tensor:
    """Entries (B, R, ...) of x (B, T, ...) at indices (B, R) of each row; a GPU need not wait, as for a mask."""
    return x[torch.arange(len(x), device=x.device)[:, None], at]


class Attention(nn.Module):
    """Multi-head self-attention over T places, (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float):
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Of all places, or (B, R, D) of the wanted ones (B, R), which attend to all."""
        if wanted is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            weight, bias, width = self.qkv.weight, self.qkv.bias, x.shape[-1]
            queries = wanted.repeat(1, FEWEST)[:, : max(wanted.shape[1], FEWEST)]
            q = F.linear(take(x, queries), weight[:width], bias[:width]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            pairs = F.linear(x, weight[width:], bias[width:])
            k, v = pairs.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attention_dropout if self.training else 0.0)
        x = x.transpose(1, 2).flatten(2)
        x = x if wanted is None else x[:, : wanted.shape[1]].contiguous()  # else the bias is added in another way
        return self.dropout(self.project(x))


def mlp(width: int, ratio: float, dropout: float) -> nn.Sequential:
    """Two linear layers around GELU, (..., width) -> (..., width).

    Args:
        width: of input and output.
        ratio: of the layer in between to it.
        dropout: probability, after GELU and after the second layer.
    """
    hidden = int(width * ratio)
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
    )


class Block(nn.Module):
    """Pre-norm transformer block, (B, T, D) -> (B, T, D)."""

    def __init__(self, c: config.Backbone, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.width, eps=EPSILON)
        self.attention = Attention(c.width, heads, c.dropout, c.attention_dropout)
        self.norm2 = nn.LayerNorm(c.width, eps=EPSILON)
        self.mlp = mlp(c.width, c.mlp_ratio, c.dropout)

    def forward(self, x: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Of all places, or (B, R, D) of the wanted ones (B, R)."""
        attended = self.attention(self.norm1(x), wanted)
        x = (x if wanted is None else take(x, wanted)) + attended
        return x + self.mlp(self.norm2(x))


class Backbone(nn.Module):
    """From the token embeddings of unmasked positions and a class label to features of all positions."""

    def __init__(self, c: config.Backbone, positions: int, embedding_width: int, classes: int):
        super().__init__()
        self.class_tokens = c.class_tokens
        self.gradient_checkpointing = False
        self.class_embedding = nn.Embedding(classes, c.width)
        self.unconditional = nn.Parameter(torch.zeros(c.width))
        self.embed = nn.Linear(embedding_width, c.width)
        self.embed_norm = nn.LayerNorm(c.width, eps=EPSILON)
        self.encoder_position = nn.Parameter(torch.zeros(c.class_tokens + positions, c.width))
        self.encoder = nn.ModuleList(Block(c, c.heads) for _ in range(c.encoder_depth))
        self.encoder_norm = nn.LayerNorm(c.width, eps=EPSILON)
        self.decoder_embed = nn.Linear(c.width, c.width)
        self.mask_token = nn.Parameter(torch.zeros(c.width))
        self.decoder_position = nn.Parameter(torch.zeros(c.class_tokens + positions, c.width))
        self.decoder = nn.ModuleList(Block(c, c.decoder_heads or c.heads) for _ in range(c.decoder_depth))
        self.decoder_norm = nn.LayerNorm(c.width, eps=EPSILON)
        self.output_position = nn.Parameter(torch.zeros(positions, c.width))
        initialize(self)
        for name in ("unconditional", "mask_token", "encoder_position", "decoder_position", "output_position"):
            nn.init.normal_(getattr(self, name), std=0.02)
        nn.init.normal_(self.class_embedding.weight, std=0.02)

    def forward(self, x: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Features z (B, L, D).

        Args:
            x: (B, L, E) embeddings, of which those of unmasked positions are read.
            mask: (B, L) bool, True where masked, as many in each row.
            labels: (B) int64 in [0, classes), or UNCONDITIONAL.
        """
        unmasked = mask.logical_not()
        seen = int(unmasked[0].sum())
        assert bool((unmasked.sum(1) == seen).all()), "each image must have as many masked positions"
        return self.at(x, unmasked.int().argsort(dim=1, descending=True, stable=True)[:, :seen], labels)

    def at(self, x: Tensor, seen: Tensor, labels: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Features z (B, L, D), as forward gives them. Reads no value, so it runs without any, and no GPU waits.

        Args:
            x: (B, L, E) embeddings, of which those of unmasked positions are read.
            seen: (B, U) int64, indices of the unmasked positions.
            labels: (B) int64 in [0, classes), or UNCONDITIONAL.
            wanted: (B, R) int64, indices of the positions whose features (B, R, D) are given, None for all. The last
                block then computes keys and values of all positions, and the rest for these alone.
        """
        index = seen[..., None]
        known = self.class_embedding(labels.clamp(min=0))
        condition = torch.where((labels == UNCONDITIONAL)[:, None], self.unconditional, known)
        front = condition[:, None].expand(-1, self.class_tokens, -1) + self.encoder_position[: self.class_tokens]
        inner = self.embed(x) + self.encoder_position[self.class_tokens :]
        h = torch.cat([front, inner.gather(1, index.expand(-1, -1, inner.shape[-1]))], dim=1)
        h = self.encoder_norm(self._run(self.encoder, self.embed_norm(h)))

        h = self.decoder_embed(h)
        front, inner = h[:, : self.class_tokens], h[:, self.class_tokens :]
        full = self.mask_token.to(h.dtype).expand(*x.shape[:2], -1).scatter(1, index.expand_as(inner), inner)
        h = torch.cat([front, full], dim=1) + self.decoder_position
        if wanted is None:
            h = self.decoder_norm(self._run(self.decoder, h))
            return h[:, self.class_tokens :] + self.output_position
        h = self.decoder[-1](self._run(self.decoder[:-1], h), wanted + self.class_tokens)
        return self.decoder_norm(h) + self.output_position[wanted]

    def compile_blocks(self) -> None:
        """Compile each block in place: blocks share one code, compiled for few sequence lengths."""
        for block in (*self.encoder, *self.decoder):
            block.compile(dynamic=True)

    def _run(self, blocks: nn.ModuleList, h: Tensor) -> Tensor:
        for block in blocks:
            again = self.gradient_checkpointing and self.training
            h = checkpoint(block, h, use_reentrant=False) if again else block(h)
        return h


def initialize(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias, as the released models start."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
