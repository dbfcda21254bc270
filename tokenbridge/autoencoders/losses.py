"""What a training of an autoencoder minimizes between its reconstructions and their images.

Squared error; beside it, where they are asked for, a perceptual distance (arXiv 1801.03924) and what a discriminator of
patches says (arXiv 1611.07004), by the schedule of VQGAN and latent diffusion (arXiv 2012.09841, 2112.10752).

Letters: B images, ch image channels, H = W side; images are float (B, ch, H, W) in [−1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokenbridge import rng
from tokenbridge.config import UserError
from tokenbridge.optimizer import AdamW

NOISE = 0.05
"""standard deviation of the decoder's normal, images in [−1, 1]: sets the weight of the Kullback–Leibler term"""
SMALLEST = 8
"""pixels per side that a discriminator needs"""
WIDTH = 64
"""channels of the discriminator's first layer (arXiv 1611.07004)"""
RATE, BETAS = 2e-4, (0.5, 0.999)
"""of the discriminator's optimizer (arXiv 1611.07004)"""
MOST_WEIGHT = 1e4
"""of the adversarial term, at most, as in latent diffusion"""


class Distance(Protocol):
    """A perceptual distance with a frozen network."""

    about: Mapping[str, Any]
    """the network and the hash of its weights, for cards and protocols"""

    def distances(self, images: Tensor, originals: Tensor) -> Tensor:
        """Distances (B) >= 0 of images in [−1, 1], with gradients."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What a training has beside the squared error."""

    perceptual: float = 0.0
    """weight of the perceptual distance: it counts so many times as the mean squared error of images in [−1, 1]"""
    distance: Distance | None = None
    """that distance; needed where its weight is not 0"""
    adversarial: float = 0.0
    """weight of the discriminator, times the ratio of the gradients at the decoder's last layer (adaptive_weight)"""
    adversarial_start: int | None = None
    """steps before the discriminator begins; None: half of the training's"""
    ema: float = 0.0
    """decay of the average of the weights that is kept in their place; 0: the last ones are"""

    def begins(self, steps: int) -> int:
        """The step at which the discriminator begins, in a training of so many."""
        return steps // 2 if self.adversarial_start is None else self.adversarial_start

    def about(self, steps: int) -> dict[str, Any]:
        """What differs from the squared error alone, for cards, protocols and checkpoints."""
        about: dict[str, Any] = {"ema": self.ema} if self.ema else {}
        if self.perceptual and self.distance:
            about |= {"perceptual": self.perceptual, "perceptual_by": dict(self.distance.about)}
        if self.adversarial:
            about |= {"adversarial": self.adversarial, "adversarial_start": self.begins(steps)}
        return about


