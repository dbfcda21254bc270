"""The cells of a grid over axes as a report has them: which axes, which cell has which values, and the table of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.axes import Axis, names
from experiments.paper import TABLE_2A, Cell, Table
from tokenbridge.metrics.catalogue import MSE
from tokenbridge.overrides import flatten, plain

AXES = "axes"
"""id of the table of all points"""


@dataclass(frozen=True)
class Trial:
    cell: str
    label: str
    """of its point, the same for all its seeds"""
    values: Mapping[str, Any]
    """setting -> value, for every axis"""
    seed: int

    def others(self, key: str) -> tuple[str, ...]:
        """What has to be equal in two cells that differ in one axis only."""
        seed = () if key == "train.seed" else (str(self.seed),)
        return (*(plain(value) for other, value in self.values.items() if other != key), *seed)


def axes_of(plan: Mapping[str, Any]) -> tuple[Axis, ...]:
    return tuple(Axis(axis["key"], tuple(axis["values"])) for axis in plan.get("axes") or ())


def trials_of(plan: Mapping[str, Any]) -> list[Trial]:
    axes, cells = axes_of(plan), plan.get("cells") or []
    labels = names(axes, [cell["values"] for cell in cells])
    return [Trial(c["cell"], label, c["values"], c["seed"]) for c, label in zip(cells, labels, strict=True)]


def rows_of(plan: Mapping[str, Any]) -> list[dict[str, str]]:
    """The cells in the form of the plan's rows of tables."""
    return [{"table": AXES, "label": trial.label, "cell": trial.cell} for trial in trials_of(plan)]


def table_of(plan: Mapping[str, Any]) -> Table | None:
    """The table of all points; None for a plan without axes."""
    keys = tuple(axis.key for axis in axes_of(plan))
    if not keys:
        return None
    points = {trial.label: trial.values for trial in trials_of(plan)}
    cells = tuple(Cell(label, values) for label, values in points.items())
    columns = TABLE_2A.measured + ((MSE,) if any(key.startswith("quantizer.") for key in keys) else ())
    own = flatten(plan["base"])
    base = next((label for label, v in points.items() if all(plain(v[key]) == plain(own[key]) for key in keys)), "")
    return Table(AXES, "Every point of the axes", "axes", keys, cells, (), columns, base=base)
