"""Any cells as a table of one metric: the values of a setting down, of another across, seeds averaged.

An entry holds cells that are equal in every setting but the seeds. Other differences are refused, with the option that
chooses; two protocols are refused as in every table; an empty entry says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Estimate
from analysis.tables import html, latex, protocol, text
from analysis.tables.estimates import other_bins, scaled
from analysis.tables.fill import absence
from analysis.tables.filled import Entry, FilledRow, FilledTable, csv_text, entry
from experiments.paper import Column, Row, Table
from tokenbridge.config import RunConfig, UserError
from tokenbridge.metrics.catalogue import FD, find
from tokenbridge.overrides import near, plain, require_key, value_of
from tokenbridge.stages import measuring

SEEDS = ("train.seed", "sample.seed")
"""settings that tell the repetitions of one entry apart"""
DIGITS = 4
"""significant digits of a metric that no table of the paper has"""


@dataclass(frozen=True)
class Query:
    rows: str
    columns: str
    """empty for a single column"""
    metric: str
    where: tuple[str, ...] = ()
    """`setting=value`, which the cells must have"""

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.rows, self.columns)))


@dataclass(frozen=True)
class Group:
    """The cells of one entry: those that have its row's and its column's value."""

    row: str
    column: str
    cells: tuple[str, ...]

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.row, self.column)))


def pivot(query: Query, source: Source) -> FilledTable:
    """A table of one metric by one or two settings, as `report --rows` asks for it.

    Args:
        query: rows, columns, metric, and which cells count.
        source: the report whose cells they are.

    Raises:
        UserError: an unknown name, several values of another setting in one entry, or two protocols.
    """
    for key in query.keys:
        require_key(key, RunConfig)
    if query.rows == query.columns:
        raise UserError(f"--rows and --columns are both {query.rows}; give two settings, or leave --columns out")
    column, cells = metric(query.metric, source), _selected(query, source)
    downs, acrosses = _values(query.rows, cells, source), _values(query.columns, cells, source)
    groups = [[_group(query, column, cells, (down, across), source) for across in acrosses] for down in downs]
    table = _table(query, column, downs)
    checked = [(Row(group.label, None), group.cells) for row in groups for group in row]
    protocol.check(table, column, checked, source, "choose one with --where KEY=VALUE, or make {field} rows or columns")
    return _filled(query, column, table, acrosses, groups, source)


def metric(name: str, source: Source) -> Column:
    """The column of a metric by its name.

    Args:
        name: in full (score/fd_digits) or its last part (fd_digits); empty for the first scorer's Fréchet distance.
        source: the report, some cell of which must have the metric.

    Raises:
        UserError: no cell has it, or the last part names several and none of a generation stage.
    """
    name = name or source.by_scorer(FD).title
    keys = source.metrics
    if not keys:
        raise UserError("no cell of this report has a number yet; run them first")
    matches = [key for key in keys if name in (key, key.partition("/")[2])]
    first = [key for kind in measuring("generation") for key in matches if key.startswith(f"{kind}/")]
    if len(matches) > 1 and not first:
        raise UserError(f"--metric {name} is the name of {', '.join(matches)}; give one of these in full")
    if not matches:
        words = {key.partition("/")[2]: key for key in keys} | {key: key for key in keys}
        meant = list(dict.fromkeys(words[word] for word in near(name, words, 3)))
        hint = f"did you mean {' or '.join(meant)}?" if meant else f"there are {', '.join(keys)}"
        raise UserError(f"--metric {name} is no number of these cells; {hint}")
    key = (first or matches)[0]
    return find(key) or Column(key, key.partition("/")[2], decimals=_decimals(key, source))


def _decimals(key: str, source: Source) -> int:
    values = [abs(value) for cell in source.frame.index if (value := source.number(str(cell), key))]
    return max(0, DIGITS - 1 - math.floor(math.log10(max(values)))) if values else 0


def _selected(query: Query, source: Source) -> list[str]:
    """The cells that have every value that --where asks for."""
    cells = [str(cell) for cell in source.frame.index]
    for condition in query.where:
        key, equals, word = condition.partition("=")
        if not equals:
            raise UserError(f"--where {condition} must have the form KEY=VALUE, for example quantizer.levels=16")
        require_key(key, RunConfig)
        values = _seen(key, cells, source)
        cells = [cell for cell in cells if _shown(source, cell, key) == _plain(value_of(word))]
        if not cells:
            raise UserError(f"--where {condition}: no cell has that; {key} is {', '.join(values)} among those left")
    return cells


def _plain(value: Any) -> str:
    """One spelling for 5 and 5.0."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return plain(int(value) if isinstance(value, float) and value.is_integer() else value)


