"""Stage `reconstruct`: what quantizing costs in images. Test images (or those of score.split), encoded,
quantized and decoded.

N images, B of them at once, ch channels, H and W sides, L positions, C latent channels, V levels.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tokenbridge.autoencoders.frozen import FrozenAutoencoder
from tokenbridge.autoencoders.sources import autoencoder_of, weights_of
from tokenbridge.config import RunConfig, Runtime
from tokenbridge.data import images as data
from tokenbridge.data.latents import Latents, to_grid
from tokenbridge.devices import pick_device
from tokenbridge.metrics import extraction, frechet, sets
from tokenbridge.metrics.images import Lpips, exact, exact_caution, psnr, ssim, ssim_window
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.reference import Reference, References
from tokenbridge.metrics.scorers import Scorer, misfit, qualified, scorer_of
from tokenbridge.store.artifacts import Store, file_hash
from tokenbridge.store.runs import write_images, write_metrics
from tokenbridge.tokenizers import Tokenizer
from tokenbridge.tokenizers import load as load_tokenizer

EXAMPLES = 10
"""images shown: of each of the first ten classes, or more of fewer classes"""


def run(config: RunConfig, inputs: Mapping[str, Path], out: Path, runtime: Runtime) -> None:
    """Write PSNR, SSIM, effective bits and, where the features measure such data, what they say; and examples.

    What is a mean over images is written for each image as well, so that two tokenizers compare on the same ones.

    Features that do not fit leave their metrics out, and the protocol says why.
    """
    device = pick_device(runtime)
    split = config.score.split
    images, latents = data.load(config.data, split), Latents(inputs["latents"])
    assert np.array_equal(latents.labels(split), images.labels), "latents and images have one order"
    misfits = {name: misfit(config.score, name, config.data) for name in config.score.scorers}
    extractors = {
        name: load_extractor(name, device, config.score, runtime.trust_weights)
        for name, reason in misfits.items()
        if not reason
    }
    quantizer = load_tokenizer(inputs["quantizer"])
    size = config.data.image_size
    lpips = Lpips(Path(config.score.lpips), size, device) if config.score.lpips else None
    tally = _Tally(images.labels, quantizer, extractors, lpips)
    autoencoder = autoencoder_of(config, inputs, device)
    for batch in _pairs(autoencoder, latents, quantizer, images, config, device, runtime):
        tally.add(*batch)

    metrics = tally.pixel_metrics(config.positions)
    protocol: dict[str, Any] = {
        "split": split,
        "latents": f"posterior mean of {split} images",
        "autoencoder": weights_of(config, inputs)[:12],
        "images": len(images),
        "image_size": size,
        "psnr": "mean over images, peak 255",
        "ssim": f"mean over images, uniform window of {ssim_window(size, size)}",
    }
    if config.score.lpips:
        protocol["lpips_weights"] = file_hash(Path(config.score.lpips))[:12]
    left_out: dict[str, list[float]] = {}
    for name, extractor in extractors.items():
        references = References(Store(out.parents[1]), config.data, extractor, config.score, name, runtime.batch)
        # a split as score.reference is of the samples: published rFIDs are against the training set
        reference = references.split("train") if config.score.reference_split else references.configured()
        originals = references.split(split).real
        assert originals is not None
        scorer = scorer_of(config.score, name)
        left_out[scorer.rfd] = tally.left_out(scorer, reference)
        metrics |= tally.feature_metrics(scorer, reference, originals.extracted.features, left_out[scorer.rfd])
        conditions = sets.set_protocol(
            scorer, references.weights, size, len(images), reference.images, reference.hash
        ) | {"reference": reference.name, **references.protocol(reference)}
        protocol |= qualified(conditions, scorer, config.score)
    if reasons := list(filter(None, misfits.values())):
        protocol |= {"features": None, "features_left_out": reasons[0]}
    warnings = tally.warnings()
    for line in warnings:
        print(f"reconstruct: {line}", file=sys.stderr)
    write_metrics(out, metrics, protocol, left_out=left_out, warnings=warnings)
    write_images(out, tally.of_images())
    original, reconstructed, labels = tally.examples()
    np.savez_compressed(out / "examples.npz", original=original, reconstructed=reconstructed, labels=labels)


def effective_bits(counts: Tensor, positions: int) -> float:
    """Bits per image: the entropies of the channels' indices, from counts (C, V), summed, times positions."""
    share = counts.double() / counts.sum(1, keepdim=True)
    return positions * float(torch.special.entr(share).sum()) / math.log(2)


