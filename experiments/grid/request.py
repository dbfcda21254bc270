"""A grid: rows of tables and points of axes on one base configuration, several training seeds each; each row's search.

`Request(...).grid()` is the grid; experiments/grid/run.py runs it. What a row shares with another, or what is finished,
runs once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain, product
from operator import attrgetter
from typing import Any

from experiments import paper
from experiments.axes import GRIDS, Axis, names, parse, points
from experiments.grid.search import OWN, WIDENINGS, RowSearch, one_point, point_name, search_images
from experiments.paper import FIGURE_8
from experiments.pipeline import RECONSTRUCTION, Cell, generated, graph
from experiments.presets import preset as preset_of
from tokenbridge.config import Config, RunConfig, UserError
from tokenbridge.overrides import override, plain
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import require_name

SEEDS = 3  # of tables
DUEL_SEEDS, FRESH_SEED = 10, 100  # of a duel: how many, and the first of them, beyond those that searches use
SPEED = paper.TABLE_5.id  # of heads at the paper's sizes, whatever the base
SHOWN = "2a autoregressive"  # in figure 8
STRENGTHS = (0.0, 1.0, 4.0, 16.0)  # of confidence-guided generation
LISTED = 3  # cells that cannot run, in a message


@dataclass(frozen=True)
class RowCell:
    """A cell of a row of a table, for one training seed."""

    table: str
    label: str
    cell: Cell

    @property
    def key(self) -> str:
        return f"{self.table} {self.label}"

    @property
    def sampled(self) -> bool:
        return "score" in self.cell.wanted

    def at(self, values: Mapping[str, Any]) -> RowCell:
        return replace(self, cell=replace(self.cell, config=override(self.cell.config, values)))

    def named(self, point: Mapping[str, Any]) -> RowCell:
        """The same with the point in the cell's name: the row may also be there at a point of its own."""
        return replace(self, cell=replace(self.cell, name=f"{self.cell.name}-{point_name(point)}"))

    def wants(self, *kinds: str) -> Cell:
        return replace(self.cell, wanted=kinds)


@dataclass(frozen=True)
class Trial:
    """A cell of a point of the axes, for one training seed; its guidance and temperature are not searched."""

    values: Mapping[str, Any]
    seed: int
    cell: Cell


@dataclass(frozen=True)
class Grid:
    """The cells of a grid. `search` has the search of each searched row by its key."""

    name: str
    preset: str
    base: RunConfig
    tables: tuple[str, ...]
    rows: tuple[RowCell, ...]
    search: Mapping[str, RowSearch]
    axes: tuple[Axis, ...] = ()
    trials: tuple[Trial, ...] = ()
    each: bool = False
    """whether axes vary one at a time around the base"""
    point: Mapping[str, Any] | None = None
    """guidance and temperature of all rows; None where each has its own search"""
    duel: tuple[str, ...] = ()
    """keys of the rows of a duel, where it is one"""
    looks: tuple[int, ...] = ()
    """training seeds at each look, where it grows until its claims are settled"""
    typed: tuple[str, ...] = ()
    """words behind `tokenbridge run` that make the base: a preset or a file of settings, and what it changes"""
    partial: tuple[str, ...] = ()
    """tables of which some rows alone are asked for"""

    @property
    def rounds(self) -> int:
        """Rounds of stages at most: the first, widenings of searches, and what waits for a choice or is timed alone."""
        return 2 + WIDENINGS if self.search else 2 if FIGURE_8 in self.tables or timed(self.rows) else 1

    @property
    def about(self) -> str:
        """What it holds, for a reader."""
        if self.duel:
            return f"the duel of {' and '.join(self.duel)}"
        tables = f"tables {', '.join(self.tables)}" if self.tables else ""
        how = "one at a time" if self.each else " × ".join(str(len(axis.values)) for axis in self.axes)
        axes = f"axes {', '.join(axis.key for axis in self.axes)} ({how})" if self.axes else ""
        return " and ".join(filter(None, (tables, axes)))

    @property
    def sample(self) -> Cell:
        """One cell to try before the others, as it is before any search."""
        cells = [trial.cell for trial in self.trials] + [row.cell for row in self.rows]
        if not cells:
            raise UserError(f"{self.about} is no grid of stages, so no cell of it can be tried; leave --try out")
        return cells[0]

    def first(self) -> tuple[list[Cell], list[Cell]]:
        """Cells to run before anything is chosen, and those that only run ahead: trainings and likelihoods."""
        search = [cell for row in self.search.values() for point in row.first() for cell in point.cells]
        waiting = [row for row in self.rows if row.key in self.search]
        others = [row.cell for row in self.rows if row.key not in self.search] + [trial.cell for trial in self.trials]
        ahead = [row.wants("train", *({"likelihood"} & {*row.cell.wanted})) for row in waiting]
        return [*others, *search], ahead

    def wider(self, store: Store, number: int) -> list[Cell]:
        """Cells that widening `number`, from 1, of all searches runs; none where all have found their points."""
        points = chain(*(row.wider(store, number) for row in self.search.values()))
        return [cell for point in points for cell in point.cells]


