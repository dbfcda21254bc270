"""A small generator and small heads with trained-like weights, in prime sizes, and what they read; arrays of a file."""

import numpy as np
import torch

from tokenbridge.config import Autoencoder, Backbone, Data, Head, Quantizer, RunConfig, Sample, Train
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads import build_head
from tokenbridge.tokenizers.scalar import fit

CHANNELS, LEVELS, POSITIONS, CLASSES = 5, 7, 9, 3


def config(kind="autoregressive", **head):
    return RunConfig(
        data=Data(source="folder", path="-", image_size=12, classes=CLASSES),
        autoencoder=Autoencoder(channels=CHANNELS, stride=4),
        quantizer=Quantizer(levels=LEVELS, range=3),
        backbone=Backbone(
            width=14, encoder_depth=1, decoder_depth=2, heads=2, class_tokens=2, dropout=0, attention_dropout=0
        ),
        head=Head(kind=kind, width=22, depth=2, heads=2, dropout=0, attention_dropout=0, **head),
        train=Train(epochs=3, warmup_epochs=1, batch=8, precision="float32"),
        sample=Sample(images=11, iterations=4),
    )


def arrays_of(path):
    """All of an .npz file, which is closed again."""
    with np.load(path) as arrays:
        return dict(arrays)


def shake(module, seed=0, scale=0.3):
    """Random values everywhere, as training leaves them: the initial gates are zero and would hide mistakes."""
    own = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=own) * scale)
    return module.eval()


def generator(kind="autoregressive", order=(2, 0, 4, 1, 3), **head):
    latents = torch.randn(400, CHANNELS, generator=torch.Generator().manual_seed(1))
    c = config(kind, **head)
    if c.head.continuous:
        c = c.model_copy(update={"quantizer": Quantizer(kind="identity")})
    return shake(Generator(c, fit(c.quantizer, latents), order))


WIDTH = 13
"""of the features that a head of `head_of` reads"""
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