@torch.inference_mode()
def _pairs(
    autoencoder: FrozenAutoencoder,
    latents: Latents,
    quantizer: Tokenizer,
    images: data.Images,
    config: RunConfig,
    device: torch.device,
    runtime: Runtime,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of originals, reconstructions, both uint8 (B, ch, H, W), and tokens (B, L, C), in the images' order."""
    start, steps = 0, math.ceil(len(images) / runtime.batch)
    batches = data.batches(images, runtime.batch)
    for originals, _ in tqdm(batches, "reconstruct", steps, leave=False, disable=runtime.no_bar):
        chosen = slice(start, start + len(originals))
        tokens = quantizer.encode(latents.posterior_mean(config.score.split, chosen))
        start += len(originals)
        grid = to_grid(quantizer.decode(tokens), latents.scale)
        yield originals, autoencoder.decode(grid.to(device)).cpu(), tokens


class _Tally:
    """What is kept of the batches: numbers per image, features, counts of indices and the few images to show."""

    def __init__(
        self, labels: np.ndarray, quantizer: Tokenizer, extractors: Mapping[str, nn.Module], lpips: Lpips | None
    ):
        self.labels, self.extractors, self.lpips = labels, extractors, lpips
        self.counts = torch.zeros(quantizer.channels, max(quantizer.levels, default=0), dtype=torch.int64)
        classes = [int(each) for each in np.unique(labels) if each < EXAMPLES]
        of_class = EXAMPLES // max(1, len(classes))
        self.shown = [int(i) for each in classes for i in np.flatnonzero(labels == each)[:of_class]]
        self.kept: dict[str, list[Tensor]] = {"original": [], "reconstructed": []}
        self.columns: dict[str, list[np.ndarray]] = {}
        self.seen, self.exact, self.values = 0, 0, 0

    def add(self, originals: Tensor, reconstructed: Tensor, tokens: Tensor) -> None:
        columns = {
            "psnr": psnr(reconstructed, originals).numpy(),
            "ssim": ssim(reconstructed, originals).numpy(),
        }
        if self.lpips is not None:
            columns[self.lpips.name] = self.lpips(reconstructed, originals).numpy()
        for name, extractor in self.extractors.items():
            arrays = extraction.extract(extractor, reconstructed.numpy(), len(originals)).arrays()
            columns |= {f"{name} {key}": values for key, values in arrays.items() if key != "spatial"}
        for key, values in columns.items():
            self.columns.setdefault(key, []).append(values)
        if self.counts.shape[1]:
            for channel, row in enumerate(self.counts):
                row += torch.bincount(tokens[..., channel].flatten(), minlength=len(row))
        here = [i - self.seen for i in sorted(self.shown) if self.seen <= i < self.seen + len(originals)]
        self.kept["original"].append(originals[here])
        self.kept["reconstructed"].append(reconstructed[here])
        self.seen += len(originals)
        self.exact += int(exact(reconstructed, originals).sum())
        self.values = originals[0].numel()

    def of_images(self) -> dict[str, np.ndarray]:
        """Metric -> its value of each image (N), in the images' order."""
        keys = ("psnr", "ssim", *([self.lpips.name] if self.lpips else []))
        return {key: np.concatenate(self.columns[key]) for key in keys}

    def pixel_metrics(self, positions: int) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for key, values in self.of_images().items():
            metrics[key] = float(values.mean())
            if len(values) > 1:
                metrics[f"{key}_se"] = float(values.std(ddof=1) / np.sqrt(len(values)))
        if self.counts.shape[1]:
            metrics["effective_bits"] = effective_bits(self.counts, positions)
        return metrics

    def warnings(self) -> list[str]:
        """What a reader of the metrics must know."""
        return exact_caution(self.exact, self.seen, self.values)

    def left_out(self, scorer: Scorer, reference: Reference) -> list[float]:
        """The Fréchet distance without each group of images."""
        return frechet.left_out(self._features(scorer), self.labels, reference.statistics)

    def _features(self, scorer: Scorer) -> np.ndarray:
        return np.concatenate(self.columns[f"{scorer.name} features"])

    def feature_metrics(
        self, scorer: Scorer, reference: Reference, real: np.ndarray, left: list[float]
    ) -> dict[str, float]:
        """Fréchet distance to the reference and to the originals: rFID by a published scorer.

        Args:
            scorer: whose features they are.
            reference: statistics of the reference.
            real: features of the originals (N, F).
            left: from left_out.
        """
        features, fd = self._features(scorer), scorer.rfd
        metrics = frechet.frechet_metrics(fd, features, reference.statistics, left)
        metrics[f"{fd}_floor"] = frechet.frechet_distance(real, reference.statistics)
        metrics[f"{fd}_originals"] = frechet.frechet_distance(features, real)
        if f"{scorer.name} logits" in self.columns:
            logits = np.concatenate(self.columns[f"{scorer.name} logits"])
            metrics |= sets.inception_style_score(scorer.suffix, logits)
            metrics |= {scorer.agreement: sets.agreement(logits, self.labels)} if scorer.knows_classes else {}
        return metrics

    def examples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The images shown, in class order: original, reconstructed (n, ch, H, W), labels (n,); n <= EXAMPLES."""
        order = np.argsort(np.argsort(self.shown))  # kept in the images' order, self.shown is in class order
        original, reconstructed = (torch.cat(self.kept[key]).numpy()[order] for key in ("original", "reconstructed"))
        return original, reconstructed, self.labels[self.shown]
