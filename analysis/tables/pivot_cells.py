"""Which cells an entry of a pivot table has: by a setting's value, one a seed, all else equal."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.frame.source import Source
from experiments.paper import FD, TABLES, Column
from experiments.paper.scored import every
from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import plain, require_key, value_of

SEEDS = ("train.seed", "sample.seed")
"""settings that tell the repetitions of one entry apart"""
UNPREFIXED = ("score", "likelihood")
"""stages whose metrics a short name means first"""
DIGITS = 4
"""significant ones of a metric that no table of the paper has"""


@dataclass(frozen=True)
class Request:
    rows: str
    columns: str
    """empty for a single column"""
    metric: str
    where: tuple[str, ...] = ()
    """`setting=value`, which the cells must have"""


@dataclass(frozen=True)
class Place:
    """One entry: the cells that have its row's and column's values."""

    row: str
    column: str
    cells: tuple[str, ...]

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.row, self.column)))


def metric(name: str, source: Source) -> Column:
    """The column of a metric by its full name (score/fd_digits) or its last part (fd_digits); unnamed, the distance."""
    name = name or source.by_scorer(FD).title
    keys = [str(key) for key in source.frame.columns if "/" in str(key)]
    known = [key for key in keys if any(source.frame[key])]
    if not known:
        raise UserError("no cell of this report has a number yet; run them first")
    found = [key for key in known if name in (key, key.partition("/")[2])]
    first = [key for kind in UNPREFIXED for key in found if key.startswith(f"{kind}/")]
    if len(found) > 1 and not first:
        raise UserError(f"--metric {name} is the name of {', '.join(found)}; give one of these in full")
    if not found:
        shorts = {key.partition("/")[2]: key for key in known} | {key: key for key in known}
        near = list(dict.fromkeys(shorts[word] for word in difflib.get_close_matches(name, list(shorts), 3, 0.5)))
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise UserError(f"--metric {name} is no number of these cells; {hint}")
    key = (first or found)[0]
    columns = {column.key: column for table in TABLES.values() for column in every(table.measured)}
    return columns.get(key) or Column(key, key.partition("/")[2], decimals=_decimals(key, source))


def _decimals(key: str, source: Source) -> int:
    values = [abs(value) for cell in source.frame.index if (value := source.number(str(cell), key))]
    return max(0, DIGITS - 1 - math.floor(math.log10(max(values)))) if values else 0


def chosen(request: Request, source: Source) -> list[str]:
    """The cells that have every value asked for."""
    cells = [str(cell) for cell in source.frame.index]
    for text in request.where:
        key, equals, word = text.partition("=")
        if not equals:
            raise UserError(f"--where {text} must have the form KEY=VALUE, for example quantizer.levels=16")
        require_key(key, RunConfig)
        seen = dict.fromkeys(shown(source, cell, key) for cell in cells)
        cells = [cell for cell in cells if shown(source, cell, key) == _plain(value_of(word))]
        if not cells:
            raise UserError(f"--where {text}: no cell has that; {key} is {', '.join(seen)} among those left")
    return cells


def _plain(value: Any) -> str:
    """One spelling for 5 and 5.0."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return plain(int(value) if isinstance(value, float) and value.is_integer() else value)


def shown(source: Source, cell: str, key: str) -> str:
    return _plain(source.setting(cell, key))


def values(key: str, cells: Sequence[str], source: Source) -> list[str]:
    """What a setting is among the cells: numbers by size, the rest in the order of the axis or of the cells."""
    if not key:
        return [""]
    seen: dict[str, Any] = {shown(source, cell, key): source.setting(cell, key) for cell in cells}
    if all(isinstance(value, int | float) for value in seen.values()):
        return sorted(seen, key=lambda word: seen[word])
    axis = next(([_plain(v) for v in axis.values] for axis in source.axes if axis.key == key), [])
    return sorted(seen, key=lambda word: axis.index(word) if word in axis else len(axis))


def cells_of(
    request: Request, column: Column, cells: Sequence[str], at: tuple[str, str], source: Source
) -> tuple[str, ...]:
    """The cells of one entry, one a seed; without those that were never asked for the metric, where others were."""
    keys = [key for key in (request.rows, request.columns) if key]
    there = [cell for cell in cells if all(shown(source, cell, k) == v for k, v in zip(keys, at, strict=False))]
    kind = column.key.partition("/")[0]
    # one stage is one measurement, however many cells share it: no seed of a training changes a quantizer's error
    stages = {source.stage(cell, kind): cell for cell in reversed(there) if source.stage(cell, kind)}
    found = list(stages.values())[::-1] or there[:1]
    differing = {
        key: list(dict.fromkeys(shown(source, cell, key) for cell in found))
        for key in source.base
        if key not in (*SEEDS, *keys) and key in source.frame.columns
    }
    differing = {key: seen for key, seen in differing.items() if len(seen) > 1}
    if differing:
        place = ", ".join(f"{key}={value}" for key, value in zip(keys, at, strict=False))
        told = ", ".join(f"{key} ({', '.join(seen)})" for key, seen in differing.items())
        remedy = " ".join(f"--where {key}={_usual(key, seen, source)}" for key, seen in differing.items())
        raise UserError(f"{column.key} at {place} has cells that differ in {told}; choose, for example {remedy}")
    return tuple(found)


def _usual(key: str, seen: Sequence[str], source: Source) -> str:
    base = _plain(source.base[key])
    return base if base in seen else seen[0]