def _shown(source: Source, cell: str, key: str) -> str:
    return _plain(source.setting(cell, key))


def _seen(key: str, cells: Sequence[str], source: Source) -> list[str]:
    """The values of a setting among the cells, each once, in the order of the cells."""
    return list(dict.fromkeys(_shown(source, cell, key) for cell in cells))


def _values(key: str, cells: Sequence[str], source: Source) -> list[str]:
    """The values of a setting: numbers by size, others in the order of the axis or of the cells."""
    if not key:
        return [""]
    values: dict[str, Any] = {_shown(source, cell, key): source.setting(cell, key) for cell in cells}
    if all(isinstance(value, int | float) for value in values.values()):
        return sorted(values, key=lambda word: values[word])
    axis = next(([_plain(v) for v in axis.values] for axis in source.axes if axis.key == key), [])
    return sorted(values, key=lambda word: axis.index(word) if word in axis else len(axis))


def _group(query: Query, column: Column, cells: Sequence[str], at: tuple[str, str], source: Source) -> Group:
    """The cells of an entry, one per seed; without those that were never asked for the metric, where others were."""
    here = dict(zip(query.keys, at, strict=False))
    there = [cell for cell in cells if all(_shown(source, cell, key) == value for key, value in here.items())]
    kind = column.key.partition("/")[0]
    # one stage is one measurement, however many cells share it: no seed of a training changes a quantizer's error
    stages = {source.stage(cell, kind): cell for cell in reversed(there) if source.stage(cell, kind)}
    group = list(stages.values())[::-1] or there[:1]
    if differing := _differing(group, (*SEEDS, *here), source):
        place = ", ".join(f"{key}={value}" for key, value in here.items())
        usual = {key: _plain(source.base[key]) for key in differing}
        remedy = " ".join(
            f"--where {key}={usual[key] if usual[key] in values else values[0]}" for key, values in differing.items()
        )
        told = _listed(differing)
        raise UserError(f"{column.key} at {place} has cells that differ in {told}; choose, for example {remedy}")
    return Group(*at, tuple(group))


def _differing(cells: Sequence[str], ignored: Sequence[str], source: Source) -> dict[str, list[str]]:
    """Each setting that differs among the cells, with its values."""
    keys = [key for key in source.base if key not in ignored and key in source.frame.columns]
    return {key: values for key in keys if len(values := _seen(key, cells, source)) > 1}


