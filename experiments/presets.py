"""Base configurations. Expected results stand beside each.

digits: about two minutes of training on one CPU core; measured results in reports/digits.
imagenet256-*: the paper's (table 4 and text); published FID 1.76 (L), 1.55 (H). Not run here: no ImageNet, no GPU.
imagenet256-*-released: the same models by the released commands (table 4): half the learning rate, 400 epochs (H: 800).
imagenet256-mar-*: MAR with its released heads, in the same training; published FID 2.31 (B), 1.78 (L), 1.55 (H).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

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
from tokenbridge.overrides import override

DIGITS = RunConfig(
    # 16 levels: with 1,198 training images, finer ones are each seen too seldom; of 16 positions, half masked or more
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


_BACKBONES = {
    "B": Backbone(width=768, encoder_depth=12, decoder_depth=12, heads=12),
    "L": Backbone(width=1024, encoder_depth=16, decoder_depth=16, heads=16),
    "H": Backbone(width=1280, encoder_depth=20, decoder_depth=20, heads=16),
}


def _imagenet(size: str, head: Head, temperature: float, guidance: float) -> RunConfig:
    return RunConfig(
        data=Data(
            source="folder",
            path="imagenet/train",
            test_path="imagenet/val",
            validation_fraction=0.01,  # 12,812 training images
            image_size=256,
            image_channels=3,
            classes=1000,
        ),
        autoencoder=Autoencoder(source="ldm", path="kl16.ckpt", channels=16, stride=16),
        latents=Latents(scale=0.2325, flip=True),
        quantizer=Quantizer(kind="identity" if head.kind == "diffusion" else "gaussian"),
        backbone=_BACKBONES[size],
        head=head,
        train=Train(decay="released"),
        sample=Sample(temperature=temperature, guidance=guidance),
    )


_PAPER = {
    # channels by frequency, as in the method; the paper gives no temperature and guidance for B: those of L stand in
    "imagenet256-B": _imagenet("B", Head(width=768, depth=4, order="frequency"), 0.97, 3.1),
    "imagenet256-L": _imagenet("L", Head(width=1024, depth=4, order="frequency"), 0.97, 3.1),
    "imagenet256-H": _imagenet("H", Head(width=1024, depth=6, order="frequency"), 0.91, 3.45),
}
_FREQUENCY = (8, 1, 10, 9, 6, 12, 4, 0, 3, 11, 7, 14, 2, 15, 13, 5)  # channels of KL-16, as TokenBridge was released
# column `released` of table 4, 5e-5 · batch / 256; the released command of H trains 800 epochs
_COMMAND = {
    "head.order": _FREQUENCY,
    "train.learning_rate": 4e-4,
    "train.warmup_epochs": 100,
    "train.epochs": 400,
    "train.clip": 3.0,
    "data.validation_fraction": 0.0,
}
_COMMANDS = {"B": _COMMAND, "L": _COMMAND | {"sample.temperature": 0.96}, "H": _COMMAND | {"train.epochs": 800}}

PRESETS: dict[str, RunConfig] = {
    "digits": DIGITS,
    **_PAPER,
    **{f"imagenet256-{size}-released": override(_PAPER[f"imagenet256-{size}"], _COMMANDS[size]) for size in "BLH"},
    "imagenet256-mar-B": _imagenet("B", Head(kind="diffusion", width=1024, depth=6), 1.0, 2.9),
    "imagenet256-mar-L": _imagenet("L", Head(kind="diffusion", width=1280, depth=8), 1.0, 3.0),
    "imagenet256-mar-H": _imagenet("H", Head(kind="diffusion", width=1536, depth=12), 1.0, 3.2),
}

# nothing is trained, so no mirror image is needed; the weights have seen all images of the training folder
_SAMPLED = {"head.start": "released", "latents.flip": False, "data.validation_fraction": 0.0}
RELEASED: dict[str, RunConfig] = {
    **{
        f"tokenbridge-{size}": override(PRESETS[f"imagenet256-{size}"], _SAMPLED | {"head.order": _FREQUENCY} | changes)
        for size, changes in (("B", {}), ("L", {"sample.temperature": 0.96}), ("H", {}))
    },
    **{f"mar-{size}": override(PRESETS[f"imagenet256-mar-{size}"], _SAMPLED) for size in "BLH"},
}
"""Configurations of the released weights by name: sampled as their release samples them"""


def preset(name: str) -> RunConfig:
    """A base configuration by name; UserError names the closest where there is none."""
    return _named(name, PRESETS, "preset")


def released(name: str) -> RunConfig:
    """The configuration of released weights by name; UserError names the closest where there is none."""
    return _named(name, RELEASED, "released model")


def _named(name: str, known: Mapping[str, RunConfig], what: str) -> RunConfig:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.3)
        hint = f"did you mean {near[0]}?" if near else f"{what}s are {', '.join(known)}"
        raise UserError(f"{name} is no {what}; {hint}")
    return known[name]
