"""Guidance and temperature of a trained model by sampling alone: successive halving over a grid of points.

Every point gets a few images, and where the best one lies at an edge, so do those beyond it (search.widened); the best
third goes on to the next rung with more, until the last. A Fréchet distance depends on the number of images, so points
are compared within a rung only. All is ordinary cells: what is finished is not done again. The images have another
sample.seed than final numbers: the choice is not scored on what chose it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean

from experiments import progress, runner
from experiments.grid.search import (
    GUIDANCE,
    SEARCH,
    SEARCH_SEED,
    TEMPERATURE,
    WIDENINGS,
    most_points,
    point_name,
    unreported,
    widened,
)
from experiments.paper.plan import ranked
from experiments.pipeline import Cell, graph
from experiments.trained import Models
from tokenbridge.config import RunConfig, Runtime, UserError
from tokenbridge.metrics import catalogue
from tokenbridge.metrics.scorers import SCORERS, SHIPPED
from tokenbridge.overrides import near, override
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import EXPERIMENT, read_cells, read_metrics, require_name

IMAGES = (100, 300, 900)
"""per point and training seed, one for each rung"""
FEWEST_IMAGES = 50
KEPT = 3
"""one point in so many goes on to the next rung, at least two, so that the last rung compares"""
Place = tuple[float, float]
"""guidance and temperature"""


class Failed(Exception):
    """Stages of a rung failed, so that its points cannot be compared."""

    def __init__(self, failures: list[runner.Failure]):
        super().__init__(f"{len(failures)} stages failed")
        self.failures = failures


def directions() -> dict[str, str]:
    """Metrics of the score stage that a search can go by, and which way is better."""
    return {m.name: m.better for m in catalogue.every().values() if m.stage == "score" and m.better}


@dataclass(frozen=True)
class ScoredPoint:
    """A point with the cells that sampled there and their metric, one of each per training seed."""

    guidance: float
    temperature: float
    images: int
    cells: tuple[str, ...]
    values: tuple[float, ...]
    errors: tuple[float | None, ...]
    """standard errors over images"""
    left_out: tuple[tuple[float, ...], ...] = ()
    """the metric without each group of images, where the stage left it"""
    count: float | None = None
    """of a share: the number of images that it is of"""

    @property
    def place(self) -> Place:
        return self.guidance, self.temperature


@dataclass(frozen=True)
class Rung:
    """All points that had so many images, the best first; `kept` of them went on (of the last rung: one)."""

    images: int
    points: tuple[ScoredPoint, ...]
    kept: int


@dataclass(frozen=True)
class Search:
    """A search over guidance and temperature. images: per point and training seed, one number for each rung."""

    models: Models
    guidance: tuple[float, ...] = SEARCH[GUIDANCE]
    temperature: tuple[float, ...] = SEARCH[TEMPERATURE]
    images: tuple[int, ...] = IMAGES
    metric: str = SCORERS[SHIPPED].fd

    def __post_init__(self) -> None:
        if self.metric not in (names := directions()):
            close = near(self.metric, names)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}"
            raise UserError(f"--metric={self.metric} is no metric of samples with a direction; {hint}")
        for name, values in (("guidance", self.guidance), ("temperature", self.temperature), ("images", self.images)):
            if len({*values}) < len(values):
                raise UserError(f"--{name}={typed(values)} has a value twice; give each value once")
        if len(self.places) < 2:
            raise UserError(f"one point, {words(self.places[0])}, leaves nothing to choose; give a value more")
        if [*self.images] != sorted(self.images) or self.images[0] < FEWEST_IMAGES:
            raise UserError(f"--images={typed(self.images)} must rise from {FEWEST_IMAGES} or more, one for each rung")
        for place in self.places:
            graph(self.cells(place, self.images[0]))  # UserError for a value out of range, before anything runs

    @property
    def places(self) -> list[Place]:
        return list(product(self.guidance, self.temperature))

    @property
    def of_metric(self) -> catalogue.Metric:
        """The metric as the catalogue declares it."""
        return catalogue.metric(f"score/{self.metric}")

    @property
    def better(self) -> str:
        return self.of_metric.better

    @property
    def final_seed(self) -> int:
        return self.models.configs[0].sample.seed

    @property
    def seed(self) -> int:
        """sample.seed of the search, never that of the final score."""
        return SEARCH_SEED if self.final_seed != SEARCH_SEED else SEARCH_SEED + 1

    @property
    def rungs(self) -> list[tuple[int, int]]:
        """Images and points of each rung; one that would drop no point is left out."""
        return rungs(self.images, len(self.places))

    def cells(self, place: Place, images: int | None = None) -> list[Cell]:
        """The cells of a point, one for each training seed.

        Args:
            place: guidance and temperature.
            images: per training seed, with the search's own seed; without it, number and seed are the config's.
        """
        values = {GUIDANCE: place[0], TEMPERATURE: place[1]}
        name = f"tune-{self.models.name}-{point_name(values)}-{f'n{images}' if images else 'final'}"
        if images:
            values |= {"sample.images": images, "sample.seed": self.seed} | unreported(self.models.configs[0])
        return [Cell(name + _seed(config), override(config, values), ("score",)) for config in self.models.configs]


def rungs(images: Sequence[int], points: int) -> list[tuple[int, int]]:
    """Images and points of each rung for so many points; one that would drop no point is left out."""
    found = []
    for few in images[:-1]:
        kept = max(2, math.ceil(points / KEPT))
        if kept < points:
            found.append((few, points))
            points = kept
    return [*found, (images[-1], points)]


def climb(store: Store, search: Search, runtime: Runtime, jobs: int) -> Iterator[Rung]:
    """Run each rung on the points that the one before kept; yields the rungs with their points ranked.

    The first one is widened until its best point lies inside, at a bound, or WIDENINGS lines have been added.

    Raises:
        Failed: stages failed; what is finished stays.
    """
    places, first = search.places, search.rungs[0][0]
    axes, points = [list(search.guidance), list(search.temperature)], list[ScoredPoint]()
    for _ in range(1 + WIDENINGS):
        tried = {point.place for point in points}
        if not (new := [(g, t) for g, t in product(*axes) if (g, t) not in tried]):
            break
        points += _scored(store, search, new, first, runtime, jobs)
        axes = widened(axes, _ranked(search, first, points, 1).points[0].place)
    steps = rungs([images for images in search.images if images >= first], len(points))
    for number, ((images, _), kept) in enumerate(zip(steps, [*(count for _, count in steps[1:]), 1], strict=True)):
        if number:
            points = _scored(store, search, places, images, runtime, jobs)
        rung = _ranked(search, images, points, kept)
        places = [point.place for point in rung.points[:kept]]
        yield rung


def _scored(
    store: Store, search: Search, places: Sequence[Place], images: int, runtime: Runtime, jobs: int
) -> list[ScoredPoint]:
    _run(store, [cell for place in places for cell in search.cells(place, images)], runtime, jobs)
    return [scored(store, search, place, images) for place in places]


def final(store: Store, search: Search, place: Place, runtime: Runtime, jobs: int) -> ScoredPoint:
    """Score a point with the final images.

    Raises:
        Failed: stages failed; what is finished stays.
    """
    known = read_cells(store)  # a cell that has a name keeps it
    cells = [replace(cell, name=known[cell.id].names[0]) if cell.id in known else cell for cell in search.cells(place)]
    _run(store, cells, runtime, jobs)
    return scored(store, search, place)


def before(store: Store, search: Search) -> ScoredPoint | None:
    """The configuration's own point with the final images, where that has been scored."""
    own = search.models.configs[0].sample
    if isinstance(own.temperature, tuple) or not all(
        store.finished(cell.stages()[-1].id) for cell in search.cells((own.guidance, own.temperature))
    ):
        return None
    return scored(store, search, (own.guidance, own.temperature))


