"""The sections of a run's configuration up to its training, as frozen pydantic models; those of what follows are in
evaluation.py, and config.py puts them together."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


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
    class_list: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """text file that names the class folders, one a line in the order of their labels; others are left out. Without it,
    all folders by name"""
    image_size: int = Field(default=16, ge=4)
    image_channels: Literal[1, 3] = 1
    classes: int = Field(default=10, ge=2)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = 0

    @model_validator(mode="after")
    def _path(self) -> Self:
        if (self.path is not None) != (self.source == "folder"):
            raise ValueError(f"data.path={self.path} goes with data.source=folder only; give both or neither")
        if self.class_list is not None and self.source != "folder":
            raise ValueError(f"data.class_list={self.class_list} goes with data.source=folder only; leave it out")
        return self


class Autoencoder(Config):
    source: Literal["digits", "diffusers", "ldm"] = "digits"
    path: str | None = None
    """source=diffusers: folder of an AutoencoderKL; source=ldm: checkpoint of LDM or MAR (kl16.ckpt)"""
    channels: int = Field(default=8, ge=1)
    """latent channels C; checked against the weights"""
    stride: int = Field(default=4, ge=1)
    """pixels a latent position spans; checked against the weights"""

    @model_validator(mode="after")
    def _path(self) -> Self:
        if self.source == "digits" and self.path is not None:
            raise ValueError(f"autoencoder.path={self.path} needs autoencoder.source=diffusers or ldm")
        return self


class Latents(Config):
    scale: Literal["auto", "autoencoder"] | float = "auto"
    """factor to unit standard deviation: auto measures it on the training split, KL-16 of MAR uses 0.2325; autoencoder:
    scaling_factor and, where there is one, shift_factor of a diffusers config (SD, SDXL, SD3, FLUX)"""
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", exclude_if=lambda value: value == "float32"
    )
    """of the stored moments"""
    flip: bool = Field(default=False, exclude_if=lambda value: not value)
    """store mirrored training images as well; training then draws one of both, with equal probability"""


Levels = Annotated[int, Field(ge=2, le=65536)]


TRAINED_TOKENS = ("vq", "fsq", "lfq")
"""kinds of quantizer that are trained with their autoencoder"""


class Quantizer(Config):
    kind: Literal["gaussian", "uniform", "quantile", "lloyd-max", "identity", "vq", "fsq", "lfq"] = "gaussian"
    """vq, fsq and lfq train an autoencoder of the same body around themselves; all others take it as it is"""
    levels: Levels | tuple[Levels, ...] = 64
    """B, decision levels a channel (paper: 64); vq: codes in the codebook; fsq: also one number a channel; lfq: 2"""
    range: float = Field(default=5.0, gt=0)
    """[-range, range] of unit-deviation latents is mapped to [-r, r] (paper: 5)"""
    std_range: float = Field(default=3.0, gt=0)
    """r of equation 1 (paper: 3)"""
    edges: Literal["clamped", "truncated"] = "clamped"
    """clamped: equal-probability edges of N(0, 1) clamped to ±r (paper); truncated: spaced over [Φ(-r), Φ(r)]"""
    per: Literal["tensor", "channel"] = "tensor"
    """data-fitted quantizers: one set of levels for all channels, or one a channel"""
    epochs: int = Field(default=30, ge=1)
    """vq, fsq, lfq: training of their autoencoder; the shipped one had as many"""
    seed: int = Field(default=0, ge=0)
    """vq, fsq, lfq: of that training"""

    @property
    def trained(self) -> bool:
        """Whether tokens come from an autoencoder that was trained with its quantizer."""
        return self.kind in TRAINED_TOKENS

    @property
    def levels_each(self) -> int:
        """B, where it is one number for all channels, as with every post-training quantizer."""
        assert isinstance(self.levels, int)
        return self.levels

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if isinstance(self.levels, tuple) and self.kind != "fsq":
            raise ValueError(
                f"levels={list(self.levels)} must be one number with quantizer.kind={self.kind};"
                " only fsq has one a channel"
            )
        if self.kind == "lfq" and self.levels != 2:
            raise ValueError(
                f"levels={self.levels} must be 2 with quantizer.kind=lfq (a channel is a bit;"
                " autoencoder.channels says how many)"
            )
        if self.kind == "gaussian" and self.edges == "clamped":
            tail = 0.5 * math.erfc(self.std_range / math.sqrt(2))
            if tail * self.levels_each >= 1:
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


class HeadKind(NamedTuple):
    """What the configuration knows of a kind of head."""

    predicts: Literal["levels", "values"]
    guided: tuple[str, ...]
    """what sample.guidance_on may be; the first is its own"""
    density: bool
    """whether it has an exact likelihood"""
    reads: tuple[str, ...]
    """its own settings; all others enter no id, so they train nothing again"""


_TRANSFORMER = ("heads", "mlp_ratio", "attention_dropout", "dropout", "order", "group")
HEAD_KINDS: dict[str, HeadKind] = {
    "autoregressive": HeadKind("levels", ("features", "logits"), density=True, reads=_TRANSFORMER),
    "parallel": HeadKind("levels", ("features", "logits"), density=True, reads=_TRANSFORMER),
    "diffusion": HeadKind("values", ("estimate", "features"), density=False, reads=("multiplier",)),
    "flow": HeadKind("values", ("estimate", "features"), density=False, reads=("multiplier",)),
    "mixture": HeadKind("values", ("features",), density=True, reads=("components", "covariance")),
}
CATEGORICAL = tuple(name for name, kind in HEAD_KINDS.items() if kind.predicts == "levels")
CONTINUOUS = tuple(name for name, kind in HEAD_KINDS.items() if kind.predicts == "values")
MOST_CLASSES = 65_536  # that a categorical head predicts at once


def _known_head(kind: str) -> str:
    if kind not in HEAD_KINDS:
        raise ValueError(f"head.kind={kind} must be one of {', '.join(HEAD_KINDS)}")
    return kind


class Head(Transformer):
    kind: Annotated[str, AfterValidator(_known_head)] = "autoregressive"
    """one of HEAD_KINDS: autoregressive and parallel predict levels (categorical), the others continuous values"""
    depth: int = Field(default=4, ge=1)
    heads: int = Field(default=8, ge=1)
    order: Literal["stored", "frequency", "reverse", "random"] | tuple[int, ...] = "stored"
    """order in which channels are predicted; frequency: highest share of low-frequency energy first"""
    group: int = Field(default=1, ge=1)
    """channels predicted together as one class of levels^group (paper, table 2d: 1, 2, 4)"""
    start: Literal["trained", "released"] = "trained"
    """sampling as trained or as released. autoregressive: released adds a step embedding to the first element;
    diffusion: released does not limit its estimates of the clean value"""
    multiplier: int = Field(default=4, ge=1)
    """diffusion, flow: draws of time and noise for each token in a training step (MAR: 4)"""
    components: int = Field(default=16, ge=1)
    """mixture: number of Gaussians (GIVT: 16)"""
    covariance: Literal["diagonal", "full"] = "diagonal"
    """mixture: of each Gaussian"""

    def training_settings(self) -> dict[str, Any]:
        """The settings that training this kind of head reads."""
        return self.model_dump(include={"kind", "width", "depth", *HEAD_KINDS[self.kind].reads})


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
    compile: bool = Field(default=False, exclude_if=lambda value: not value)
    """torch.compile of the loss: other draws of dropout, and other rounding. Unset, it enters no id"""
    label_drop: float = Field(default=0.1, ge=0, lt=1)
    mask_ratio_min: float = Field(default=0.7, gt=0, lt=1)
    """share of masked positions: from a normal around 1, cut to [mask_ratio_min, 1]"""
    mask_ratio_deviation: float = Field(default=0.25, gt=0)
    seed: int = Field(default=0, ge=0)
    released: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{12}$", exclude_if=lambda value: value is None)
    """weights that are imported, not trained: their file, as `tokenbridge import` names it. Unset, it enters no id"""

    @model_validator(mode="after")
    def _seedless(self) -> Self:
        if self.released and self.seed:
            raise ValueError(f"train.seed={self.seed} must be 0 with train.released, whose weights have no other seed")
        return self

    @model_validator(mode="after")
    def _warmup(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} must be < epochs={self.epochs}; lower train.warmup_epochs"
            )
        return self
