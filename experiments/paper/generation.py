"""Tables 2a to 2e: how the tokens are predicted."""

from __future__ import annotations

from experiments.paper.form import Claim, Column, Row, Table
from experiments.paper.reconstruction import gaussian
from tokenbridge.metrics.catalogue import (
    AGREEMENT,
    BITS,
    FD,
    HEAD_PARAMETERS,
    IS,
    NORMAL_BITS,
    PRECISION,
    RECALL,
    TOKEN_BITS_PER_DIM,
)

# fmt: off
GFID_IS = (Column("gfid", "gFID", "lower"), Column("is", "IS", "higher", 1))
BOTH = (FD, BITS)
"""metrics of a claim between rows with the same bins"""
GENERATION = (FD, BITS, IS, AGREEMENT, PRECISION, RECALL)

TABLE_2A = Table(
    "2a", "Prediction of the channels of a token", "generation", ("head.kind",),
    (
        Row("parallel", {"head.kind": "parallel"}, {"gfid": 15.7, "is": 158.5}),
        Row("autoregressive", {"head.kind": "autoregressive"}, {"gfid": 1.94, "is": 306.1}),
    ),
    GFID_IS, GENERATION,
    "Parallel: all channels at once, independent of each other. Autoregressive: one after another, each given those"
    " before it.",
    base="autoregressive",
    claims=(Claim("autoregressive", "parallel", BOTH),),
)
TABLE_2B = Table(
    "2b", "Channel order", "generation", ("head.order",),
    (
        Row("as stored", {"head.order": "stored"}, {"gfid": 1.94, "is": 306.1}),
        Row("frequency", {"head.order": "frequency"}, {"gfid": 1.89, "is": 307.3}),
    ),
    GFID_IS, GENERATION,
    claims=(Claim("frequency", "as stored", BOTH),),
)
TABLE_2C = Table(
    "2c", "Levels per channel, in generation", "generation", ("quantizer.levels",),
    (
        Row("B=16", gaussian(16), {"gfid": 2.03, "is": 295.0}),
        Row("B=32", gaussian(32), {"gfid": 1.98, "is": 298.4}),
        Row("B=64", gaussian(64), {"gfid": 1.94, "is": 306.1}),
    ),
    GFID_IS, (FD, TOKEN_BITS_PER_DIM, BITS, NORMAL_BITS, *GENERATION[2:]),
    claims=(Claim("B=64", "B=16", (FD,)),),
)


def _group(count: int, **published: float) -> Row:
    label = "1 channel" if count == 1 else f"{count} channels"
    return Row(label, gaussian(16) | {"head.group": count}, published)


TABLE_2D = Table(
    "2d", "Channels predicted together", "generation", ("head.group",),
    (
        _group(1, classes=16, params=60, gfid=2.28, **{"is": 289.1}),
        _group(2, classes=256, params=63, gfid=2.45, **{"is": 291.2}),
        _group(4, classes=65_536, params=530, gfid=3.24, **{"is": 282.9}),
    ),
    (Column("classes", "classes", "", 0), Column("params", "head parameters", "", 0, "M"), *GFID_IS),
    (HEAD_PARAMETERS, *GENERATION),
    "16 levels; in the paper with a backbone of 172M parameters.",
    claims=(Claim("1 channel", "4 channels", BOTH),),
)


def _head(width: int, depth: int, **published: float) -> Row:
    return Row(f"{width}×{depth}", {"head.width": width, "head.depth": depth}, published)


TABLE_2E = Table(
    "2e", "Size of the head (width × blocks)", "generation", ("head.width", "head.depth"),
    (
        _head(256, 3, params=3, gfid=2.88, **{"is": 277.3}),
        _head(512, 3, params=10, counted=16.3, gfid=2.72, **{"is": 284.8}),
        _head(512, 4, params=13, counted=21.0, gfid=2.65, **{"is": 295.5}),
        _head(1024, 4, params=65, counted=80.8, gfid=2.03, **{"is": 305.0}),
        _head(1024, 6, params=94, counted=118.6, gfid=1.94, **{"is": 306.1}),
    ),
    (
        Column("params", "parameters, printed", "", 0, "M"),
        Column("counted", "parameters, counted", "", 1, "M"),
        *GFID_IS,
    ),
    (HEAD_PARAMETERS, *GENERATION),
    "The parameters that the paper prints are not those of the released head, which are counted beside. Here the head's"
    " width keeps its ratio to that of the base (1024 in the paper).",
    {"head.width": 1024}, "1024×4",
    claims=(Claim("1024×6", "256×3", BOTH),),
)
# fmt: on
