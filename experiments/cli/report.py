"""The command `tokenbridge report`: reports of the paper's tables and of grids, and any cells as a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.options import DEFAULT_REPORTS, DEFAULT_RUNS, PATH, Reports, Runs
from experiments.cli.rows import refresh
from experiments.paper import plan as plan_file
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, new_file, require_folder, writable
from tokenbridge.store.runs import without_credentials

if TYPE_CHECKING:
    from analysis.frame.source import Source
    from analysis.tables.pivot import Query

EVERY = "all"
GRID = "grid"
"""a grid's name where none is given"""


def report(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="name of a report, such as demo; all; or tables of one", metavar="NAME|all|TABLE..."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="the report that the tables are of (default: one called like the table, or grid)"),
    ] = None,
    rows: Annotated[
        str, typer.Option("--rows", help="print a table instead: the setting down, such as quantizer.levels")
    ] = "",
    columns: Annotated[str, typer.Option("--columns", help="with --rows: the setting across, such as head.kind")] = "",
    metric: Annotated[
        str, typer.Option("--metric", help="with --rows: its number (default: fd_digits or the like)")
    ] = "",
    where: Annotated[
        list[str] | None, typer.Option("--where", help="with --rows: only cells with this KEY=VALUE; repeatable")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="with --rows: write to this file (.md, .csv, .tex or .html)", **PATH)
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    reports: Reports = DEFAULT_REPORTS,
) -> None:
    """Write a report again: from MLflow where the runs are here, else from its source/; print the tables asked for.

    Example: tokenbridge report --rows quantizer.levels --columns head.kind --metric fd_digits --name mine
    """
    words = what or []
    if rows:
        if len(words) > 1:
            raise UserError(f"{' '.join(words)} must be one report's name where --rows is given")
        from analysis.tables.pivot import Query

        query = Query(rows, columns, metric, tuple(where or ()))
        _pivot(words[0] if words else GRID if name is None else name, query, out, runs, reports)
        return
    for option, value in (("--columns", columns), ("--metric", metric), ("--where", where), ("--out", out)):
        if value:
            raise UserError(f"{option} is about a table of a setting's values; give --rows too, or leave it out")
    if words == [EVERY]:
        _all(runs, reports)
    else:
        _report(words or ["demo"], name, runs, reports)


def _report(words: Sequence[str], name: str | None, runs: Path, reports: Path) -> None:
    from experiments.paper import TABLES

    tables = words if all(word in TABLES or word.startswith("effects-") for word in words) else []
    if not tables and len(words) > 1:
        ours = f"{', '.join(TABLES)}, effects-fd_digits and others of a grid over axes"
        raise UserError(f"{' '.join(words)} must be one report's name, or tables among {ours}")
    if not tables or (name is None and len(words) == 1 and _is_report(words[0], runs, reports)):
        name = words[0]  # a grid of one table may be called like it
    name = GRID if name is None else name
    page = build(name, runs, reports)
    from analysis.frame.source import read as read_source
    from analysis.tables.text import effects_text, tables_text

    source = read_source(reports / name / "source")
    if text := tables_text(source, tables) if tables else effects_text(source):
        print(text)
    print(f"report: {page}")


def _all(runs: Path, reports: Path) -> None:
    """Every report again; one that cannot be built does not keep the others back, and is named at the end."""
    sources = [path.parent.name for path in reports.glob("*/source")]
    names = sorted({*sources, *plan_file.names(runs)})
    if not names:
        raise UserError(f"no report in {reports} and no plan in {runs / 'plans'}; run tokenbridge demo or grid first")
    failed: list[str] = []
    for name in names:
        try:
            print(f"report: {build(name, runs, reports)}", flush=True)
        except UserError as error:
            failed.append(f"{name}: {error}")
    if failed:
        more = f" (and {', '.join(line.partition(':')[0] for line in failed[1:])})" if failed[1:] else ""
        raise UserError(failed[0] + more)


def build(name: str, runs: Path, reports: Path) -> Path:
    """Build a report from its runs where their plan is here, else from its source/; returns its page.

    Args:
        name: the report's.
        runs: the runs folder.
        reports: the folder of all reports.

    Raises:
        UserError: there is neither plan nor source, or what they hold cannot make the report.
    """
    if plan_file.file(runs, name).exists():
        return publish(Store(runs), name, reports)
    _require_report(name, runs, reports)
    from analysis.report.build import build as build_report

    with writable(reports / name, "--reports"):
        return build_report(reports / name, server())


def publish(store: Store, name: str, reports: Path) -> Path:
    """Bring MLflow up to date, gather the report's source from it, build the report and log it to MLflow.

    Args:
        store: the runs folder, which holds the report's plan.
        name: the report's.
        reports: the folder of all reports.

    Returns:
        The report's page.

    Raises:
        UserError: no plan, MLflow away, or a table that would mix protocols.
    """
    from analysis.frame import load
    from analysis.report.build import build as build_report
    from experiments.tracking import sync as tracking

    plan = plan_file.read(plan_file.file(store.root, name))
    require_folder(reports / name, "--reports")
    plan |= {"mlflow": server()} if server() else {}
    print("tracking: MLflow is brought up to date", flush=True)
    refresh(store, name)  # what keeps its rows back keeps the report back too, in one line; others' `sync` names
    tracking.sync(store, unreadable=[])
    tracking.sync(store, {cell: None for _, cell in load.planned(plan)})  # of its own, the first that cannot be read
    print("report: tables and figures", flush=True)
    with writable(reports / name, "--reports"):
        load.collect(store.root, tracking.tracking_uri(store), plan, reports / name / "source")
        page = build_report(reports / name)
    tracking.log_report(store, name, reports / name)
    return page


def server() -> str:
    """Address of the MLflow server that MLFLOW_TRACKING_URI names, without credentials; empty where it names none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return without_credentials(uri).rstrip("/") if uri.startswith(("http://", "https://")) else ""


def _pivot(name: str, query: Query, out: Path | None, runs: Path, reports: Path) -> None:
    from analysis.tables.pivot import pivot, require_form, written

    if out is not None:
        require_form(out)
    filled = pivot(query, _source(name, runs, reports))
    if out is None:
        print(written(filled))
        return
    from analysis.report.build import write

    with new_file(out, "--out"):
        write({out: written(filled, out.suffix).encode()})
    print(f"table: {out}")


def _source(name: str, runs: Path, reports: Path) -> Source:
    """The numbers of a grid as its stages left them, or those that a report's source/ has."""
    path = plan_file.file(runs, name)
    if path.exists():
        from analysis.frame.load import source_from_stages

        return source_from_stages(runs, plan_file.read(path))
    _require_report(name, runs, reports)
    from analysis.frame.source import read as read_source

    return read_source(reports / name / "source")


def _is_report(name: str, runs: Path, reports: Path) -> bool:
    return plan_file.file(runs, name).exists() or (reports / name / "source").is_dir()


def _require_report(name: str, runs: Path, reports: Path) -> None:
    if not _is_report(name, runs, reports):
        places = f"{runs / 'plans' / name}.json nor {reports / name / 'source'}"
        raise UserError(f"{name} is no report: neither {places} exists; run tokenbridge demo or grid first")
