"""The sections of a run's configuration that follow its training: sampling and scoring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tokenbridge.sections import Config

NotNegative = Annotated[float, Field(ge=0)]


class Sample(Config):
    images: int = Field(default=50_000, ge=1)
    iterations: int = Field(default=256, ge=1)
    """unmasking steps, 1 to L"""
    temperature: NotNegative | tuple[NotNegative, ...] = 1.0
    """0 takes the most likely level; categorical heads: also one for each step of the channel order"""
    top_k: int | None = Field(default=None, ge=1)
    """categorical heads: draw from the k most likely levels only"""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """categorical heads: draw from the fewest levels that hold this share of the probability"""
    guidance: float = Field(default=1.0, ge=0)
    """classifier-free guidance weight; 1 is off"""
    guidance_schedule: Literal["linear", "constant", "cosine"] = "linear"
    guidance_on: Literal["auto", "features", "logits", "estimate"] = "auto"
    """what is guided: the features, a categorical head's logits, or the estimate (noise, velocity) of a diffusion or
    flow head; auto: the estimate where there is one, else the features"""
    confidence: float = Field(default=0.0, ge=0)
    """heads with a likelihood: strength of confidence-guided generation (paper, figure 8): positions are revealed by
    log probability a channel times this, plus Gumbel noise; 0: in random order"""
    head_steps: int = Field(default=100, ge=1, le=1000)
    """diffusion: respaced steps a token; flow: integration steps a token"""
    solver: Literal["euler", "midpoint"] = "euler"
    """flow"""
    weights: Literal["ema", "raw"] = "ema"
    seed: int = Field(default=0, ge=0)


SCORERS = ("digits", "inception", "clean", "dinov2")


def _known_scorers(names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """One name, or several, each once."""
    several = tuple(names.split(",")) if isinstance(names, str) else names
    wrong = [name for name in several if name not in SCORERS]
    if wrong or len(set(several)) < len(several) or not several:
        raise ValueError(f"score.features={','.join(several)} must be one or several of {', '.join(SCORERS)}")
    return several[0] if len(several) == 1 else several


class Score(Config):
    features: Annotated[str | tuple[str, ...], AfterValidator(_known_scorers)] = "digits"
    """scorers, one or several (inception,clean,dinov2): networks whose features measure; each names its metrics"""
    weights: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """folder of the scorers' weights by their public names (such as torch.hub's), or the file of one; unset: that of
    torch.hub, and what it lacks is downloaded"""
    reference: str = Field(default="train", min_length=1)
    """real images: train, held-out, a folder of images, or a file: statistics or images (.npz), kept features
    (.safetensors)"""
    lpips: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """weights of the network that LPIPS of reconstructions is by: torchvision's file of VGG-16 or AlexNet"""

    @property
    def scorers(self) -> tuple[str, ...]:
        return (self.features,) if isinstance(self.features, str) else self.features

    @property
    def split(self) -> Literal["train", "held-out"] | None:
        """The split that is the reference; None where it is a folder or a file."""
        return self.reference if self.reference in ("train", "held-out") else None  # pyright: ignore[reportReturnType]
