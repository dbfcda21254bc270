"""Stage `quantizer`: latents to a fitted tokenizer, with what quantizing costs on training and test latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from tokenbridge.config import RunConfig, Runtime
from tokenbridge.data.latents import Latents
from tokenbridge.rng import generator
from tokenbridge.stages import FIT_IMAGES
from tokenbridge.store.artifacts import write_atomic
from tokenbridge.store.runs import write_metrics
from tokenbridge.tokenizers import FILE
from tokenbridge.tokenizers.scalar import ScalarQuantizer, diagnostics, fit, range_of
from tokenbridge.tokenizers.trained import TRAINED, finish
from tokenbridge.weights import read

HISTOGRAM = np.linspace(-6, 6, 121)  # bin edges, unit-deviation latents


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Fit on draws from the training posteriors, the distribution that the generator is trained on.

    A trained tokenizer has its codes already; of the draws it takes the extremes.
    """
    latents = Latents(inputs["latents"])
    train = latents.posterior_sample("train", generator("quantizer fit"), FIT_IMAGES).flatten(0, 1)
    test = latents.posterior_sample("test", generator("quantizer check")).flatten(0, 1)
    if config.quantizer.trained:
        extremes = torch.stack([train.amin(0), train.amax(0)])
        quantizer = finish(config, read(inputs["tokenizer"] / TRAINED), latents.scale, extremes)
    else:
        quantizer = fit(config.quantizer, train)
    write_atomic(out / FILE, save(quantizer.state_dict()))
    limits = range_of(config.quantizer, train)
    metrics = {f"calibration_{k}": v for k, v in diagnostics(quantizer, train, limits).items()}
    metrics |= diagnostics(quantizer, test, limits)
    protocol = {
        "values": "test latents, one draw from each posterior (calibration_: training latents)",
        "scale": latents.scale,
        "test_images": len(latents.labels("test")),
        "calibration_images": len(train) // config.positions,
    }
    write_metrics(out, metrics, protocol)
    tokens = quantizer.encode(test)
    before, after = (_histogram(values) for values in (test, quantizer.decode(tokens)))
    seen = {"edges": HISTOGRAM, "centers": np.empty((1, 0)), "before": before, "after": after}
    if isinstance(quantizer, ScalarQuantizer):
        # how often each level of each channel occurs (C, V)
        used = [torch.bincount(column, minlength=quantizer.levels[0]) for column in tokens.T]
        seen |= {"centers": quantizer.centers.numpy(), "counts": torch.stack(used).numpy()}
    np.savez_compressed(out / "examples.npz", **seen)


def _histogram(latents: Tensor) -> np.ndarray:
    """(C, bins) float64 counts of each channel of latents (N, C)."""
    return np.stack([np.histogram(column, HISTOGRAM)[0].astype(np.float64) for column in latents.T.numpy()])
