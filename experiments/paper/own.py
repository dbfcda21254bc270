"""Tables that the paper does not have."""

from __future__ import annotations

from typing import Any

from experiments.paper.form import Row, Table
from experiments.paper.reconstruction import gaussian
from tokenbridge.metrics.catalogue import (
    AGREEMENT,
    BITS,
    FD,
    IMAGE_TIME,
    PARAMETERS,
    RECALL,
    TOKEN_BITS,
    TRAINING_FLOPS,
)

# fmt: off
_CATEGORICAL = {
    "autoregressive": {"head.kind": "autoregressive"},
    "parallel": {"head.kind": "parallel"},
}
_HALF = {"train.learning_rate": 2e-3}  # at 4e-3 some seeds of mixtures ignored their class
_CONTINUOUS: dict[str, dict[str, Any]] = {  # widths at which heads have as many weights as the categorical ones at 64
    "diffusion": {"head.kind": "diffusion", "head.width": 88, "head.depth": 3} | _HALF,
    "flow": {"head.kind": "flow", "head.width": 88, "head.depth": 3, "sample.head_steps": 25},
    "mixture": {"head.kind": "mixture", "head.width": 144, "head.depth": 3} | _HALF,
    "mixture, full covariance": {
        "head.kind": "mixture", "head.width": 120, "head.depth": 3, "head.covariance": "full"
    } | _HALF,
}
_TRAINED: dict[str, dict[str, Any]] = {  # 1,024 or 1,000 different tokens each
    "VQ": {"quantizer.kind": "vq", "quantizer.levels": 1024},
    "FSQ": {"quantizer.kind": "fsq", "quantizer.levels": (8, 5, 5, 5), "autoencoder.channels": 4},
    "LFQ": {"quantizer.kind": "lfq", "quantizer.levels": 2, "autoencoder.channels": 10},
}


def _rows() -> list[Row]:
    reason = "not in the paper"
    tokens = {f"B={levels}": gaussian(levels) for levels in (8, 16, 32, 64)}
    rows = [
        Row(f"{t}, {h}", token | head, {}, reason)
        for t, token in tokens.items()
        for h, head in _CATEGORICAL.items()
    ]
    identity = {"quantizer.kind": "identity"}
    rows += [Row(f"continuous, {h}", identity | head, {}, reason) for h, head in _CONTINUOUS.items()]
    rows += [
        Row(f"{t}, {h}", token | _CATEGORICAL[h], {}, reason)
        for t, token in _TRAINED.items()
        for h in (("autoregressive",) if t == "VQ" else ("autoregressive", "parallel"))
    ]
    return rows


TABLE_HEADS = Table(
    "heads", "Every head on every token", "generation",
    ("quantizer.kind", "quantizer.levels", "autoencoder.channels", "head.kind", "head.width",
     "head.depth", "head.covariance", "sample.head_steps", "train.learning_rate"),
    tuple(_rows()), (), (TOKEN_BITS, FD, BITS, AGREEMENT, RECALL, PARAMETERS, TRAINING_FLOPS, IMAGE_TIME),
    "One backbone, one number of training steps; what changes is the token and the head. VQ has one channel per token,"
    " so that parallel and autoregressive prediction are the same. VQ, FSQ and LFQ: autoencoders of the same body and"
    " training, each with its own latent space, where bits per dimension of another say nothing. Diffusion"
    " (100 steps) and flow (25) have no exact density. Each head trains at the better of two learning rates, by its"
    " loss on images apart from training on the first seed: diffusion and mixtures at half that of the others.",
    {"head.width": 64, "train.learning_rate": 4e-3}, "B=16, autoregressive",
)
OWN = (
    TABLE_HEADS,
)
# fmt: on
