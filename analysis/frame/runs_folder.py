"""What analysis reads of a runs folder: cells, metrics, curves, examples, manifests; without torch or MLflow."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenbridge.config import UserError
from tokenbridge.overrides import flatten

UNMEASURED = ("tokenizer", "latents", "train")
"""stages that may leave no metrics.json"""
UNPICTURED = ("latents",)
"""stages that may leave no examples.npz: spectra came after the first runs"""
_REMEDY = "delete its folder and run again"


def cell_ids(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "cells").glob("*.json"))


def read_cell(root: Path, id: str) -> dict[str, Any]:
    """cells/<id>.json: id, name, experiment, config, stages (kind -> stage id)."""
    path = root / "cells" / f"{id}.json"
    if not path.exists():
        raise UserError(f"cell {id} is not in {path.parent}; run it, or choose its folder with --runs")
    cell = read_json(path)
    if not isinstance(cell, dict) or not {"id", "name", "experiment", "config", "stages"} <= cell.keys():
        raise UserError(f"{path} is no cell (id, name, experiment, config, stages); delete it and run again")
    return cell


def finished(root: Path, stage: str) -> bool:
    return (root / "stages" / stage / "manifest.json").exists()


def read_manifest(root: Path, stage: str) -> dict[str, Any]:
    return read_json(root / "stages" / stage / "manifest.json")


def cell_values(root: Path, cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as flat values: what it is, its settings, and the metrics and protocols of its finished stages."""
    row = {"cell": cell["id"], "name": cell["name"], "experiment": cell["experiment"], "run_id": ""}
    row |= flatten(cell["config"]) | {f"stage.{kind}": id for kind, id in cell["stages"].items()}
    for kind, id in cell["stages"].items():
        path = root / "stages" / id / "metrics.json"
        if not finished(root, id) or (kind in UNMEASURED and not path.exists()):
            continue
        content = read_json(path)
        try:
            row |= {f"{kind}/{name}": float(value) for name, value in content["metrics"].items()}
            row[f"protocol.{kind}"] = json.dumps(content.get("protocol", {}), sort_keys=True)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f'{path} must hold numbers under "metrics"; {_REMEDY}') from None
    return row


def curve(root: Path, stage: str) -> Iterator[tuple[str, str, int, float]]:
    """(stage, key, step, value) of a training, finished or not; a last line cut by a kill is left out."""
    path = root / "stages" / (stage if finished(root, stage) else f"{stage}.partial") / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate((line for line in lines if line.endswith("\n")), 1):
        try:
            key, value, _, step = json.loads(line)
        except (ValueError, TypeError):
            raise UserError(f"{path}:{number} is no line of a journal; {_REMEDY}") from None
        yield stage, key, step, value


def has_examples(root: Path, stage: str, kind: str) -> bool:
    """False where a stage of a kind that has not always left examples left none."""
    return kind not in UNPICTURED or (root / "stages" / stage / "examples.npz").exists()


def copy_examples(root: Path, stage: str, target: Path) -> None:
    """Copy a stage's examples.npz, refusing a damaged one."""
    source = root / "stages" / stage / "examples.npz"
    try:
        shutil.copyfile(source, target)
        with zipfile.ZipFile(target) as archive:
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} is not readable ({error}); {_REMEDY}") from error
    if broken:
        raise UserError(f"{source}: {broken} is damaged; {_REMEDY}")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); {_REMEDY}") from error
