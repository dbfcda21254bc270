"""Trains the small classifier of the digits whose features the in-domain metrics use."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from tokenbridge import rng
from tokenbridge.autoencoders.train import SHIPPED, TRAINED_ON, descend, epoch_orders
from tokenbridge.data.images import load, stack
from tokenbridge.metrics.networks import FEATURES, DigitsClassifier
from tokenbridge.metrics.scorers import CLASSIFIER
from tokenbridge.weights import read_half, write_shipped

PICTURE = 5.0
"""weight of the picture's mean squared error beside the cross-entropy"""


def train_classifier(
    out: Path, epochs: int = 30, seed: int = 0, batch: int = 128, learning_rate: float = 3e-3
) -> dict[str, Any]:
    """Train on all but the test images, write `digits_classifier.safetensors` and `.json` into out, return the latter.

    Images are shifted, turned, scaled and sheared a little. Quality is measured on the weights as stored (float16).
    """
    images, labels = (torch.from_numpy(part.copy()) for part in stack(load(SHIPPED, "train")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed_of(seed, "classifier", "weights"))  # initialisation and dropout
        model = DigitsClassifier().to(memory_format=torch.channels_last)  # three times faster on a CPU
        _fit(model, images, labels, epochs, seed, batch, learning_rate)
    settings = {"epochs": epochs, "seed": seed}
    return write_shipped(model, out / CLASSIFIER.name, "train-classifier", settings, evaluate, trained_on=TRAINED_ON)


def _fit(
    model: DigitsClassifier, images: Tensor, labels: Tensor, epochs: int, seed: int, batch: int, learning_rate: float
) -> None:
    draws = rng.generator(seed, "classifier", "data")
    # classification alone leaves 10 directions of spread in the features (one a class): they would see nothing of an
    # image but its class, so a linear map must also find the picture in them; it is not kept
    picture = nn.Linear(FEATURES, images[0].numel())
    optimizer = torch.optim.AdamW([*model.parameters(), *picture.parameters()], learning_rate, weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)

    def losses() -> Iterator[Tensor]:
        for order in epoch_orders(len(images), batch, epochs, draws):
            for chosen in order.split(batch):
                seen = augment(images[chosen], draws)
                features, logits = model(seen)
                error = functional.mse_loss(picture(features), seen.flatten(1) / 127.5 - 1)
                yield functional.cross_entropy(logits, labels[chosen]) + PICTURE * error

    descend(model, losses(), optimizer, schedule, tqdm(total=steps, desc="classifier", leave=False, disable=None))


def augment(images: Tensor, draws: torch.Generator) -> Tensor:
    """Random affine maps; images: uint8 (B, 1, H, W) -> the same.

    At most turned by 12°, scaled by 12 %, sheared by 0.15, shifted by 1.5 pixels; normal draws of half that deviation.
    """
    turn, scale_x, scale_y, shear, shift_x, shift_y = torch.randn(6, len(images), generator=draws).clamp(-2, 2) / 2
    turn, shear = turn * math.radians(12), shear * 0.15
    pixel = 2 / images.shape[-1]
    cos, sin = turn.cos(), turn.sin()
    rows = torch.stack(
        [
            *((1 + 0.12 * scale_x) * cos, shear - sin, 1.5 * pixel * shift_x),
            *(sin, (1 + 0.12 * scale_y) * cos, 1.5 * pixel * shift_y),
        ],
        dim=-1,
    )
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    warped = functional.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)
    return warped.round().clamp(0, 255).to(torch.uint8)


@torch.inference_mode()
def evaluate(path: Path) -> dict[str, float]:
    """Accuracy on the test images, and how the 64 features spread on those of the training."""
    model = DigitsClassifier()
    model.load_state_dict(read_half(path))
    model.eval()
    test, labels = (torch.from_numpy(part.copy()) for part in stack(load(SHIPPED, "test")))
    right = (model(test)[1].argmax(1) == labels).double().mean().item()
    features = model(torch.from_numpy(stack(load(SHIPPED, "train"))[0].copy()))[0].double()
    spread = torch.linalg.eigvalsh(features.T.cov()).clamp(min=0)
    share = spread / spread.sum()
    return {
        "test_accuracy": round(right, 4),
        "test_images": len(labels),
        "smallest_feature_deviation": round(features.std(0).min().item(), 4),
        "largest_feature_deviation": round(features.std(0).max().item(), 4),
        "effective_dimensions": round(math.exp(-(share * share.clamp(min=1e-12).log()).sum().item()), 2),
    }
