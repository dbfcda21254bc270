"""Trains the small classifiers whose features in-domain metrics use: of the digits, and of any labelled images.

N images, ch channels, F features, K classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from tokenbridge import rng
from tokenbridge.autoencoders.train import SHIPPED, TRAINED_ON, descend, epoch_orders, in_memory, progress
from tokenbridge.config import Data, UserError
from tokenbridge.data.files import classes_of
from tokenbridge.data.images import Images, batches, load, stack
from tokenbridge.metrics import extraction, frechet
from tokenbridge.metrics.networks import FEATURES, DigitsClassifier, OwnClassifier, read_own, seen
from tokenbridge.metrics.scorers import ABOUT, CLASSIFIER, ENCODER, OWN_FILE, seen_in
from tokenbridge.optimizer import AdamW
from tokenbridge.store.artifacts import file_hash, write_atomic, write_json
from tokenbridge.store.provenance import environment
from tokenbridge.weights import read_half, write_shipped

PICTURE = 5.0
"""weight of the picture's mean squared error beside the cross-entropy"""
PICTURE_SIDE = 16
"""pixels per side of the picture that an own classifier's features must hold"""
SMOOTHING = 0.1
"""of an own classifier's labels"""
AT_ONCE = 256
"""images whose features are taken together"""
DEFINITIONS = {
    "test_accuracy": "share of test images that are read as their class; chance is the share of the largest class",
    "fd_own_test": "Fréchet distance of the test images' features to those of the training images: the floor, since no"
    " generator can be expected to beat real images that the classifier has not seen",
    "fd_own_halves": "the same between two random halves of the training images: what chance alone reads",
    "effective_dimensions": "exp of the entropy of the shares that the features' directions have in their variance",
}


def train_classifier(
    out: Path, epochs: int = 30, seed: int = 0, batch: int = 128, learning_rate: float = 3e-3
) -> dict[str, Any]:
    """Train on all but the test images, write `digits_classifier.safetensors` and `.json` into out, return the latter.

    Images are shifted, turned, scaled and sheared a little. Quality is measured on the weights as stored (float16).
    """
    images, labels = (torch.from_numpy(part.copy()) for part in stack(load(SHIPPED, "train")))
    with rng.drawn_from(seed, "classifier", "weights"):  # initialisation and dropout
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
    optimizer = AdamW([*model.parameters(), *picture.parameters()], learning_rate, weight_decay=0.05)
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


def require_classes(classes: int, path: object) -> None:
    """UserError where the images of a folder are of one class."""
    if classes < 2:
        raise UserError(
            f"{path} holds images of one class, and a classifier needs 2; take the features of an autoencoder"
            f" (score.features={ENCODER} score.weights=AUTOENCODER)"
        )


def train_own_classifier(
    out: Path, config: Data, name: str, epochs: int, seed: int, batch: int, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Train a classifier of a folder's training images, for score.features=own; returns its card.

    Writes classifier.safetensors, which says itself what it is of, and classifier.json, its card. Test images are those
    that a run with data.source=folder and the same fractions has; quality is measured on the weights as stored.

    Args:
        out: the folder for both files.
        config: the images, of 2 classes at least.
        name: of the features, for protocols.
        batch: images per step; fewer where the folder holds fewer.

    Raises:
        UserError: images that cannot be read, or of one class.
    """
    require_classes(config.classes, config.path or config.name)
    train, test = in_memory(load(config, "train")), load(config, "test")
    with rng.drawn_from(seed, "own classifier", "weights", device=torch.device(device)):
        model = OwnClassifier(config.image_size, config.image_channels, config.classes)
        model = model.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        _fit_own(model, train, epochs, seed, min(batch, len(train)))
    about = {"name": name, "classes": classes_of(config), "seen": seen_in(config)}
    about |= {key: getattr(config, key) for key in ("image_size", "image_channels")}
    state = {key: value.cpu().contiguous().clone() for key, value in model.state_dict().items()}
    write_atomic(out / OWN_FILE, save(state, {ABOUT: json.dumps(about)}))
    card = about | {
        "images": config.path or config.name,
        **{"epochs": epochs, "seed": seed, "batch": batch},
        "sha256": file_hash(out / OWN_FILE),
        "versions": environment()["versions"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "quality": own_quality(out / OWN_FILE, train, test, device),
        "definitions": DEFINITIONS,
    }
    write_json((out / OWN_FILE).with_suffix(".json"), card)
    return card


def _fit_own(model: OwnClassifier, images: Images, epochs: int, seed: int, batch: int) -> None:
    """As _fit, but shifted and turned edges are repeated, the picture is small, and labels are smoothed."""
    draws, side = rng.generator(seed, "own classifier", "data"), min(PICTURE_SIDE, model.size)
    device = next(model.parameters()).device
    picture = nn.Linear(FEATURES, model.channels * side**2).to(device)
    optimizer = AdamW([*model.parameters(), *picture.parameters()], 3e-3, weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps + 1)

    def losses() -> Iterator[Tensor]:
        for order in epoch_orders(len(images), batch, epochs, draws):
            for pixels, labels in batches(images, batch, order.tolist()):
                shown = augment(pixels, draws, "border").to(device)
                features, logits = model(shown)
                error = functional.mse_loss(picture(features), seen(shown, side).flatten(1))
                named = functional.cross_entropy(logits, labels.to(device), label_smoothing=SMOOTHING)
                yield named + PICTURE * error

    descend(model, losses(), optimizer, schedule, progress(steps, "classifier"))


def own_quality(path: Path, train: Images, test: Images, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Measure stored weights of an own classifier, as DEFINITIONS says."""
    model = read_own(path).to(device)
    known, unknown = (extraction.extract_set(model, images, AT_ONCE).extracted for images in (train, test))
    assert unknown.logits is not None
    order = np.random.default_rng(0).permutation(len(train))
    first, second = (known.features[order[start::2]] for start in (0, 1))
    spread = np.linalg.eigvalsh(np.cov(known.features, rowvar=False, dtype=np.float64)).clip(0)
    share = spread / spread.sum()
    return {
        "test_accuracy": round(float((unknown.logits.argmax(1) == test.labels).mean()), 4),
        "chance": round(float(np.bincount(test.labels).max() / len(test)), 4),
        "train_images": len(train),
        "test_images": len(test),
        "fd_own_test": _distance(unknown.features, known.features),
        "fd_own_halves": _distance(first, second),
        "half_images": len(second),
        "effective_dimensions": round(float(np.exp(-(share * np.log(share.clip(1e-12))).sum())), 2),
    }


def _distance(first: np.ndarray, second: np.ndarray) -> float | None:
    """The Fréchet distance; None of sets of one image."""
    return None if min(len(first), len(second)) < 2 else round(frechet.frechet_distance(first, second), 4)


def augment(images: Tensor, draws: torch.Generator, beyond: str = "zeros") -> Tensor:
    """Random affine maps; images: uint8 (B, ch, H, W) -> the same.

    At most turned by 12°, scaled by 12 %, sheared by 0.15, shifted by 1.5 pixels; normal draws of half that deviation.

    Args:
        beyond: what lies beyond the edges: zeros, or border, the edge repeated.
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
    warped = functional.grid_sample(images.float(), grid, padding_mode=beyond, align_corners=False)
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
