"""Base configurations, and files of settings on top of one. Expected results stand beside each.

small: for a folder of small images of one's own and a small autoencoder of them; what `tokenbridge init` builds on.
digits: about two minutes of training on one CPU core; measured results in reports/digits.
fashion: Fashion-MNIST padded to 32×32, of Debian's package or torchvision's download, in 16 channels.
imagenet256-*: the paper's (table 4 and text); published FID 1.76 (L), 1.55 (H). Not run here: no ImageNet, no GPU.
imagenet256-*-released: the same models by the released commands (table 4): half the learning rate, 400 epochs (H: 800).
imagenet256-mar-*: MAR with its released heads, in the same training; published FID 2.31 (B), 1.78 (L), 1.55 (H).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbridge.config import (
    Autoencoder,
    Backbone,
    Data,
    Head,
    Latents,
    Likelihood,
    Quantizer,
    RunConfig,
    Sample,
    Score,
    Train,
    UserError,
    holds_path,
)
from tokenbridge.overrides import flatten, near, override, typed
from tokenbridge.store.runs import require_name

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


SMALL = RunConfig(
    # the model of the digits, whose sizes fit a thousand images
    data=Data(source="folder", path="images", image_size=32, image_channels=3, classes=2),
    autoencoder=Autoencoder(source="diffusers", path="autoencoder", channels=8, stride=4),
    quantizer=DIGITS.quantizer,
    backbone=DIGITS.backbone,
    head=DIGITS.head,
    train=DIGITS.train,
    sample=Sample(images=1000, iterations=16, guidance=1.5, temperature=0.8),
)


FASHION = RunConfig(
    # as many channels as the paper's autoencoder; 4×4 positions, so the backbone is that of the digits
    data=Data(source="torchvision", name="FashionMNIST", image_size=32, padded=True),
    autoencoder=Autoencoder(source="fashion", channels=16, stride=8),
    quantizer=DIGITS.quantizer,
    backbone=DIGITS.backbone,
    head=DIGITS.head,
    # rates, guidance and temperature were not searched on these images; an epoch has 44 times as many steps
    train=DIGITS.train.model_copy(update={"epochs": 3, "warmup_epochs": 0.25}),
    sample=Sample(images=5000, iterations=8, guidance=1.5, temperature=0.9),
    score=Score(features="fashion"),
)


THREADS = {"digits": 1, "fashion": 1}
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
        latents=Latents(scale=0.2325, flip=True, precision="bfloat16"),
        quantizer=Quantizer(kind="identity" if head.kind == "diffusion" else "gaussian"),
        backbone=_BACKBONES[size],
        head=head,
        train=Train(decay="released"),
        likelihood=Likelihood(precision="bfloat16"),
        sample=Sample(temperature=temperature, guidance=guidance, precision="bfloat16"),
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
    "fashion": FASHION,
    "small": SMALL,
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


ENDING = ".toml"
"""of a file of settings, which stands wherever a preset's name does"""
NAMES = ("preset", "name")
"""what such a file holds beside the sections of settings"""
NONE = "none"
"""as text in a file: no value, which TOML has no word for"""
SPLITS = ("train", "validation", "test")
"""what score.reference may be that is no path"""


@dataclass(frozen=True)
class Base:
    """What a command starts from: a preset, or a file of settings on top of one."""

    name: str
    """what runs from here are called"""
    preset: str
    settings: tuple[str, ...] = ()
    """those of the file, as they would be typed; its paths are absolute, so that they hold in any folder"""

    @property
    def config(self) -> RunConfig:
        return override(preset(self.preset), self.settings)

    @property
    def threads(self) -> int | None:
        """CPU threads of a stage, where the preset fixes them."""
        return THREADS.get(self.preset)


def base(name: str) -> Base:
    """A preset by its name, or the settings of a file whose name ends in .toml.

    Raises:
        UserError: names the closest preset where there is none, and what of a file cannot be.
    """
    if name.endswith(ENDING):
        return _read(Path(name))
    preset(name)
    return Base(name, name)


