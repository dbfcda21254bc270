"""The heads: distributions of one token given its feature, one file each, all with the contract of contract.py.

categorical.py is the base of those that predict levels (autoregressive, parallel), residual.py the network of those
that predict values (diffusion, flow, mixture). HEAD_KINDS in tokenbridge.config is the one list of heads, without
torch, because planning asks it. Others use Head and build_head.
"""

from __future__ import annotations

import importlib
from typing import Any

from tokenbridge import config
from tokenbridge.config import HEAD_KINDS
from tokenbridge.model.heads.contract import Head


def build_head(c: config.Head, width: int, channels: int, levels: tuple[int, ...], order: tuple[int, ...]) -> Head:
    """The configured head, with initial weights.

    Args:
        c: its kind and settings.
        width: D, of the features that it reads.
        channels: C, of a token.
        levels: (C) number of levels of each channel in stored order, () for continuous tokens.
        order: (C) channels in the order of prediction.
    """
    declared = HEAD_KINDS[c.kind]
    module, _, name = declared.code.rpartition(".")
    make: Any = getattr(importlib.import_module(module), name)
    return make(c, width, levels, order) if declared.predicts == "levels" else make(c, width, channels)


__all__ = ["Head", "build_head"]
