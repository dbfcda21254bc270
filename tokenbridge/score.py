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
from tokenbridge.metrics import fidelity
from tokenbridge.metrics.features import load_extractor
from tokenbridge.metrics.measures import MEASURES, Scored


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
    reference_features, real_features = (
        fidelity.extract(extractor, some, runtime.batch)[0] for some in (reference, real)
    )
    scored = Scored(
        name, images, labels, features, logits, reference, reference_features, real_features, device, runtime.batch
    )
    metrics = {key: value for measure in MEASURES for key, value in measure(scored).items()}

    protocol = fidelity.set_protocol(name, len(images), reference) | fidelity.kid_protocol(len(images), len(reference))
    protocol |= {"reference": config.score.reference, "floor": f"{other} against {config.score.reference}"}
    protocol |= {f"sample.{key}": value for key, value in settings.items()}
    content = {"metrics": metrics, "protocol": protocol, "left_out": {f"fd_{name}": scored.left_out}}
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
