"""Small continuous heads with trained-like weights, and what they read."""

import torch

from tests.helpers.generators import shake
from tokenbridge.config import Head, Sample
from tokenbridge.model.heads import build_head

WIDTH, CHANNELS = 13, 5
HOW = Sample(head_steps=7)


def head_of(kind, channels=CHANNELS, **settings):
    config = Head(kind=kind, width=22, depth=2, heads=2, multiplier=3, components=3, **settings)
    torch.manual_seed(0)
    return shake(build_head(config, WIDTH, channels, (), tuple(range(channels))), scale=0.15)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(head, n, how=HOW, seed=1):
    """Features and a draw's noise."""
    return normals(n, WIDTH), normals(n, *head.noise_shape(how), seed=seed)


def with_values(how=HOW, **values):
    return how.model_copy(update=values)
