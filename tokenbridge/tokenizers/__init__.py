"""Tokenizers: latents to tokens and back. The contract Tokenizer, and load for a fitted one.

scalar: post-training quantization and continuous tokens (fit, diagnostics); levels: where its levels come from;
trained: VQ, RVQ, FSQ, LFQ and BSQ. Letters: C token channels, E latent channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tokenbridge.config import UserError
from tokenbridge.weights import read

FILE = "quantizer.safetensors"
"""state of a fitted tokenizer in the folder of its stage"""


class Tokenizer(nn.Module):
    """The token contract: a token is C numbers, made from E latents of unit deviation and turned back into E.

    encode: x (..., E) float -> (..., C) of `dtype`, channel c of whole numbers in [0, levels[c])
    decode: (..., C) -> (..., E) float32, what the backbone reads and the autoencoder decodes
    extremes (2, E): smallest and largest calibration value. levels: () for continuous tokens.
    """

    extremes: Tensor
    dtype = torch.int64

    def __init__(self, extremes: Tensor):
        super().__init__()
        self.register_buffer("extremes", extremes)

    @property
    def embedding_width(self) -> int:
        """E, channels of the autoencoder's latents."""
        return self.extremes.shape[1]

    @property
    def channels(self) -> int:
        """C, E where each latent channel is a token's channel."""
        return self.embedding_width

    @property
    def levels(self) -> tuple[int, ...]:
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def log_volume(self, tokens: Tensor) -> Tensor:
        """(...) nats: log volume of the bins of tokens (..., C): density = probability / volume."""
        raise UserError(f"{type(self).__name__} has no bins of latents that others share, so no bits per dimension")


def load(folder: Path) -> Tokenizer:
    """The fitted tokenizer of a finished stage; raises UserError for a damaged file."""
    from tokenbridge.tokenizers.scalar import IdentityQuantizer, ScalarQuantizer
    from tokenbridge.tokenizers.trained import EvenQuantizer, VectorQuantizer

    state = read(folder / FILE)
    kinds = {"centers": ScalarQuantizer, "codes": VectorQuantizer, "steps": EvenQuantizer}
    return next((kind for key, kind in kinds.items() if key in state), IdentityQuantizer)(**state)