def scored(store: Store, search: Search, place: Place, images: int | None = None) -> ScoredPoint:
    """Read the finished cells of a point.

    Args:
        store: the runs folder.
        search: whose metric is read.
        place: guidance and temperature.
        images: of the rung; without it those of the final images.

    Raises:
        UserError: the scores do not have the metric.
    """
    cells, values, errors = search.cells(place, images), list[float](), list[float | None]()
    left, of = list[tuple[float, ...]](), None
    for cell in cells:
        folder = store.folder(cell.stages()[-1].id)
        metrics, protocol, left_out = read_metrics(folder)
        if search.metric not in metrics:
            raise UserError(f"{folder} has no {search.metric}; choose another --metric, or delete it")
        value, of = metrics[search.metric], catalogue.share_of(search.of_metric, protocol)
        # of a share of the generated images, that of a binomial
        error = math.sqrt(value * (1 - value) / of) if search.metric.startswith("agreement") and of else None
        values.append(value)
        errors.append(metrics.get(f"{search.metric}_se", error))
        left.append(tuple(left_out.get(search.metric, ())))
    number, ids = cells[0].config.sample.images, tuple(cell.id for cell in cells)
    return ScoredPoint(*place, number, ids, tuple(values), tuple(errors), tuple(left), of)


def forecast(store: Store, search: Search, jobs: int) -> list[str]:
    """What a run would do, a line per rung; of later rungs only how many points they have is known.

    Args:
        store: the runs folder, whose finished stages tell how long others take.
        search: what would run.
        jobs: stages at a time.
    """
    rates, seconds, lines = progress.seconds_of_work(store), 0.0, list[str]()
    for number, (images, points) in enumerate(search.rungs):
        cells = [cell for place in search.places[:points] for cell in search.cells(place, images)]
        stages = [stage for cell in cells for stage in cell.stages() if stage.kind.name in ("sample", "score")]
        todo = stages if number else [stage for stage in stages if not store.finished(stage.id)]
        time = sum(rates[stage.kind.name] * stage.kind.work(stage.config) for stage in todo)
        seconds += time
        about = f"{points} points, {images} images per point and training seed"
        lines.append(f"  rung {number + 1}: {about}, {len(todo)} stages to run, about {progress.time_text(time)}")
        if not number:
            more = most_points((search.guidance, search.temperature)) - points
            lines.append(
                f"    and where its best point lies at an edge, those beyond: at most {WIDENINGS} times, {more} points"
                f" more, about {progress.time_text(time / points * more)}"
            )
    lines.append(f"  then the chosen point with {search.models.configs[0].sample.images} images")
    return [*lines, f"about {progress.time_text(seconds / jobs)} with {jobs} stages at a time, less what is finished"]


