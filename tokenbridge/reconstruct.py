"""Stage `reconstruct`: what quantizing costs in images. Held-out images, encoded, quantized and decoded.

N held-out images, B of them at once, ch channels, H and W sides, L positions, C latent channels, V levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from tokenbridge import data
from tokenbridge.artifacts import Store, write_json
from tokenbridge.autoencoder import FrozenAutoencoder, autoencoder_of, weights_of
from tokenbridge.config import RunConfig, Runtime
from tokenbridge.devices import pick_device
from tokenbridge.latents import Latents, to_grid
from tokenbridge.metrics import extraction, fidelity, frechet
from tokenbridge.metrics.features import load_extractor
from tokenbridge.metrics.images import psnr, ssim, ssim_window
from tokenbridge.metrics.lpips import Lpips
from tokenbridge.quantize import load_quantizer
from tokenbridge.quantizers import Tokenizer
from tokenbridge.weight_files import weights_hash

EXAMPLES = 10  # classes shown


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Write PSNR, SSIM, effective bits and, where the features measure such data, what they say; and examples.

    Features that do not fit leave their metrics out, and the protocol says why.
    """
    device, name = pick_device(runtime), config.score.features
    held_out, latents = data.load(config.data, "held-out"), Latents(inputs["latents"])
    assert np.array_equal(latents.labels("held-out"), held_out.labels), "latents and images have one order"
    extractor = load_extractor(name, device)
    reason = extraction.misfit(extractor, config.data)
    quantizer = load_quantizer(inputs["quantizer"])
    size = config.data.image_size
    lpips = Lpips(Path(config.score.lpips), size, device) if config.score.lpips else None
    tally = _Tally(held_out.labels, quantizer, extractor if reason is None else None, lpips)
    autoencoder = autoencoder_of(config, inputs, device)
    for batch in _pairs(autoencoder, latents, quantizer, held_out, device, runtime):
        tally.add(*batch)

    metrics = tally.pixel_metrics(config.positions)
    protocol: dict[str, Any] = {
        "latents": "posterior mean of held-out images",
        "autoencoder": weights_of(config, inputs)[:12],
        "images": len(held_out),
        "image_size": size,
        "psnr": "mean over images, peak 255",
        "ssim": f"mean over images, uniform window of {ssim_window(size, size)}",
    }
    if reason is None:
        store, weights = Store(out.parents[1]), weights_hash(name)
        reference = extraction.real(store, config.data, "train", extractor, weights, runtime.batch)
        originals = extraction.real(store, config.data, "held-out", extractor, weights, runtime.batch)
        metrics |= tally.feature_metrics(name, reference.features, originals.features)
        protocol |= fidelity.set_protocol(name, config.data, len(held_out), reference) | {"reference": "train"}
    else:
        protocol |= {"features": None, "features_left_out": reason}
    write_json(out / "metrics.json", {"metrics": metrics, "protocol": protocol})
    original, reconstructed, labels = tally.examples()
    np.savez_compressed(out / "examples.npz", original=original, reconstructed=reconstructed, labels=labels)


def effective_bits(counts: Tensor, positions: int) -> float:
    """Bits an image takes: the entropies of the channels' indices, from counts (C, V), summed, times positions."""
    share = counts.double() / counts.sum(1, keepdim=True)
    return positions * float(torch.special.entr(share).sum()) / math.log(2)


@torch.inference_mode()
def _pairs(
    autoencoder: FrozenAutoencoder,
    latents: Latents,
    quantizer: Tokenizer,
    held_out: data.Images,
    device: torch.device,
    runtime: Runtime,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of originals, reconstructions, both uint8 (B, ch, H, W), and tokens (B, L, C), in the images' order."""
    start = 0
    for originals, _ in tqdm(DataLoader(held_out, runtime.batch), "reconstruct", leave=False, disable=runtime.no_bar):
        tokens = quantizer.encode(latents.posterior_mean("held-out", slice(start, start + len(originals))))
        start += len(originals)
        grid = to_grid(quantizer.decode(tokens), latents.scale)
        yield originals, autoencoder.decode(grid.to(device)).cpu(), tokens


class _Tally:
    """What is kept of the batches: numbers an image, features, counts of indices and the few images to show."""

    def __init__(self, labels: np.ndarray, quantizer: Tokenizer, extractor: nn.Module | None, lpips: Lpips | None):
        self.labels, self.extractor, self.lpips = labels, extractor, lpips
        self.counts = torch.zeros(quantizer.channels, max(quantizer.levels, default=0), dtype=torch.int64)
        classes, first = np.unique(labels, return_index=True)
        self.shown = first[classes < EXAMPLES].tolist()
        self.kept: dict[str, list[Tensor]] = {"original": [], "reconstructed": []}
        self.columns: dict[str, list[np.ndarray]] = {}
        self.seen = 0

    def add(self, originals: Tensor, reconstructed: Tensor, tokens: Tensor) -> None:
        found = {"psnr": psnr(reconstructed, originals).numpy(), "ssim": ssim(reconstructed, originals).numpy()}
        if self.lpips is not None:
            found[self.lpips.name] = self.lpips(reconstructed, originals).numpy()
        if self.extractor is not None:
            made = extraction.extract(self.extractor, reconstructed.numpy(), len(originals))
            found["features"], found["logits"] = made
        for key, values in found.items():
            self.columns.setdefault(key, []).append(values)
        if self.counts.shape[1]:
            for channel, row in enumerate(self.counts):
                row += torch.bincount(tokens[..., channel].flatten(), minlength=len(row))
        here = [i - self.seen for i in sorted(self.shown) if self.seen <= i < self.seen + len(originals)]
        self.kept["original"].append(originals[here])
        self.kept["reconstructed"].append(reconstructed[here])
        self.seen += len(originals)

    def pixel_metrics(self, positions: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for key in ("psnr", "ssim", *([self.lpips.name] if self.lpips else [])):
            values = np.concatenate(self.columns[key])
            found[key] = float(values.mean())
            if np.isfinite(values).all():  # the PSNR of an image that is its original is infinite
                found[f"{key}_se"] = float(values.std(ddof=1) / np.sqrt(len(values)))
        if self.counts.shape[1]:
            found["effective_bits"] = effective_bits(self.counts, positions)
        return found

    def feature_metrics(self, name: str, reference: np.ndarray, real: np.ndarray) -> dict[str, float]:
        features, logits = (np.concatenate(self.columns[key]) for key in ("features", "logits"))
        statistics = frechet.from_features(reference)
        left = fidelity.left_out(features, self.labels, statistics)
        found = fidelity.frechet_metrics(name, features, statistics, left)
        found[f"fd_{name}_floor"] = frechet.frechet_distance(real, statistics)
        found[f"fd_{name}_held_out"] = frechet.frechet_distance(features, real)
        found |= fidelity.inception_style_score(name, logits)
        return found | {"agreement": fidelity.agreement(logits, self.labels)}

    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First image of each of ten classes, in class order: original, reconstructed (10, ch, H, W), labels (10,)."""
        order = np.argsort(np.argsort(self.shown))  # kept in the images' order, self.shown is in class order
        original, reconstructed = (torch.cat(self.kept[key]).numpy()[order] for key in ("original", "reconstructed"))
        return original, reconstructed, self.labels[self.shown]
