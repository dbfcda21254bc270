"""A small runs folder in the real formats: scikit-learn's digits, coarsely quantized pixel by pixel."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tokenbridge.config import RunConfig
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import MANIFEST, Store, digest, write_json
from tokenbridge.store.runs import JOURNAL, Journal, RecordedCell, write_cells, write_metrics

LEVELS = (2, 4, 8)
NOTHING = {"runs": 0, "params": 0, "metrics": 0, "points": 0, "artifacts": 0}


def images() -> np.ndarray:
    """uint8 (10, 1, 8, 8): the first image of each class."""
    found = load_digits()
    first = [int(np.flatnonzero(found.target == label)[0]) for label in range(10)]
    return np.rint(found.images[first] * 255 / 16).astype(np.uint8)[:, None]


def quantize(pixels: np.ndarray, levels: int) -> np.ndarray:
    return np.rint(np.rint(pixels / 255 * (levels - 1)) * 255 / (levels - 1)).astype(np.uint8)


def make_runs(root: Path, levels: tuple[int, ...] = LEVELS, steps: int = 3) -> Store:
    """One reconstruction cell a level count, and `generation`, which trains on the finest."""
    store = Store(root)
    for count in levels:
        add_reconstruction(store, count)
    add_generation(store, levels[-1], steps)
    return store


def template(base: Path) -> Path:
    """A runs folder with a new, empty MLflow file; both take seconds."""
    store = make_runs(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.ensure_store(store)
    return base


def with_database(store: Store, empty: Path) -> Store:
    """Put a copy of an empty MLflow file there."""
    store.root.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(empty, store.root / "mlflow.db")
    return store


def config_of(levels: int, **more: object) -> RunConfig:
    small = {"data.image_size": 8, "quantizer.levels": levels, "head.order": [1, 0, 2, 3, 4, 5, 6, 7]}
    return override(RunConfig.model_construct(), small | {"sample.iterations": 4, "sample.images": 10} | more)


def add_reconstruction(store: Store, levels: int) -> str:
    pixels = images()
    decoded = quantize(pixels, levels)
    squares = (pixels.astype(float) - decoded) ** 2
    reads = {"reads": {"images": digest(pixels.tolist()) * 4}}
    latents = stage(store, "latents", {"size": 8}, reads, examples={"order": np.arange(8)})
    mse = {"mse": float(squares.mean()), "unused_levels": float(levels - len(np.unique(decoded)))}
    counts = np.stack([np.bincount(x.ravel(), minlength=256) for x in (pixels, decoded)]).astype(float)
    histogram = {
        "edges": np.arange(257.0),
        "before": counts[:1],
        "after": counts[1:],
        "centers": np.unique(decoded)[None],
    }
    quantizer = stage(store, "quantizer", levels, metrics=mse, examples=histogram)
    pair = {"original": pixels, "reconstructed": decoded, "labels": np.arange(10)}
    psnr = {"psnr": float(10 * np.log10(255**2 / squares.mean()))}
    reconstruct = stage(store, "reconstruct", levels, metrics=psnr, examples=pair)
    stages = {"latents": latents, "quantizer": quantizer, "reconstruct": reconstruct}
    return add_cell(store, f"1a-b{levels:03d}", config_of(levels), stages)


def add_generation(store: Store, levels: int, steps: int, guidance: float = 1.5) -> str:
    """Its model repeats the training images: a memory of one image a class."""
    made = quantize(images(), levels)
    stages = {kind: id_of(kind, key) for kind, key in (("latents", {"size": 8}), ("quantizer", levels))}
    stages["train"] = train(store, levels, steps)
    seen = {"images": made, "labels": np.arange(10)}
    key = [levels, guidance]
    stages["sample"] = stage(store, "sample", key, metrics={"images": 10.0}, examples=seen)
    distance = {"fd_pixels": float(((made.mean(0) - images().mean(0)) ** 2).sum())}
    stages["score"] = stage(store, "score", key, metrics=distance)
    return add_cell(store, f"2a-g{guidance:g}", config_of(levels, **{"sample.guidance": guidance}), stages)


def train(store: Store, key: object, steps: int) -> str:
    id = id_of("train", key)
    with store.writing(id, {"kind": "train"}) as out:
        if out is not None:
            journal(out, range(steps))
    without_checksums(store, id)
    return id


def journal(folder: Path, steps: range, before: int | None = None) -> None:
    """The error of Newton's method for √2, a curve that is quick to make."""
    lines = Journal(folder / JOURNAL, before)
    for step in steps:
        lines.write(step, loss=1 / (1 + step), learning_rate=0.1 * 0.9**step)


def id_of(kind: str, key: object) -> str:
    return f"{kind}-{digest(key)}"


def stage(
    store: Store,
    kind: str,
    key: object,
    about: dict[str, object] | None = None,
    metrics: dict[str, float] | None = None,
    examples: dict[str, np.ndarray] | None = None,
) -> str:
    id = id_of(kind, key)
    with store.writing(id, {"kind": kind, **(about or {})}) as out:
        if out is not None:
            if metrics is not None:
                write_metrics(out, metrics, {"images": 10, "kind": kind})
            if examples is not None:
                np.savez(out / "examples.npz", **examples)  # pyright: ignore[reportArgumentType]
    without_checksums(store, id)
    return id


def without_checksums(store: Store, id: str) -> None:
    """Leave the manifest as it was before it held checksums, so that a test may write other results."""
    path = store.folder(id) / MANIFEST
    manifest = json.loads(path.read_text())
    if manifest.pop("checksums", None) is not None:
        write_json(path, manifest)


def add_cell(store: Store, name: str, config: RunConfig, stages: dict[str, str]) -> str:
    dump = json.loads(config.model_dump_json())
    cell = RecordedCell(digest(dump), [name], "small", dump, stages)
    write_cells(store, [cell])
    return cell.id


def runs_of(store: Store, kind: str) -> dict[str, Any]:
    """Active runs by name, read with MLflow itself."""
    uri = tracking.tracking_uri(store)
    mlflow = mlflow_store.client(uri)
    experiment = mlflow_store.experiment_id(mlflow, store, uri)
    found = mlflow.search_runs([experiment], f"tags.kind = '{kind}'")
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def content(store: Store) -> dict[str, list[Any]]:
    """All that the database and the artifact folder hold."""
    tables = ("runs", "metrics", "latest_metrics", "params", "tags", "inputs", "datasets")
    with closing(sqlite3.connect(store.root / "mlflow.db")) as connection:
        found = {table: sorted(map(repr, connection.execute(f"SELECT * FROM {table}"))) for table in tables}
    files = (store.root / "mlflow-artifacts").rglob("*")
    return found | {"files": sorted(str(path.relative_to(store.root)) for path in files)}


def curve(store: Store, key: str = "train/loss") -> list[tuple[int, float]]:
    run = runs_of(store, "training")["train 2a-g1.5"]
    points = mlflow_store.client(tracking.tracking_uri(store)).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in sorted(points, key=lambda point: point.step)]
