"""Any cells as a table of one metric: a setting's values down, another's across, seeds averaged.

An entry holds cells that are equal in every setting but the seeds. What else differs is refused, with the option that
chooses; two protocols are refused as in every table; an empty entry says why.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis import stats
from analysis.frame.source import Source
from analysis.report import html
from analysis.stats import Estimate, number
from analysis.tables import latex, protocol
from analysis.tables import text as table_files
from analysis.tables.absences import absence
from analysis.tables.filled import Entry, Filled, Row
from analysis.tables.pivot_cells import SEEDS, Place, Request, cells_of, chosen, metric, shown, values
from experiments.paper import Cell, Column, Table
from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import require_key


def pivot(request: Request, source: Source) -> Filled:
    """The table; UserError for an unknown name, several values of another setting in one entry, two protocols."""
    for key in filter(None, (request.rows, request.columns)):
        require_key(key, RunConfig)
    if request.rows == request.columns:
        raise UserError(f"--rows and --columns are both {request.rows}; give two settings, or leave --columns out")
    column = metric(request.metric, source)
    cells = chosen(request, source)
    downs, acrosses = values(request.rows, cells, source), values(request.columns, cells, source)
    places = [
        [Place(down, across, cells_of(request, column, cells, (down, across), source)) for across in acrosses]
        for down in downs
    ]
    every = [place for row in places for place in row]
    table = _table(request, column, downs)
    checked = [(Cell(place.label, None), place.cells) for place in every]
    protocol.check(table, column, checked, source, "choose one with --where KEY=VALUE, or make {field} rows or columns")
    return _filled(request, column, table, acrosses, places, source)


def _table(request: Request, column: Column, downs: Sequence[str]) -> Table:
    by = " and ".join(filter(None, (request.rows, request.columns)))
    way = f" ({column.better} is better)" if column.better else ""
    unit = f", {column.unit}" if column.unit else ""
    title = f"{column.title}{unit}{way} by {by}"
    cells = tuple(Cell(_label(request, down), None) for down in downs)
    return Table("pivot", title, "pivot", tuple(filter(None, (request.rows, request.columns))), cells, (), (column,))


def _label(request: Request, down: str) -> str:
    return f"{request.rows} = {down}"


def _filled(
    request: Request,
    column: Column,
    table: Table,
    acrosses: Sequence[str],
    places: Sequence[Sequence[Place]],
    source: Source,
) -> Filled:
    every = [place for row in places for place in row]
    estimates = {place: _estimate(column, place, source) for place in every}
    winner = stats.best(list(estimates.values()), column.better)
    best = every[winner] if winner is not None else None
    rows = [
        Row(
            _label(request, row[0].row),
            "",
            tuple(cell for place in row for cell in place.cells),
            tuple(_entry(column, place, estimates[place], place is best, source) for place in row),
            (),
            (),
        )
        for row in places
    ]
    titles = [f"{request.columns} = {across}" if across else column.title for across in acrosses]
    columns = tuple(Column(f"{column.key} {title}", title, column.better) for title in titles)
    heading = f"{column.title}, {source.measured_on}" if request.columns else f"measured, {source.measured_on}"
    notes = _notes(request, column, every, estimates, source)
    return Filled(table, columns, (), (), tuple(rows), heading, "", tuple(notes))


def _estimate(column: Column, place: Place, source: Source) -> Estimate | None:
    numbers = {cell: source.number(cell, column.key) for cell in place.cells}
    present = {cell: value * column.scale for cell, value in numbers.items() if value is not None}
    trainings = [source.setting(cell, "train.seed") for cell in present]
    return stats.estimate(list(present.values()), trainings) if present else None


def _entry(column: Column, place: Place, value: Estimate | None, best: bool, source: Source) -> Entry:
    if value is None:
        reason = absence(column, Cell(place.label, {}), place.cells, source) if place.cells else "no such cell"
        return Entry(reason=reason)
    half = "" if value.half is None else number(value.half, column.decimals)
    return Entry(number(value.mean, column.decimals), "", value, half, best)


def _notes(
    request: Request,
    column: Column,
    places: Sequence[Place],
    estimates: Mapping[Place, Estimate | None],
    source: Source,
) -> list[str]:
    found = [f"{column.title}: {column.meaning}."] if column.meaning else []
    if request.where:
        found.append(f"Only cells with {', '.join(request.where)}.")
    seeds = {place: value.seeds for place, value in estimates.items() if value}
    counts = sorted(set(seeds.values()))
    if counts == [1]:
        found.append("One seed or measurement an entry: no interval.")
    elif counts:
        usual = max(counts, key=lambda count: list(seeds.values()).count(count))
        but = [f"{place.label}: {count}" for place, count in seeds.items() if count != usual]
        found.append(
            f"± is the half-width of the 95 % Student t interval over seeds, {usual} an entry"
            f"{', but ' + '; '.join(but) if but else ''}. Bold: better than every other entry, with an interval of the"
            " difference that leaves out zero."
        )
    waiting = [place for place, count in seeds.items() if count < len(place.cells)]
    found += [f"Not finished: {p.label} has {seeds[p]} of {len(p.cells)} seeds." for p in waiting]
    return found + _confounded(request, places, source)


def _confounded(request: Request, places: Sequence[Place], source: Source) -> list[str]:
    """Settings that differ between entries beside those of rows and columns: a reader must know of them."""
    cells = [cell for place in places for cell in place.cells]
    keys = [key for key in source.base if key in source.frame.columns]
    seen = {key: list(dict.fromkeys(shown(source, cell, key) for cell in cells)) for key in keys}
    known = (*SEEDS, request.rows, request.columns)
    told = [f"{key} ({', '.join(v)})" for key, v in seen.items() if len(v) > 1 and key not in known]
    return [f"Beside rows and columns, entries differ in {', '.join(told)}."] if told else []


def to_csv(filled: Filled) -> str:
    """One line an entry, in the units that the stages store."""
    out, column = io.StringIO(), filled.table.measured[0]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*filled.table.varies, column.key, "half-width", "seeds", "empty because"])
    for row in filled.rows:
        down = row.label.partition(" = ")[2]
        for across, entry in zip(filled.measured, row.measured, strict=True):
            place = [down, across.title.partition(" = ")[2]][: len(filled.table.varies)]
            value = entry.estimate
            half = value.half if value else None
            shown = [f"{value.mean / column.scale:.10g}" if value else ""]
            shown += ["" if half is None else f"{half / column.scale:.10g}", str(value.seeds) if value else ""]
            writer.writerow([*place, *shown, entry.reason])
    return out.getvalue()


FORMS = {
    ".md": table_files.to_markdown,
    ".csv": to_csv,
    ".tex": latex.to_latex,
    ".html": html.table_page,
}


def text(filled: Filled, ending: str = ".md") -> str:
    return FORMS[ending](filled)


def written_form(out: Path) -> None:
    """Refuse a file whose ending names no form."""
    if out.suffix not in FORMS:
        raise UserError(f"--out {out} must end with {', '.join(FORMS)}")
