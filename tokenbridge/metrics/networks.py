"""The networks of the scorers: classifiers of digits and of own images, and encoders; published.py has the others.

Each takes uint8 images (B, 1 or 3, H, W), grey as red, green and blue alike, and gives float32 arrays, which its
attribute `gives` names: features (B, F), logits (B, K), spatial features (B, S).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from tokenbridge.autoencoders.frozen import FrozenAutoencoder
from tokenbridge.config import Data, Precision, Score, UserError
from tokenbridge.devices import at_precision, require_precision
from tokenbridge.metrics.programs import program_of, require
from tokenbridge.metrics.scorers import ENCODER, OWN_FILE, SCORERS, SHIPPED, encoder_of, own_about, weights_of
from tokenbridge.store.artifacts import file_hash
from tokenbridge.weights import fill, read, read_half

if TYPE_CHECKING:
    from tokenbridge.metrics.images import Lpips

FEATURES = 64
"""width of the features of classifiers, of digits and own"""
SEEN = 64
"""pixels per side that an own classifier sees, at most"""
LEAST = 7
"""positions per side, at most, behind its convolutions"""
SETTING = "score.precision"


class AtPrecision(nn.Module):
    """A network whose products run in another precision than float32; what it gives is float32."""

    def __init__(self, network: nn.Module, precision: Precision):
        super().__init__()
        self.network, self.gives = network, network.gives
        self.precision: Precision = precision

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with at_precision(images.device, self.precision, SETTING):
            return tuple(values.float() for values in self.network(images))


class DigitsClassifier(nn.Module):
    """A small CNN for 16×16 grey images.

    Features (B, 64) are the normalised activations in front of the last non-linearity, of about unit deviation on the
    training split: nearer to a normal than rectified ones, which is what a Fréchet distance assumes. Logits are
    (B, 10). Channels are averaged, for torch-fidelity reads a grey PNG as RGB.
    """

    size = 16
    gives = ("features", "logits")

    def __init__(self, width: int = 32, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(1, width),
            *_convolution(width, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * (self.size // 4) ** 2, FEATURES, bias=False),
            nn.BatchNorm1d(FEATURES, affine=False),
        )
        self.dropout = nn.Dropout(0.3)
        self.logits = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images={images.dtype} {tuple(images.shape)} must be uint8 (B, 1 or 3, H, W)")
        if images.shape[-2:] != (self.size, self.size):
            raise UserError(
                f"images of {images.shape[-2]}×{images.shape[-1]} pixels must have {self.size}×{self.size} for the"
                " features of the digits; these features are no measure of other data: take those of your own,"
                " `tokenbridge train-classifier` (own) or train-autoencoder (autoencoder)"
            )
        features = self.body(images.float().mean(1, keepdim=True) / 127.5 - 1)
        return features, self.logits(self.dropout(nn.functional.silu(features)))


class OwnClassifier(nn.Module):
    """A small CNN for images of one size, grey or coloured, which `tokenbridge train-classifier` trains.

    Larger images are averaged over areas to SEEN pixels first; a convolution follows each halving, down to LEAST
    positions per side at most. Features (B, 64) are normalised activations in front of the last non-linearity, as those
    of the digits; logits are (B, K).
    """

    gives = ("features", "logits")

    def __init__(self, size: int, channels: int, classes: int, width: int = 32):
        """Random weights.

        Args:
            size: pixels per side of the images.
            channels: 1 or 3.
            classes: K.
            width: channels at the full resolution; twice as many below.
        """
        super().__init__()
        self.size, self.channels, side = size, channels, min(size, SEEN)
        layers, inputs = [*_convolution(channels, width)], width
        while side > LEAST:
            layers += [nn.MaxPool2d(2), *_convolution(inputs, 2 * width)]
            side, inputs = side // 2, 2 * width
        self.body = nn.Sequential(
            *layers,
            *_convolution(inputs, 2 * width),
            nn.Flatten(),
            nn.Linear(2 * width * side**2, FEATURES, bias=False),
            nn.BatchNorm1d(FEATURES, affine=False),
        )
        self.dropout = nn.Dropout(0.3)
        self.logits = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        theirs = tuple(images.shape[1:])
        if theirs != (self.channels, self.size, self.size):
            own = f"{self.channels}×{self.size}×{self.size}"
            raise UserError(
                f"images of {'×'.join(map(str, theirs))} must be {own} for the features of own, which are no measure of"
                " other data"
            )
        features = self.body(seen(images, SEEN))
        return features, self.logits(self.dropout(nn.functional.silu(features)))


def seen(images: Tensor, most: int) -> Tensor:
    """uint8 -> float32 in [−1, 1], averaged over areas to at most so many pixels per side."""
    scaled = images.float() / 127.5 - 1
    return nn.functional.adaptive_avg_pool2d(scaled, most) if images.shape[-1] > most else scaled


class ClassifierDistance:
    """A perceptual distance by an own classifier, as LPIPS without its linear layers (arXiv 1801.03924, baseline).

    Features behind each non-linearity, of unit length at each position: squared differences, summed over channels,
    averaged over positions and layers.
    """

    def __init__(self, path: Path, images: Data, device: torch.device | str = "cpu"):
        """Take a classifier. UserError for no whole one, and for one of other images.

        Args:
            path: folder of train-classifier, or its file of weights.
            images: what it must fit.
            device: where the network goes.
        """
        path = path / OWN_FILE if path.is_dir() else path
        about = own_about(path)
        for name in ("image_size", "image_channels"):
            if about[name] != (ours := getattr(images, name)):
                raise UserError(
                    f"{path} is a classifier of {name}={about[name]}, and the images have {ours}; train another"
                )
        self.model = cast(OwnClassifier, read_own(path).to(device))
        self.about: Mapping[str, Any] = {"network": f"classifier {about['name']}", "sha256": file_hash(path)}

    def distances(self, images: Tensor, originals: Tensor) -> Tensor:
        """Distances (B) float32 >= 0, with gradients, of float images (B, ch, H, W) in [−1, 1]."""
        pair = torch.cat([images, originals])
        values = seen((pair + 1) * 127.5, SEEN)
        found = list[Tensor]()
        for layer in self.model.body:
            if isinstance(layer, nn.Flatten):
                break
            values = layer(values)
            if isinstance(layer, nn.SiLU):
                first, second = nn.functional.normalize(values, eps=1e-4).chunk(2)
                found.append((first - second).square().sum(1).mean((1, 2)))
        return torch.stack(found).mean(0)


def distance_of(path: Path, images: Data, device: torch.device | str, setting: str) -> ClassifierDistance | Lpips:
    """The perceptual distance of a file: LPIPS by torchvision's network, or that of a folder of train-classifier.

    Args:
        path: the file of weights, or the folder of the classifier.
        images: what it is of; UserError where they do not fit.
        device: where the network goes.
        setting: names the path in errors.
    """
    if path.is_dir() or path.suffix == Path(OWN_FILE).suffix:
        return ClassifierDistance(path, images, device)
    from tokenbridge.metrics.images import Lpips

    return Lpips(path, images.image_size, device, setting)


class Encoder(nn.Module):
    """What an autoencoder's encoder gives its last convolution, averaged over the positions: (B, F)."""

    gives = ("features",)

    def __init__(self, frozen: FrozenAutoencoder):
        super().__init__()
        self.frozen = frozen

    def forward(self, images: Tensor) -> tuple[Tensor]:
        last: list[Tensor] = []
        encoder = cast(Any, self.frozen.model).encoder
        hook = encoder.conv_act.register_forward_hook(lambda module, inputs, output: last.append(output))
        try:
            self.frozen.moments(images)
        finally:
            hook.remove()
        return (last[0].float().mean((2, 3)),)


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()


