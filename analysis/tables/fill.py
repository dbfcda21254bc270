"""The paper's tables, filled: own numbers ± interval, and the published ones in columns of their own.

A column holds numbers of one protocol; where two meet, the table refuses and names the field. An empty cell says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.frame.source import Source
from analysis.stats import Comparison, Estimate, number, signed
from analysis.tables import protocol
from analysis.tables.absences import absence
from analysis.tables.compare import Estimates, Rows, base_row, best, compare, same_run
from analysis.tables.filled import BASE, SAME_RUN, Entry, Filled, Row
from analysis.tables.measured import measure
from analysis.tables.notes import notes
from experiments.paper import EXTRAPOLATED, FD, PUBLISHED_ON, Cell, Column, Table
from experiments.paper.scored import table_by
from tokenbridge.overrides import plain

MEANINGS = {
    "sample.guidance": "how far samples are pushed towards their class (1 is off); searched for each row by itself",
    "sample.temperature": "spread of the draws (1 is what the model says); searched for each row by itself",
}


def fill(table: Table, source: Source) -> Filled:
    """Fill a table; UserError where a column would mix two protocols."""
    if table.kind == "settings":
        return _settings(table, source)
    table, rows = table_by(table, source.scorers), source.rows(table)
    ran = any(ids for _, ids in rows)
    # where nothing ran, one column says why
    measured = table.measured if ran else table.measured[:1]
    further = (source.by_scorer(EXTRAPOLATED),) if source.by_scorer(FD) in measured and ran else ()
    estimates = _estimates(table, (*measured, *further), rows, source)
    compared = compare(table, measured, rows, estimates, source)
    columns = {column.key: _column(table, column, rows, estimates, compared, source) for column in measured}
    columns |= {column.key: _plain_column(column, rows, estimates, source) for column in further}
    settings = {"generation": source.tuned_in(table) if ran else (), "axes": table.varies}.get(table.kind, ())
    chosen = tuple(_chosen_column(key, table.kind == "generation") for key in settings)
    filled = tuple(
        Row(
            cell.label,
            _here(table, cell, ids, source),
            tuple(ids),
            tuple(columns[column.key][i] for column in measured),
            tuple(_setting(column.key, ids, source) for column in chosen),
            tuple(_published(column, cell) for column in table.published),
            tuple(columns[column.key][i] for column in further),
        )
        for i, (cell, ids) in enumerate(rows)
    )
    headings = (f"measured, {source.measured_on}", f"published, {PUBLISHED_ON}")
    if table.kind == "speed":  # of heads alone, on no images
        headings = ("measured here", "published, A100")
    found = Filled(table, measured, chosen, table.published, filled, *headings, further=further)
    found = replace(found, notes=tuple(notes(found, source)))
    return replace(found, chosen_heading="axes") if table.kind == "axes" else found


def _estimates(table: Table, columns: Sequence[Column], rows: Rows, source: Source) -> Estimates:
    """Every number of a table, of one protocol a column; UserError where two meet."""
    for column in columns:
        protocol.check(table, column, rows, source)
    return {column.key: [measure(column, cell.label, ids, source) for cell, ids in rows] for column in columns}


def _here(table: Table, cell: Cell, ids: Sequence[str], source: Source) -> str:
    """What a scaled row ran, read from its first cell; empty where its label says it or holds no size."""
    if not ids or not cell.overrides or not table.scaled or table.own:
        return ""
    ran = {key: source.setting(ids[0], key) for key in table.varies}
    asked = {key: cell.overrides[key] for key in table.scaled if key in cell.overrides}
    return "" if all(ran[key] == value for key, value in asked.items()) else "×".join(map(str, ran.values()))


def _plain_column(column: Column, rows: Rows, estimates: Estimates, source: Source) -> list[Entry]:
    """Entries without verdicts."""
    return [
        Entry(reason=absence(column, cell, ids, source)) if value is None else _entry(column, value)
        for (cell, ids), value in zip(rows, estimates[column.key], strict=True)
    ]


def _column(
    table: Table,
    column: Column,
    rows: Rows,
    estimates: Estimates,
    compared: dict[tuple[str, int], Comparison],
    source: Source,
) -> list[Entry]:
    base, entries = base_row(table), _plain_column(column, rows, estimates, source)
    if not column.better:
        return entries
    found = [compared.get((column.key, i)) for i in range(len(rows))]
    winner = best(table, column, estimates[column.key], found)
    for i, entry in enumerate(entries):
        if entry.estimate is None:
            continue
        remark = BASE if i == base and any(found) else ""
        if i != base and found[i] is None and entries[base].estimate:
            remark = SAME_RUN if same_run(column, rows[i][1], rows[base][1], source) else ""
        entries[i] = replace(
            entry, best=i == winner, comparison=found[i], change=change(found[i], column), remark=remark
        )
    return entries


def change(comparison: Comparison | None, column: Column) -> str:
    """A difference as it is printed, with the interval that the verdict goes by."""
    if comparison is None:
        return ""
    return f"{signed(comparison.difference.mean, column.decimals)} ± {number(comparison.corrected, column.decimals)}"


def _entry(column: Column, value: Estimate) -> Entry:
    # a count without a direction, such as parameters, is the same for every seed: ± 0 would say nothing
    silent = value.half is None or (len(set(value.values)) == 1 and value.seeds > 1 and not column.better)
    half = "" if silent else number(value.half or 0, column.decimals)
    return Entry(number(value.mean, column.decimals), "", value, half)


def _settings(table: Table, source: Source) -> Filled:
    """A table of settings beside those of the report's base."""
    column = Column("base", f"preset {source.plan.get('preset', 'digits')}")
    rows = tuple(
        Row(cell.label, "", (), (), (_own(cell, source),), tuple(_published(each, cell) for each in table.published))
        for cell in table.cells
    )
    note = "The preset is what cells change; guidance and temperature may be searched for each row."
    return Filled(
        table, (), (column,), table.published, rows, "", "published", (note,), chosen_heading="base of this report"
    )


def _own(cell: Cell, source: Source) -> Entry:
    """The base's values of the settings that a row is about."""
    keys = list(cell.overrides or {})
    short = [key.rpartition(".")[2] for key in keys]
    names = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    values = [_shown(source.base[key]) for key in keys]
    if len(keys) == 1:
        return Entry(values[0])
    return Entry(", ".join(f"{n.replace('.', ' ').replace('_', ' ')} {v}" for n, v in zip(names, values, strict=True)))


def _chosen_column(key: str, searched: bool) -> Column:
    meaning = MEANINGS.get(key, "searched for each row by itself") if searched else ""
    return Column(key, key.rpartition(".")[2] if searched else key, meaning=meaning)


def _setting(key: str, ids: Sequence[str], source: Source) -> Entry:
    values = [source.setting(id, key) for id in ids]
    if not values:
        return Entry(reason="not run")
    return Entry(" / ".join(dict.fromkeys(map(_shown, values))))


def _shown(value: object) -> str:
    """A number, or one a step of the channel order, or a name."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else plain(value)


def _published(column: Column, cell: Cell) -> Entry:
    value = cell.published.get(column.key)
    if value is None:
        return Entry(reason=cell.reason if cell.reason and not cell.published else "not given")
    if isinstance(value, str):
        return Entry(value)
    # as printed in the paper: 15.7 stands in one column with 1.94
    short = value >= 10 and round(value, 1) == value
    return Entry(number(value, min(column.decimals, 1) if short else column.decimals))
