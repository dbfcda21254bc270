"""Trained tokenizers: vector (VQ), residual (RVQ), finite scalar (FSQ), lookup-free (LFQ) and binary spherical (BSQ)
quantization.

vector-quantize-pytorch quantizes while their autoencoder is trained (stages/tokenizer.py); this file holds what remains
of it afterwards, under the token contract and in latents of unit deviation.
Letters: N any number of latents, E latent channels, C token channels (1 for VQ, codebooks for RVQ, else E), V levels
or codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tokenbridge.config import RunConfig
from tokenbridge.tokenizers import Tokenizer

TRAINED = "tokenizer.safetensors"
"""file that the stage `tokenizer` leaves: weights of the body and of the library's quantizer"""
BODY = "body."
"""prefix of the body's keys"""
DISTANCES = 2**22
"""between latents and codes that are in memory at once"""


def codebook_sizes(config: RunConfig) -> dict[str, int]:
    """V by the library's key of the codes (1, V, E): VQ's, or RVQ's coarse to fine; the others' follow from levels."""
    kind, levels = config.quantizer.kind, config.token_levels
    if kind == "vq":
        return {"quantizer._codebook.embed": levels[0]}
    return {f"quantizer.layers.{i}._codebook.embed": size for i, size in enumerate(levels)} if kind == "rvq" else {}


def codebooks(config: RunConfig, values: Callable[[int, int, int], Tensor]) -> dict[str, Tensor]:
    """Codes in place of trained ones, values(1, V, E) of each codebook, by its key."""
    return {key: values(1, size, config.autoencoder.channels) for key, size in codebook_sizes(config).items()}


def rounded_from(config: RunConfig) -> Callable[[Tensor], Tensor]:
    """The map from the encoder's output (B, E, h, w) to the values whose nearest code is taken.

    FSQ (arXiv 2309.15505, section 3.1) and LFQ bound them, BSQ (arXiv 2406.07548, section 4.1) puts them on the unit
    sphere, VQ and RVQ read them as they are.
    """
    kind = config.quantizer.kind
    if kind in ("vq", "rvq"):
        return lambda x: x
    if kind == "lfq":
        return torch.tanh
    if kind == "bsq":
        return partial(functional.normalize, dim=1)

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
    levels, kind = torch.tensor(config.token_levels), config.quantizer.kind
    if keys := codebook_sizes(config):
        return VectorQuantizer(torch.cat([state[key][0] for key in keys]) * scale, extremes, levels)
    # BSQ's are ±1/√E: its codes, too, are on the unit sphere
    least = torch.full((len(levels),), -(len(levels) ** -0.5) if kind == "bsq" else -1.0)
    steps = 1 / (levels // 2) if kind == "fsq" else -2 * least
    return EvenQuantizer(least * scale, steps * scale, levels, extremes)


class VectorQuantizer(Tokenizer):
    """Nearest of V codes (VQ, arXiv 1711.00937), or of those of several codebooks in turn (RVQ, arXiv 2107.03312).

    A token is the number of its code in each codebook. Each codebook is asked for what those before it have left over,
    and a token's value is the sum of its codes; with several, that value's own token may be another one.
    """

    codes: Tensor
    counts: Tensor

    def __init__(self, codes: Tensor, extremes: Tensor, counts: Tensor | None = None):
        """codes (ΣV, E) float32, codebook after codebook; extremes (2, E); counts (C,) int64: V of each codebook.

        Without counts, all codes are of one codebook.
        """
        super().__init__(extremes)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.tensor([len(codes)]) if counts is None else counts)
        self._levels = tuple(self.counts.tolist())

    @property
    def channels(self) -> int:
        return len(self._levels)

    @property
    def levels(self) -> tuple[int, ...]:
        return self._levels

    def encode(self, x: Tensor) -> Tensor:
        rows = x.float().reshape(-1, self.embedding_width)
        tokens = list[Tensor]()
        for codes in self.codes.split(self._levels):
            # without the product form of the distance, in which a code is not always nearest to itself
            nearest = [
                torch.cdist(part, codes, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
                for part in rows.split(max(1, DISTANCES // len(codes)))
            ]
            tokens.append(torch.cat(nearest))
            rows = rows - codes[tokens[-1]]
        return torch.stack(tokens, -1).reshape(*x.shape[:-1], self.channels)

    def decode(self, tokens: Tensor) -> Tensor:
        books = self.codes.split(self._levels)
        return torch.stack([codes[tokens[..., c]] for c, codes in enumerate(books)]).sum(0)


class EvenQuantizer(Tokenizer):
    """Evenly spaced values per channel, value = first + step · index: FSQ, and the bits of LFQ and BSQ."""

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
