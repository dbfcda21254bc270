"""A report's source folder with made-up numbers, in the form that analysis.frame.load writes. For tests only."""

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

from experiments.paper import TABLES, Row, Table
from experiments.presets import preset
from tests.helpers import report_numbers as numbers
from tokenbridge.config import RunConfig
from tokenbridge.overrides import override, settings

BASE = preset("digits")


def write_source(
    folder: Path,
    seeds: int = 1,
    tables: tuple[str, ...] = ("1a", "1b", "2a"),
    examples: bool = True,
    strengths: tuple[float, ...] = (),
    classes: tuple[str, ...] = (),
) -> Path:
    """Write folder/source for these tables, generation with so many seeds, figure 8 with these strengths.

    classes: of a folder of images of one's own, by label; without them they are the digits.
    """
    source = folder / "source"
    for part in ("examples", "manifests"):
        (source / part).mkdir(parents=True)
    rows: dict[str, dict[str, Any]] = {}
    plan_rows, configs = [], {}
    for id in tables:
        for cell in TABLES[id].rows:
            for seed in range(seeds if TABLES[id].kind == "generation" else 1):
                row, config = _row(TABLES[id], cell, seed)
                rows[row["cell"]] = rows.get(row["cell"], {}) | row
                configs[row["cell"]] = config
                plan_rows.append({"table": id, "label": cell.label, "cell": row["cell"]})
    confidence = []
    for strength in strengths:
        row, config = _confident(strength)
        rows[row["cell"]], configs[row["cell"]] = row, config
        confidence.append({"strength": strength, "cell": row["cell"]})
    if examples:
        for id, row in rows.items():
            _write_examples(source, row, configs[id], len(classes))
    for id in sorted({value for row in rows.values() for key, value in row.items() if key.startswith("stage.")}):
        _write_json(source / "manifests" / f"{id}.json", _manifest(id))
    curves = [point for row in rows.values() for point in _curves(row)]
    pd.DataFrame(list(rows.values())).to_csv(source / "frame.csv", index=False)
    pd.DataFrame(curves, columns=["stage", "key", "step", "value"]).to_csv(source / "curves.csv", index=False)
    plan = {
        "name": "synthetic",
        "title": "Synthetic numbers for a test of the report",
        "base": BASE.model_dump(mode="json"),
        "tables": list(tables),
        "rows": plan_rows,
        "search": _search(tables, seeds),
        "confidence": confidence,
        "notes": ["Every number on this page is made up: it shows the layout and nothing else."],
    }
    if classes:
        plan["base"]["data"] |= {"source": "folder", "path": "photos/wear", "classes": len(classes)}
        _write_json(source / "classes.json", classes)
    _write_json(source / "plan.json", plan)
    return folder


def edit_frame(folder: Path, label: str, changes: dict[str, Any], table: str = "2a", seed: int | None = None) -> None:
    """Change values of the cells of one row in frame.csv, or of one seed of it."""
    path = folder / "source" / "frame.csv"
    plan = json.loads((folder / "source" / "plan.json").read_text())
    cells = [row["cell"] for row in plan["rows"] if row["table"] == table and row["label"] == label]
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for key, value in changes.items():
        chosen = frame["cell"].isin(cells if seed is None else cells[seed : seed + 1])
        frame.loc[chosen, key] = "" if value is None else str(value)
    frame.to_csv(path, index=False)


def _search(tables: tuple[str, ...], seeds: int) -> dict[str, Any]:
    searched = [(TABLES[id], cell) for id in tables if TABLES[id].kind == "generation" for cell in TABLES[id].rows]
    configs = {f"{table.id} {cell.label}": override(BASE, table.overrides(cell, BASE)) for table, cell in searched}
    best = {row: _tuned(config) for row, config in configs.items()}
    # so that the search finds the heads best which are best
    level = {
        row: 0.01 * numbers.of_generation(config, 0)["score/fd_digits"] if row.startswith("heads") else 0.0
        for row, config in configs.items()
    }
    return {
        "keys": ["sample.guidance", "sample.temperature"],
        "guidance": [1.0, 1.5, 2.0],
        "temperature": [0.9, 1.0],
        "images": 500,
        "metric": "fd_digits",
        "seed": 1000,
        "chosen": best,
        "points": [
            {
                "row": row,
                "guidance": g,
                "temperature": t,
                "train_seed": seed,
                "fd_digits": 12.0 + level[row] + 30 * (t - 0.9) + 8 * (g - values["sample.guidance"]) ** 2 + 0.2 * seed,
            }
            for row, values in best.items()
            for g in (1.0, 1.5, 2.0)
            for t in (0.9, 1.0)
            for seed in range(seeds)
        ],
    }


