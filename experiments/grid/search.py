"""Guidance and temperature of the rows of a grid: the search that each row has, or one point for all of them.

A search begins with the same grid for each row. Where the best point lies at an edge, the line beyond it is tried at
the ratio of the edge's two values, until the best is inside, at a bound (BOUNDS), or WIDENINGS lines have been added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from statistics import fmean
from typing import Any

from experiments.paper.plan import ranked
from experiments.pipeline import Cell
from tokenbridge.config import RunConfig, UserError
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.overrides import override, plain
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_metrics

GUIDANCE, TEMPERATURE = "sample.guidance", "sample.temperature"
SEARCH = {GUIDANCE: (1.0, 1.5, 2.0), TEMPERATURE: (0.8, 0.9, 1.0)}
BOUNDS = {GUIDANCE: 1.0, TEMPERATURE: 0.5}
"""below which no search goes: no guidance, and draws that are hardly random"""
WIDENINGS = 4
"""times that a search is widened, at most"""
SEARCH_SEED = 1  # of the images, which no final number uses
SEARCH_IMAGES = 900  # per point, all training seeds together
MOST_SEARCH_IMAGES = 500  # per training seed
OWN, BASE = "own", "base"  # of Request.points


@dataclass(frozen=True)
class SearchPoint:
    """A point of a row's search: its settings, and a cell for each training seed."""

    values: Mapping[str, float]
    cells: tuple[Cell, ...]

    def scored(self, store: Store) -> bool:
        return all(store.finished(cell.stages()[-1].id) for cell in self.cells)

    def metric(self, store: Store) -> float:
        """Mean over training seeds of the metric that searches go by."""
        return fmean(score_of(store, cell) for cell in self.cells)


@dataclass(frozen=True)
class RowSearch:
    """The search of a row of a table, with the models of all its seeds. What it tries next depends on finished scores.

    cells: the row's, one for each training seed. images: per point and training seed.
    """

    cells: tuple[Cell, ...]
    images: int

    def first(self) -> list[SearchPoint]:
        """The points of the grid that every row begins with."""
        return self._at(product(*SEARCH.values()))

    def wider(self, store: Store, number: int) -> list[SearchPoint]:
        """The points that widening `number`, from 1, adds; none where it does not come to that, or is not known yet."""
        return next(islice(self._parts(store), number, None), [])

    def points(self, store: Store) -> list[SearchPoint]:
        """All points that are known to be needed; the last ones may lack scores."""
        return [point for part in self._parts(store) for point in part]

    def _parts(self, store: Store) -> Iterator[list[SearchPoint]]:
        axes, points = [list(values) for values in SEARCH.values()], list[SearchPoint]()
        for _ in range(1 + WIDENINGS):
            tried = {tuple(point.values.values()) for point in points}
            new = self._at(place for place in product(*axes) if place not in tried)
            if not new:
                return
            yield new
            points += new
            if not all(point.scored(store) for point in points):
                return
            axes = widened(axes, [*best(store, points).values()])

    def _at(self, places: Iterable[Sequence[float]]) -> list[SearchPoint]:
        samples = {"sample.images": self.images, "sample.seed": SEARCH_SEED} | unreported(self.cells[0].config)
        points = []
        for place in places:
            values = dict(zip(SEARCH, place, strict=True))
            seeded = [
                Cell(f"search-{cell.name}-{point_name(values)}", override(cell.config, values | samples), ("score",))
                for cell in self.cells
            ]
            points.append(SearchPoint(values, tuple(seeded)))
        return points


def most_points(axes: Iterable[Sequence[float]]) -> int:
    """Points that a search over these values has at most: where the best one always lies at the largest of both."""
    axes = [list(values) for values in axes]
    for _ in range(WIDENINGS):
        axes = widened(axes, [max(axis) for axis in axes])
    return math.prod(map(len, axes))


def best(store: Store, points: Sequence[SearchPoint]) -> dict[str, float]:
    """Guidance and temperature of the point with the lowest Fréchet distance.

    Args:
        store: the runs folder.
        points: whose cells are all finished.
    """
    return dict(points[ranked([point.metric(store) for point in points], "lower")[0]].values)


def widened(axes: Sequence[Sequence[float]], place: Sequence[float]) -> list[list[float]]:
    """The values of a search, with one more beyond each edge at which a point lies; the same where it lies inside.

    Args:
        axes: the values of guidance and of temperature that are tried. One value alone has no edges.
        place: the point.
    """
    return [
        sorted({*values, *_beyond(values, at, bound)})
        for values, at, bound in zip(axes, place, BOUNDS.values(), strict=True)
    ]


def _beyond(values: Sequence[float], at: float, bound: float) -> list[float]:
    """The value beyond the end that `at` is, if it is one: at the ratio of the last two, rounded, within the bound."""
    low, *_, high = ordered = sorted(values) if len(values) > 1 else (-math.inf, math.inf)
    if at == high:
        before = ordered[-2]
        return [_rounded(high * high / before if before > 0 else 2 * high - before, high)]
    if at == low and low > bound:
        return [max(bound, _rounded(low * low / ordered[1], low))]
    return []


def _rounded(value: float, end: float) -> float:
    """A value with two digits, or as many more as keep it nearer to itself than to the end of the grid."""
    digits = (float(f"{value:.{digits}g}") for digits in range(2, 17))
    return next((short for short in digits if abs(short - value) < abs(value - end) / 4), value)


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
