"""Autoencoders with frozen weights, from images to latents and back; sources.py loads them.

Letters: B images, H height, W width, C latent channels, h = H / stride, w = W / stride.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from tokenbridge.autoencoders.autoencoder_kl import autoencoder_class, class_of, sizes_of
from tokenbridge.config import UserError
from tokenbridge.operations import Operations

NO_DEVIATION = -30.0
"""log-variance of latents that are trained with a quantizer: a draw from their posterior is its mean"""
DETERMINISTIC = -60.0
"""log-variance of latents of a class without a posterior, whose deviation may be far below 1: a draw is the latent"""


class FrozenAutoencoder(nn.Module):
    """Images to posterior moments and back, without gradients; channels, stride and image_channels are the weights'.

    Latents are in the autoencoder's units, less `shift` and over `spread`, which are 0 and 1 unless a run asks for the
    autoencoder's own (take_units); the scale is never applied.
    """

    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        model: nn.Module,
        scaling_factor: float | None = None,
        shift_factor: float | None = None,
        rounded_from: Callable[[Tensor], Tensor] | None = None,
    ):
        """Wrap a model.

        Args:
            model: of one of CLASSES, diffusers' own.
            scaling_factor, shift_factor: of its config, unit = (latent − shift) · scaling; None where it has none.
            rounded_from: for one trained with a quantizer, maps the encoder's output (B, C, h, w) to the values whose
                nearest code is taken.

        Raises:
            UserError: for weights that are not finite: the bytes that it would give mean nothing.
        """
        super().__init__()
        for name, weight in model.named_parameters():
            if not bool(weight.isfinite().all()):
                raise UserError(f"{name} of the autoencoder holds NaN or infinite weights; get its weights again")
        # convolutions on a CPU are a quarter faster so
        self.model, self.rounded_from = model.to(memory_format=torch.channels_last), rounded_from
        self.scaling_factor, self.shift_factor = scaling_factor, shift_factor
        self.units: dict[str, Any] = {"shift": 0.0}
        """shift, and spread where it is not 1, as they were given"""
        self.register_buffer("shift", torch.zeros(1, 1, 1), persistent=False)
        self.register_buffer("spread", torch.ones(1, 1, 1), persistent=False)
        settings = {**cast(Mapping[str, Any], model.config), "_class_name": type(model).__name__}
        self.channels, self.stride, self.image_channels, self.image_size = sizes_of(settings)

    def take_units(self, shift: float | Sequence[float], spread: float | Sequence[float]) -> None:
        """Give latents (latent − shift) / spread from now on, by one number for all channels or one for each (C)."""
        for buffer, value in ((self.shift, shift), (self.spread, spread)):
            buffer.data = torch.tensor(value, dtype=buffer.dtype, device=buffer.device).reshape(-1, 1, 1)
        self.units = {"shift": shift} | ({} if spread == 1.0 else {"spread": spread})

    @torch.inference_mode()
    def moments(self, images: Tensor) -> Tensor:
        """uint8 (B, image channels, H, W) -> float32 (B, 2C, h, w): the posterior's mean, then its log-variance."""
        assert images.dtype == torch.uint8, images.dtype
        size = images.shape[-2:]
        if self.image_size and size != (self.image_size, self.image_size):
            raise UserError(
                f"images of {size[0]}×{size[1]} must have {self.image_size}×{self.image_size} pixels, the only size"
                f" that this {type(self.model).__name__} gives back; correct data.image_size"
            )
        if size[0] % self.stride or size[1] % self.stride or images.shape[1] != self.image_channels:
            raise UserError(
                f"images of {images.shape[1]}×{size[0]}×{size[1]} must have {self.image_channels} channels and sides"
                f" that are multiples of {self.stride}; correct data.image_size or data.image_channels"
            )
        mean, log_variance = encoded(self.model, to_signed(images))
        if self.rounded_from is None:
            mean = (mean - self.shift) / self.spread
            return torch.cat([mean, log_variance - 2 * self.spread.log()], 1).float()
        mean = self.rounded_from(mean.float())
        return torch.cat([mean, torch.full_like(mean, NO_DEVIATION)], 1)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w), in the units of moments -> uint8 (B, image channels, H, W), rounded and clamped."""
        return to_bytes(decoded(self.model, latents.float() * self.spread + self.shift).float())


def encoded(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images in [−1, 1] -> mean and log-variance (B, C, h, w) of a model of any of CLASSES."""
    name = type(model).__name__
    output = model.encode((images + 1) / 2 if name == "AutoencoderRAE" else images)  # which takes [0, 1]
    if "latent_dist" in output:
        return output.latent_dist.mean, output.latent_dist.logvar
    return output[0], torch.full_like(output[0], DETERMINISTIC)


def decoded(model: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> floats that stand for [−1, 1], of a model of any of CLASSES."""
    name = type(model).__name__
    if name == "VQModel":  # its own decode would round to the codebook, or look up what it takes for code numbers
        by = latents if model.config.norm_type == "spatial" else None
        return model.decoder(model.post_quant_conv(latents), by)
    images = model.decode(latents).sample
    return images * 2 - 1 if name == "AutoencoderRAE" else images


def to_signed(images: Tensor) -> Tensor:
    """uint8 -> float32 in [−1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Floats that stand for [−1, 1] -> uint8, rounded and clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def build(settings: Mapping[str, Any]) -> Any:
    """A diffusers autoencoder with these settings and random weights, an AutoencoderKL where they name no class."""
    name = class_of(settings)
    own = {key: value for key, value in settings.items() if not key.startswith("_")}
    if name == "AutoencoderTiny":  # writes down a setting that it does not take
        own.pop("block_out_channels", None)
    return autoencoder_class(name)(**own).to(memory_format=torch.channels_last)  # three times faster on a CPU


@torch.no_grad()
def costs(settings: Mapping[str, Any], image_size: int) -> dict[str, int]:
    """Parameters of an autoencoder with these settings, and the operations per image each way, without values.

    Returns:
        encoder, decoder: numbers of weights; encode, decode: floating-point operations of products and attention.
    """
    with torch.device("meta"):
        model = build(settings).eval()
        images = torch.zeros(1, sizes_of(settings).image_channels, image_size, image_size)
    with Operations() as encoding:
        latents = encoded(model, images)[0]
    with Operations() as decoding:
        decoded(model, latents)
    halves = {
        "encoder": (model.encoder, getattr(model, "quant_conv", None)),
        "decoder": (model.decoder, getattr(model, "post_quant_conv", None)),
    }
    weights = {
        name: sum(p.numel() for module in modules if module is not None for p in module.parameters())
        for name, modules in halves.items()
    }
    return weights | {"encode": encoding.total, "decode": decoding.total}
