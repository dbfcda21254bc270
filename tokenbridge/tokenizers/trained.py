"""Trained tokenizers: vector (VQ), finite scalar (FSQ) and lookup-free (LFQ) quantization.

vector-quantize-pytorch quantizes while their autoencoder is trained (stages/tokenizer.py); this file holds what remains
of it afterwards, under the token contract and in latents of unit deviation.
Letters: N any number of latents, E latent channels, C token channels (1 for VQ, else E), V levels or codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tokenbridge.config import RunConfig
from tokenbridge.tokenizers import Tokenizer

TRAINED = "tokenizer.safetensors"
"""file that the stage `tokenizer` leaves: weights of the body and of the library's quantizer"""
BODY = "body."
"""prefix of the body's keys"""
CODEBOOK = "quantizer._codebook.embed"
"""the library's key of VQ's codes (1, V, E)"""
DISTANCES = 2**22
"""between latents and codes that are in memory at once"""


def rounded_from(config: RunConfig) -> Callable[[Tensor], Tensor]:
    """The map from the encoder's output (B, E, h, w) to the values whose nearest code is taken.

    FSQ (arXiv 2309.15505, section 3.1) and LFQ bound them, VQ reads them as they are.
    """
    if config.quantizer.kind == "vq":
        return lambda x: x
    if config.quantizer.kind == "lfq":
        return torch.tanh

    def bound(x: Tensor) -> Tensor:
        levels = torch.tensor(config.token_levels, device=x.device)[:, None, None]
        half = (levels - 1) * (1 + 1e-3) / 2  # a little beyond the outer levels, so that they are reached
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        return (torch.tanh(x + torch.atanh(offset / half)) * half - offset) / (levels // 2)

    return bound


def finish(config: RunConfig, state: Mapping[str, Tensor], scale: float, extremes: Tensor) -> Tokenizer:
    """The tokenizer of a finished training.

    Args:
        state: what TRAINED holds.
        scale: factor from the trained latents to unit deviation, by which the codes are multiplied.
        extremes: (2, E), smallest and largest calibration value in unit latents.
    """
    levels = torch.tensor(config.token_levels)
    if config.quantizer.kind == "vq":
        return VectorQuantizer(state[CODEBOOK][0] * scale, extremes)
    steps = 1 / (levels // 2) if config.quantizer.kind == "fsq" else torch.full((len(levels),), 2.0)
    return EvenQuantizer(torch.full((len(levels),), -scale), steps * scale, levels, extremes)


class VectorQuantizer(Tokenizer):
    """Nearest of V codes (arXiv 1711.00937): a token is the number of its code (C = 1)."""

    codes: Tensor

    def __init__(self, codes: Tensor, extremes: Tensor):
        """codes (V, E) float32; extremes (2, E)."""
        super().__init__(extremes)
        self.register_buffer("codes", codes)

    @property
    def channels(self) -> int:
        return 1

    @property
    def levels(self) -> tuple[int, ...]:
        return (len(self.codes),)

    def encode(self, x: Tensor) -> Tensor:
        rows = x.float().reshape(-1, self.embedding_width)
        # without the product form of the distance, in which a code is not always nearest to itself
        nearest = [
            torch.cdist(part, self.codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
            for part in rows.split(max(1, DISTANCES // len(self.codes)))
        ]
        return torch.cat(nearest).reshape(*x.shape[:-1], 1)

    def decode(self, tokens: Tensor) -> Tensor:
        return self.codes[tokens[..., 0]]


class EvenQuantizer(Tokenizer):
    """Evenly spaced values per channel, value = first + step · index: FSQ, and LFQ's ±1."""

    first: Tensor
    steps: Tensor
    counts: Tensor

    def __init__(self, first: Tensor, steps: Tensor, counts: Tensor, extremes: Tensor):
        """first, steps (C,) float32: lowest value, spacing; counts (C,) int64: number of levels; extremes (2, C)."""
        super().__init__(extremes)
        for name, value in (("first", first), ("steps", steps), ("counts", counts)):
            self.register_buffer(name, value)
        self._levels = tuple(counts.tolist())

    @property
    def levels(self) -> tuple[int, ...]:
        return self._levels

    def encode(self, x: Tensor) -> Tensor:
        index = ((x.float() - self.first) / self.steps).round().long()
        return torch.minimum(index.clamp_(min=0), self.counts - 1)

    def decode(self, tokens: Tensor) -> Tensor:
        return self.first + self.steps * tokens