class Request(Config):
    """What is asked for, as the command line has it; as JSON it makes the same grid in another process."""

    name: str
    preset: str = "digits"
    tables: tuple[str, ...] = ()
    """of the paper, heads, 5, figure-8, or names of GRIDS"""
    rows: tuple[str, ...] = ()
    """rows to run of these tables, as TABLE:ROW, where * stands for anything; a table that none fits runs whole"""
    axes: tuple[str, ...] = ()
    """as typed: quantizer.levels=16,32"""
    each: bool = False
    """whether axes vary one at a time around the base"""
    assignments: tuple[str, ...] = ()
    """settings of the base: train.epochs=100; those of a file of settings come first"""
    typed: tuple[str, ...] = ()
    """the base as it was typed: a preset or a file of settings, and assignments; empty: preset and assignments"""
    seeds: int | None = None
    """None: SEEDS for tables, one for axes alone"""
    images: int | None = None
    """images per point of the search and training seed; None: search_images"""
    duel: tuple[str, ...] = ()
    """two rows, each by its table and label, such as "2a parallel"; then no tables and axes"""
    search_seeds: int | None = None
    """first training seeds that searches use; None: all seeds of a table, SEEDS of a duel"""
    looks: tuple[int, ...] = ()
    """training seeds at each look at the claims, where seeds are added until they are settled"""
    points: str = OWN
    """own: each row at the best point of its search; base: all at the base's; or guidance,temperature for all"""

    def grid(self) -> Grid:
        """The grid of these tables and axes.

        Raises:
            UserError: for a name that no sweep can have, an unknown table, a setting that does not exist, or cells
                that cannot run.
        """
        require_name(self.name)
        if self.duel:
            return self._duel()
        tables = tuple(id for id in self.tables if id not in GRIDS)
        axes = [axis for id in self.tables for axis in GRIDS.get(id, ())] + [*map(parse, self.axes)]
        if not tables and not axes:
            raise UserError(f"a grid needs tables, axes or one of {', '.join(GRIDS)}; try --axis quantizer.levels=8,16")
        seeds, base = self.seeds or (SEEDS if tables else 1), override(preset_of(self.preset), self.assignments)
        every = [row for id in tables if id not in (FIGURE_8, SPEED) for row in table_rows(id, base, seeds)]
        rows = _asked_for(every, self.rows)
        partial = tuple(dict.fromkeys(row.table for row in every if row not in rows))
        if FIGURE_8 in tables and not any(row.key == SHOWN for row in rows):
            raise UserError(f"{FIGURE_8} shows the row {SHOWN}; ask for it as well")
        if point := one_point(self.points, base):
            if not any(row.sampled for row in rows):
                raise UserError(
                    f"--points={self.points} is for rows of tables that generate images, and none is asked for"
                )
            rows = [row.named(point).at(point) if row.sampled else row for row in rows]
        searched = self.search_seeds or seeds
        search = {} if point else _search(rows, self.images or search_images(searched), searched)
        values, trials = trials_of(axes, base, seeds, self.each)
        grid = Grid(
            self.name,
            self.preset,
            base,
            tables,
            tuple(rows),
            search,
            values,
            trials,
            self.each,
            point,
            looks=self.looks,
            typed=self.typed or (self.preset, *self.assignments),
            partial=partial,
        )
        graph(list(chain(*grid.first())))  # a row that cannot run is refused here
        return grid

    def _duel(self) -> Grid:
        """Two rows with fresh training seeds, at the points of the searches that tables would make for them."""
        base, table = override(preset_of(self.preset), self.assignments), paper.duel_of(self.duel)
        rows, search, searched = list[RowCell](), dict[str, RowSearch](), self.search_seeds or SEEDS
        for key, row in zip(self.duel, table.rows, strict=True):
            id, _, label = key.partition(" ")
            of_search = [each for each in table_rows(id, base, searched) if each.label == label]
            found = [RowCell(table.id, row.label, each.cell) for each in of_search]
            search |= _search(found, self.images or search_images(searched), searched)
            for seed in range(FRESH_SEED, FRESH_SEED + (self.seeds or DUEL_SEEDS)):
                name, config = f"{self.name}-{of_search[0].cell.name}-s{seed}", of_search[0].cell.config
                cell = Cell(name, override(config, paper.table(id).seed(seed)), generated(config))
                rows.append(RowCell(table.id, row.label, cell))
        typed = self.typed or (self.preset, *self.assignments)
        grid = Grid(self.name, self.preset, base, (table.id,), tuple(rows), search, duel=self.duel, typed=typed)
        graph(list(chain(*grid.first())))
        return grid


