"""Stage `tokenizer`: an autoencoder trained with its quantizer, from images to images, for trained tokens.

Its body is that of the run's autoencoder; images, batch, learning rate, epochs and the weight of the squared error are
those with which the shipped autoencoder was trained, so that tokens are compared, not budgets.
B images, ch channels, H height, W width, C latent channel, h = H / stride, w = W / stride.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tokenbridge import rng
from tokenbridge.autoencoders.frozen import build, to_bytes, to_signed
from tokenbridge.autoencoders.losses import NOISE, Criterion, Recipe
from tokenbridge.autoencoders.sources import architecture
from tokenbridge.autoencoders.train import Budget, minimize
from tokenbridge.checkpoints import Checkpoints
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.data import images as data
from tokenbridge.devices import pick_device
from tokenbridge.metrics.images import exact, exact_caution, psnr
from tokenbridge.stages.autoencoder import recipe_of
from tokenbridge.store.artifacts import write_atomic
from tokenbridge.store.runs import write_metrics
from tokenbridge.tokenizers.scalar import code_usage
from tokenbridge.tokenizers.trained import TRAINED

LIBRARY = "vector-quantize-pytorch"
DEAD = 0.1
"""VQ puts a random latent of the batch in place of a code that is used less often than this share of the mean code"""


class QuantizedAutoencoder(nn.Module):
    """Encoder's mean, the library's quantizer, decoder. batch: images of a training step."""

    def __init__(self, config: RunConfig, batch: int = Budget.batch):
        super().__init__()
        self.body = build(architecture(config.autoencoder))
        self.quantizer = library_quantizer(config, batch)
        self.residual = config.quantizer.kind == "rvq"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, ch, H, W) in [−1, 1] -> reconstructions, numbers of codes, the quantizer's own loss.

        A number is of a whole code, (B, h, w), or with residuals of one in each codebook, (B, h, w, codebooks).
        """
        latents = self.body.encode(images).latent_dist.mean.contiguous()
        if self.residual:  # the library's accepts sequences alone
            codes, numbers, *losses = self.quantizer(latents.flatten(2).transpose(1, 2))
            codes = codes.transpose(1, 2).unflatten(2, latents.shape[2:])
            numbers = numbers.unflatten(1, latents.shape[2:])
        else:
            codes, numbers, *losses = self.quantizer(latents)
        loss = sum((each.sum() for each in losses), images.new_zeros(()))  # of each codebook
        return self.body.decode(codes).sample, numbers, loss


