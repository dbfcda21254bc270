"""Measures of a set of images against a reference set, by in-domain features.

Inception-style score, KID, precision and recall are torch-fidelity's, with the project's own extractor; the Fréchet
distance is frechet.py. Each name carries the extractor (fd_digits): none of them is a FID or an Inception score.

Letters: N images, ch channels, H and W sides, F features, K classes; images are uint8 (N, ch, H, W).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_isc import isc_features_to_metric

from tokenbridge.config import Data, UserError
from tokenbridge.metrics.features import register_fidelity, weights_hash
from tokenbridge.metrics.frechet import (
    Statistics,
    frechet_distance,
    frechet_left_out,
    jackknife_error,
    jackknife_groups,
)

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Array = NDArray[np.float32]

SEED = 0
KID_SUBSETS = 20
KID_SUBSET_SIZE = 1000
NEIGHBORHOOD = 3
JACKKNIFE_GROUPS = 20


class _InMemory(Dataset[Tensor]):
    def __init__(self, images: Images):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[index]))


def misfit(extractor: nn.Module, data: Data) -> str | None:
    """Why an extractor's features do not measure such images, or None where they do."""
    device = next(extractor.parameters()).device
    shape = (1, data.image_channels, data.image_size, data.image_size)
    try:
        _, logits = extractor(torch.zeros(shape, dtype=torch.uint8, device=device))
    except UserError as error:
        return str(error)
    if logits.shape[1] != data.classes:
        classes = logits.shape[1]
        return f"data.classes={data.classes} must be {classes} for these features, which are no measure of other data"
    return None


@torch.inference_mode()
def extract(extractor: nn.Module, images: Images, batch: int) -> tuple[Array, Array]:
    """Features (N, F) and logits (N, K) of images, float32, `batch` images at once, where the extractor is."""
    device = next(extractor.parameters()).device
    found = []
    for start in range(0, len(images), batch):
        part = torch.from_numpy(np.array(images[start : start + batch]))
        found.append([value.cpu().numpy() for value in extractor(part.to(device))])
    return np.concatenate([f for f, _ in found]), np.concatenate([g for _, g in found])


def agreement(logits: Array, labels: Labels) -> float:
    """Share of images whose most likely class is their label."""
    return float(np.mean(logits.argmax(1) == labels))


def left_out(features: Array, labels: Labels, reference: Statistics) -> list[float]:
    """Fréchet distances without each group of a jackknife stratified by label."""
    groups = min(JACKKNIFE_GROUPS, len(features) // 2)
    return frechet_left_out(features, reference, jackknife_groups(labels, groups)).tolist()


def frechet_metrics(name: str, features: Array, reference: Statistics, left: list[float]) -> dict[str, float]:
    """fd_<name> and its standard error over draws of the images, by the distances of left_out."""
    return {f"fd_{name}": frechet_distance(features, reference), f"fd_{name}_se": jackknife_error(left)}


def inception_style_score(name: str, logits: Array) -> dict[str, float]:
    """is_<name>, between 1 and K: exp of the mean divergence of class probabilities from their mean (arXiv 1606.03498).

    Logits (N, K) are shuffled and cut into is_splits(N) parts; the mean over parts.
    """
    found = isc_features_to_metric(torch.from_numpy(logits), is_splits(len(logits)), shuffle=True, rng_seed=SEED)
    return {f"is_{name}": found["inception_score_mean"]}


def set_metrics(name: str, images: Images, reference: Images, device: torch.device, batch: int) -> dict[str, float]:
    """is_<name>, kid_<name>_x1e3 (arXiv 1801.01401, mean of subsets), precision_<name>, recall_<name> (1904.06991).

    Raises UserError where a set has too few images for the nearest neighbours of precision and recall.
    """
    fewest = min(len(images), len(reference))
    if fewest <= NEIGHBORHOOD:
        raise UserError(
            f"sets of {len(images)} and {len(reference)} images must each have over {NEIGHBORHOOD}; take more images"
        )
    found = calculate_metrics(
        input1=_InMemory(images),
        input2=_InMemory(reference),
        isc=True,
        kid=True,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(KID_SUBSET_SIZE, fewest),
        prc=True,
        prc_neighborhood=NEIGHBORHOOD,
        **_options(name, len(images), device, batch),
    )
    return {
        f"is_{name}": found["inception_score_mean"],
        f"kid_{name}_x1e3": 1000 * found["kernel_inception_distance_mean"],
        f"precision_{name}": found["precision"],
        f"recall_{name}": found["recall"],
    }


def is_splits(count: int) -> int:
    """Parts over which the score is averaged: the usual 10, but 1 below 1,000 images.

    With 36 images a part (360 in 10) the score of real digits would read a tenth low.
    """
    return 10 if count >= 1000 else 1


def set_protocol(name: str, images: int, reference: Images) -> dict[str, Any]:
    """What the numbers above depend on beside the images."""
    return {
        "features": name,
        "features_weights": weights_hash(name),
        "reference_images": len(reference),
        "reference_hash": pixel_hash(reference),
        "images": images,
        "image_size": int(reference.shape[-1]),
        "resize": "none",
        "is_splits": is_splits(images),
        "fd_se": f"jackknife over {min(JACKKNIFE_GROUPS, images // 2)} groups of images, stratified by label",
    }


def pixel_hash(images: Images) -> str:
    """SHA-256 of shape and pixels, 12 hex digits."""
    hasher = hashlib.sha256(str(images.shape).encode())
    for image in images:
        hasher.update(np.ascontiguousarray(image).data)
    return hasher.hexdigest()[:12]


def kid_protocol(images: int, reference: int) -> dict[str, Any]:
    """The same for kid, precision and recall."""
    return {
        "kid_subsets": KID_SUBSETS,
        "kid_subset_size": min(KID_SUBSET_SIZE, images, reference),
        "prc_neighborhood": NEIGHBORHOOD,
        "metric_seed": SEED,
    }


def _options(name: str, images: int, device: torch.device, batch: int) -> dict[str, Any]:
    # torch-fidelity ignores unknown names, uses CUDA, a cache that does not see the weights, and vgg16 by default
    return {
        "feature_extractor": register_fidelity(name),
        "cuda": device.type == "cuda",
        "batch_size": batch,
        "cache": False,
        "isc_splits": is_splits(images),
        "rng_seed": SEED,
        "save_cpu_ram": True,  # no loader processes: the images are in memory
        "verbose": False,
    }
