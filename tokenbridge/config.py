"""Every knob of a run, as frozen pydantic models; errors that a reader can act on.

A RunConfig holds only what changes a number. Where and how fast it runs is in Runtime and never enters an id.
"""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class UserError(ValueError):
    """Input that cannot work. The message is one line: the value, the rule and the remedy."""


class Config(BaseModel):
    """Frozen, hashable, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Data(Config):
    source: Literal["digits", "folder"] = "digits"
    path: str | None = None
    """folder with one sub-folder a class (torchvision ImageFolder), for source=folder"""
    held_out_path: str | None = None
    """the same for held-out images; without it test_fraction of each class is held out"""
    image_size: int = Field(default=16, ge=4)
    image_channels: Literal[1, 3] = 1
    classes: int = Field(default=10, ge=2)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = 0

    @model_validator(mode="after")
    def _path(self) -> Self:
        if (self.path is not None) != (self.source == "folder"):
            raise ValueError(f"data.path={self.path} goes with data.source=folder only; give both or neither")
        return self


class Autoencoder(Config):
    source: Literal["digits", "diffusers"] = "digits"
    path: str | None = None
    """folder of a diffusers AutoencoderKL, for source=diffusers"""
    channels: int = Field(default=8, ge=1)
    """latent channels C; checked against the weights"""
    stride: int = Field(default=4, ge=1)
    """pixels a latent position spans; checked against the weights"""

    @model_validator(mode="after")
    def _path(self) -> Self:
        if self.source == "digits" and self.path is not None:
            raise ValueError(f"autoencoder.path={self.path} needs autoencoder.source=diffusers")
        return self


class Latents(Config):
    scale: Literal["auto"] | float = "auto"
    """factor to unit standard deviation: auto measures it on the training split, KL-16 of MAR uses 0.2325"""


class Quantizer(Config):
    kind: Literal["gaussian", "uniform", "quantile", "lloyd-max", "identity"] = "gaussian"
    levels: int = Field(default=64, ge=2, le=65536)
    """B, decision levels a channel (paper: 64)"""
    range: float = Field(default=5.0, gt=0)
    """[-range, range] of unit-deviation latents is mapped to [-r, r] (paper: 5)"""
    std_range: float = Field(default=3.0, gt=0)
    """r of equation 1 (paper: 3)"""
    edges: Literal["clamped", "truncated"] = "clamped"
    """clamped: equal-probability edges of N(0, 1) clamped to ±r (paper); truncated: spaced over [Φ(-r), Φ(r)]"""
    per: Literal["tensor", "channel"] = "tensor"
    """data-fitted quantizers: one set of levels for all channels, or one a channel"""

    @model_validator(mode="after")
    def _no_empty_bins(self) -> Self:
        if self.kind == "gaussian" and self.edges == "clamped":
            tail = 0.5 * math.erfc(self.std_range / math.sqrt(2))
            if tail * self.levels >= 1:
                most = math.ceil(1 / tail) - 1
                raise ValueError(
                    f"levels={self.levels} must be at most {most} with edges=clamped at std_range={self.std_range:g}"
                    " (the clamped edges coincide and leave empty bins); use quantizer.edges=truncated"
                )
        return self


class Transformer(Config):
    """What the blocks of backbone and head have in common."""

    width: int = Field(default=1024, ge=1)
    heads: int = Field(default=16, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            name = type(self).__name__.lower()
            raise ValueError(f"{name}.width={self.width} must be a multiple of {name}.heads={self.heads}")
        return self


class Backbone(Transformer):
    encoder_depth: int = Field(default=16, ge=1)
    decoder_depth: int = Field(default=16, ge=1)
    class_tokens: int = Field(default=64, ge=1)
    """copies of the class embedding in front of the sequence (the buffer of MAR)"""


class Head(Transformer):
    kind: Literal["autoregressive", "parallel"] = "autoregressive"
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=8, ge=1)
    order: Literal["stored", "frequency", "reverse", "random"] | tuple[int, ...] = "stored"
    """order in which channels are predicted; frequency: highest share of low-frequency energy first"""
    start: Literal["trained", "released"] = "trained"
    """first element when sampling: as trained, or with the released sampler's extra step embedding"""


