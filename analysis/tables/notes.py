"""The sentences under a table: what ± and bold mean, how exact the numbers are, what real images would read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Estimate, number
from analysis.tables.filled import Filled
from experiments.paper import FD, RECONSTRUCTION_FD, Table
from experiments.paper.scored import cautions
from tokenbridge.overrides import plain

DISTANCES = {"generation": FD, "axes": FD, "reconstruction": RECONSTRUCTION_FD}
"""kind of table -> its Fréchet distance"""
BOLD = (
    "± is the half-width of the 95 % Student t interval over seeds. Bold: better than every other row, with a 95 %"
    " interval of the difference that leaves out zero, and against the base by the verdict."
)
VERDICTS = (
    "Better, worse, no difference shown: against the row marked base, corrected by Holm's method for all verdicts of"
    " the table, at 5 %. Over seeds it is the t test of differences between equal training seeds (Welch's where none"
    " are equal). The HTML and the CSV give each difference to the base with the interval of the level at which Holm's"
    " method decided: it leaves out zero exactly where a difference is shown."
)
IMAGES = (
    "† ± is 1.96 standard errors over images (jackknife for a Fréchet distance). Differences take two errors as"
    " independent, which is too wide rather than too narrow where rows share their images."
)
UNREPEATED = "An interval over images says nothing of what another training would read: such a row has one seed."
SEARCHED = "Guidance and temperature were searched for each row by itself, on images apart from these."
LISTED = 4
"""most rows that a note lists one by one"""


def notes(filled: Filled, source: Source) -> list[str]:
    table, rows = filled.table, [(row.label, row.cells) for row in filled.rows if row.cells]
    found = [table.note] if table.note else []
    found += _seeds(table, {len(ids) for _, ids in rows})
    found += _over_images(filled) + _verdicts(filled)
    if point := source.point(table):
        found.append(f"No search: all rows at {point_text(point)}.")
    elif table.kind == "generation" and source.tuned and rows:
        found.append(SEARCHED)
    cells = [id for _, ids in rows for id in ids]
    found += [*_timing(table, cells, source), *_image_errors(table, cells, source), *_floor(table, rows, source)]
    found += _cautions(table, cells, source)
    return found + _extrapolated(filled)


def point_text(point: Mapping[str, Any]) -> str:
    """A point of a plan for a reader: guidance 1.5, temperature 0.9."""
    values = {key: f"{value:g}" if isinstance(value, float) else plain(value) for key, value in point.items()}
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())


def _seeds(table: Table, seeds: set[int]) -> list[str]:
    """What ± and bold mean here, or why there are none."""
    if table.kind == "reconstruction" and seeds == {1}:
        return ["Nothing is trained here and every draw is fixed: no interval over seeds."]
    if seeds == {1}:
        what = "One measurement a row" if table.kind == "speed" else "One seed a row"
        return [f"{what}: no interval over seeds, so no value is marked best."]
    return [BOLD] if seeds else []


def _over_images(filled: Filled) -> list[str]:
    if not any(entry.over == "images" for row in filled.rows for entry in row.measured):
        return []
    return [IMAGES] if filled.table.kind == "reconstruction" else [IMAGES, UNREPEATED]


def _verdicts(filled: Filled) -> list[str]:
    tests = sum(entry.comparison is not None for row in filled.rows for entry in row.measured)
    if tests:
        return [VERDICTS, f"Base: {filled.table.base_label}; {tests} verdict{'' if tests == 1 else 's'}."]
    base = next((row for row in filled.rows if row.label == filled.table.base_label), None)
    ran = sum(bool(row.cells) for row in filled.rows)
    missing = base is not None and not base.cells and ran > 1
    return [f"No verdicts: the base row, {filled.table.base_label}, has not run."] if missing else []


def _timing(table: Table, cells: Sequence[str], source: Source) -> list[str]:
    """Where times were measured (the protocol holds a column to one place), and how much the rounds differ."""
    columns = [column for column in table.measured if column.key.startswith("speed/")]
    place = next((text for cell in cells if (text := timed_on(source, cell))), "")
    if not columns or not place:
        return []
    spreads = [(column, _values(source, cells, f"{column.key}_spread")) for column in columns]
    told = [f"{column.title} {number(max(v), column.decimals)} {column.unit}" for column, v in spreads if v]
    rounds = f" Half the interquartile range of the rounds, at most: {', '.join(told)}." if told else ""
    once = next((text for cell in cells if (text := source.protocol(cell, "speed").get("timed_once"))), "")
    if once and any(0 < len(v) < len(_values(source, cells, column.key)) for column, v in spreads):
        rounds += f" Timed once: {once}."
    return [f"Times: {place}.{rounds}"]


def timed_on(source: Source, cell: str) -> str:
    """Processor or GPU, threads and torch of the times of a cell; empty where it has none."""
    protocol = source.protocol(cell, "speed")
    if not protocol:
        return ""
    device, threads = protocol["device"], protocol.get("threads")
    parts = [str(protocol.get("processor", device) if device == "cpu" else device)]
    parts += [f"{threads} thread{'' if threads == 1 else 's'}"] if threads and device == "cpu" else []
    return ", ".join(parts + ([f"torch {protocol['torch']}"] if protocol.get("torch") else []))


def _image_errors(table: Table, cells: Sequence[str], source: Source) -> list[str]:
    """What the stages say of their error over images, which one seed has too."""
    found = []
    for column in (column for column in table.measured if not column.key.startswith("speed/")):
        errors = _values(source, cells, f"{column.key}_se")
        if errors:
            found.append(f"{column.title} {number(max(errors) * column.scale, column.decimals)}")
    return [f"Standard error over images, at most: {', '.join(found)}."] if found else []


def _floor(table: Table, rows: Sequence[tuple[str, Sequence[str]]], source: Source) -> list[str]:
    """How real images fare against the same reference: nothing can be expected to do better."""
    if table.kind not in DISTANCES:
        return []
    fd = source.by_scorer(DISTANCES[table.kind])
    key = fd.key
    cells = [id for _, ids in rows for id in ids]
    floor, images = _values(source, cells, f"{key}_floor"), _values(source, cells, f"{key}_floor_images")
    if not floor:
        return []
    which = f"{images[0]:.0f} real images" if images else "the original images"
    note = f"Floor: {which} read {fd.title} {number(floor[0], RECONSTRUCTION_FD.decimals)} against the reference"
    measured = [(label, _values(source, ids, f"{key}_at_floor_images")) for label, ids in rows]
    if not any(values for _, values in measured):
        return [f"{note}."]
    read = _listed([(label, stats.estimate(v)) for label, v in measured if v])
    return [f"{note}; as many generated ones read {read} (fewer images read higher)."]


def _cautions(table: Table, cells: Sequence[str], source: Source) -> list[str]:
    """What makes a Fréchet distance compare with few others: too few images, other weights."""
    if table.kind not in DISTANCES:
        return []
    column = DISTANCES[table.kind]
    protocols = [source.protocol(cell, column.key.partition("/")[0]) for cell in cells]
    found = [line for each in protocols for name in source.scorers for line in cautions(column, name, each)]
    return [f"{line}." for line in dict.fromkeys(found)]


def _extrapolated(filled: Filled) -> list[str]:
    """The Fréchet distance without the bias that a finite number of images gives it."""
    values = [(row.label, e.estimate) for row in filled.rows for e in row.further if e.estimate is not None]
    if not values:
        return []
    return [
        f"Extrapolated to infinitely many generated images (FD∞ + a/N, arXiv 1911.07023),"
        f" {filled.further[0].title.partition(',')[0]} reads {_listed(values)}."
    ]


def _listed(values: Sequence[tuple[str, Estimate]]) -> str:
    """Each row's number, or of many rows the lowest and the highest."""
    if len(values) <= LISTED:
        return ", ".join(f"{label} {_text(value)}" for label, value in values)
    low, *_, high = sorted(values, key=lambda each: each[1].mean)
    return f"from {_text(low[1])} ({low[0]}) to {_text(high[1])} ({high[0]})"


def _text(value: Estimate) -> str:
    half = "" if value.half is None else f" ± {number(value.half, FD.decimals)}"
    return number(value.mean, FD.decimals) + half


def _values(source: Source, cells: Sequence[str], column: str) -> list[float]:
    return [value for cell in cells if (value := source.number(cell, column)) is not None]
