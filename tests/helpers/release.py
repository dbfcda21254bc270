"""Checkpoints as the releases write them, of the small weights in tests/data, and images that go with them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.helpers.machine import DATA
from tokenbridge.exchange.released import BUFFERS

SIZES = [
    "data.image_size=64", "data.classes=7", "backbone.width=32", "backbone.encoder_depth=2",
    "backbone.decoder_depth=2", "backbone.heads=4", "backbone.decoder_heads=4", "backbone.class_tokens=5",
    "head.width=48", "head.depth=2",
    "head.heads=4", "quantizer.levels=16", "sample.iterations=5", "sample.images=3", "sample.temperature=0",
    "sample.head_steps=10",
]  # fmt: skip


def content(family: str = "tokenbridge") -> dict[str, Any]:
    """Its averaged weights are those of tests/data; the last ones are half as large, buffers apart."""
    ema = load_file(DATA / f"{family}_weights.safetensors")
    raw = {name: value if name in BUFFERS else value / 2 for name, value in ema.items()}
    step = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}
    optimizer = {"state": {0: step}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    args = Namespace(model=f"{family}_small", epochs=800, output_dir="out", resume=None, betas=(0.9, 0.95))
    return {"model": raw, "model_ema": ema, "optimizer": optimizer, "epoch": 799, "scaler": {}, "args": args}


def write(folder: Path, family: str = "tokenbridge", **changes: Any) -> Path:
    path = folder / "checkpoint-last.pth"
    torch.save(content(family) | changes, path)
    return path


def change(family: str = "tokenbridge", key: str = "model", **changes: Any) -> dict[str, Any]:
    """The checkpoint's weights under this key with tensors put in, or taken out where they are None."""
    state = content(family)[key] | changes
    return {key: {name: value for name, value in state.items() if value is not None}}


def images(folder: Path, classes: int = 7, each: int = 3) -> Path:
    """A folder of noise with one sub-folder per class."""
    draws = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(each):
            Image.fromarray(draws.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"class{label}" / f"{i}.png")
    return folder


def autoencoder(folder: Path) -> Path:
    """Of 16 channels and stride 16, with random weights."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 5,
            up_block_types=("UpDecoderBlock2D",) * 5,
            block_out_channels=(4,) * 5,
            layers_per_block=1,
            latent_channels=16,
            norm_num_groups=2,
            mid_block_add_attention=False,
        ).save_pretrained(folder)
    return folder
