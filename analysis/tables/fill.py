"""Fill the tables of the paper and ours: measured numbers ± interval, the published ones in columns of their own.

A column holds numbers of one protocol; where two meet, the table refuses and names the field. An empty entry says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Comparison, Estimate, number
from analysis.tables import protocol
from analysis.tables.compare import base_row, best, compare, side
from analysis.tables.estimates import Estimates, RowCells, follows_training, in_bins, measure, other_bins
from analysis.tables.filled import (
    BASE,
    OTHER_BINS,
    SAME_RUN,
    UNPAIRED,
    Entry,
    FilledRow,
    FilledTable,
    change_text,
    entry,
)
from analysis.tables.notes import cautions_of, notes
from experiments.paper import PUBLISHED_ON, Column, Row, Table
from tokenbridge.config import CATEGORICAL, HEAD_KINDS, TRAINED_TOKENS
from tokenbridge.metrics.catalogue import (
    AGREEMENT,
    BASE_IN_BINS,
    BIN_BITS,
    BIN_COST,
    BITS,
    EXTRAPOLATED,
    FD,
    INFINITY,
    MEMORIZATION,
    NORMAL_BITS,
    RECOMPUTING_MS,
    STEPWISE_MS,
    TOKEN_BITS,
    TOKEN_BITS_PER_DIM,
)
from tokenbridge.overrides import plain
from tokenbridge.stages import STAGES

FURTHER = {FD: (EXTRAPOLATED, INFINITY, MEMORIZATION), BITS: (TOKEN_BITS_PER_DIM, NORMAL_BITS)}
"""what a table with a metric tells beside its columns"""
OF_BINS = {metric.key for metric in (TOKEN_BITS_PER_DIM, BIN_BITS, NORMAL_BITS, BASE_IN_BINS, BIN_COST)}
NOT_REPORTED, NOT_RUN = "not reported", "not run"
NO_MODEL = "samples alone"
"""of samples of another program: a number of a model"""
NO_LABELS = "none"
"""in the protocol of samples that have none (tokenbridge.stages.sample)"""
MEANINGS = {
    "sample.guidance": "how far samples are pushed towards their class (1 is off); searched for each row by itself",
    "sample.temperature": "spread of the draws (1 is what the model says); searched for each row by itself",
}


def fill(table: Table, source: Source) -> FilledTable:
    """Fill a table with the report's numbers, settings, verdicts and notes.

    Args:
        table: as it is declared; its columns are taken by the report's scorers.
        source: the report's source.

    Raises:
        UserError: a column would mix two protocols, or a row has a number for some of its seeds only.
    """
    if table.kind == "settings":
        return _settings(table, source)
    table, rows = table.by(source.scorers), source.rows(table)
    ran = any(ids for _, ids in rows)
    # where nothing ran, one column says why
    measured = table.measured if ran else table.measured[:1]
    further = _further(table, source) if ran else ()
    entries = _measured(table, measured, further, rows, source)
    reported = [tuple(c for c in columns if _reported(entries[c.key])) for columns in (measured, further)]
    measured, further = reported[0] or measured[:1], reported[1]
    published = _printed(table, source)
    searched = source.tuned_in(table) if ran and table.sampled else ()
    settings = {"generation": searched, "axes": table.varies}.get(table.kind, ())
    chosen = tuple(_chosen_column(key, table.kind == "generation") for key in settings)
    filled_rows = tuple(
        FilledRow(
            cell.label,
            _here(table, cell, ids, source),
            tuple(ids),
            tuple(entries[column.key][i] for column in measured),
            tuple(_setting(column.key, ids, source) for column in chosen),
            tuple(_published(column, cell) for column in published),
            tuple(entries[column.key][i] for column in further),
        )
        for i, (cell, ids) in enumerate(rows)
    )
    headings = (f"measured, {source.measured_on}", f"published, {PUBLISHED_ON}")
    if table.kind == "speed":  # of heads alone, on no images
        headings = ("measured here", "published, A100")
    filled = FilledTable(table, measured, chosen, published, filled_rows, *headings, further=further)
    filled = replace(filled, notes=tuple(notes(filled, source)), cautions=tuple(cautions_of(filled, source)))
    return replace(filled, chosen_heading="axes") if table.kind == "axes" else filled


def _further(table: Table, source: Source) -> tuple[Column, ...]:
    """Columns for which a page has no room."""
    keys = {column.key for column in table.measured}
    beside = [each for of, columns in FURTHER.items() if source.by_scorer(of).key in keys for each in columns]
    return tuple(column for each in beside if (column := each.by(source.scorers[0])) and column.key not in keys)


def _reported(entries: Sequence[Entry]) -> bool:
    """Whether a column stays: one that no row has is left out where it was not asked for or not reported."""
    reasons = {entry.reason for entry in entries}
    return "" in reasons or not any(reason == NOT_REPORTED or reason.endswith(NOT_RUN) for reason in reasons)


def _printed(table: Table, source: Source) -> tuple[Column, ...]:
    """The published columns: those that have a number; of own images none, which nobody published anything of."""
    if source.own_images and table.kind != "speed":
        return ()
    return tuple(column for column in table.published if any(column.key in row.published for row in table.rows))


def _measured(
    table: Table, measured: Sequence[Column], further: Sequence[Column], rows: RowCells, source: Source
) -> dict[str, list[Entry]]:
    """Column key -> one entry per row; those of further columns without verdicts."""
    columns = (*measured, *further)
    for column in columns:
        protocol.check(table, column, rows, source)
    estimates: Estimates = {column.key: _estimates(table, column, rows, source) for column in columns}
    compared = compare(table, measured, rows, source)
    entries = {
        column.key: [
            Entry(reason=absence(column, cell, ids, source)) if value is None else entry(column, value)
            for (cell, ids), value in zip(rows, estimates[column.key], strict=True)
        ]
        for column in columns
    }
    for column in filter(lambda column: column.better, measured):
        comparisons = [compared.get((column.key, i)) for i in range(len(rows))]
        winner = best(column, rows, estimates[column.key], source)
        entries[column.key] = _judged(table, column, rows, entries[column.key], comparisons, winner, source)
    return entries


def _estimates(table: Table, column: Column, rows: RowCells, source: Source) -> list[Estimate | None]:
    label, base = table.base_label, rows[base_row(table)][1]
    if column.key not in (BASE_IN_BINS.key, BIN_COST.key):
        return [measure(column, cell.label, ids, source) for cell, ids in rows]
    binned = [in_bins(BITS, label, base, ids, source) for _, ids in rows]
    density = measure(BITS, label, base, source, images=False)
    if column.key == BASE_IN_BINS.key or density is None:
        return binned
    return [value and stats.estimate([x - y for x, y in stats.pairs(value, density)]) for value in binned]


def _judged(
    table: Table,
    column: Column,
    rows: RowCells,
    entries: Sequence[Entry],
    comparisons: Sequence[Comparison | None],
    winner: int | None,
    source: Source,
) -> list[Entry]:
    """The entries of a column with their verdicts, the best one marked."""
    base, judged = base_row(table), list(entries)
    for i, (value, comparison) in enumerate(zip(entries, comparisons, strict=True)):
        if value.estimate is None:
            continue
        remark = BASE if i == base and (any(comparisons) or _untested(column, value)) else ""
        binned = _binned(column, rows[i], rows[base], source)
        if i != base and comparison is None and entries[base].estimate and not binned:
            remark = _untested_against(column, value, rows[i][1], rows[base][1], source)
        change = change_text(column, comparison) if comparison else ""
        judged[i] = replace(value, best=i == winner, comparison=comparison, change=change, remark=remark, binned=binned)
    return judged


def _binned(column: Column, row: tuple[Row, Sequence[str]], base: tuple[Row, Sequence[str]], source: Source) -> str:
    """Of a comparison in equal bins: which row's density was made constant within the other's bins, and its bits."""
    for (mine, cells), (theirs, others) in ((row, base), (base, row)):
        if value := in_bins(column, mine.label, cells, others, source):
            shown = entry(column, value)
            return f"{mine.label} in the bins of {theirs.label}: {shown.text} {shown.interval}".rstrip()
    return ""


def _untested_against(column: Column, value: Entry, cells: Sequence[str], base: Sequence[str], source: Source) -> str:
    """Why an entry has no verdict against the base's, where that is worth a word."""
    if side(column, cells, source) == side(column, base, source):
        return SAME_RUN
    return OTHER_BINS if other_bins(column, cells, base, source) else _untested(column, value)