def load_extractor(
    name: str, device: torch.device | str = "cpu", score: Score | None = None, trusted: bool = False
) -> nn.Module:
    """The frozen network of a scorer.

    Args:
        name: of SCORERS.
        device: where it is put.
        score: says where weights are that do not ship; by default in torch.hub's folder.
        trusted: whether code that comes with the weights runs though it is not known (--trust-weights).

    Raises:
        UserError: weights that are not to be had or do not fit, code that is not known.
    """
    score = score or Score()
    require_precision(torch.device(device), score.precision, SETTING)
    network = _load(name, device, score, trusted)
    return network if score.precision == "float32" else AtPrecision(network, score.precision)


def _load(name: str, device: torch.device | str, score: Score, trusted: bool) -> nn.Module:
    path = weights_of(score, name)
    if name == SHIPPED:
        return fill(DigitsClassifier(), read_half(path), path).to(device)
    if SCORERS[name].tells_images:
        return read_own(path).to(device)
    if name == ENCODER:
        return Encoder(encoder_of(score).load()).eval().requires_grad_(False).to(device)
    from tokenbridge.metrics.published import NETWORKS  # with torchvision, two seconds

    program = program_of(score, name)
    if program is not None and not trusted:
        require(program)
    return NETWORKS[name](path, program).eval().requires_grad_(False).to(device)


def read_own(path: Path) -> nn.Module:
    """An own classifier with its weights. UserError for a file that is no whole one."""
    about, remedy = own_about(path), "train it again"
    model = OwnClassifier(about["image_size"], about["image_channels"], len(about["classes"]))
    return fill(model, read(path, remedy), path, remedy)