class Train(Config):
    epochs: int = Field(default=800, ge=1)
    warmup_epochs: float = Field(default=200, ge=0)
    batch: int = Field(default=2048, ge=1)
    """global batch, images"""
    learning_rate: float = Field(default=8e-4, gt=0)
    weight_decay: float = Field(default=0.02, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    ema: float = Field(default=0.9999, ge=0, lt=1)
    """largest rate of the moving average; at update t it is min(ema, (1+t)/(10+t))"""
    clip: float = Field(default=1.0, gt=0)
    """largest gradient norm"""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False
    label_drop: float = Field(default=0.1, ge=0, lt=1)
    mask_ratio_min: float = Field(default=0.7, gt=0, lt=1)
    """share of masked positions: from a normal around 1, cut to [mask_ratio_min, 1]"""
    mask_ratio_deviation: float = Field(default=0.25, gt=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _warmup(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} must be < epochs={self.epochs}; lower train.warmup_epochs"
            )
        return self


class Sample(Config):
    images: int = Field(default=50_000, ge=1)
    iterations: int = Field(default=256, ge=1)
    """unmasking steps, 1 to L"""
    temperature: float = Field(default=1.0, ge=0)
    """0 takes the most likely level"""
    guidance: float = Field(default=1.0, ge=0)
    """classifier-free guidance weight; 1 is off"""
    guidance_schedule: Literal["linear", "constant"] = "linear"
    weights: Literal["ema", "raw"] = "ema"
    seed: int = Field(default=0, ge=0)


class Score(Config):
    features: Literal["digits"] = "digits"
    """feature extractor; its name is part of each metric's name"""
    reference: Literal["train", "held-out"] = "train"


class RunConfig(Config):
    """One cell of a grid: images to scores."""

    data: Data = Data()
    autoencoder: Autoencoder = Autoencoder()
    latents: Latents = Latents()
    quantizer: Quantizer = Quantizer()
    backbone: Backbone = Backbone()
    head: Head = Head()
    train: Train = Train()
    sample: Sample = Sample()
    score: Score = Score()

    @property
    def grid_size(self) -> int:
        """Latent positions a side, H = W; L = H·W."""
        return self.data.image_size // self.autoencoder.stride

    @property
    def positions(self) -> int:
        return self.grid_size**2

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.data.image_size % self.autoencoder.stride:
            raise ValueError(
                f"data.image_size={self.data.image_size} must be a multiple of"
                f" autoencoder.stride={self.autoencoder.stride}"
            )
        if self.sample.iterations > self.positions:
            raise ValueError(
                f"sample.iterations={self.sample.iterations} must be at most {self.positions}, the number of positions"
                " (each iteration reveals at least one)"
            )
        if isinstance(self.head.order, tuple) and sorted(self.head.order) != list(range(self.autoencoder.channels)):
            raise ValueError(
                f"head.order={list(self.head.order)} must hold each channel 0..{self.autoencoder.channels - 1} once"
            )
        return self

    def require_categorical(self) -> None:
        """Raise UserError unless the tokens suit the head: identity tokens have no classes to predict."""
        if self.quantizer.kind == "identity":
            raise UserError(
                f"quantizer.kind=identity cannot go with head.kind={self.head.kind}, which predicts levels;"
                " choose a quantizer (gaussian, uniform, quantile, lloyd-max)"
            )


class Runtime(Config):
    """Where and how fast; changes no number beyond float tolerance and enters no id."""

    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    batch: int = Field(default=256, ge=1)
    """images at once when encoding, sampling and scoring"""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    bars: bool = True
    """progress bars, where a terminal shows them"""

    @property
    def no_bar(self) -> bool | None:
        """tqdm's `disable`: None leaves it to whether there is a terminal."""
        return None if self.bars else True
