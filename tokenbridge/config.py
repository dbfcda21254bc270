"""Every knob of a run, as frozen pydantic models; errors that a reader can act on.

A RunConfig holds only what changes a number. Where and how fast it runs is in Runtime and never enters an id.
"""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from tokenbridge.evaluation import Sample, Score
from tokenbridge.sections import (
    CATEGORICAL,
    CONTINUOUS,
    HEAD_KINDS,
    MOST_CLASSES,
    TRAINED_TOKENS,
    Autoencoder,
    Backbone,
    Config,
    Data,
    Head,
    Latents,
    Quantizer,
    Train,
    UserError,
)


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
        if isinstance(self.quantizer.levels, tuple) and len(self.quantizer.levels) != self.autoencoder.channels:
            raise ValueError(
                f"quantizer.levels={list(self.quantizer.levels)} must be {self.autoencoder.channels} numbers, one for"
                " each of autoencoder.channels"
            )
        return self

    @model_validator(mode="after")
    def _sampling(self) -> Self:
        kind, how = self.head.kind, self.sample
        if kind in CONTINUOUS:
            for name, off in (("top_k", None), ("top_p", 1.0)):
                if getattr(how, name) != off:
                    raise ValueError(f"sample.{name}={getattr(how, name)} needs a head of levels, not head.kind={kind}")
            if isinstance(how.temperature, tuple):
                raise ValueError(
                    f"sample.temperature={list(how.temperature)} must be one number with head.kind={kind}, which draws"
                    " all channels at once"
                )
        if how.guidance_on not in ("auto", *HEAD_KINDS[kind].guided):
            raise ValueError(
                f"sample.guidance_on={how.guidance_on} must be one of {HEAD_KINDS[kind].guided} with head.kind={kind}"
            )
        if how.confidence > 0 and not HEAD_KINDS[kind].density:
            raise ValueError(
                f"sample.confidence={how.confidence:g} must be 0 with head.kind={kind}, which has no"
                " likelihood to rank by"
            )
        return self

    @property
    def token_levels(self) -> tuple[int, ...]:
        """Levels of each channel of a token; none for continuous tokens. vq has one channel: the code."""
        levels, channels = self.quantizer.levels, self.autoencoder.channels
        if isinstance(levels, tuple):
            return levels
        return {"identity": (), "vq": (levels,)}.get(self.quantizer.kind, (levels,) * channels)

    def require_pair(self) -> None:
        """Raise UserError unless the head can predict these tokens."""
        kind, levels = self.head.kind, self.token_levels
        pair = f"quantizer.kind={self.quantizer.kind} cannot go with head.kind={kind}"
        if kind in CONTINUOUS:
            if levels:
                raise UserError(
                    f"{pair}, which predicts continuous values; choose quantizer.kind=identity, or head.kind"
                    f" {' or '.join(CATEGORICAL)}"
                )
            return
        if not levels:
            raise UserError(
                f"{pair}, which predicts levels; choose a quantizer (gaussian, uniform, quantile, lloyd-max, vq, fsq,"
                f" lfq), or head.kind {', '.join(CONTINUOUS[:-1])} or {CONTINUOUS[-1]}"
            )
        self._require_order(levels)
        self._require_groups(levels)

    def _require_order(self, levels: tuple[int, ...]) -> None:
        order, temperature = self.head.order, self.sample.temperature
        if isinstance(order, tuple) and sorted(order) != list(range(len(levels))):
            raise UserError(f"head.order={list(order)} must hold each channel 0..{len(levels) - 1} once")
        steps = len(levels) // self.head.group
        if isinstance(temperature, tuple) and len(temperature) != steps:
            raise UserError(f"sample.temperature={list(temperature)} must be one number, or {steps}: one a step")

    def _require_groups(self, levels: tuple[int, ...]) -> None:
        group = self.head.group
        if len(levels) % group:
            raise UserError(f"head.group={group} must divide {len(levels)}, the channels of a token")
        classes = math.prod(sorted(levels)[-group:])
        if group > 1 and classes > MOST_CLASSES:
            outputs = len(levels) // group * classes * self.head.width
            raise UserError(
                f"head.group={group} makes {classes:,} classes a group, which must be at most {MOST_CLASSES:,}: its"
                f" output layer alone would hold {outputs / 1e6:,.0f}M weights ({outputs * 16 / 1e9:,.0f} GB to train);"
                " lower head.group or quantizer.levels"
            )


class Runtime(Config):
    """Where and how fast; changes no number beyond float tolerance and enters no id."""

    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    batch: int = Field(default=256, ge=1)
    """images at once when encoding, sampling and scoring"""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    accumulate: int = Field(default=1, ge=1)
    """micro-batches of a training step in each process: less memory, more time"""
    bars: bool = True
    """progress bars, where a terminal shows them"""

    @property
    def no_bar(self) -> bool | None:
        """tqdm's `disable`: None leaves it to whether there is a terminal."""
        return None if self.bars else True


__all__ = [
    "CATEGORICAL",
    "CONTINUOUS",
    "HEAD_KINDS",
    "MOST_CLASSES",
    "TRAINED_TOKENS",
    "Autoencoder",
    "Backbone",
    "Config",
    "Data",
    "Head",
    "Latents",
    "Quantizer",
    "RunConfig",
    "Runtime",
    "Sample",
    "Score",
    "Train",
    "UserError",
]
