"""Made-up numbers and protocols of stages, by configuration, in the form that the stages leave. For tests only."""

from __future__ import annotations

import json
import math
from typing import Any

from tokenbridge.config import RunConfig

SCALE = 0.731
SHIFTS = {"autoregressive": 0.0, "parallel": 1.0, "diffusion": 0.15, "flow": 0.05, "mixture": 0.6}
TRAINED = {"vq": 0.5, "rvq": 0.3, "fsq": 0.2, "lfq": 0.35, "bsq": 0.4}
TOKEN_MS = {"autoregressive": 7.4, "parallel": 0.9, "diffusion": 40.0, "flow": 9.0, "mixture": 0.4}


def mse(config: RunConfig) -> float:
    q = config.quantizer
    if q.kind == "identity":
        return 0.0
    if q.trained:
        return 0.02 + TRAINED[q.kind] / 10
    assert isinstance(q.levels, int)
    return 1.03 * math.pi * math.sqrt(3) / 2 / q.levels**2 + 0.004 * abs(q.range - 5) ** 1.5


def bits(config: RunConfig) -> float:
    """Entropy of a token."""
    return sum(math.log2(levels) - 0.28 for levels in config.token_levels)


def of_quantizer(config: RunConfig) -> dict[str, Any]:
    levels, scale = config.token_levels, SCALE + TRAINED.get(config.quantizer.kind, 0)
    found: dict[str, Any] = {"quantizer/mse": mse(config)}
    if levels:
        found["quantizer/entropy_bits"] = math.log2(levels[0]) - 0.28
        found["quantizer/token_bits"] = sum(map(math.log2, levels))
    protocol = {"values": "test latents", "scale": scale, "test_images": 360}
    return found | {"protocol.quantizer": json.dumps(protocol)}


def of_images(config: RunConfig) -> dict[str, Any]:
    error = mse(config)
    protocol = {"latents": "posterior mean of test images", "images": 360, "psnr": "mean over images, peak 255"}
    protocol |= {"autoencoder": config.quantizer.kind if config.quantizer.trained else "0a1b2c"}
    return {
        **({"reconstruct/effective_bits": 16 * bits(config)} if config.token_levels else {}),
        "reconstruct/psnr_se": 0.1,
        "reconstruct/psnr": 36.1 - 10 * math.log10(1 + 30 * error),
        "reconstruct/ssim": 0.991 - 0.8 * error,
        "reconstruct/fd_digits": 0.21 + 22 * error,
        "reconstruct/fd_digits_se": 0.08,
        "reconstruct/fd_digits_floor": 0.2,
        "reconstruct/fd_digits_originals": 0.0118 + 1.3 * error,
        "protocol.reconstruct": json.dumps(protocol),
    }


def has_density(config: RunConfig) -> bool:
    return config.head.kind not in ("diffusion", "flow") and not config.quantizer.trained


def of_generation(config: RunConfig, seed: int) -> dict[str, Any]:
    shift = SHIFTS[config.head.kind] + TRAINED.get(config.quantizer.kind, 0) + _of_head(config)
    jitter = 0.01 * math.sin(1 + 3 * seed + shift)
    protocol = {"features": "digits", "features_weights": "0a1b2c3d4e5f", "images": 2000}
    protocol |= {"reference": "train", "reference_images": 1438}
    protocol |= {f"sample.{key}": value for key, value in config.sample.model_dump().items()}
    protocol |= {"sample.head": config.head.kind, "sample.quantizer": config.quantizer.kind}
    numbers: dict[str, Any] = {
        "sample/images": 2000.0,
        "score/fd_digits": 11.4 + 25.7 * shift + 9 * jitter,
        "score/fd_digits_se": 0.4,
        "score/fd_digits_floor": 2.31,
        "score/fd_digits_floor_images": 360.0,
        "score/fd_digits_at_floor_images": 13.2 + 26 * shift,
        "score/is_digits": 8.9 - 1.1 * shift + jitter,
        "score/agreement": 0.964 - 0.13 * shift + jitter / 3,
        "score/precision_digits": 0.88 - 0.2 * shift + jitter,
        "score/recall_digits": 0.79 - 0.1 * shift + jitter,
        "protocol.score": json.dumps(protocol),
    }
    if has_density(config):
        likelihood = {"split": "test", "images": 360, "weights": "ema", "scale": SCALE}
        numbers |= {"likelihood/bits_per_dim": 1.234 + 0.21 * shift + jitter, "likelihood/bits_per_dim_se": 0.012}
        numbers |= {"protocol.likelihood": json.dumps(likelihood)}
    return numbers | _of_training(config)


def _of_head(config: RunConfig) -> float:
    """What groups, order, size and levels add to the shift; nothing for the base configuration."""
    head, levels = config.head, config.quantizer.levels
    added = 0.04 * (head.group - 1) + (-0.002 if head.order == "frequency" else 0)
    added += 0.0004 * (64 - head.width) if config.token_levels else 0
    if config.quantizer.kind == "gaussian":
        assert isinstance(levels, int)
        added += {8: 0.3, 16: 0, 32: 0.001, 64: 0.06}.get(levels, 0)
    return added + (0.05 if head.covariance == "diagonal" and head.kind == "mixture" else 0)


def _of_training(config: RunConfig) -> dict[str, Any]:
    weights = 18 * config.head.width**2 * config.head.depth
    weights += config.head.width * max(config.token_levels, default=20) ** config.head.group
    return {
        "train/head_parameters": weights,
        "train/parameters": weights + 580_000,
        "train/training_tflops": 61.3 + weights / 9e4,
        "protocol.train": json.dumps({"validation_loss": "a channel, averaged weights"}),
    }


def of_time(config: RunConfig, one_token: bool) -> dict[str, Any]:
    """Of a row of table 5, or the time per image."""
    place = {"device": "cpu", "processor": "Synthetic CPU", "threads": 1, "torch": "2.9.0"}
    place |= {"measured_together": 6 if one_token else 1}
    head = config.head
    size = head.width**2 * head.depth / 4e6
    ms = TOKEN_MS[head.kind] / head.group
    if not one_token:
        return {"speed/image_ms": 1.5 + ms, "protocol.speed": json.dumps(place)}
    found: dict[str, Any] = {"speed/token_ms_1": ms * size, "speed/token_ms_256": 31 * ms * size}
    found |= {"speed/token_ms_1_spread": 0.02 * ms * size, "speed/token_ms_256_spread": 0.5 * ms * size}
    if head.kind == "autoregressive":
        found["speed/recomputing_ms_1"] = 2.3 * ms * size
    if head.continuous:
        found["speed/stepwise_ms_1"] = 1.7 * ms * size
    return found | {"protocol.speed": json.dumps(place)}