def _search(rows: Sequence[RowCell], images: int, seeds: int) -> dict[str, RowSearch]:
    """The search of each row that generates images, with its first training seeds."""
    by_key: dict[str, list[Cell]] = {}
    for row in rows:
        if row.sampled:
            by_key.setdefault(row.key, []).append(row.cell)
    return {key: RowSearch(tuple(cells[:seeds]), images) for key, cells in by_key.items()}


def table_rows(id: str, base: RunConfig, seeds: int) -> list[RowCell]:
    """The rows of a table that can run.

    Args:
        id: the table's, such as "2a".
        base: the configuration that the rows change.
        seeds: how many training seeds a row of a generation table has: the base's own, then 1, 2, …; else one.

    Raises:
        UserError: the table has no runs, or a row cannot be made of this base.
    """
    table = paper.table(id)
    if table.kind not in ("reconstruction", "generation"):
        raise UserError(f"table {id} is no table of runs, but of the settings that presets hold; ask for another")
    rows = []
    for row in table.rows:
        if row.overrides is None:
            continue
        for seed in range(seeds if table.kind == "generation" else 1):
            seeded = table.seed(seed) if seed else {}
            name = f"{id}-{_slug(row.label)}" + (f"-s{seed}" if seed else "")
            config = override(base, table.overrides(row, base) | seeded)
            wanted = RECONSTRUCTION if table.kind == "reconstruction" else generated(config)
            rows.append(RowCell(id, row.label, Cell(name, config, wanted)))
    return rows


def _asked_for(rows: Sequence[RowCell], patterns: Sequence[str]) -> list[RowCell]:
    """The rows that patterns name, and all of the tables of which none is named.

    Args:
        rows: of all tables that are asked for.
        patterns: of TABLE:ROW; * stands for anything.

    Raises:
        UserError: a pattern that no row fits.
    """
    named = {f"{row.table}:{row.label}": row for row in rows}
    asked = set[str]()
    for pattern in patterns:
        fitting = {row.key for word, row in named.items() if fnmatchcase(word, pattern)}
        if not fitting:
            table = pattern.partition(":")[0]
            there = [word for word in named if word.startswith(f"{table}:")]
            told = "; ".join(there) or ", ".join(f"{id}:…" for id in dict.fromkeys(row.table for row in rows))
            remedy = f"give one of {told}" if told else "ask for a table that trains or reconstructs as well"
            raise UserError(f"--row={pattern} must fit a row of the tables asked for, as TABLE:ROW; {remedy}")
        asked |= fitting
    partial = {row.table for row in rows if row.key in asked}
    return [row for row in rows if row.key in asked or row.table not in partial]