def _listed(differing: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{key} ({', '.join(values)})" for key, values in differing.items())


def _table(query: Query, column: Column, downs: Sequence[str]) -> Table:
    way = f" ({column.better} is better)" if column.better else ""
    unit = f", {column.unit}" if column.unit else ""
    title = f"{column.title}{unit}{way} by {' and '.join(query.keys)}"
    cells = tuple(Row(f"{query.rows} = {down}", None) for down in downs)
    return Table("pivot", title, "pivot", query.keys, cells, (), (column,))


def _filled(
    query: Query,
    column: Column,
    table: Table,
    acrosses: Sequence[str],
    groups: Sequence[Sequence[Group]],
    source: Source,
) -> FilledTable:
    estimates = {group: _estimate(column, group, source) for row in groups for group in row}
    winner = _winner(column, estimates, source)
    rows = tuple(
        FilledRow(
            cell.label,
            cells=tuple(cell for group in row for cell in group.cells),
            measured=tuple(_entry(column, group, estimates[group], group is winner, source) for group in row),
        )
        for cell, row in zip(table.rows, groups, strict=True)
    )
    titles = [f"{query.columns} = {across}" if across else column.title for across in acrosses]
    columns = tuple(Column(f"{column.key} {title}", title, column.better) for title in titles)
    heading = f"{column.title}, {source.measured_on}" if query.columns else f"measured, {source.measured_on}"
    return FilledTable(table, columns, (), (), rows, heading, "", tuple(_notes(query, column, estimates, source)))


def _winner(column: Column, estimates: Mapping[Group, Estimate | None], source: Source) -> Group | None:
    """The group that is settled to beat every other one."""
    groups = list(estimates)
    on_scale = [e and scaled(column, e, group.cells, source) for group, e in estimates.items()]

    def beats(i: int, k: int) -> bool:
        a, b = on_scale[i], on_scale[k]
        if a is None or b is None or other_bins(column, groups[i].cells, groups[k].cells, source):
            return False
        gap = stats.gap(a, b)
        return gap.settled and (gap.mean < 0) == (column.better == "lower")

    winner = stats.best([e and e.mean for e in estimates.values()], column.better, beats)
    return None if winner is None else groups[winner]


def _estimate(column: Column, group: Group, source: Source) -> Estimate | None:
    if any(source.odd(cell, column.key) for cell in group.cells):
        return None  # no mean of the others: absence() says why
    numbers = {cell: source.number(cell, column.key) for cell in group.cells}
    present = {cell: value * column.scale for cell, value in numbers.items() if value is not None}
    seeds = [source.setting(cell, "train.seed") for cell in present]
    return stats.estimate(list(present.values()), seeds) if present else None


def _entry(column: Column, group: Group, value: Estimate | None, best: bool, source: Source) -> Entry:
    if value is None:
        reason = absence(column, Row(group.label, {}), group.cells, source) if group.cells else "no such cell"
        return Entry(reason=reason)
    return entry(column, value, best)


def _notes(query: Query, column: Column, estimates: Mapping[Group, Estimate | None], source: Source) -> list[str]:
    notes = [f"{column.title}: {column.meaning}."] if column.meaning else []
    if query.where:
        notes.append(f"Only cells with {', '.join(query.where)}.")
    seeds = {group: value.seeds for group, value in estimates.items() if value}
    counts = sorted(set(seeds.values()))
    if counts == [1]:
        notes.append("One seed or measurement per entry: no interval.")
    elif counts:
        usual = max(counts, key=lambda count: list(seeds.values()).count(count))
        but = [f"{group.label}: {count}" for group, count in seeds.items() if count != usual]
        notes.append(
            f"± is the half-width of the 95 % Student t interval over seeds, {usual} per entry"
            f"{', but ' + '; '.join(but) if but else ''}. Bold: better than every other entry, with an interval of the"
            " difference that leaves out zero."
        )
    waiting = [group for group, count in seeds.items() if count < len(group.cells)]
    notes += [f"Not finished: {g.label} has {seeds[g]} of {len(g.cells)} seeds." for g in waiting]
    # what differs between entries beside rows and columns, a reader must know of
    cells = [cell for group in estimates for cell in group.cells]
    differing = _differing(cells, (*SEEDS, *query.keys), source)
    return notes + ([f"Beside rows and columns, entries differ in {_listed(differing)}."] if differing else [])


def to_csv(filled: FilledTable) -> str:
    """One line per entry, in the units that the stages store."""
    column, keys = filled.table.measured[0], filled.table.varies
    lines = [[*keys, column.key, "half-width", "seeds", "empty because"]]
    for row in filled.rows:
        for across, shown in zip(filled.measured, row.measured, strict=True):
            at = [row.label.partition(" = ")[2], across.title.partition(" = ")[2]][: len(keys)]
            mean = half = seeds = ""
            if value := shown.estimate:
                mean, seeds = f"{value.mean / column.scale:.10g}", str(value.seeds)
                half = "" if value.half is None else f"{value.half / column.scale:.10g}"
            lines.append([*at, mean, half, seeds, shown.reason])
    return csv_text(lines)


FORMS = {".md": text.to_markdown, ".csv": to_csv, ".tex": latex.to_latex, ".html": html.to_html}
"""ending of a file -> its writer"""


def written(filled: FilledTable, ending: str = ".md") -> str:
    """The table in the form that the ending of a file names, one of FORMS."""
    return FORMS[ending](filled)


def require_form(out: Path) -> None:
    """Refuse a file whose ending names no form."""
    if out.suffix not in FORMS:
        raise UserError(f"--out {out} must end with {', '.join(FORMS)}")