def preset(name: str) -> RunConfig:
    """A base configuration by name; UserError names the closest where there is none."""
    if name in PRESETS:
        return PRESETS[name]
    if Path(f"{name}{ENDING}").is_file():
        raise UserError(f"{name} is no preset; did you mean {name}{ENDING}, a file of settings?")
    if Path(name).is_dir():
        raise UserError(f"{name} is no preset, but a folder; tokenbridge init {name} makes a file of settings for it")
    return _named(name, PRESETS, "preset")


def released(name: str) -> RunConfig:
    """The configuration of released weights by name; UserError names the closest where there is none."""
    return _named(name, RELEASED, "released model")


def _named(name: str, known: Mapping[str, RunConfig], what: str) -> RunConfig:
    if name not in known:
        close = near(name, known)
        hint = f"did you mean {close[0]}?" if close else f"{what}s are {', '.join(known)}"
        raise UserError(f"{name} is no {what}; {hint}")
    return known[name]


def _read(path: Path) -> Base:
    """The preset, name and settings of a file."""
    if not path.is_file():  # also what is none, and would be waited for
        raise UserError(f"{path} must be a file of settings, and is none; tokenbridge init IMAGES writes one")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} must be a TOML file in UTF-8, and cannot be read as one ({error})") from None
    return from_text(text, path)


def from_text(text: str, path: Path) -> Base:
    """The preset, name and settings of a file's text.

    Args:
        text: TOML: preset, name (else the file's), and sections of settings as `tokenbridge settings` lists them.
        path: the file's; relative paths in it are relative to its folder.

    Raises:
        UserError: names the file, the key or value that cannot be, and what may be.
    """
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} must be a TOML file: {error}") from None
    try:
        return _base(content, path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _base(content: Mapping[str, Any], path: Path) -> Base:
    names = {key: content.get(key) for key in NAMES}
    sections = {key: value for key, value in content.items() if key not in NAMES}
    for key, value in sections.items():
        if key not in RunConfig.model_fields:
            close = near(key, [*NAMES, *RunConfig.model_fields])
            hint = f"did you mean {close[0]}?" if close else f"sections are {', '.join(RunConfig.model_fields)}"
            raise UserError(f"{key} is neither a section of settings nor {' or '.join(NAMES)}; {hint}")
        if not isinstance(value, Mapping):
            raise UserError(f"{key}={typed(value)} must be a section, as in [{key}]; see tokenbridge settings {key}")
    for key, value in names.items():
        if value is not None and not isinstance(value, str):
            raise UserError(f"{key}={typed(value)} must be text in quotes")
    if names["preset"] is None:
        raise UserError('it must name what it changes, as in preset = "small"; add that line at its top')
    preset(names["preset"])
    name = re.sub(r"[^\w.=-]+", "-", path.stem).lstrip(".=-") or "own" if names["name"] is None else names["name"]
    require_name(name, "name=")
    settings = {key: _value(key, value, path) for key, value in flatten(sections).items()}
    words = [f"{key}={NONE if value == NONE else typed(value)}" for key, value in settings.items()]
    override(preset(names["preset"]), words)  # an unknown key or a wrong value is refused here
    return Base(name, names["preset"], tuple(words))


def _value(key: str, value: Any, path: Path) -> Any:
    """A value of a file: a relative path as an absolute one, from the file's folder."""
    for each in value if isinstance(value, list) else (value,):
        if not isinstance(each, str | int | float | list):
            raise UserError(f"{key}={each} must be a number, text in quotes, true, false or a list of them")
    section, _, name = key.partition(".")
    if not isinstance(value, str) or value in ("", NONE) or not holds_path(section, name):
        return value
    if key == "score.reference" and value in SPLITS:
        return value
    return str(Path(path.parent.resolve(), Path(value).expanduser()))
