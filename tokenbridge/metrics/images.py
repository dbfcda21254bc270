"""Distances of images from their originals: PSNR, SSIM and LPIPS by torchmetrics.

LPIPS (arXiv 1801.03924, version 0.1) takes its linear layers from torchmetrics and its network from a file.

Letters: B images, ch channels, H height, W width; images are uint8 (B, ch, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenbridge.config import UserError
from tokenbridge.metrics.libraries import image_metric
from tokenbridge.store.artifacts import file_hash
from tokenbridge.weights import fill, read_checkpoint

PEAK = 255.0
LPIPS_FILES = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}
LPIPS_SOURCE = "https://download.pytorch.org/models/"
LPIPS_REMEDY = f"name torchvision's {LPIPS_FILES['vgg']} or {LPIPS_FILES['alex']} ({LPIPS_SOURCE})"
_FIRST = {(64, 3, 3, 3): "vgg", (64, 3, 11, 11): "alex"}
"""shape of the first convolution: what tells the networks apart"""


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, 10·log₁₀(255² / mean squared error), dB, float64 (B).

    An image that equals its original, whose ratio is infinite, counts as one with the least error that there is:
    psnr_of_exact. Raises UserError for shapes or dtypes that do not match.
    """
    first, second = _pair(images, originals)
    ratios = image_metric("peak_signal_noise_ratio")(first, second, data_range=PEAK, dim=(1, 2, 3), reduction="none")
    return ratios.clamp(max=psnr_of_exact(images[0].numel()))


def psnr_of_exact(values: int) -> float:
    """PSNR of an image of so many values of which one is off by 1, dB: what an exact image counts as."""
    return 10 * math.log10(PEAK**2 * values)


def exact(images: Tensor, originals: Tensor) -> Tensor:
    """Whether each image equals its original, bool (B)."""
    return (images == originals).flatten(1).all(1)


def exact_caution(count: int, images: int, values: int) -> list[str]:
    """What a reader of a mean PSNR must know where some of the images, of so many values each, are exact."""
    if not count:
        return []
    return [
        f"{count} of {images} reconstructions equal their originals: their PSNR, which is infinite, counts as"
        f" {psnr_of_exact(values):.1f} dB, that of one value off by 1"
    ]


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004), in [-1, 1], float64 (B).

    A uniform window with sides of ssim_window(H, W) pixels slides over the image, reflected at its border. The common
    Gaussian window of 11 is not used: it would cover most of a 16×16 image. Raises what psnr raises.
    """
    first, second = _pair(images, originals)
    similarity = image_metric("structural_similarity_index_measure")(
        first,
        second,
        gaussian_kernel=False,
        kernel_size=ssim_window(*first.shape[-2:]),
        data_range=PEAK,
        reduction="none",
    )
    assert isinstance(similarity, Tensor)
    return similarity.reshape(len(first))


def ssim_window(height: int, width: int) -> int:
    """Side of the window in pixels: 7, or the largest odd number that fits a smaller image."""
    return min(7, (min(height, width) - 1) // 2 * 2 + 1)


class Lpips:
    """LPIPS of pairs of images; its name says by which network: lpips_vgg, lpips_alex.

    Raises UserError for a file that is not there or is of another network, and for images too small for its pooling.

    Args:
        path: torchvision's weights of the network.
        size: side of the images, pixels.
        device: where the network goes.
        setting: names the path in errors.
    """

    def __init__(self, path: Path, size: int, device: torch.device | str = "cpu", setting: str = "score.lpips"):
        from torchmetrics.functional.image.lpips import _LPIPS  # with torchvision and matplotlib, three seconds

        remedy = f"{LPIPS_REMEDY} in {setting}"
        if not path.is_file():
            raise UserError(f"{setting}={path} must be a file; {remedy}")
        state = read_checkpoint(path, remedy)
        first = state.get("features.0.weight") if isinstance(state, dict) else None
        if not isinstance(first, Tensor) or tuple(first.shape) not in _FIRST:
            raise UserError(f"{setting}={path} must hold a network's state; {remedy}")
        kind = _FIRST[tuple(first.shape)]  # pyright: ignore[reportArgumentType] (one of its keys)
        self.name = f"lpips_{kind}"
        self.device = torch.device(device)
        model = _LPIPS(net=kind, pnet_rand=True)  # pyright: ignore[reportArgumentType]
        # its slices number the layers as torchvision's `features` do
        layers = {key: key.partition(".")[2] for key in model.net.state_dict()}
        taken = {key: state[f"features.{layer}"] for key, layer in layers.items() if f"features.{layer}" in state}
        fill(model.net, taken, path, remedy)
        self.model = model.to(self.device).requires_grad_(False)
        self.about: Mapping[str, Any] = {"network": self.name, "sha256": file_hash(path)}
        try:
            blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
            self(blank, blank)
        except RuntimeError:
            raise UserError(f"data.image_size={size} is too small for {self.name}; leave {setting} out") from None

    @torch.inference_mode()
    def __call__(self, images: Tensor, originals: Tensor) -> Tensor:
        """Distances (B) float32 >= 0 of uint8 (B, 1 or 3, H, W); grey images get three equal channels."""
        pair = (x.to(self.device).float().div(127.5).sub(1) for x in (images, originals))
        return self.distances(*pair).cpu()

    def distances(self, images: Tensor, originals: Tensor) -> Tensor:
        """As a call, with gradients, of float images in [−1, 1] on the device of the network."""
        return self.model(*(x.expand(-1, 3, -1, -1) for x in (images, originals))).reshape(-1)


def _pair(images: Tensor, originals: Tensor) -> tuple[Tensor, Tensor]:
    for value in (images, originals):
        if value.dtype != torch.uint8 or value.ndim != 4:
            raise UserError(
                f"images of {value.dtype} {tuple(value.shape)} must be uint8 (images, channels, height, width)"
            )
    if images.shape != originals.shape:
        raise UserError(f"images {tuple(images.shape)} and originals {tuple(originals.shape)} must have one shape")
    return images.double(), originals.double()