def trials_of(
    axes: Sequence[Axis], base: RunConfig, seeds: int, each: bool = False
) -> tuple[tuple[Axis, ...], tuple[Trial, ...]]:
    """The axes with values as the config has them, and the cells of their points with each training seed, each once.

    Args:
        axes: empty for the base alone.
        base: the configuration that the points change.
        seeds: how many training seeds, from the base's own on.
        each: vary one axis at a time, not the full product.

    Raises:
        UserError: naming the cells that cannot run.
    """
    keys, trials, wrong = [axis.key for axis in axes], dict[RunConfig, Trial](), list[str]()
    if seeds > 1 and "train.seed" in keys:
        raise UserError(f"train.seed is an axis, so --seeds={seeds} has nothing to add; leave --seeds out")
    places = points(axes, each) if axes else []
    titles = names(axes, places)
    meant = dict[tuple[str, str], Any]()  # 3 is typed where the config has 3.0
    for seed, (point, name) in product(range(seeds), zip(places, titles, strict=True)):
        name += f"-s{seed}" if seed else ""
        try:
            config = override(base, point | ({"train.seed": base.train.seed + seed} if seed else {}))
            cell = Cell(name, config, generated(config))
            if not cell.stages():  # a head that cannot go with the tokens leaves nothing to generate
                config.require_pair()
        except UserError as error:
            wrong.append(f"{name} ({error})")
            continue
        values = {key: attrgetter(key)(config) for key in keys}
        meant |= {(key, plain(value)): values[key] for key, value in point.items()}
        trials.setdefault(config, Trial(values, config.train.seed, cell))
    if wrong:
        listed, more = "; ".join(wrong[:LISTED]), len(wrong) - LISTED
        count = f"{len(wrong)} of {len(places) * seeds} cells cannot run"
        raise UserError(f"{count}: {listed}{f'; and {more} more' if more > 0 else ''}; leave these values out")
    real = [Axis(axis.key, tuple(meant[axis.key, plain(value)] for value in axis.values)) for axis in axes]
    return tuple(real), tuple(trials.values())


def timed(rows: Sequence[RowCell]) -> list[Cell]:
    """Cells of which the time to sample is a column; seeds of a row share the stage."""
    return [row.wants("speed") for row in rows if row.table == paper.TABLE_HEADS.id]


def confidence(tables: Sequence[str], rows: Sequence[RowCell]) -> list[tuple[float, Cell]]:
    """Figure 8, where it is asked for: the autoregressive model at each strength of confidence-guided generation.

    Args:
        tables: ids of what is asked for.
        rows: among them "2a autoregressive", at its chosen point; without it there is nothing to show.
    """
    row = next((row for row in rows if row.key == SHOWN), None)  # none where its search failed
    if FIGURE_8 not in tables or row is None:
        return []
    cells = []
    for strength in STRENGTHS:
        config = override(row.cell.config, {"sample.confidence": strength})
        cells.append((strength, Cell(f"{FIGURE_8}-c{strength:g}", config, ("score",))))
    return cells


def _slug(label: str) -> str:
    """A row's label as a part of a name, numbers padded so that names sort: B=8 -> b08, ±3 -> r3."""
    if label.startswith("B="):
        levels, comma, rest = label[2:].partition(", ")
        return f"b{int(levels):02d}" + (f"-{rest}" if comma else "")
    return label.replace("±", "r").replace(", ", "-").replace(" ", "-").replace("×", "x").lower()
