"""Base configurations. Expected results stand beside each.

digits: about two minutes of training on one CPU core; measured results in reports/digits.
imagenet256-*: the paper's (table 4 and text); published FID 1.76 (L), 1.55 (H). Not run here: no ImageNet, no GPU.
"""

from __future__ import annotations

import difflib

from tokenbridge.config import (
    Autoencoder,
    Backbone,
    Data,
    Head,
    Latents,
    Quantizer,
    RunConfig,
    Sample,
    Train,
    UserError,
)

DIGITS = RunConfig(
    # 16 levels: with 1,438 training images, finer ones are each seen too seldom; of 16 positions, half masked or more
    quantizer=Quantizer(levels=16, range=5.0),
    backbone=Backbone(width=96, encoder_depth=2, decoder_depth=3, heads=4, class_tokens=4, dropout=0.0),
    head=Head(width=64, depth=2, heads=4, dropout=0.0, attention_dropout=0.0),
    train=Train(
        epochs=20,
        warmup_epochs=2,
        batch=32,
        learning_rate=4e-3,
        ema=0.998,
        precision="float32",
        mask_ratio_min=0.5,
    ),
    sample=Sample(images=2000, iterations=8, guidance=1.5, temperature=0.8),
)


THREADS = {"digits": 1}
"""CPU threads of a stage where that is fixed: the weights are then the same bit for bit however many cores there are,
so the commands of a report repeat its numbers. On an idle machine two train about 1.5 times as fast (--threads)."""


def _imagenet(width: int, depth: int, heads: int, head: Head, temperature: float, guidance: float) -> RunConfig:
    return RunConfig(
        data=Data(
            source="folder",
            path="imagenet/train",
            held_out_path="imagenet/val",
            image_size=256,
            image_channels=3,
            classes=1000,
        ),
        autoencoder=Autoencoder(source="ldm", path="kl16.ckpt", channels=16, stride=16),
        latents=Latents(scale=0.2325),
        backbone=Backbone(width=width, encoder_depth=depth, decoder_depth=depth, heads=heads),
        head=head,
        train=Train(),
        sample=Sample(temperature=temperature, guidance=guidance),
    )


PRESETS: dict[str, RunConfig] = {
    "digits": DIGITS,
    # the paper gives no temperature and guidance for B; those of L stand in
    "imagenet256-B": _imagenet(768, 12, 12, Head(width=768, depth=4), 0.97, 3.1),
    "imagenet256-L": _imagenet(1024, 16, 16, Head(width=1024, depth=4), 0.97, 3.1),
    "imagenet256-H": _imagenet(1280, 20, 16, Head(width=1024, depth=6), 0.91, 3.45),
}


def preset(name: str) -> RunConfig:
    """A base configuration by name; UserError names the closest where there is none."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1, 0.3)
        hint = f"did you mean {near[0]}?" if near else f"presets are {', '.join(PRESETS)}"
        raise UserError(f"{name} is no preset; {hint}")
    return PRESETS[name]
