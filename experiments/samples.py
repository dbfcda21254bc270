"""Samples of other programs as rows of a plan: cells without a model, scored as its own rows are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.axes import Axis, names
from experiments.paper import TABLES, plan
from experiments.pipeline import Cell, record
from experiments.runner import Failure, attempt_cells
from tokenbridge.config import RunConfig, Runtime, Sample, UserError
from tokenbridge.overrides import build, near
from tokenbridge.store.artifacts import Store, digest
from tokenbridge.store.runs import EXPERIMENT, leave_sweep

LABEL = re.compile(r"\w[\w .,=+:()/@%±×-]*")
LONGEST = 60
"""characters of a label"""
NOTHING = "sha256:000000000000"
"""a hash that stands for samples which are not read yet"""


def read_plan(store: Store, name: str) -> plan.Plan:
    """The plan of a report, which must have a table that samples can stand in.

    Raises:
        UserError: there is none of this name, or it generates no images.
    """
    path = plan.file(store.root, name)
    if not path.exists():
        known = plan.names(store.root)
        close = near(name, known)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(known) or 'none yet: run a grid first'}"
        raise UserError(f"{name} has no plan in {path.parent}, as a grid leaves at its end; {hint}")
    found = plan.read(path)
    if not (any(TABLES[id].sampled for id in _tables(found)) or found.get("duel") or found.get("cells")):
        raise UserError(f"{name} has no table of generated images, beside which samples could stand; name another plan")
    return found


def _tables(found: plan.Plan) -> list[str]:
    """Ids of a plan's tables that are the same in all plans."""
    return [id for id in found.get("tables") or () if id in TABLES]


def _labels(found: plan.Plan) -> set[str]:
    """Labels of a plan's rows, and of the points of its axes."""
    axes = [Axis(axis["key"], tuple(axis["values"])) for axis in found.get("axes") or ()]
    points = names(axes, [cell["values"] for cell in found.get("cells") or ()])
    own = [row.label for id in _tables(found) for row in TABLES[id].rows]
    return {*points, *own, *(row["label"] for row in found["rows"])}


def add(
    store: Store, name: str, label: str, paths: Sequence[Path], runtime: Runtime, resize: bool = False
) -> tuple[list[Cell], list[Failure]]:
    """Take samples into the runs folder, score them, and make them a row of a plan.

    Args:
        store: the runs folder.
        name: of the plan.
        label: of the row.
        paths: folders of images or .npz files, each a set of samples of its own.
        runtime: device and batch.
        resize: whether images of another size are scaled and cropped as the data's are.

    Returns:
        Their cells, one for each set, and what failed; with a failure the plan stays as it was.

    Raises:
        UserError: no such plan, a label that is taken, or samples that do not fit its data.
    """
    for place, path in enumerate(paths):
        if path.resolve() in {other.resolve() for other in paths[:place]}:
            raise UserError(f"{path} is named twice, and each set must be one of its own; leave it out")
        if path.resolve().is_relative_to(store.root.resolve()):
            raise UserError(f"{path} is inside the runs folder {store.root}, whose cells are rows already; name others")
    read_plan(store, name)  # before a lock is named like it
    with store.lock(f"samples-{digest([name, label])}"):  # who is late with a label is refused before it writes
        found = read_plan(store, name)
        _require_label(found, label)
        base = build(RunConfig, found["base"])
        _cell(base, NOTHING, "").stages()  # what the plan's scorers lack is told before images are read
        cells = _cells(store, base, label, paths, runtime, resize)
        entry = {"label": label, "cells": [cell.id for cell in cells], "from": [str(path) for path in paths]}
        if resize:
            entry["resize"] = True
        failures = attempt_cells(store, cells, runtime, EXPERIMENT)
        if not failures:
            _into_plan(store, name, entry, cells, found["base"])
    return cells, failures


def _into_plan(store: Store, name: str, entry: dict[str, Any], cells: Sequence[Cell], base: Any) -> None:
    """Make measured samples a row of a plan, which a grid may have written again meanwhile."""
    with store.lock(f"plan-{name}"):
        found = read_plan(store, name)
        _require_label(found, entry["label"])
        if found["base"] != base:
            raise UserError(f"{name} is on other settings now than when it began; give the command again")
        record(store, cells, EXPERIMENT, name)
        plan.replace(store.root, found | {"samples": [*given(found), entry]})


def _cells(
    store: Store, base: RunConfig, label: str, paths: Sequence[Path], runtime: Runtime, resize: bool
) -> list[Cell]:
    """A cell for each set of samples, whose `sample` stages are finished."""
    from tokenbridge.library.sample_sets import read_set, write_set  # torch

    sets = [read_set(path, base, resize, runtime.batch) for path in paths]  # all are looked at before one is taken in
    seen: dict[str, Path] = {}
    for each in sets:
        if (before := seen.setdefault(each.hash, each.path)) is not each.path:
            raise UserError(
                f"{each.path} holds the same images as {before}, and each set must be one of its own; leave it out"
            )
    cells = []
    for number, each in enumerate(sets):
        name = re.sub(r"[^\w.=-]+", "-", label).strip("-") + (f"-{number + 1}" if number else "")
        cells.append(cell := _cell(base, each.hash, name))
        stage = next(stage for stage in cell.stages() if stage.kind.name == "sample")
        with store.writing(stage.id, stage.about()) as out:
            if out is not None:
                write_set(each, out)
        print(_told(each.path, len(each), each.there, each.about), flush=True)
    return cells


def _cell(base: RunConfig, hash: str, name: str) -> Cell:
    how = Sample(images=base.sample.images, given=hash)
    return Cell(name, base.model_copy(update={"sample": how}), ("score",))


def _told(path: Path, count: int, there: int, about: dict[str, str]) -> str:
    kept = f"{count:,} images" if count == there else f"{count:,} of {there:,} images ({about['chosen']})"
    return f"{path}: {kept}, labels: {about['labels']}"


def remove(store: Store, name: str, label: str) -> int:
    """Take a row of samples out of a plan; its cells, and their numbers, stay in the runs folder.

    Returns:
        The number of its sets.

    Raises:
        UserError: no such plan or row.
    """
    with store.lock(f"plan-{name}"):
        found = read_plan(store, name)
        rows = given(found)
        row = next((row for row in rows if row["label"] == label), None)
        if row is None:
            labels = ", ".join(each["label"] for each in rows) or "none yet"
            raise UserError(f"{label} is no row of samples of {name}; there is {labels}")
        left = [each for each in rows if each is not row]
        plan.replace(store.root, found | {"samples": left})
    kept = {cell for each in left for cell in each["cells"]}
    leave_sweep(store, [cell for cell in row["cells"] if cell not in kept], name)
    return len(row["cells"])


def given(found: plan.Plan) -> list[dict[str, Any]]:
    """The rows of samples of a plan: label, cells, from."""
    return list(found.get("samples") or ())


def _require_label(found: plan.Plan, label: str) -> None:
    """Raise UserError for a label that no row can have, or that one has already."""
    if not LABEL.fullmatch(label) or len(label) > LONGEST:
        raise UserError(
            f"--as {label!r} must begin with a letter or digit and hold letters, digits, spaces and . , = + - : ( ) / @"
            f" % _ alone, {LONGEST} characters at most; choose another name"
        )
    if label in _labels(found):
        raise UserError(f"--as {label} is a row of {found['name']} already; choose another name")
    if label in {row["label"] for row in given(found)}:
        raise UserError(
            f"--as {label} is a row of samples already; choose another name, or first: tokenbridge samples remove"
            f' {found["name"]} --as "{label}"'
        )
