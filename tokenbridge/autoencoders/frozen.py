"""Frozen autoencoders: the shipped KL autoencoder of the digits, any diffusers AutoencoderKL folder, LDM's checkpoints,
and the same architectures trained with a quantizer (stage `tokenizer`).

Letters: B images, H height, W width, C latent channels, h = H / stride, w = W / stride.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tokenbridge.autoencoders import ldm
from tokenbridge.autoencoders.autoencoder_kl import autoencoder_kl
from tokenbridge.autoencoders.files import (
    DIGITS,
    Sizes,
    autoencoder_file,
    autoencoder_folder,
    fingerprint,
    folder_settings,
    require_sizes,
    settings_of,
    sizes_of,
)
from tokenbridge.config import Autoencoder, RunConfig, UserError
from tokenbridge.store.artifacts import file_hash
from tokenbridge.tokenizers.trained import BODY, TRAINED, rounded_from
from tokenbridge.weights import RUN_AGAIN, fill, read, read_half

NO_DEVIATION = -30.0
"""log-variance of latents that are trained with a quantizer: a draw from their posterior is its mean"""


class FrozenAutoencoder(nn.Module):
    """Images to posterior moments and back, without gradients.

    channels C, stride (pixels a position spans a side) and image_channels are those of the weights.
    scaling_factor, shift_factor: the config's own (unit = (latent − shift) · scaling); None where it has none, as for
    the shipped digits. Latents here are in the autoencoder's own units, less `shift`: 0 unless a run asks for the own
    factors. The scale is never applied.
    rounded_from: of one trained with a quantizer, from the encoder's output to what the quantizer takes the nearest of.
    """

    def __init__(
        self,
        model: nn.Module,
        scaling_factor: float | None = None,
        shift_factor: float | None = None,
        rounded_from: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.model, self.rounded_from = model, rounded_from
        self.scaling_factor, self.shift_factor, self.shift = scaling_factor, shift_factor, 0.0
        self.channels, self.stride, self.image_channels = sizes_of(cast(Mapping[str, Any], model.config))

    @torch.inference_mode()
    def moments(self, images: Tensor) -> Tensor:
        """uint8 (B, image channels, H, W) -> float32 (B, 2C, h, w): the posterior's mean, then its log-variance."""
        assert images.dtype == torch.uint8, images.dtype
        size = images.shape[-2:]
        if size[0] % self.stride or size[1] % self.stride or images.shape[1] != self.image_channels:
            raise UserError(
                f"images of {images.shape[1]}×{size[0]}×{size[1]} must have {self.image_channels} channels and sides"
                f" that are multiples of {self.stride}; correct data.image_size or data.image_channels"
            )
        posterior = self.model.encode(to_signed(images)).latent_dist  # pyright: ignore
        if self.rounded_from is None:
            return torch.cat([posterior.mean - self.shift, posterior.logvar], 1).float()
        mean = self.rounded_from(posterior.mean.float())
        return torch.cat([mean, torch.full_like(mean, NO_DEVIATION)], 1)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """float (B, C, h, w) as moments gives them -> uint8 (B, image channels, H, W), rounded and clamped."""
        return to_bytes(self.model.decode(latents.float() + self.shift).sample)  # pyright: ignore


def to_signed(images: Tensor) -> Tensor:
    """uint8 -> float32 in [−1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Floats, meant in [−1, 1] -> uint8, rounded and clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def autoencoder_of(config: RunConfig, inputs: Mapping[str, Path], device: torch.device | str) -> FrozenAutoencoder:
    """The autoencoder whose latents a run's tokens are of: the given one, or the one trained with its quantizer."""
    if not config.quantizer.trained:
        frozen = load_autoencoder(config.autoencoder, device)
        if config.latents.scale == "autoencoder":
            frozen.shift = frozen.shift_factor or 0.0
        return frozen
    path = inputs["tokenizer"] / TRAINED
    state = {key.removeprefix(BODY): value for key, value in read(path).items() if key.startswith(BODY)}
    model = fill(build_body(config.autoencoder), state, path, RUN_AGAIN)
    return FrozenAutoencoder(model, rounded_from=rounded_from(config)).to(device)


