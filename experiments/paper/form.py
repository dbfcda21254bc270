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
class Row:
    """What a row of a table changes in the base config (dotted key -> value), and what the paper reports for it."""

    label: str
    overrides: Mapping[str, Any] | None
    published: Mapping[str, float | str] = field(default_factory=dict)
    reason: str = ""
    """why overrides is None, or why there is no published number"""
    needs: str = ""
    """what running it takes that not every machine has"""


@dataclass(frozen=True)
class Claim:
    """That one row is better than another in some metrics: tested before all else that a table compares."""

    first: str
    """label of the row that is said to be better, or the tokens of a group of rows"""
    second: str
    metrics: tuple[Metric, ...]
    """as they are declared, for any scorer"""
    chosen: bool = False
    """whether both are groups, post-training, trained or continuous: of each the row that the search found best, whose
    images are apart from those of the report"""


@dataclass(frozen=True)
class Table:
    id: str
    title: str
    kind: Literal["reconstruction", "generation", "settings", "speed", "axes", "effects", "pivot"]
    varies: tuple[str, ...]
    """config keys that differ between the rows on purpose"""
    rows: tuple[Row, ...]
    published: tuple[Column, ...]
    measured: tuple[Column, ...] = ()
    note: str = ""
    scaled: Mapping[str, float] = field(default_factory=dict)
    """settings whose values scale with the base: key -> what the base of the rows' own values has"""
    base: str = ""
    """label of the row that the others are compared with; empty for the first"""
    seeded: tuple[str, ...] = ()
    """settings that have the training seed as their value: what differs between seeds beside the training"""
    rounded: tuple[str, ...] = ()
    """scaled settings that take the nearest whole number, 1 at least"""
    claims: tuple[Claim, ...] = ()
    """its primary comparisons, corrected with those of the report's other tables; all others are exploratory"""

    @property
    def own(self) -> bool:
        """Whether the paper has no such table."""
        return not self.published

    @property
    def sampled(self) -> bool:
        """Whether it is about samples, which guidance and temperature change."""
        return any(column.stage == "score" for column in self.measured)

    @property
    def name(self) -> str:
        """How a text refers to it: by its number in the paper, or by its title where it has none."""
        return self.title if self.own else f"Table {self.id}"

    @property
    def heading(self) -> str:
        return self.title if self.own else f"{self.name}. {self.title}"

    @property
    def base_label(self) -> str:
        return self.base or self.rows[0].label

    def by(self, scorers: Sequence[str]) -> Table:
        """The table with each metric that a scorer measures once per scorer."""
        return replace(self, measured=by_scorers(self.measured, scorers))

    def overrides(self, row: Row, base: RunConfig) -> dict[str, Any]:
        """What a row changes in this base.

        Args:
            row: of the table.
            base: a scaled setting keeps its ratio to the base's own value.

        Raises:
            UserError: a scaled setting would not be a whole number.
        """
        values, own = dict(row.overrides or {}), settings(base)
        for key, reference in self.scaled.items():
            if key not in values:
                continue
            value = values[key] * own[key] / reference
            if key in self.rounded:
                value = max(1, round(value))
            if isinstance(own[key], int):
                if value != int(value) or value < 1:
                    raise UserError(
                        f"table {self.id}, row {row.label}: {key}={own[key]} of the base scales {values[key]} to"
                        f" {value:g}, which must be a whole number; choose a multiple of {reference // 64}"
                    )
                value = int(value)
            values[key] = value
        return values

    def seed(self, seed: int) -> dict[str, int]:
        """What a training seed changes in a row."""
        return {key: seed for key in ("train.seed", *self.seeded)}

    def row(self, label: str) -> Row:
        """The row of this label; UserError naming those that exist."""
        for row in self.rows:
            if row.label == label:
                return row
        labels = ", ".join(row.label for row in self.rows)
        raise UserError(f"{label!r} is no row of table {self.id}; its rows are {labels}")
