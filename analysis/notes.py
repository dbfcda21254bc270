"""The sentences under a table: what ± and bold mean, how exact the numbers are, what real images would read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import stats
from analysis.source import Source
from analysis.stats import number
from experiments.paper import FD, RECONSTRUCTION_FD, Table
from tokenbridge.overrides import plain

STAGE = {"generation": "score", "axes": "score", "reconstruction": "reconstruct"}
"""kind of table -> stage that measures the Fréchet distance"""
BOLD = (
    "± is the half-width of the 95 % Student t interval over seeds. Bold: better than every other row, with an interval"
    " of the difference that leaves out zero."
)
SEARCHED = "Guidance and temperature were searched for each row by itself, on images apart from these."
ONCE = (BOLD, SEARCHED)
"""notes that a page with several tables gives with the first of them"""
LISTED = 4
"""most rows that a note lists one by one"""


def notes(table: Table, source: Source) -> list[str]:
    rows = [(cell.label, ids) for cell, ids in source.rows(table) if ids]
    found = [table.note] if table.note else []
    found += _seeds(table, {len(ids) for _, ids in rows})
    if point := source.point(table):
        found.append(f"No search: all rows at {point_text(point)}.")
    elif table.kind == "generation" and source.tuned:
        found.append(SEARCHED)
    cells = [id for _, ids in rows for id in ids]
    return [*found, *_timing(table, cells, source), *_image_errors(table, cells, source), *_floor(table, rows, source)]


def point_text(point: Mapping[str, Any]) -> str:
    """A point of a plan for a reader: guidance 1.5, temperature 0.9."""
    values = {key: f"{value:g}" if isinstance(value, float) else plain(value) for key, value in point.items()}
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())


def _seeds(table: Table, seeds: set[int]) -> list[str]:
    """What ± and bold mean here, or why there are none."""
    if table.kind == "reconstruction" and seeds == {1}:
        return ["Nothing is trained here and every draw is fixed: no interval over seeds, no value marked best."]
    if seeds == {1}:
        what = "One measurement a row" if table.kind == "speed" else "One seed a row"
        return [f"{what}: no interval over seeds, so no value is marked best."]
    return [BOLD] if seeds else []


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
    key = f"{STAGE.get(table.kind, '')}/fd_digits"
    cells = [id for _, ids in rows for id in ids]
    floor, images = _values(source, cells, f"{key}_floor"), _values(source, cells, f"{key}_floor_images")
    if not floor:
        return []
    which = f"{images[0]:.0f} real images" if images else "the original images"
    note = f"Floor: {which} read fd_digits {number(floor[0], RECONSTRUCTION_FD.decimals)} against the reference"
    measured = [(label, _values(source, ids, f"{key}_at_floor_images")) for label, ids in rows]
    same = sorted(((stats.estimate(v).mean, label) for label, v in measured if v), key=lambda each: each[0])
    if not same:
        return [f"{note}."]
    if len(same) > LISTED:
        (low, first), (high, last) = same[0], same[-1]
        read = f"from {number(low, FD.decimals)} ({first}) to {number(high, FD.decimals)} ({last})"
    else:
        means = {label: mean for mean, label in same}
        read = ", ".join(f"{label} {number(means[label], FD.decimals)}" for label, _ in rows if label in means)
    return [f"{note}; as many generated ones read {read} (fewer images read higher)."]


def _values(source: Source, cells: Sequence[str], column: str) -> list[float]:
    return [value for cell in cells if (value := source.number(cell, column)) is not None]
