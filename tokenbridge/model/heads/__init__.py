"""Heads: the distribution of one token given its feature. One contract (contract.py), one file a head."""

from __future__ import annotations

from tokenbridge import config
from tokenbridge.model.heads.autoregressive import AutoregressiveHead
from tokenbridge.model.heads.categorical import CategoricalHead
from tokenbridge.model.heads.contract import Head
from tokenbridge.model.heads.diffusion import DiffusionHead
from tokenbridge.model.heads.flow import FlowHead
from tokenbridge.model.heads.mixture import MixtureHead
from tokenbridge.model.heads.parallel import ParallelHead

CLASSES: tuple[type[Head], ...] = (
    AutoregressiveHead,
    ParallelHead,
    DiffusionHead,
    FlowHead,
    MixtureHead,
)
HEADS: dict[str, type[Head]] = {head.kind: head for head in CLASSES}
CATEGORICAL = {head.kind: head for head in CLASSES if issubclass(head, CategoricalHead)}
CONTINUOUS = {head.kind: head for head in CLASSES if not issubclass(head, CategoricalHead)}


def build_head(c: config.Head, width: int, channels: int, levels: tuple[int, ...], order: tuple[int, ...]) -> Head:
    """The configured head for features of a width and tokens of these channels.

    levels: of each channel, in stored order (none for continuous tokens); order: channels in the order of prediction.
    """
    if c.kind in CATEGORICAL:
        return CATEGORICAL[c.kind](c, width, levels, order)
    return CONTINUOUS[c.kind](c, width, channels)


__all__ = ["CATEGORICAL", "CONTINUOUS", "HEADS", "Head", "build_head"]
