"""What a table is: rows that are changes to a base configuration, columns of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tokenbridge.config import RunConfig, UserError
from tokenbridge.metrics.catalogue import Metric, by_scorers
from tokenbridge.overrides import settings

Column = Metric
"""a column of numbers: a metric of the catalogue, or what the paper publishes, under a short key of its own"""


@dataclass(frozen=True)
class Cell:
    """One row: what it changes in the base config (dotted key -> value), and what the paper reports for it."""

    label: str
    overrides: Mapping[str, Any] | None
    published: Mapping[str, float | str] = field(default_factory=dict)
    reason: str = ""
    """why overrides is None, or why there is no published number"""
    needs: str = ""
    """what running it takes that not every machine has"""


@dataclass(frozen=True)
class Table:
    id: str
    title: str
    kind: Literal["reconstruction", "generation", "settings", "speed", "axes", "effects", "pivot"]
    varies: tuple[str, ...]
    """config keys that differ between the rows on purpose"""
    cells: tuple[Cell, ...]
    published: tuple[Column, ...]
    measured: tuple[Column, ...] = ()
    note: str = ""
    scaled: Mapping[str, float] = field(default_factory=dict)
    """settings whose values scale with the base: key -> what the base of the rows' own values has"""
    base: str = ""
    """label of the row that the others are compared with; empty for the first"""

    @property
    def own(self) -> bool:
        """Whether the paper has no such table."""
        return not self.published

    @property
    def name(self) -> str:
        """How a text refers to it: by its number in the paper, or by its title where it has none."""
        return self.title if self.own else f"Table {self.id}"

    @property
    def heading(self) -> str:
        return self.title if self.own else f"{self.name}. {self.title}"

    @property
    def base_label(self) -> str:
        return self.base or self.cells[0].label

    def by(self, scorers: Sequence[str]) -> Table:
        """The table with each metric that a scorer measures once per scorer."""
        return replace(self, measured=by_scorers(self.measured, scorers))

    def overrides(self, cell: Cell, base: RunConfig) -> dict[str, Any]:
        """What a row changes in this base. A scaled setting keeps its ratio to the base's own value."""
        found, own = dict(cell.overrides or {}), settings(base)
        for key, reference in self.scaled.items():
            if key not in found:
                continue
            value = found[key] * own[key] / reference
            if isinstance(own[key], int):
                if value != int(value) or value < 1:
                    raise UserError(
                        f"table {self.id}, row {cell.label}: {key}={own[key]} of the base scales {found[key]} to"
                        f" {value:g}, which must be a whole number; choose a multiple of {reference // 64}"
                    )
                value = int(value)
            found[key] = value
        return found

    def cell(self, label: str) -> Cell:
        for cell in self.cells:
            if cell.label == label:
                return cell
        known = ", ".join(cell.label for cell in self.cells)
        raise UserError(f"{label!r} is no row of table {self.id}; its rows are {known}")
