"""Frozen autoencoders and quantizers on plain tensors.

Letters: N images, H and W sides, C latent channels, h = H / stride, w = W / stride.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenbridge import config
from tokenbridge.autoencoders.frozen import FrozenAutoencoder
from tokenbridge.autoencoders.sources import Digits, Fashion, recognized, source_of
from tokenbridge.config import Quantizer, UserError
from tokenbridge.data.images import batches
from tokenbridge.library.image_sets import of_path
from tokenbridge.overrides import build
from tokenbridge.tokenizers import Tokenizer
from tokenbridge.tokenizers.scalar import diagnostics, fit, range_of

BATCH = 64
"""images of a folder at once"""


class Autoencoder:
    """A frozen autoencoder; `autoencoder` opens one.

    Attributes:
        channels: C.
        stride: pixels per latent position, along a side.
        image_channels: 1 or 3.
    """

    def __init__(self, frozen: FrozenAutoencoder):
        self._frozen = frozen
        self.channels, self.stride, self.image_channels = frozen.channels, frozen.stride, frozen.image_channels

    def encode(self, images: Tensor | str | Path, size: int | None = None) -> Tensor:
        """Means of the posteriors, in the autoencoder's units.

        Args:
            images: (N, image channels, H, W), uint8, or floats in [0, 1], which are rounded to whole grey values; or a
                folder of images, which come by class and by name, or an .npz of images (arr_0).
            size: side that images of a folder are cropped to (ADM's crop); by default their own, the same of all.

        Returns:
            float32 (N, C, h, w).

        Raises:
            UserError: floats beyond [0, 1], another number of channels, sides that the stride does not divide; a folder
                without images, or with images of several sizes.
        """
        if isinstance(images, Tensor):
            return self._means(whole(images))
        found = of_path(Path(images), size)
        if isinstance(found, Path):
            raise UserError(f"{images} must hold images, not statistics or features; name their folder")
        device = self._frozen.shift.device
        parts = batches(found.read(self.image_channels), BATCH)
        return torch.cat([self._means(part.to(device)).cpu() for part, _ in parts])

    def _means(self, images: Tensor) -> Tensor:
        return self._frozen.moments(images).chunk(2, dim=1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents (N, C, h, w) in the autoencoder's units: uint8 (N, image channels, H, W)."""
        return self._frozen.decode(latents)


def whole(images: Tensor) -> Tensor:
    """Images as uint8, from uint8 or from floats in [0, 1]. UserError for other values."""
    if images.dtype == torch.uint8:
        return images
    low, high = (float(bound) for bound in images.aminmax())
    if not images.is_floating_point() or not (low >= 0 and high <= 1):
        raise UserError(
            f"images of {images.dtype} from {low:g} to {high:g} must be uint8, or floats from 0 to 1; rescale them"
        )
    return (images * 255).round().to(torch.uint8)


def autoencoder(weights: str | Path, device: str | torch.device = "cpu") -> Autoencoder:
    """Open a frozen autoencoder.

    >>> import tokenbridge as tb
    >>> shipped = tb.autoencoder("digits")
    >>> latents = shipped.encode(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    >>> latents.shape, shipped.decode(latents).shape
    (torch.Size([2, 8, 4, 4]), torch.Size([2, 1, 16, 16]))

    Args:
        weights: a folder that diffusers' AutoencoderKL.save_pretrained or `tokenbridge train-autoencoder` wrote, a
            checkpoint of LDM or MAR (kl16.ckpt), a Hugging Face id such as stabilityai/sd-vae-ft-ema, or digits or
            fashion, which ship.
        device: where it goes.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    for shipped in (Digits, Fashion):
        if str(weights) == shipped.name:
            return Autoencoder(shipped().load().to(device))
    path = Path(weights)
    if not path.exists() and str(weights).count("/") == 1:
        path = downloaded(str(weights))
    name = recognized(path)
    if name is None:
        raise UserError(
            f"{weights} must be an autoencoder: a diffusers folder, an LDM checkpoint, a Hugging Face id, or one that"
            " ships, digits or fashion"
        )
    source = source_of(config.Autoencoder(source=name, path=str(path)))
    return Autoencoder(source.load().to(device))


def downloaded(id: str) -> Path:
    """A repository of Hugging Face on disk; its weights and settings alone."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(id, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # many kinds: no network, no such repository, no rights
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{id} is no folder here, and Hugging Face does not give it ({reason})") from error


class Codes:
    """A quantizer that is fitted to latents; `quantizer` makes one.

    Attributes:
        scale: what latents are multiplied with, so that those of the fit have unit deviation.
        levels: number of levels of each channel, (C,).
    """

    def __init__(self, tokenizer: Tokenizer, scale: float, fitted: Tensor, limits: tuple[Tensor, Tensor] | None):
        self._tokenizer, self._fitted, self._limits = tokenizer, fitted, limits
        self.scale, self.levels = scale, tokenizer.levels

    def encode(self, latents: Tensor) -> Tensor:
        """Levels of latents, each channel by itself.

        Args:
            latents: as they were fitted: (N, C, h, w), or with channels last, (…, C).

        Returns:
            int64 in the same shape, in [0, levels of the channel).
        """
        return _last_to(latents, self._tokenizer.encode(_channels_last(latents) * self.scale))

    def decode(self, tokens: Tensor) -> Tensor:
        """Latents that levels stand for, float32 in the shape of the tokens and the units of the latents."""
        return _last_to(tokens, self._tokenizer.decode(_channels_last(tokens)) / self.scale)

    def diagnostics(self) -> dict[str, float]:
        """What quantizing costs on the latents of the fit, in their unit deviation.

        Returns:
            mse, snr_db (dB), entropy_bits and token_bits, clipped (a share), unused_levels, and the limits of theory
            for normal latents: limit_panter_dite, limit_entropy_coded, limit_shannon.
        """
        return diagnostics(self._tokenizer, self._fitted, self._limits)


def quantizer(latents: Tensor, kind: str = "gaussian", levels: int = 64, **settings: Any) -> Codes:
    """Quantize latents after training, each channel by itself (arXiv 2503.16430).

    >>> import tokenbridge as tb
    >>> latents = torch.randn(100, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> codes = tb.quantizer(latents, levels=64)
    >>> tokens = codes.encode(latents)
    >>> tokens.shape, int(tokens.max()) < 64
    (torch.Size([100, 8, 4, 4]), True)
    >>> round(codes.diagnostics()["snr_db"])
    32

    Args:
        latents: float (N, C, h, w), or with channels last, (…, C); the levels follow their deviation.
        kind: gaussian (the paper), uniform, quantile, lloyd-max, or identity.
        levels: per channel.
        settings: others of the section `quantizer`, such as range=5 or per="channel".

    Raises:
        UserError: a setting that cannot be, values that are not finite or all alike.
    """
    wanted = build(Quantizer, {"kind": kind, "levels": levels} | settings)
    if wanted.trained:
        raise UserError(
            f"kind={kind} is trained with its autoencoder; take one of gaussian, uniform, quantile, lloyd-max"
        )
    rows = _channels_last(latents).float().flatten(0, -2)
    deviation = float(rows.double().std(correction=0))
    if not 0 < deviation < float("inf"):
        raise UserError(f"latents of deviation {deviation:g} must vary and be finite; check the images")
    unit = rows / deviation
    return Codes(fit(wanted, unit), 1 / deviation, unit, range_of(wanted, unit))


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1) if x.ndim == 4 else x


def _last_to(like: Tensor, x: Tensor) -> Tensor:
    return x.movedim(-1, 1).contiguous() if like.ndim == 4 else x
