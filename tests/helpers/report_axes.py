"""A report's source folder of a grid over axes, with numbers that a test chooses. For tests only."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.axes import Axis
from experiments.grid.request import Trial, trials_of
from tests.helpers import report_numbers as numbers
from tests.helpers.report_source import BASE
from tokenbridge.overrides import settings

Numbers = Callable[[Trial], dict[str, float]]


def write_axes(
    folder: Path,
    axes: Sequence[Axis],
    metrics: Numbers,
    seeds: int = 1,
    each: bool = False,
    without: Sequence[str] = (),
) -> Path:
    """Write folder/source for these axes around the digits preset; without: names of cells that have not run."""
    source = folder / "source"
    for part in ("examples", "manifests"):
        (source / part).mkdir(parents=True)
    real, found = trials_of(axes, BASE, seeds, each)
    rows = [_row(trial, metrics(trial) if trial.cell.name not in without else {}) for trial in found]
    pd.DataFrame(rows).to_csv(source / "frame.csv", index=False)
    pd.DataFrame(columns=["stage", "key", "step", "value"]).to_csv(source / "curves.csv", index=False)
    plan = {
        "name": "synthetic",
        "title": "Synthetic numbers of a grid over axes",
        "base": BASE.model_dump(mode="json"),
        "tables": [],
        "rows": [],
        "axes": [{"key": axis.key, "values": axis.values} for axis in real],
        "each": each,
        "cells": [{"cell": t.cell.id, "values": t.values, "seed": t.seed} for t in found],
    }
    (source / "plan.json").write_text(json.dumps(plan))
    return folder


def _row(trial: Trial, chosen: dict[str, float]) -> dict[str, Any]:
    config = trial.cell.config
    row: dict[str, Any] = {"cell": trial.cell.id, "name": trial.cell.name, **settings(config)}
    row |= {key: json.dumps(value) for key, value in row.items() if isinstance(value, tuple)}
    row |= {f"stage.{stage.kind.name}": stage.id for stage in trial.cell.stages()}
    if not chosen:
        return row
    made = numbers.of_quantizer(config) | numbers.of_generation(config, config.train.seed)
    return row | made | chosen
