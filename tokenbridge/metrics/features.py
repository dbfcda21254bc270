"""Feature extractors for image metrics. The shipped one is an in-domain classifier of the digits.

Letters: B images, H = W = 16, F = 64 features, K = 10 classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokenbridge.config import UserError
from tokenbridge.weight_files import extractor_weights
from tokenbridge.weights import fill, read_half

FEATURES = 64


class DigitsClassifier(nn.Module):
    """A small CNN for 16×16 grey images.

    forward: uint8 (B, 1, 16, 16), or (B, 3, 16, 16) whose channels are averaged (torch-fidelity reads a grey PNG as
    RGB) -> (features float32 (B, 64), logits float32 (B, 10)). Features are the normalised activations in front of
    the last non-linearity, of about unit deviation on the training split: nearer to a normal than rectified ones,
    which is what a Fréchet distance assumes.
    """

    size = 16

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
                " features of the digits; these features are no measure of other data"
            )
        features = self.body(images.float().mean(1, keepdim=True) / 127.5 - 1)
        return features, self.logits(self.dropout(nn.functional.silu(features)))


def load_extractor(name: str, device: torch.device | str = "cpu") -> nn.Module:
    """A frozen extractor: uint8 (B, channels, H, W) -> (features float32 (B, F), logits float32 (B, K))."""
    path = extractor_weights(name)
    return fill(DigitsClassifier(), read_half(path), path).to(device)


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()
