"""Stage `score`: samples against real images. What the numbers mean and depend on is in metrics.json.

N samples, ch channels, H and W sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokenbridge import data
from tokenbridge.artifacts import read_json, write_json
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.devices import pick_device
from tokenbridge.metrics import fidelity, frechet
from tokenbridge.metrics.features import load_extractor


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Write fd, its error and floor, score, KID, precision, recall and class agreement of the samples.

    Raises UserError where the features do not fit the data, and for samples that the sample stage did not finish.
    """
    device, name = pick_device(runtime), config.score.features
    extractor = load_extractor(name, device)
    reason = fidelity.misfit(extractor, config.data)
    if reason is not None:
        raise UserError(reason)
    images, labels, settings = _samples(inputs["sample"])
    reference, _ = data.stack(data.load(config.data, config.score.reference))
    other: data.Split = "held-out" if config.score.reference == "train" else "train"
    real, _ = data.stack(data.load(config.data, other))

    features, logits = fidelity.extract(extractor, images, runtime.batch)
    statistics = frechet.from_features(fidelity.extract(extractor, reference, runtime.batch)[0])
    floor = frechet.frechet_distance(fidelity.extract(extractor, real, runtime.batch)[0], statistics)
    left = fidelity.left_out(features, labels, statistics)
    metrics = fidelity.frechet_metrics(name, features, statistics, left)
    metrics |= {f"fd_{name}_floor": floor, f"fd_{name}_floor_images": float(len(real))}
    if len(images) >= len(real):
        # few images read high: this one compares with the floor
        metrics[f"fd_{name}_at_floor_images"] = frechet.frechet_distance(features[: len(real)], statistics)
    metrics |= fidelity.set_metrics(name, images, reference, device, runtime.batch)
    metrics["agreement"] = fidelity.agreement(logits, labels)

    protocol = fidelity.set_protocol(name, len(images), reference) | fidelity.kid_protocol(len(images), len(reference))
    protocol |= {"reference": config.score.reference, "floor": f"{other} against {config.score.reference}"}
    protocol |= {f"sample.{key}": value for key, value in settings.items()}
    content = {"metrics": metrics, "protocol": protocol, "left_out": {f"fd_{name}": left}}
    write_json(out / "metrics.json", content)


def _samples(folder: Path) -> tuple[fidelity.Images, fidelity.Labels, dict[str, Any]]:
    """Samples (N, ch, H, W), labels (N,) and the protocol of their making."""
    try:
        images = np.load(folder / "samples.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder} must hold whole samples ({error}); delete it and run again") from error
    assert images.dtype == np.uint8, images.dtype
    assert len(images) == len(labels), (images.shape, labels.shape)
    return images, labels, read_json(folder / "metrics.json").get("protocol", {})
