"""Stage `score`: samples against real images. What the numbers mean and depend on is in metrics.json.

N samples, ch channels, H and W sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tokenbridge import data
from tokenbridge.artifacts import Store, read_json, write_json
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.devices import pick_device
from tokenbridge.metrics import extraction, fidelity
from tokenbridge.metrics.features import load_extractor
from tokenbridge.metrics.measures import MEASURES, Scored
from tokenbridge.weight_files import weights_hash


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Write fd, its error and floor, score, KID, precision, recall and class agreement of the samples.

    Raises UserError where the features do not fit the data, and for samples that the sample stage did not finish.
    """
    device, name = pick_device(runtime), config.score.features
    extractor = load_extractor(name, device)
    reason = extraction.misfit(extractor, config.data)
    if reason is not None:
        raise UserError(reason)
    images, labels, settings = _samples(inputs["sample"])
    other: data.Split = "held-out" if config.score.reference == "train" else "train"
    store, weights = Store(out.parents[1]), weights_hash(name)
    reference, real = (
        extraction.real(store, config.data, split, extractor, weights, runtime.batch)
        for split in (config.score.reference, other)
    )
    features, logits = extraction.extract(extractor, images, runtime.batch)
    scored = Scored(name, images, labels, features, logits, reference.features, real.features)
    metrics = {key: value for measure in MEASURES for key, value in measure(scored).items()}

    protocol = fidelity.set_protocol(name, config.data, len(images), reference)
    protocol |= fidelity.kid_protocol(len(images), len(reference.features))
    protocol |= {"reference": config.score.reference, "floor": f"{other} against {config.score.reference}"}
    protocol |= {f"sample.{key}": value for key, value in settings.items()}
    content = {"metrics": metrics, "protocol": protocol, "left_out": {f"fd_{name}": scored.left_out}}
    write_json(out / "metrics.json", content)


def _samples(folder: Path) -> tuple[extraction.Images, extraction.Labels, dict[str, Any]]:
    """Samples (N, ch, H, W), labels (N,) and the protocol of their making."""
    try:
        images = np.load(folder / "samples.npy", mmap_mode="r")
        labels = np.load(folder / "labels.npy")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder} must hold whole samples ({error}); delete it and run again") from error
    assert images.dtype == np.uint8, images.dtype
    assert len(images) == len(labels), (images.shape, labels.shape)
    return images, labels, read_json(folder / "metrics.json").get("protocol", {})
