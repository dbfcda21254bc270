"""A report's source folder with made-up numbers, in the form that analysis.load writes. For tests only."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_digits

from experiments.paper import TABLES
from experiments.presets import preset
from tokenbridge.config import RunConfig
from tokenbridge.overrides import override, settings

BASE = preset("digits")
GENERATION = {"latents", "quantizer", "train", "likelihood", "sample", "score"}


def write_source(
    folder: Path, seeds: int = 1, tables: tuple[str, ...] = ("1a", "1b", "2a"), examples: bool = True
) -> Path:
    """Write folder/source for these tables, generation with so many seeds; returns folder."""
    source = folder / "source"
    for part in ("examples", "manifests"):
        (source / part).mkdir(parents=True)
    rows, plan_rows, curves = {}, [], []
    for id in tables:
        for cell in TABLES[id].cells:
            for seed in range(seeds if TABLES[id].kind == "generation" else 1):
                row, config = _row(id, cell.label, cell.overrides, seed)
                rows[row["cell"]] = row
                plan_rows.append({"table": id, "label": cell.label, "cell": row["cell"]})
                if examples:
                    _write_examples(source, row, config)
                curves += _curves(row)
    for id in sorted({value for row in rows.values() for key, value in row.items() if key.startswith("stage.")}):
        _write_json(source / "manifests" / f"{id}.json", _manifest(id))
    pd.DataFrame(list(rows.values())).to_csv(source / "frame.csv", index=False)
    pd.DataFrame(curves, columns=["stage", "key", "step", "value"]).to_csv(source / "curves.csv", index=False)
    search = {
        "keys": ["sample.guidance", "sample.temperature"],
        "guidance": [1.0, 1.5, 2.0],
        "temperature": [0.9, 1.0],
        "images": 500,
        "metric": "fd_digits",
        "seed": 1000,
        "chosen": {"parallel": {"sample.guidance": 1.5}, "autoregressive": {"sample.guidance": 2.0}},
        "points": [
            {"row": label, "guidance": g, "temperature": t, "fd_digits": 12.0 + 30 * (t - 0.9) + 8 * (g - best) ** 2}
            for label, best in (("parallel", 1.5), ("autoregressive", 2.0))
            for g in (1.0, 1.5, 2.0)
            for t in (0.9, 1.0)
        ],
    }
    plan = {
        "name": "synthetic",
        "title": "Synthetic numbers for a test of the report",
        "base": BASE.model_dump(mode="json"),
        "rows": plan_rows,
        "search": search,
        "notes": ["Every number on this page is made up: it shows the layout and nothing else."],
    }
    _write_json(source / "plan.json", plan)
    return folder


def edit_frame(folder: Path, label: str, changes: dict[str, Any], table: str = "2a") -> None:
    """Change values of the cells of one row in frame.csv."""
    path = folder / "source" / "frame.csv"
    plan = json.loads((folder / "source" / "plan.json").read_text())
    cells = {row["cell"] for row in plan["rows"] if row["table"] == table and row["label"] == label}
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for key, value in changes.items():
        frame.loc[frame["cell"].isin(cells), key] = "" if value is None else str(value)
    frame.to_csv(path, index=False)


def _row(table: str, label: str, overrides: Any, seed: int) -> tuple[dict[str, Any], RunConfig]:
    generation = TABLES[table].kind == "generation"
    tuned = {"sample.guidance": 1.5 if label == "parallel" else 2.0, "sample.temperature": 0.9}
    more = tuned | {"train.seed": seed, "sample.seed": seed} if generation else {}
    config = override(BASE, dict(overrides) | more)
    q = config.quantizer
    of_quantizer = "identity" if q.kind == "identity" else f"b{q.levels:03d}-r{q.range:g}"
    of_model = f"{config.head.kind}-s{seed}"
    kinds = GENERATION if generation else {"latents", "quantizer", "reconstruct"}
    parts = {"latents": "all", "quantizer": of_quantizer, "reconstruct": of_quantizer}
    row: dict[str, Any] = {"cell": f"cell-{of_quantizer}-{of_model}" if generation else f"cell-{of_quantizer}"}
    row |= {"name": f"{table}-{label}", "experiment": "synthetic", "run_id": None}
    row |= {f"stage.{kind}": f"{kind}-{parts.get(kind, of_model)}" for kind in sorted(kinds)}
    row |= {k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in settings(config).items()}
    row |= _quantizer_numbers(config) | (_generation_numbers(config, seed) if generation else _image_numbers(config))
    return row, config


def _mse(config: RunConfig) -> float:
    q = config.quantizer
    if q.kind == "identity":
        return 0.0
    return 1.03 * math.pi * math.sqrt(3) / 2 / q.levels**2 + 0.004 * abs(q.range - 5) ** 1.5


def _quantizer_numbers(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"quantizer/mse": _mse(config)}
    if config.quantizer.kind != "identity":
        found["quantizer/entropy_bits"] = math.log2(config.quantizer.levels) - 0.28
    return found | {
        "protocol.quantizer": json.dumps({"values": "held-out latents", "scale": 0.731, "held_out_images": 360})
    }


def _image_numbers(config: RunConfig) -> dict[str, Any]:
    error = _mse(config)
    protocol = {"latents": "posterior mean of held-out images", "images": 360, "psnr": "mean over images, peak 255"}
    return {
        "reconstruct/psnr": 36.1 - 10 * math.log10(1 + 30 * error),
        "reconstruct/ssim": 0.991 - 0.8 * error,
        "reconstruct/fd_digits": 0.21 + 22 * error,
        "reconstruct/fd_digits_se": 0.08,
        "reconstruct/fd_digits_floor": 0.2,
        "reconstruct/fd_digits_held_out": 0.0118 + 1.3 * error,
        "protocol.reconstruct": json.dumps(protocol),
    }


def _generation_numbers(config: RunConfig, seed: int) -> dict[str, Any]:
    shift = 0.0 if config.head.kind == "autoregressive" else 1.0
    jitter = 0.01 * math.sin(1 + 3 * seed + shift)
    protocol = {"features": "digits", "features_weights": "0a1b2c3d4e5f", "images": 2000, "reference": "train"}
    protocol |= {f"sample.{key}": value for key, value in config.sample.model_dump().items()}
    protocol |= {"sample.head": config.head.kind, "sample.quantizer": config.quantizer.kind}
    likelihood = {"split": "held-out", "images": 360, "weights": "ema", "scale": 0.731}
    return {
        "likelihood/bits_per_dim": 1.234 + 0.21 * shift + jitter,
        "likelihood/bits_per_dim_se": 0.012,
        "score/fd_digits": 11.4 + 25.7 * shift + 9 * jitter,
        "score/fd_digits_se": 0.4,
        "score/fd_digits_floor": 2.31,
        "score/fd_digits_floor_images": 360.0,
        "score/fd_digits_at_floor_images": 13.2 + 26 * shift,
        "score/is_digits": 8.9 - 1.1 * shift + jitter,
        "score/agreement": 0.964 - 0.13 * shift + jitter / 3,
        "score/precision_digits": 0.88 - 0.2 * shift + jitter,
        "score/recall_digits": 0.79 - 0.1 * shift + jitter,
        "protocol.likelihood": json.dumps(likelihood),
        "protocol.score": json.dumps(protocol),
    }


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 1, 16, 16) and labels (N,)."""
    data = load_digits()
    small = np.round(data.images * 255 / 16).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)) for image in small[:400]]
    return np.stack(large)[:, None], data.target[:400]


