"""How far precisions agree: greedy tokens, and log probabilities where the head has them.

B image, L position, C channel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tokenbridge.config import HEAD_KINDS, Precision, RunConfig
from tokenbridge.devices import at_precision
from tokenbridge.model.generator import Generator
from tokenbridge.rng import generator

IMAGES = 8


class Agreement(NamedTuple):
    """Of a precision with float32."""

    tokens: float
    """share of greedy tokens that are equal (of values: within a hundredth of a deviation), each given the same tokens
    before it"""
    bits: float | None
    """mean absolute difference of an image's bits per dimension; None where the head has no likelihood"""


@torch.no_grad()
def agreement(model: Generator, config: RunConfig, device: torch.device, precision: Precision) -> Agreement:
    """Compare a precision with float32 on the same random latents, revealed by halves.

    Args:
        model: on `device`.
        config: the model's.
        device: where both run.
        precision: the other one.

    Raises:
        UserError: a precision that the device does not have.
    """
    own = generator("agreement")
    latents = torch.randn(IMAGES, model.positions, config.autoencoder.channels, generator=own).to(device)
    order = torch.stack([torch.randperm(model.positions, generator=own) for _ in range(IMAGES)]).to(device)
    labels = (torch.arange(IMAGES) % config.data.classes).to(device)
    found = {each: _predicted(model, config, latents, labels, order, each) for each in ("float32", precision)}
    (exact, nats), (other, lower) = found["float32"], found[precision]
    same = (exact - other).abs() <= 0.01 if exact.is_floating_point() else exact == other
    if nats is None or lower is None:
        return Agreement(float(same.float().mean()), None)
    drawn = exact.shape[0] // IMAGES * exact.shape[1]
    return Agreement(float(same.float().mean()), float((nats - lower).abs().mean()) / (drawn * math.log(2)))


def _predicted(
    model: Generator, config: RunConfig, latents: Tensor, labels: Tensor, order: Tensor, precision: Precision
) -> tuple[Tensor, Tensor | None]:
    """Greedy tokens (N, C) of all masked positions and nats (B) of their true ones, at several counts of known ones."""
    how = config.sample.model_copy(update={"temperature": 0.0, "top_k": None, "top_p": 1.0})
    tokens = model.tokenizer.encode(latents)
    embedded, density = model.tokenizer.decode(tokens), HEAD_KINDS[config.head.kind].density
    greedy, nats = list[Tensor](), torch.zeros(len(labels), device=latents.device)
    draw = {"uniform": torch.rand, "normal": torch.randn}[model.head.noise]
    with at_precision(latents.device, precision, "precision"):
        for masked in sorted({model.positions, math.ceil(model.positions / 2), 1}):
            at, seen = order[:, :masked], order[:, masked:].sort(1).values
            z = model.backbone.at(embedded, seen, labels, at).flatten(0, 1)
            shape = (len(z), *model.head.noise_shape(how))
            noise = draw(shape, generator=generator("agreement", masked)).to(z.device)
            greedy.append(model.head.sample(z, noise, how))
            if density:
                true = tokens.gather(1, at[..., None].expand(-1, -1, tokens.shape[-1])).flatten(0, 1)
                nats = nats + model.head.log_prob(z, true).float().view(at.shape).sum(1)
    return torch.cat(greedy), nats if density else None