def _tuned(config: RunConfig) -> dict[str, float]:
    return {"sample.guidance": 1.5 if config.head.kind == "parallel" else 2.0, "sample.temperature": 0.9}


def _row(table: Table, cell: Row, seed: int) -> tuple[dict[str, Any], RunConfig]:
    config = override(BASE, table.overrides(cell, BASE))
    if table.kind == "generation":
        config = override(config, _tuned(config) | {"train.seed": seed, "sample.seed": seed})
    of_quantizer, of_model = _quantizer_name(config), _model_name(config)
    parts = {"latents": "all", "tokenizer": of_quantizer, "quantizer": of_quantizer, "reconstruct": of_quantizer}
    if config.quantizer.trained:
        parts["latents"] = of_quantizer
    names = {"reconstruction": of_quantizer, "speed": f"time-{of_model}"}
    row: dict[str, Any] = {"cell": f"cell-{names.get(table.kind, f'{of_quantizer}-{of_model}')}"}
    row |= {"name": f"{table.id}-{cell.label}", "experiment": "synthetic", "run_id": None}
    for kind in _kinds(table, config):
        own = of_model if config.quantizer == BASE.quantizer or table.kind == "speed" else f"{of_quantizer}-{of_model}"
        # the time of an image is measured once for all seeds
        name = own.rpartition("-s")[0] if kind == "speed" and table.kind == "generation" else parts.get(kind, own)
        row[f"stage.{kind}"] = f"{kind}-{name}"
    row |= {k: json.dumps(v) if isinstance(v, list | tuple) else v for k, v in settings(config).items()}
    return row | _numbers(table, config, seed), config


def _kinds(table: Table, config: RunConfig) -> list[str]:
    if table.kind == "speed":
        return ["speed"]
    kinds = (["tokenizer"] if config.quantizer.trained else []) + ["latents", "quantizer"]
    if table.kind == "reconstruction" or config.quantizer.trained:
        kinds += ["reconstruct"]
    if table.kind == "generation":
        kinds += ["train", *(["likelihood"] if numbers.has_density(config) else []), "sample", "score"]
    return sorted(kinds + (["speed"] if table.id == "heads" else []))


def _numbers(table: Table, config: RunConfig, seed: int) -> dict[str, Any]:
    if table.kind == "speed":
        return numbers.of_time(config, one_token=True)
    found = numbers.of_quantizer(config)
    if table.kind == "reconstruction" or config.quantizer.trained:
        found |= numbers.of_images(config)
    if table.kind == "generation":
        found |= numbers.of_generation(config, seed)
    return found | (numbers.of_time(config, one_token=False) if table.id == "heads" else {})


def _confident(strength: float) -> tuple[dict[str, Any], RunConfig]:
    """A cell of figure 8: the autoregressive model of table 2a, sampled and scored."""
    table = TABLES["2a"]
    row, config = _row(table, table.row("autoregressive"), 0)
    row |= {"cell": f"cell-confidence-{strength:g}", "name": f"figure-8-c{strength:g}", "sample.confidence": strength}
    row |= {f"stage.{kind}": f"{kind}-confidence-{strength:g}" for kind in ("sample", "score")}
    return {key: value for key, value in row.items() if "likelihood" not in key}, config


def _quantizer_name(config: RunConfig) -> str:
    q = config.quantizer
    return f"b{q.levels:03d}-r{q.range:g}" if q.kind == "gaussian" else q.kind