def _write_examples(source: Path, row: dict[str, Any], config: RunConfig) -> None:
    images, labels = _digits()
    firsts = np.array([np.flatnonzero(labels == k)[0] for k in range(10)])
    random = np.random.default_rng(5)
    folder = source / "examples"

    def noisy(values: np.ndarray, deviation: float) -> np.ndarray:
        return np.clip(values + random.normal(0, deviation, values.shape), 0, 255).round().astype(np.uint8)

    np.savez_compressed(folder / f"{row['stage.quantizer']}.npz", **_histograms(config))
    if "stage.reconstruct" in row:
        original = images[firsts]
        arrays = {"original": original, "reconstructed": noisy(original, 3 + 110 * math.sqrt(_mse(config)))}
        np.savez_compressed(folder / f"{row['stage.reconstruct']}.npz", **arrays, labels=np.arange(10))
    if "stage.sample" in row:
        order = np.stack([np.flatnonzero(labels == k)[1:11] for k in range(10)], axis=1).reshape(-1)
        drawn = noisy(images[order], 12 if config.head.kind == "autoregressive" else 60)
        np.savez_compressed(folder / f"{row['stage.sample']}.npz", images=drawn, labels=np.arange(100) % 10)


def _histograms(config: RunConfig) -> dict[str, np.ndarray]:
    edges = np.linspace(-6, 6, 121)
    q = config.quantizer
    values = np.random.default_rng(3).normal(0, np.linspace(0.7, 1.2, 8)[:, None], (8, 5000))
    before = np.stack([np.histogram(row, edges)[0] for row in values]).astype(np.float64)
    if q.kind == "identity":
        return {"edges": edges, "before": before, "after": before, "centers": np.empty((1, 0))}
    spread = np.linspace(-1, 1, q.levels)
    centers = q.range * 0.75 * np.sign(spread) * np.abs(spread) ** 1.4
    nearest = centers[np.abs(values[..., None] - centers).argmin(-1)]
    after = np.stack([np.histogram(row, edges)[0] for row in nearest]).astype(np.float64)
    return {"edges": edges, "before": before, "after": after, "centers": centers[None]}


def _curves(row: dict[str, Any]) -> list[tuple[str, str, int, float]]:
    if "stage.train" not in row:
        return []
    floor, stage = (2.1 if "auto" in row["stage.train"] else 2.5), row["stage.train"]
    random = np.random.default_rng(7)
    steps = range(10, 1321, 10)
    points = [(stage, "loss", s, floor + 2 * math.exp(-s / 120) + random.normal(0, 0.02)) for s in steps]
    points += [(stage, "learning_rate", s, 1e-3 * min(s / 88, 0.5 + 0.5 * math.cos(math.pi * s / 1320))) for s in steps]
    return points + [(stage, "held_out_loss", s, floor + 0.05 + 2.2 * math.exp(-s / 120)) for s in steps[6::7]]


def _manifest(id: str) -> dict[str, Any]:
    versions = {"tokenbridge": "0.1.0", "torch": "2.9.0", "numpy": "2.4.0", "python": "3.11.7", "diffusers": None}
    git = {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}
    return {
        "id": id,
        "versions": versions,
        "host": "secret-host-name",
        "cpu": "Synthetic CPU",
        "git": git,
        "wall_seconds": 12.5,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=list) + "\n")