def _untested(column: Column, value: Entry) -> str:
    """That an entry's interval is over images which the other rows have as well, whose differences are not known."""
    return UNPAIRED if value.over == "images" and not follows_training(column) else ""


def absence(column: Column, cell: Row, ids: Sequence[str], source: Source) -> str:
    """Why an entry is empty, in a few words.

    Args:
        column: the metric that is missing.
        cell: the row as the table declares it.
        ids: the cells that fill the row, none of which has the number.
        source: the report's source.
    """
    if not ids:
        return cell.reason if cell.overrides is None else cell.needs or NOT_RUN
    if odd := next(filter(None, (source.odd(id, column.key) for id in ids)), ""):
        return odd
    kind = column.key.partition("/")[0]
    if source.is_given(ids[0]):
        return _not_of_given(column, ids[0], source)
    if reason := _impossible(column, source.setting(ids[0], "quantizer.kind"), source.setting(ids[0], "head.kind")):
        return reason
    if any(source.stage(id, kind) for id in ids):
        return NOT_REPORTED
    return NOT_RUN if kind == "speed" else f"{kind} {NOT_RUN}"


def _not_of_given(column: Column, cell: str, source: Source) -> str:
    """Why samples of another program lack a number."""
    if not STAGES[column.stage].of_given:
        return NO_MODEL
    unlabelled = source.protocol(cell, "sample").get("labels") == NO_LABELS
    return "no labels" if unlabelled and column == AGREEMENT.by(column.scorer) else f"{column.stage} {NOT_RUN}"


