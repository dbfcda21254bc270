"""How near images are to their originals, pixel by pixel: PSNR and SSIM by torchmetrics.

Letters: B images, ch channels, H height, W width; images are uint8 (B, ch, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from tokenbridge.config import UserError

PEAK = 255.0


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10·log₁₀(255² / mean squared error), dB, float64 (B,).

    Infinite for an image that equals its original. Raises UserError for shapes or dtypes that do not match.
    """
    first, second = _pair(images, originals)
    return peak_signal_noise_ratio(first, second, data_range=PEAK, dim=(1, 2, 3), reduction="none")


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004), in [-1, 1], float64 (B,).

    A uniform window of ssim_window(H, W) pixels a side slides over the image, reflected at its border. The common
    Gaussian window of 11 is not used: it would cover most of a 16×16 image. Raises what psnr raises.
    """
    first, second = _pair(images, originals)
    found = structural_similarity_index_measure(
        first,
        second,
        gaussian_kernel=False,
        kernel_size=ssim_window(*first.shape[-2:]),
        data_range=PEAK,
        reduction="none",
    )
    assert isinstance(found, Tensor)
    return found.reshape(len(first))


def ssim_window(height: int, width: int) -> int:
    """Pixels a side of the window: 7, or the largest odd number that fits a smaller image."""
    return min(7, (min(height, width) - 1) // 2 * 2 + 1)


def _pair(images: Tensor, originals: Tensor) -> tuple[Tensor, Tensor]:
    for value in (images, originals):
        if value.dtype != torch.uint8 or value.ndim != 4:
            raise UserError(
                f"images of {value.dtype} {tuple(value.shape)} must be uint8 (images, channels, height, width)"
            )
    if images.shape != originals.shape:
        raise UserError(f"images {tuple(images.shape)} and originals {tuple(originals.shape)} must have one shape")
    return images.double(), originals.double()
