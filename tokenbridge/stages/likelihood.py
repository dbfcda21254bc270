"""Stage `likelihood`: bits per latent dimension of test images, or those of score.split.

One position at a time over L iterations in one fixed order per image, unguided, temperature 1; nats summed over
channels and positions, divided by L·C·ln 2. The density of a categorical head is the probability of a bin, times a
density within it: even, or the normal of the channel (mean and deviation of the training latents) restricted to the
bin. The outer bins end at the calibration extremes, and values beyond are moved to them and counted, for continuous
tokens as well, so that all heads are asked about the same values.

Bits of heads with different bins measure the bins too. A head with a density of values is therefore measured in the
bins of quantizers as well (`likelihood.bins`): each channel's interval given the values before it, which is what the
head would give had it only to name the bin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tokenbridge.config import Quantizer, RunConfig, Runtime, UserError
from tokenbridge.data.latents import Latents
from tokenbridge.devices import at_precision, pick_device, require_precision
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads.mixture import MixtureHead, log_interval
from tokenbridge.rng import generator
from tokenbridge.stages.train import load_model
from tokenbridge.store.runs import write_metrics
from tokenbridge.tokenizers.scalar import ScalarQuantizer, fit

SETTING = "likelihood.precision"
Bits = dict[str, Tensor]
"""name of a metric -> (B,) bits per latent dimension of images"""


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Write the mean bits per dimension with standard errors, and the share of values beyond the extremes."""
    device = pick_device(runtime)
    require_precision(device, config.likelihood.precision, SETTING)
    model = load_model(config, inputs, device, config.sample.weights)
    latents = Latents(inputs["latents"])
    x = latents.posterior_sample(config.score.split, generator("likelihood"))
    labels = latents.labels(config.score.split)
    order = torch.stack([torch.randperm(x.shape[1], generator=generator("likelihood order", i)) for i in range(len(x))])
    low, high = (bound.cpu() for bound in model.tokenizer.extremes)
    if model.tokenizer.levels and (equal := (low == high).nonzero().flatten().tolist()):
        raise UserError(
            f"channel {equal[0]} of the latents has one value in all training images, so that bits per dimension would"
            " be infinite; leave likelihood out (--only score), or take another autoencoder"
        )
    beyond = ((x < low) | (x > high)).double().mean().item()
    x = x.clamp(low, high)
    normal = torch.tensor([latents.stats["channel_mean"], latents.stats["channel_deviation"]]).to(device)
    references = reference_bins(config, model)
    with at_precision(device, config.likelihood.precision, SETTING):
        parts = [
            bits(model, x[at].to(device), labels[at].to(device), order[at].to(device), normal, references)
            for at in torch.arange(len(x)).split(runtime.batch)
        ]
    metrics = {"beyond_extremes": beyond}
    for name in parts[0]:
        values = torch.cat([part[name] for part in parts]).cpu()
        metrics |= {name: values.mean().item(), f"{name}_se": (values.std() / math.sqrt(len(values))).item()}
    protocol = {
        "split": config.score.split,
        "images": len(x),
        "values": "unit-deviation latents, one draw from each posterior",
        "order": "one random order an image, one position at a time",
        "weights": config.sample.weights,
        "scale": latents.scale,
    } | config.likelihood.model_dump(include={"precision"})
    write_metrics(out, metrics, protocol)


def reference_bins(config: RunConfig, model: Generator) -> dict[int, ScalarQuantizer]:
    """The quantizers, by levels, in whose bins a head with a density of values is measured; none for other heads."""
    if not isinstance(model.head, MixtureHead):
        return {}
    of = config.quantizer.model_dump(include={"range", "std_range", "edges"})
    quantizers = {
        levels: fit(Quantizer(levels=levels, **of), model.tokenizer.extremes.cpu()) for levels in config.likelihood.bins
    }
    return {k: q.to(model.tokenizer.extremes.device) for k, q in quantizers.items() if isinstance(q, ScalarQuantizer)}


@torch.no_grad()
def bits(
    model: Generator,
    latents: Tensor,
    labels: Tensor,
    order: Tensor,
    normal: Tensor,
    references: Mapping[int, ScalarQuantizer],
) -> Bits:
    """Bits per latent dimension of images, by the names of the metrics.

    Args:
        model: whose head has a density.
        latents: (B, L, C) of unit deviation, within the calibration extremes.
        labels: (B) int64 classes.
        order: (B, L) int64 generation orders, which are revealed from the end.
        normal: (2, C) mean and deviation of each channel, of the normal within bins.
        references: quantizers in whose bins a density of values is measured, by their levels.

    Returns:
        bits_per_dim, the density. Of levels token_bits_per_dim, their probability, and bits_per_dim_normal, the density
        with the normal within bins; of values token_bits_per_dim_bV and bits_per_dim_bV for each reference.
    """
    per = latents[0].numel() * math.log(2)
    if model.tokenizer.levels:
        nats = bits_of_levels(model, latents, labels, order, normal)
    else:
        nats = bits_of_values(model, latents, labels, order, references)
    return {name: -value / per for name, value in nats.items()}


def bits_of_levels(model: Generator, latents: Tensor, labels: Tensor, order: Tensor, normal: Tensor) -> Bits:
    """As `bits`, for levels: (B) nats, the more the likelier."""
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, ScalarQuantizer), "trained tokens are refused before"
    tokens, mass = tokenizer.encode(latents), model.log_prob(latents, labels, order)
    (mean, deviation), ends = normal, torch.stack(tokenizer.ends_of(tokens))
    low, high = (torch.minimum(torch.maximum(ends, tokenizer.extremes[0]), tokenizer.extremes[1]) - mean) / deviation
    away = ((latents - mean) / deviation).double()
    within = -0.5 * away**2 - 0.5 * math.log(2 * math.pi) - deviation.log() - log_interval(low, high)
    return {
        "bits_per_dim": mass - tokenizer.log_volume(tokens).sum(1),
        "token_bits_per_dim": mass,
        "bits_per_dim_normal": mass + within.sum((1, 2)),
    }


def bits_of_values(
    model: Generator, latents: Tensor, labels: Tensor, order: Tensor, references: Mapping[int, ScalarQuantizer]
) -> Bits:
    """As `bits`, for values: (B) nats, the more the likelier."""
    nats = {"bits_per_dim": torch.zeros(len(latents), dtype=torch.float64, device=latents.device)}
    nats |= {f"token_bits_per_dim_b{levels}": torch.zeros_like(nats["bits_per_dim"]) for levels in references}
    for z, x in model.one_by_one(latents, labels, order):
        nats["bits_per_dim"] += model.head.log_prob(z, x)
        for levels, bins in references.items():
            assert isinstance(model.head, MixtureHead)
            nats[f"token_bits_per_dim_b{levels}"] += model.head.mixture(z).log_mass(x, *bins.ends_of(bins.encode(x)))
    for levels, bins in references.items():
        volume = bins.log_volume(bins.encode(latents)).sum(1)
        nats[f"bits_per_dim_b{levels}"] = nats[f"token_bits_per_dim_b{levels}"] - volume
    return nats
