"""Guidance and temperature of the rows of a grid: the search that each row has, or one point for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from experiments.pipeline import Cell
from tokenbridge.config import RunConfig, UserError
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.overrides import override, plain
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_metrics

GUIDANCE, TEMPERATURE = "sample.guidance", "sample.temperature"
SEARCH = {GUIDANCE: (1.0, 1.5, 2.0), TEMPERATURE: (0.8, 0.9, 1.0)}
SEARCH_SEED = 1  # of the images, which no final number uses
SEARCH_IMAGES = 900  # per point, all training seeds together
MOST_SEARCH_IMAGES = 500  # per training seed
OWN, BASE = "own", "base"  # of Request.points


@dataclass(frozen=True)
class SearchPoint:
    """A point of a row's search: its settings, and a cell for each training seed."""

    values: Mapping[str, float]
    cells: tuple[Cell, ...]

    def metric(self, store: Store) -> float:
        """Mean over training seeds of the metric that searches go by."""
        return fmean(score_of(store, cell) for cell in self.cells)


def search_points(cells: Sequence[Cell], images: int) -> list[SearchPoint]:
    """The same small search for every row of a table: guidance × temperature, with the models of all its seeds.

    Args:
        cells: the row's, one for each training seed.
        images: per point and training seed.
    """
    samples = {"sample.images": images, "sample.seed": SEARCH_SEED} | unreported(cells[0].config)
    points = []
    for place in product(*SEARCH.values()):
        values = dict(zip(SEARCH, place, strict=True))
        seeded = [
            Cell(f"search-{cell.name}-{point_name(values)}", override(cell.config, values | samples), ("score",))
            for cell in cells
        ]
        points.append(SearchPoint(values, tuple(seeded)))
    return points


def unreported(config: RunConfig) -> dict[str, Any]:
    """Settings with which what a setting is chosen by reads no test image; UserError where nothing else is left."""
    reference = {"score.reference": "validation"} if config.reads_test else {}
    override(config, changes := {"score.split": "validation"} | reference)
    return changes


def search_images(seeds: int) -> int:
    """Images per point and training seed."""
    return min(MOST_SEARCH_IMAGES, SEARCH_IMAGES // seeds)


def one_point(points: str, base: RunConfig) -> dict[str, Any] | None:
    """Guidance and temperature that all rows have; None where each row is searched.

    Args:
        points: OWN (each row its own), BASE (those of the base), or guidance and temperature, such as "1.5,0.9".
        base: the base configuration.

    Raises:
        UserError: anything else, or values that no sampling can have.
    """
    if points == OWN:
        return None
    values: dict[str, Any] = {}
    if points != BASE:
        try:
            values = dict(zip(SEARCH, map(finite, points.split(",")), strict=True))
        except ValueError:
            raise UserError(
                f"--points={points} must be {OWN}, {BASE}, or one guidance and temperature for all rows, such as"
                " 1.5,0.9"
            ) from None
    how = override(base, values).sample
    return {GUIDANCE: how.guidance, TEMPERATURE: how.temperature}


def finite(text: str) -> float:
    """A number as it is typed; ValueError for what is none, nan and inf."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value


def point_name(values: Mapping[str, Any]) -> str:
    """As a part of a name: g1.5-t0.9."""
    guidance, temperature = (
        f"{values[key]:g}" if isinstance(values[key], float) else plain(values[key]).replace(" ", "") for key in SEARCH
    )
    return f"g{guidance}-t{temperature}"


def metric_of(config: RunConfig) -> str:
    """Name of the metric that a search goes by: the Fréchet distance of the first scorer."""
    return SCORERS[config.score.scorers[0]].fd


def score_of(store: Store, cell: Cell, metric: str = "") -> float:
    """A metric of the score stage of a cell.

    Args:
        store: the runs folder, in which that stage is finished.
        cell: its last stage is the score.
        metric: without the kind of stage, such as "fd_digits"; by default the one that searches go by.
    """
    metric = metric or metric_of(cell.config)
    score = cell.stages()[-1]
    return read_metrics(store.folder(score.id)).metrics[metric]