class Criterion:
    """The distance of reconstructions from images, with the discriminator, which is trained beside it.

    Args:
        recipe: what counts.
        last: weights of the decoder's last layer.
        channels: ch.
        size: H.
        steps: of the training.
        seed: of the discriminator's first weights.

    Raises:
        UserError: images too small for a discriminator, or a start that the training does not reach.
    """

    def __init__(self, recipe: Recipe, last: nn.Parameter, channels: int, size: int, steps: int, seed: int):
        self.recipe, self.last, self.step, self.start = recipe, last, 0, recipe.begins(steps)
        self.terms = dict[str, Tensor]()
        """of the last call, for curves; of the discriminator once it has begun"""
        self._pair: tuple[Tensor, Tensor] | None = None
        self.discriminator = self.optimizer = None
        if not recipe.adversarial:
            return
        if size < SMALLEST:
            raise UserError(f"adversarial needs images of {SMALLEST} pixels at least, and has {size}; leave it out")
        if self.start >= steps:
            raise UserError(
                f"adversarial_start={self.start} must be less than {steps}, the training's steps; train longer, or"
                " begin sooner"
            )
        with rng.drawn_from(seed, "discriminator", "weights"):
            self.discriminator = PatchDiscriminator(channels, size)
        self.discriminator.to(last.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = AdamW(self.discriminator.parameters(), RATE, betas=BETAS, weight_decay=0.0)

    def __call__(self, decoded: Tensor, images: Tensor) -> Tensor:
        """The distance, nats per image, whose gradient is taken next; `follow` comes after that step."""
        pixels = images[0].numel()
        error = reconstruction_loss(decoded, images)
        self.terms = {"squared_error": error.detach() * (2 * NOISE**2 / pixels)}
        if self.recipe.perceptual:
            assert self.recipe.distance
            distance = self.recipe.distance.distances(decoded, images).mean()
            error = error + self.recipe.perceptual * distance * (pixels / (2 * NOISE**2))
            self.terms["perceptual"] = distance.detach()
        if self.discriminator and self.step >= self.start:
            self.discriminator.requires_grad_(False)
            adversarial = generator_loss(self.discriminator(decoded))
            weight = adaptive_weight(error / pixels, adversarial, self.last)
            error = error + self.recipe.adversarial * weight * adversarial * pixels
            self.terms |= {"adversarial": adversarial.detach(), "adaptive_weight": weight}
            self._pair = images, decoded.detach()
        self.step += 1
        return error

    def follow(self) -> None:
        """Take the discriminator's step on the images and reconstructions of the last call, once it has begun."""
        if self._pair is None or self.discriminator is None or self.optimizer is None:
            return
        real, decoded = self._pair
        self.discriminator.requires_grad_(True)
        loss = discriminator_loss(self.discriminator(real), self.discriminator(decoded))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.terms["discriminator"] = loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        if self.discriminator is None or self.optimizer is None:
            return {"step": self.step}
        parts = {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"step": self.step, **parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict gave."""
        self.step = state["step"]
        if self.discriminator and self.optimizer:
            self.discriminator.load_state_dict(state["discriminator"])
            self.optimizer.load_state_dict(state["optimizer"])


class PatchDiscriminator(nn.Module):
    """PatchGAN's discriminator (arXiv 1611.07004): convolutions that tell for each patch whether it is of an image.

    As in VQGAN: three halvings with batch normalisation and weights of deviation 0.02; fewer of images below 32 pixels,
    so that some patches remain.
    """

    def __init__(self, channels: int, size: int):
        """channels: ch; size: H, SMALLEST at least."""
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, WIDTH, 4, 2, 1), nn.LeakyReLU(0.2)]
        halvings = min(3, max(1, (size // 4).bit_length() - 1))
        width = WIDTH
        for stride in (*(2,) * (halvings - 1), 1):
            wider = min(2 * width, 8 * WIDTH)
            layers += [nn.Conv2d(width, wider, 4, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]
            width = wider
        layers.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.body = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, ch, H, W) -> a number for each patch (B, 1, h, w), the larger, the more like an image."""
        return self.body(images)


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Nats per image: minus the log density of a normal of deviation NOISE around `decoded`, less a constant."""
    return (decoded - images).square().sum((1, 2, 3)).mean() / (2 * NOISE**2)


def discriminator_loss(real: Tensor, decoded: Tensor) -> Tensor:
    """Hinge loss of what a discriminator says of images and of reconstructions (arXiv 1705.02894), halved (VQGAN)."""
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + decoded).mean())


def generator_loss(decoded: Tensor) -> Tensor:
    """Minus the mean of what a discriminator says of reconstructions."""
    return -decoded.mean()


def adaptive_weight(error: Tensor, adversarial: Tensor, last: nn.Parameter) -> Tensor:
    """Weight with which both terms move the decoder's last layer alike (arXiv 2012.09841, eq. 7), without gradient.

    Args:
        error: reconstruction term per pixel.
        adversarial: generator_loss.
        last: weights of the decoder's last layer.

    Returns:
        ratio of the norms of their gradients, in [0, MOST_WEIGHT].
    """
    norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (error, adversarial)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0.0, MOST_WEIGHT).detach()