def record_path(store: Store, name: str) -> Path:
    """The file of a search's record.

    Raises:
        UserError: for a name that no file can have.
    """
    require_name(name)
    return store.root / "tunes" / f"{name}.json"


def images_drawn(search: Search, rungs: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Count the images that a search draws, those of them that an earlier rung drew, and those of a full last rung.

    Args:
        search: what was run.
        rungs: images and points of each.
    """
    seeds = len(search.models.configs)
    drawn = sum(images * points for images, points in rungs)
    again = sum(less * points for (less, _), (_, points) in pairwise(rungs))
    return drawn * seeds, again * seeds, rungs[-1][0] * rungs[0][1] * seeds


def typed(values: Sequence[float]) -> str:
    """Numbers as an option takes them: 1,1.5,2."""
    return ",".join(f"{value:g}" for value in values)


def words(place: Place) -> str:
    return f"guidance {place[0]:g}, temperature {place[1]:g}"


def _seed(config: RunConfig) -> str:
    return f"-s{config.train.seed}" if config.train.seed else ""


def _run(store: Store, cells: Sequence[Cell], runtime: Runtime, jobs: int) -> None:
    if failures := runner.attempt_cells(store, cells, runtime, EXPERIMENT, jobs):
        raise Failed(failures)


def _ranked(search: Search, images: int, points: Sequence[ScoredPoint], kept: int) -> Rung:
    means = [fmean(point.values) for point in points]
    if all(map(math.isnan, means)):
        raise UserError(f"{search.metric} is NaN at all points with {images} images; choose another --metric")
    return Rung(images, tuple(points[i] for i in ranked(means, search.better)), kept)
