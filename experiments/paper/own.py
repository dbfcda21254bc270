"""Tables that the paper does not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.paper.form import Claim, Row, Table
from experiments.paper.reconstruction import gaussian
from tokenbridge.metrics.catalogue import (
    AGREEMENT,
    BASE_IN_BINS,
    BIN_BITS,
    BIN_COST,
    BITS,
    CORRELATION,
    FD,
    IMAGE_TIME,
    MEMORIZATION,
    NORMAL_BITS,
    PARAMETERS,
    RECALL,
    TOKEN_BITS,
    TOKEN_BITS_PER_DIM,
    TRAINING_FLOPS,
)

# fmt: off
_CATEGORICAL = {
    "autoregressive": {"head.kind": "autoregressive"},
    "parallel": {"head.kind": "parallel"},
}
_CONTINUOUS: dict[str, dict[str, Any]] = {  # widths at which heads have as many weights as the categorical ones at 64
    "diffusion": {"head.kind": "diffusion", "head.width": 88, "head.depth": 3, "train.learning_rate": 2e-3},
    "flow": {"head.kind": "flow", "head.width": 88, "head.depth": 3, "sample.head_steps": 25,
             "train.learning_rate": 2e-3},
    "mixture": {"head.kind": "mixture", "head.width": 144, "head.depth": 3, "train.learning_rate": 2e-3},
    "mixture, full covariance": {"head.kind": "mixture", "head.width": 120, "head.depth": 3, "head.covariance": "full",
                                 "train.learning_rate": 1e-3},
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
    tuple(_rows()), (),
    (TOKEN_BITS, FD, BITS, AGREEMENT, RECALL, MEMORIZATION, PARAMETERS, TRAINING_FLOPS, IMAGE_TIME),
    "One backbone, one number of training steps; what changes is the token and the head, and with it the learning rate."
    " VQ has one channel per token,"
    " so that parallel and autoregressive prediction are the same. VQ, FSQ and LFQ: autoencoders of the same body and"
    " training, each with its own latent space, where bits per dimension of another say nothing. Of diffusion (100"
    " steps) and flow (25) no density is computed. Each head trains at a learning rate of which half and twice gave a"
    " higher validation loss on the digits, with the first seed. Guidance and temperature act on what a head predicts"
    " (logits, noise, velocity, components), so that their values compare within one kind of head alone.",
    {"head.width": 64, "train.learning_rate": 4e-3}, "B=16, autoregressive",
    claims=(
        Claim("post-training", "continuous", (FD,), chosen=True),
        Claim("post-training", "trained", (FD,), chosen=True),
    ),
)
TABLE_LIKELIHOOD = replace(
    TABLE_HEADS, id="likelihood", title="Likelihood in parts",
    rows=tuple(row for row in TABLE_HEADS.rows if row.label.startswith("B=") or "mixture" in row.label),
    measured=(TOKEN_BITS_PER_DIM, BIN_BITS, BITS, BASE_IN_BINS, BIN_COST, NORMAL_BITS),
    note="The rows of the table of all heads that have a density. Bits/dim is the sum of the two columns before it and"
    " measures bins as well as models, so a row of levels is compared with the base in the same bins, any other with"
    " the base itself.",
    base="continuous, mixture, full covariance", claims=(),
)
"""no grid runs it: a report with the table of all heads has it, where its runs measured the parts"""
EQUAL_COMPUTE = {  # epochs with which a row of table heads takes as many operations as its diffusion head in 20
    "B=8, autoregressive": 13, "B=16, autoregressive": 13, "B=16, parallel": 13, "B=64, autoregressive": 13,
    "continuous, diffusion": 20, "continuous, flow": 20, "continuous, mixture, full covariance": 31,
    "VQ, autoregressive": 30, "FSQ, autoregressive": 20, "LFQ, autoregressive": 11,
}
TABLE_COMPUTE = Table(
    "compute", "Heads at equal training compute", "generation", (*TABLE_HEADS.varies, "train.epochs"),
    tuple(
        Row(label, {**(TABLE_HEADS.row(label).overrides or {}), "train.epochs": epochs}, {}, "not in the paper")
        for label, epochs in EQUAL_COMPUTE.items()
    ), (), (TOKEN_BITS, TRAINING_FLOPS, FD, BITS, NORMAL_BITS, AGREEMENT, RECALL, MEMORIZATION),
    "Rows of the table of all heads, each trained for as many operations as the diffusion head there, to the nearest"
    " epoch: more steps for heads that cost less, fewer for those that cost more. The ratios are those of the preset"
    " digits; the column of operations has what was counted.",
    {**TABLE_HEADS.scaled, "train.epochs": 20}, TABLE_HEADS.base, rounded=("train.epochs",),
    claims=(Claim("post-training", "continuous", (FD,), chosen=True),),
)
FREE_NATS = (0.0, 0.5, 1.5)  # of information per channel and position; the shipped autoencoder has 1.5
TABLE_AUTOENCODERS = Table(
    "autoencoders", "Autoregressive against parallel, by autoencoder", "generation",
    ("autoencoder.free_nats", "autoencoder.seed", "head.kind"),
    tuple(
        Row(
            f"{free:g} nats, {head}",
            {"autoencoder.source": "trained", "autoencoder.free_nats": free, "head.kind": head}, {}, "not in the paper",
        )
        for free in FREE_NATS
        for head in _CATEGORICAL
    ), (), (CORRELATION, FD, TOKEN_BITS_PER_DIM, BITS, AGREEMENT, RECALL, MEMORIZATION),
    "Each training seed has an autoencoder of its own, trained like the shipped one with the same seed and a floor of"
    " so many nats of information per channel and position: the more, the more channels repeat each other. Within one"
    " floor, autoregressive and parallel share the autoencoders, and so their difference is one between pairs; bits of"
    " two floors are of two latent spaces.",
    base=f"{FREE_NATS[-1]:g} nats, autoregressive", seeded=("autoencoder.seed",),
    claims=tuple(Claim(f"{free:g} nats, autoregressive", f"{free:g} nats, parallel", (FD, BITS)) for free in FREE_NATS),
)
OWN = (
    TABLE_HEADS, TABLE_COMPUTE, TABLE_AUTOENCODERS,
)
# fmt: on