def weights_of(config: RunConfig, inputs: Mapping[str, Path]) -> str:
    """SHA-256 of the weights of autoencoder_of, hex."""
    return file_hash(inputs["tokenizer"] / TRAINED) if config.quantizer.trained else fingerprint(config.autoencoder)


def load_autoencoder(config: Autoencoder, device: torch.device | str = "cpu") -> FrozenAutoencoder:
    """The given autoencoder of a config, in float32; UserError where files are missing or do not match the config."""
    if config.source == "digits":
        frozen = load_digits_autoencoder(DIGITS)
    elif config.source == "ldm":
        frozen = _load_ldm(autoencoder_file(config))
    else:
        frozen = _load_folder(autoencoder_folder(config))
    require_sizes(config, Sizes(frozen.channels, frozen.stride, frozen.image_channels))
    return frozen.to(device)


def load_digits_autoencoder(path: Path) -> FrozenAutoencoder:
    """The digits architecture with the weights of a file written by train_autoencoder."""
    return FrozenAutoencoder(fill(build_body(Autoencoder()), read_half(path), path))


def architecture(config: Autoencoder) -> dict[str, Any]:
    """Settings of diffusers' AutoencoderKL for an untrained one like the given one, but of config.channels channels."""
    settings = {key: value for key, value in settings_of(config).items() if not key.startswith("_")}
    stride = sizes_of(settings).stride
    if stride != config.stride:
        raise UserError(f"autoencoder.stride={config.stride} must be {stride}, that of the architecture; correct it")
    return settings | {"latent_channels": config.channels}


def build_body(config: Autoencoder) -> Any:
    """An untrained autoencoder of this architecture (a diffusers AutoencoderKL)."""
    return build(architecture(config))


def build(settings: Mapping[str, Any]) -> Any:
    return autoencoder_kl()(**settings).to(memory_format=torch.channels_last)  # three times faster on a CPU


@torch.no_grad()
def costs(settings: Mapping[str, Any], image_size: int) -> dict[str, int]:
    """Parameters of an AutoencoderKL with these settings, and the operations per image each way, without values.

    Returns:
        encoder, decoder: numbers of weights; encode, decode: floating-point operations of products and attention.
    """
    with torch.device("meta"):
        model = build(settings).eval()
        images = torch.zeros(1, settings.get("in_channels", 3), image_size, image_size)
    with FlopCounterMode(display=False) as encoding:
        latents = model.encode(images).latent_dist.mean
    with FlopCounterMode(display=False) as decoding:
        model.decode(latents)
    halves = {"encoder": (model.encoder, model.quant_conv), "decoder": (model.decoder, model.post_quant_conv)}
    weights = {
        name: sum(p.numel() for module in modules if module is not None for p in module.parameters())
        for name, modules in halves.items()
    }
    return weights | {"encode": encoding.get_total_flops(), "decode": decoding.get_total_flops()}


def _load_ldm(path: Path) -> FrozenAutoencoder:
    state = ldm.read_weights(path)
    model = build(ldm.settings_of(state, path))
    return FrozenAutoencoder(fill(model, ldm.converted(state, model.state_dict(), path), path))


def _load_folder(folder: Path) -> FrozenAutoencoder:
    settings = folder_settings(folder)
    loaded: Any
    try:
        loaded = autoencoder_kl().from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # diffusers and safetensors raise many kinds for a broken file
        raise UserError(f"{folder} cannot be read as an AutoencoderKL ({_line(error)}); save it again") from error
    model, report = loaded
    wrong = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report[kind]]
    if wrong:
        raise UserError(
            f"{folder} must hold the weights of its config.json, and {wrong[0]} does not match; save it again"
        )
    model = model.float().eval().requires_grad_(False)
    return FrozenAutoencoder(model, settings.get("scaling_factor"), settings.get("shift_factor"))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
