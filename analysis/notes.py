"""The sentences under a table: what ± and bold mean, how exact the numbers are, what real images would read."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import stats
from analysis.source import Source
from analysis.stats import number
from experiments.paper import FD, RECONSTRUCTION_FD, Table

STAGE = {"generation": "score", "reconstruction": "reconstruct"}
"""kind of table -> stage that measures the Fréchet distance"""


def notes(table: Table, source: Source) -> list[str]:
    rows = [(cell.label, ids) for cell, ids in source.rows(table) if ids]
    seeds = {len(ids) for _, ids in rows}
    found = [table.note] if table.note else []
    if table.kind == "reconstruction" and seeds == {1}:
        found.append("Nothing is trained here and every draw is fixed: no interval over seeds, no value marked best.")
    elif seeds == {1}:
        found.append("One seed a row: no interval over seeds, so no value is marked best.")
    elif seeds:
        found.append(
            "± is the half-width of the 95 % Student t interval over seeds. Bold: better than every other row, with an"
            " interval of the difference that leaves out zero."
        )
    if table.kind == "generation" and source.tuned:
        found.append("Guidance and temperature were searched for each row by itself, on images apart from these.")
    cells = [id for _, ids in rows for id in ids]
    return [*found, *_image_errors(table, cells, source), *_floor(table, rows, source)]


def _image_errors(table: Table, cells: Sequence[str], source: Source) -> list[str]:
    """What the stages say of their error over images, which one seed has too."""
    found = []
    for column in table.measured:
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
    same = [(label, _values(source, ids, f"{key}_at_floor_images")) for label, ids in rows]
    listed = ", ".join(f"{label} {number(stats.estimate(v).mean, FD.decimals)}" for label, v in same if v)
    return [note + (f"; as many generated ones read {listed} (fewer images read higher)." if listed else ".")]


def _values(source: Source, cells: Sequence[str], column: str) -> list[float]:
    return [value for cell in cells if (value := source.number(cell, column)) is not None]