def library_quantizer(config: RunConfig, batch: int) -> nn.Module:
    """vector-quantize-pytorch's module for latents (B, C, h, w), with no projection before or after its codes.

    Where a setting is not the library's own, a comment says why, by ten epochs on the digits: PSNR, perplexity of 1024.
    """
    from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, VectorQuantize  # takes seconds to import

    config.require_trainable()
    kind, levels, width = config.quantizer.kind, config.token_levels, config.autoencoder.channels
    if kind == "fsq":
        return FSQ(list(levels))
    if kind == "lfq":
        # without a bound and at its entropy weight of 0.1, latents grow to a deviation of 90: 20.6 dB, 19; with this
        # bound and a weight of 1: 23.5 dB, 540; of 2: 23.1 dB, 650
        return LFQ(dim=width, codebook_size=math.prod(levels), soft_clamp_input_value=1.0, entropy_loss_weight=1.0)
    if kind == "bsq":
        # 23.2 dB, 640; at its own weights, 0.1 and 0: 23.2 dB, 260
        codes = math.prod(levels)
        return LFQ(dim=width, codebook_size=codes, spherical=True, entropy_loss_weight=1.0, commitment_loss_weight=1.0)
    settings: dict[str, Any] = {
        "kmeans_init": True,
        "decay": 0.9,  # a training has a few hundred steps
        "threshold_ema_dead_code": DEAD * batch * config.positions / max(levels),
    }
    if kind == "rvq":
        return ResidualVQ(dim=width, codebook_size=levels, **settings)  # of 32 and 32 codes: 26.4 dB, 740
    # with this weight of the commitment, 28.0 dB, 890; with its own of 1, 27.3 dB, 870 (the squared error counts 200)
    return VectorQuantize(width, levels[0], accept_image_fmap=True, commitment_weight=10.0, **settings)


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Train, write the weights, measure on test images; what fails in measuring does not cost the training."""
    device, settings = pick_device(runtime), config.quantizer
    train, test = data.load(config.data, "train"), data.load(config.data, "test")
    budget = Budget(settings.epochs)
    kept = Checkpoints.of_stage(out, runtime.checkpoint_seconds)
    recipe = recipe_of(config, device)
    model = train_tokenizer(config, train, budget, device, runtime.no_bar, kept, recipe)
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    write_atomic(out / TRAINED, save(state))
    metrics = measure(model, config, train, test, runtime.batch)
    metrics["parameters"] = sum(p.numel() for p in model.parameters())
    protocol = {
        "psnr": "test images, mean over images, peak 255",
        "used_codes": "share of all codes, on training images that are not shifted, as is perplexity",
        "train_images": len(train),
        "test_images": len(test),
        "image_size": config.data.image_size,
        "seed": settings.seed,
        "decoder_deviation": NOISE,
        "library": f"{LIBRARY} {metadata.version(LIBRARY)}",
        **asdict(budget),
        **recipe.about(budget.steps(len(train))),
    }
    write_metrics(out, metrics, protocol)


def train_tokenizer(
    config: RunConfig,
    images: data.Images,
    budget: Budget,
    device: torch.device,
    no_bar: bool | None = None,
    kept: Checkpoints | None = None,
    recipe: Recipe | None = None,
) -> QuantizedAutoencoder:
    """The weights depend on images, budget and config.quantizer.seed alone (same threads, CPU type, library)."""
    seed = config.quantizer.seed
    draws = rng.generator(seed, "tokenizer", "data")
    with rng.drawn_from(seed, "tokenizer", "weights", device=device):  # and what the library draws: codes
        model = QuantizedAutoencoder(config, budget.batch)
        _require_channels(model, config)
        model = model.to(device)

        recipe, of = recipe or Recipe(), config.data
        last, steps = model.body.decoder.conv_out.weight, budget.steps(len(images))
        criterion = Criterion(recipe, last, of.image_channels, of.image_size, steps, seed)

        def loss(batch: Tensor) -> Tensor:
            decoded, _, codebook_loss = model(batch)
            return criterion(decoded, batch) / batch[0].numel() + codebook_loss

        minimize(loss, model, images, budget, draws, no_bar, ema=recipe.ema, kept=kept, criterion=criterion)
    return model


@torch.inference_mode()
def measure(
    model: QuantizedAutoencoder, config: RunConfig, train: data.Images, test: data.Images, batch: int
) -> dict[str, float]:
    values, same = list[Tensor](), 0
    for images, decoded, _ in _outputs(model, test, batch):
        reconstructed = to_bytes(decoded).cpu()
        values.append(psnr(reconstructed, images))
        same += int(exact(reconstructed, images).sum())
    for line in exact_caution(same, len(test), test[0][0].numel()):
        print(f"tokenizer: {line}", file=sys.stderr)
    numbers = torch.cat([numbers.flatten(0, 2).cpu() for _, _, numbers in _outputs(model, train, batch)])
    return {"psnr": float(torch.cat(values).mean())} | code_usage(numbers, config.token_levels)


def _outputs(model: QuantizedAutoencoder, images: data.Images, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images uint8, reconstructions in [−1, 1], code numbers; by batches."""
    device = next(model.parameters()).device
    for originals, _ in data.batches(images, batch):
        decoded, numbers, _ = model(to_signed(originals).to(device).contiguous(memory_format=torch.channels_last))
        yield originals, decoded, numbers


def _require_channels(model: QuantizedAutoencoder, config: RunConfig) -> None:
    wanted, channels = model.body.config.in_channels, config.data.image_channels
    if wanted != channels:
        raise UserError(f"data.image_channels={channels} must be {wanted}, that of the architecture; correct it")
