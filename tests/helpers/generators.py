"""A small generator with trained-like weights, in prime sizes, and its tokenizer; arrays of a file."""

import numpy as np
import torch

from tokenbridge.config import Autoencoder, Backbone, Data, Head, Quantizer, RunConfig, Sample, Train
from tokenbridge.model.generator import Generator
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
    return shake(Generator(c, fit(c.quantizer, latents), order))
