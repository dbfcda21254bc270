"""How good an autoencoder is on images that it has not seen: against plain pictures, and by its encoder's features.

N images, ch channels, H and W sides; images are uint8 (N, ch, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tokenbridge.autoencoders.frozen import FrozenAutoencoder
from tokenbridge.autoencoders.sources import CARD
from tokenbridge.autoencoders.train import PIXELS
from tokenbridge.metrics import extraction, frechet
from tokenbridge.metrics.images import Lpips, psnr
from tokenbridge.metrics.networks import ClassifierDistance, Encoder
from tokenbridge.store.artifacts import atomic, read_json, write_json

STRIP = "strip.png"
SHOWN = 12
"""images in the strip"""
ALIKE = 0.9
"""correlation from which two channels say nearly the same"""
DEFINITIONS = {
    "psnr": "dB, mean over images, of decoded posterior means; blurred: of images averaged over as many areas as there"
    " are latent positions; constant: of one colour for each image, its mean",
    "fd_autoencoder": "Fréchet distance of the reconstructions to their originals by the features of this autoencoder's"
    " own encoder, which favours it; blurred: of the averaged images; none of fewer than 2 images",
    "fd_own": "the same by the features of the classifier in `networks`; it has no part in the autoencoder unless"
    " perceptual_by names it, which favours it",
    "lpips_vgg": "LPIPS 0.1 by torchvision's VGG-16, mean over images; blurred: of the averaged images",
    "lpips_alex": "LPIPS 0.1 by torchvision's AlexNet, mean over images; blurred: of the averaged images",
    "largest_correlation": "largest absolute correlation of two latent channels, and which two they are",
}

ALWAYS = ("psnr", "fd_autoencoder", "largest_correlation")
"""what a card defines also where it could not be measured"""


def judge(
    folder: Path,
    frozen: FrozenAutoencoder,
    images: Tensor,
    lpips: Lpips | None = None,
    classifier: ClassifierDistance | None = None,
) -> dict[str, Any]:
    """Measure an autoencoder on images, as DEFINITIONS says; its card gets the numbers, and `strip.png` shows them.

    Args:
        folder: of train_own_autoencoder, with its card.
        frozen: the autoencoder.
        images: test images, uint8 (N, ch, H, W).
        lpips: measures LPIPS too.
        classifier: gives the features of fd_own, as scores have it.

    Returns:
        the card.
    """
    device, part = next(frozen.model.parameters()).device, max(1, PIXELS // images[0, 0].numel())
    halves = [frozen.moments(batch.to(device)).chunk(2, 1)[0] for batch in images.split(part)]
    decoded = torch.cat([frozen.decode(mean).cpu() for mean in halves])
    blurred = averaged(images, frozen.stride)
    pictures = {"": decoded, "_blurred": blurred, "_constant": averaged(images, images.shape[-1])}
    numbers: dict[str, Any] = {
        f"psnr{name}": round(float(psnr(each, images).mean()), 2) for name, each in pictures.items()
    }
    extractors = {"fd_autoencoder": Encoder(frozen)} | ({"fd_own": classifier.model} if classifier else {})
    for key, extractor in extractors.items() if len(images) > 1 else ():
        originals, *others = (
            extraction.extract(extractor, each.numpy(), part).features for each in (images, decoded, blurred)
        )
        for name, each in zip(("", "_blurred"), others, strict=True):
            numbers[f"{key}{name}"] = round(frechet.frechet_distance(each, originals), 4)
    if lpips:
        for name in ("", "_blurred"):
            pairs = zip(pictures[name].split(part), images.split(part), strict=True)
            numbers[f"{lpips.name}{name}"] = round(float(torch.cat([lpips(*pair) for pair in pairs]).mean()), 4)
    card = read_json(folder / CARD, "train it again")
    numbers |= _correlated(card["quality"]["channel_correlation"])
    definitions = {key: text for key, text in DEFINITIONS.items() if key in numbers or key in ALWAYS}
    card |= {"compared": numbers, "compared_by": definitions}
    if given := [network.about for network in (lpips, classifier) if network]:
        card["networks"] = given
    write_json(folder / CARD, card)
    with atomic(folder / STRIP) as file:
        Image.fromarray(strip(images[:SHOWN], decoded[:SHOWN])).save(file, "PNG")
    return card


def averaged(images: Tensor, side: int) -> Tensor:
    """Images in which each area of side × side pixels has its mean colour; the side divides theirs."""
    means = functional.avg_pool2d(images.float(), side)
    return means.round().to(torch.uint8).repeat_interleave(side, 2).repeat_interleave(side, 3)


def strip(originals: Tensor, decoded: Tensor) -> np.ndarray:
    """Originals (N, ch, H, W) side by side above what came back, uint8 (2H, N·W, 3) or (2H, N·W)."""
    rows = [np.concatenate(list(each.permute(0, 2, 3, 1).numpy()), axis=1) for each in (originals, decoded)]
    sheet = np.concatenate(rows)
    return sheet[..., 0] if sheet.shape[-1] == 1 else sheet


def _correlated(correlation: list[list[float]]) -> dict[str, Any]:
    values = np.nan_to_num(np.abs(np.array(correlation)))  # of a channel that never varies there is none
    np.fill_diagonal(values, -1)
    if len(values) < 2:
        return {"largest_correlation": 0.0, "correlated": []}
    first, second = divmod(int(values.argmax()), len(values))
    return {"largest_correlation": float(values[first, second]), "correlated": [first, second]}


def cautions(card: Mapping[str, Any], channels: str = "--channels", stride: str = "--stride") -> Iterator[str]:
    """Why an autoencoder with such a card is of little use, a sentence each, without a full stop.

    Args:
        card: as `judge` gives it.
        channels: how their number is chosen: an option, or a setting of a file.
        stride: how the stride is.
    """
    numbers, quality = card["compared"], card["quality"]
    remedy = f"train longer (--epochs), with more images or another {stride}"
    if quality["informative_channels"] == 0:
        yield f"no latent channel carries information: what it decodes is the same for all images; {remedy}"
    elif numbers["psnr"] < numbers["psnr_blurred"]:
        yield (
            f"reconstructions are worse than images averaged over {card['stride']}×{card['stride']} pixels"
            f" ({numbers['psnr']:.2f} against {numbers['psnr_blurred']:.2f} dB): latents keep little; {remedy}"
        )
    if 0 < quality["informative_channels"] < card["channels"]:
        yield (
            f"only {quality['informative_channels']} of {card['channels']} channels carry information, and a generator"
            f" must model the others too: train longer (--epochs), or give fewer ({channels})"
        )
    if numbers["largest_correlation"] > ALIKE and quality["informative_channels"]:
        first, second = numbers["correlated"]
        yield (
            f"channels {first} and {second} say nearly the same (correlation {numbers['largest_correlation']:.3f}):"
            f" train longer (--epochs), or give fewer ({channels}); heads that predict one channel from another gain by"
            " it alone"
        )