def _impossible(column: Column, quantizer: str, head: str) -> str:
    """Why no run of such a row could have the number; empty where one could."""
    kind = column.key.partition("/")[0]
    if column.key in OF_BINS and quantizer == "identity":
        return "no bins"
    if kind == "quantizer" and quantizer == "identity":
        return "continuous" if column == TOKEN_BITS else "no levels"
    if kind == "likelihood" and quantizer in TRAINED_TOKENS:
        return "another latent space"
    if kind == "likelihood" and head in HEAD_KINDS and not HEAD_KINDS[head].density:
        return "density not computed"
    if column == RECOMPUTING_MS and head != "autoregressive":
        return "no cache to leave out"
    if column == STEPWISE_MS and head in CATEGORICAL:
        return "no such network"
    return ""


def _here(table: Table, cell: Row, ids: Sequence[str], source: Source) -> str:
    """What a scaled row ran, read from its first cell; empty where its label says it or holds no size."""
    if not ids or not cell.overrides or not table.scaled or table.own:
        return ""
    ran = {key: source.setting(ids[0], key) for key in table.varies}
    asked = {key: cell.overrides[key] for key in table.scaled if key in cell.overrides}
    return "" if all(ran[key] == value for key, value in asked.items()) else "×".join(map(str, ran.values()))


def _chosen_column(key: str, searched: bool) -> Column:
    meaning = MEANINGS.get(key, "searched for each row by itself") if searched else ""
    return Column(key, key.rpartition(".")[2] if searched else key, meaning=meaning)


def _setting(key: str, ids: Sequence[str], source: Source) -> Entry:
    if ids and source.is_given(ids[0]):
        return Entry(reason=NO_MODEL)
    values = dict.fromkeys(_shown(source.setting(id, key)) for id in ids)
    return Entry(" / ".join(values)) if values else Entry(reason=NOT_RUN)


def _published(column: Column, cell: Row) -> Entry:
    value = cell.published.get(column.key)
    if value is None:
        return Entry(reason=cell.reason if cell.reason and not cell.published else "not given")
    if isinstance(value, str):
        return Entry(value)
    # as printed in the paper: 15.7 stands in one column with 1.94
    short = value >= 10 and round(value, 1) == value
    return Entry(number(value, min(column.decimals, 1) if short else column.decimals))


def _settings(table: Table, source: Source) -> FilledTable:
    """A table of settings beside those of the report's base."""
    base = Column("base", f"preset {source.plan.get('preset', 'digits')}")
    rows = tuple(
        FilledRow(
            cell.label,
            chosen=(_of_base(cell, source),),
            published=tuple(_published(column, cell) for column in table.published),
        )
        for cell in table.rows
    )
    note = "The preset is what cells change; guidance and temperature may be searched for each row."
    return FilledTable(
        table, (), (base,), table.published, rows, "", "published", (note,), chosen_heading="base of this report"
    )


def _of_base(cell: Row, source: Source) -> Entry:
    """The base's values of the settings that a row is about."""
    keys = list(cell.overrides or {})
    values = [_shown(source.base[key]) for key in keys]
    if len(keys) == 1:
        return Entry(values[0])
    last = [key.rpartition(".")[2] for key in keys]
    names = [key if last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]
    words = [name.replace(".", " ").replace("_", " ") for name in names]
    return Entry(", ".join(f"{word} {value}" for word, value in zip(words, values, strict=True)))


def _shown(value: object) -> str:
    """A number, a name, or a list of one number per step of the channel order."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else plain(value)
