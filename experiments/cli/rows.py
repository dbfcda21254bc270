"""The rows of reports for MLflow: analysis computes what their tables print, tracking keeps and sends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.paper import Column, Table
from experiments.paper import plan as plan_file
from experiments.tracking import rows as tracked
from experiments.tracking.rows import ERROR, HALF, ReportRow
from tokenbridge.config import UserError
from tokenbridge.overrides import flatten
from tokenbridge.store.artifacts import Store, digest, writable
from tokenbridge.store.runs import RecordedCell, StageFiles, read_cell

if TYPE_CHECKING:
    from analysis.frame.source import Source
    from analysis.stats import Comparison
    from analysis.tables.filled import Entry

FORMAT = 1
"""raise it when the rows' content changes: all are then computed anew"""
MEANING = (
    "± is the half-width of the 95 % Student t interval over seeds (of one measurement that all seeds share, 1.96"
    " standard errors over images). Verdicts are those of the whole report; °: exploratory, no claim."
)
Place = tuple[Table, str]
"""a table that has a row, and the row's label there"""


def refresh(store: Store, again: str = "") -> list[UserError]:
    """Compute the rows of each report again whose plan or stages have changed since.

    Args:
        store: the runs folder.
        again: name of a report whose rows are computed whether or not anything has: it is being written.

    Returns:
        What kept some reports' rows as they were, one error for each.
    """
    stages, errors = StageFiles(store), list[UserError]()
    for name in plan_file.names(store.root):
        try:
            plan = plan_file.read(plan_file.file(store.root, name))
            cells = {entry["cell"]: read_cell(store, entry["cell"]) for entry in _entries(plan)}
            stamps = {id: stages.stamps(id) for cell in cells.values() for id in cell.stages.values()}
            state = digest([FORMAT, plan, stamps])
            if name == again or state != tracked.state(store, name):
                rows = _rows(name, plan, cells, store) if _has_seeds(plan) else []
                with writable(store.root):
                    tracked.write(store, name, state, rows)
        except UserError as error:
            errors.append(UserError(f"rows of report {name}: {error}"))
    return errors


def _entries(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*plan["rows"], *(plan.get("cells") or ()), *(plan.get("confidence") or ())]


def _has_seeds(plan: Mapping[str, Any]) -> bool:
    """Whether any row has several seeds; that needs no analysis to be imported."""
    counts = Counter((row["table"], row["label"]) for row in plan["rows"])
    counts.update(("", digest(cell["values"])) for cell in plan.get("cells") or ())
    return any(count > 1 for count in counts.values())


def _rows(report: str, plan: Mapping[str, Any], cells: Mapping[str, RecordedCell], store: Store) -> list[ReportRow]:
    """The rows of all tables in their order; rows with the same cells, which are one row in several tables, once."""
    from analysis.frame.load import source_from_stages

    source = source_from_stages(store.root, plan)
    places: dict[tuple[str, ...], list[Place]] = {}
    for table in source.tables:
        table = table.by(source.scorers)
        for row, ids in source.rows(table):
            if ids:
                places.setdefault(tuple(ids), []).append((table, row.label))
    return [_row(report, [cells[id] for id in ids], where, source) for ids, where in places.items()]


def _row(report: str, cells: Sequence[RecordedCell], places: Sequence[Place], source: Source) -> ReportRow:
    (table, label), *_ = places
    settings = [flatten(cell.config) for cell in cells]
    shared = {key: value for key, value in settings[0].items() if all(each.get(key) == value for each in settings)}
    # what it is: neither more seeds nor another machine's grid of that name make it another
    id = f"{report}/{digest([table.id, label, shared])}"
    name, ids = label if table.kind == "axes" else f"{table.id} {label}", tuple(cell.id for cell in cells)
    if len(ids) == 1:
        return ReportRow(report, id, name, ids)
    columns = _columns(ids, places, source)
    entries, refused = _entries_of(table, label, ids, columns, source)
    metrics: dict[str, float] = {}
    for key, shown in entries.items():
        assert shown.estimate is not None, "an entry that is none is left out"
        metrics[key] = shown.estimate.mean / columns[key].scale
        if shown.interval and shown.estimate.half is not None:
            metrics[f"{key}{HALF}"] = shown.estimate.half / columns[key].scale
    tags = {"report": report, "rows": "; ".join(f"{table.id} {label}" for table, label in places)}
    tags |= {"seeds": ", ".join(str(source.setting(id, "train.seed")) for id in ids)}
    tags |= {"refused": refused} if refused else {}
    verdicts = {(t.id, column.key): _verdict(column, ids, t, source) for t, _ in places for column in t.measured}
    bases = {table.id: table.base_label for table, _ in places}
    # reversed: of several tables the first that tests it has the last word
    told = {f"verdict.{key}": f"{text}, against {bases[of]}" for (of, key), text in reversed(verdicts.items()) if text}
    return ReportRow(report, id, name, ids, metrics, tags | told, _note(report, len(ids), places, entries, verdicts))


def _columns(ids: Sequence[str], places: Sequence[Place], source: Source) -> dict[str, Column]:
    """By key, what the tables of a row show, then all else that its cells measured."""
    from tokenbridge.metrics.catalogue import metric

    columns = {column.key: column for table, _ in places for column in table.measured}
    measured = (key for key in source.metrics if any(source.number(id, key) is not None for id in ids))
    # the mean of a standard error over seeds is no error of the mean
    return columns | {key: metric(key) for key in measured if key not in columns and not key.endswith(ERROR)}


def _entries_of(
    table: Table, label: str, ids: Sequence[str], columns: Mapping[str, Column], source: Source
) -> tuple[dict[str, Entry], str]:
    """The entries of a row that are numbers, by key; and why the first is missing of those that a table refuses."""
    from analysis.tables import protocol
    from analysis.tables.estimates import measure
    from analysis.tables.filled import entry

    entries: dict[str, Entry] = {}
    refused = ""
    for key, column in columns.items():
        try:
            protocol.check(table, column, [(table.row(label), ids)], source)
            if (value := measure(column, label, ids, source)) is not None:
                entries[key] = entry(column, value)
        except UserError as error:
            refused = refused or str(error)
    return entries, refused


def _verdict(column: Column, ids: Sequence[str], table: Table, source: Source) -> str:
    """The report's one verdict on a row and the base of a table, with the difference; empty where there is none."""
    from analysis.tables.compare import comparisons
    from analysis.tables.filled import EXPLORATORY, change_text

    comparison: Comparison | None = comparisons(source).of(column, ids, source.cells(table.id, table.base_label))
    if comparison is None:
        return ""
    mark = EXPLORATORY if comparison.family == "exploratory" else ""
    return f"{comparison.verdict}{mark}: {change_text(column, comparison)}"


def _note(
    report: str,
    seeds: int,
    places: Sequence[Place],
    entries: Mapping[str, Entry],
    verdicts: Mapping[tuple[str, str], str],
) -> str:
    """Markdown: the row as each of its tables prints it."""
    lines: list[str] = []
    for table, label in places:
        against = f"against {table.base_label}" if label != table.base_label else "base"
        lines += [f"{table.heading}, in report {report}: **{label}**", ""]
        lines += [f"| | {seeds} seeds | {against} |", "|---|---:|---|"]
        for column in (column for column in table.measured if column.key in entries):
            title = f"{column.title}, {column.unit}" if column.unit else column.title
            shown = entries[column.key]
            lines.append(f"| {title} | {shown.text} {shown.interval} | {verdicts[table.id, column.key]} |")
        lines.append("")
    return "\n".join([*lines, MEANING])