def _model_name(config: RunConfig) -> str:
    """The head, with what differs from the base."""
    head, base = config.head, BASE.head
    parts = [head.kind, "frequency" if head.order == "frequency" else "", f"g{head.group}" if head.group > 1 else ""]
    parts += ["" if (head.width, head.depth) == (base.width, base.depth) else f"{head.width}x{head.depth}"]
    return "-".join(filter(None, [*parts, "full" if head.covariance == "full" else "", f"s{config.train.seed}"]))


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 1, 16, 16) and labels (N,)."""
    data = load_digits()
    small = np.round(data.images * 255 / 16).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)) for image in small[:400]]
    return np.stack(large)[:, None], data.target[:400]


def _write_examples(source: Path, row: dict[str, Any], config: RunConfig, few: int) -> None:
    """few: number of classes; 0 for those of the digits."""
    images, labels = _digits()
    classes, each = few or 10, 10 // (few or 10)
    firsts = np.array([i for k in range(classes) for i in np.flatnonzero(labels == k)[:each]])
    random = np.random.default_rng(5)
    folder = source / "examples"
    if "stage.quantizer" not in row or (config.train.seed and "stage.sample" in row):
        return  # nothing to see, or a seed that no figure shows

    def noisy(values: np.ndarray, deviation: float) -> np.ndarray:
        return np.clip(values + random.normal(0, deviation, values.shape), 0, 255).round().astype(np.uint8)

    np.savez_compressed(folder / f"{row['stage.latents']}.npz", **_spectra())
    np.savez_compressed(folder / f"{row['stage.quantizer']}.npz", **_histograms(config))
    if "stage.reconstruct" in row:
        original = images[firsts]
        arrays = {"original": original, "reconstructed": noisy(original, 3 + 110 * math.sqrt(numbers.mse(config)))}
        np.savez_compressed(folder / f"{row['stage.reconstruct']}.npz", **arrays, labels=labels[firsts])
    if "stage.sample" in row:
        order = np.stack([np.flatnonzero(labels == k)[1:35][: 100 // classes] for k in range(classes)], 1).reshape(-1)
        drawn = noisy(images[order], 12 if config.head.kind == "autoregressive" else 60)
        np.savez_compressed(folder / f"{row['stage.sample']}.npz", images=drawn, labels=np.arange(len(drawn)) % classes)


def _histograms(config: RunConfig) -> dict[str, np.ndarray]:
    edges = np.linspace(-6, 6, 121)
    q = config.quantizer
    values = np.random.default_rng(3).normal(0, np.linspace(0.7, 1.2, 8)[:, None], (8, 5000))
    before = np.stack([np.histogram(row, edges)[0] for row in values]).astype(np.float64)
    if q.kind != "gaussian":
        return {"edges": edges, "before": before, "after": before, "centers": np.empty((1, 0))}
    assert isinstance(q.levels, int)
    spread = np.linspace(-1, 1, q.levels)
    centers = q.range * 0.75 * np.sign(spread) * np.abs(spread) ** 1.4
    index = np.abs(values[..., None] - centers).argmin(-1)
    after = np.stack([np.histogram(row, edges)[0] for row in centers[index]]).astype(np.float64)
    counts = np.stack([np.bincount(row, minlength=q.levels) for row in index])
    return {"edges": edges, "before": before, "after": after, "centers": centers[None], "counts": counts}


def _spectra() -> dict[str, np.ndarray]:
    frequencies = np.array([0, 0.25, 0.25 * 2**0.5, 0.5, 0.25 * 5**0.5, 0.5**0.5])
    slopes = np.linspace(0.2, 3, 8)[[3, 0, 7, 1, 6, 2, 5, 4]]
    power = np.exp(-slopes[:, None] * frequencies * 2)
    share = power[:, :2].sum(1) / power.sum(1)
    return {
        "frequencies": frequencies,
        "power": power,
        "share": share,
        "order": np.argsort(-share),
        "cutoff": np.array(0.25),
    }


def _curves(row: dict[str, Any]) -> list[tuple[str, str, int, float]]:
    if row.get("stage.train", "").removeprefix("train-")[:-1] not in ("autoregressive-s", "parallel-s"):
        return []  # no figure shows it
    stage = row["stage.train"]
    floor = 2.1 if "auto" in stage else 2.5
    random = np.random.default_rng([7, int(stage[-1])])
    steps = range(10, 1321, 10)
    points = [(stage, "loss", s, floor + 2 * math.exp(-s / 120) + random.normal(0, 0.02)) for s in steps]
    points += [(stage, "learning_rate", s, 1e-3 * min(s / 88, 0.5 + 0.5 * math.cos(math.pi * s / 1320))) for s in steps]
    return points + [(stage, "validation_loss", s, floor + 0.05 + 2.2 * math.exp(-s / 120)) for s in steps[6::7]]


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
