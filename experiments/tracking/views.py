"""Views that MLflow's page opens with: which runs, in which order, with which columns and charts.

Left alone, the page shows every run with no setting and no number. A view is kept as a tag of the experiment, and the
address names its key (read from the page of MLflow 3.17, which leaves out whatever it does not know). Which sweeps are
unfolded it does not take from there, so each sweep has a flat view of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from experiments.tracking.rows import HALF, SEEDS
from tokenbridge.metrics.catalogue import metric, telling
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.store.artifacts import digest

ALL = "tokenbridge"
"""key of the view of all sweeps and cells"""
ASIDE = ("training", "report", "superseded")
"""kinds of runs that a list of cells leaves out"""
MEMBER, LISTED = "yes", "row"
"""values of a sweep's tag: a run of it; one that its report shows as a row, by itself or with its seeds below"""
LETTER, AROUND, NARROWEST = 8, 40, 110
"""pixels of a column: a letter of its title, what stands around it, at least"""
CHARTS = 8

View = dict[str, Any]


def view_key(sweep: str) -> str:
    """A sweep's name as a tag's name may hold it."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", sweep)
    return plain if plain == sweep else f"{plain}-{digest(sweep)}"


def member_tag(sweep: str) -> str:
    """The tag of a sweep's runs: `sweep` itself may list several, and one's name may be within another's."""
    return f"sweep.{view_key(sweep)}"


def page(experiment: str, key: str) -> str:
    """The address below the server's own that opens a view.

    Args:
        experiment: the experiment's id.
        key: of the view.
    """
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={quote(key)}"


def of_sweep(sweep: str, varying: Sequence[str], measured: Collection[str], listed: str = "") -> View:
    """The view of a sweep: its runs from the best to the worst, with what varies, the main metrics and charts of these.

    Args:
        sweep: its name.
        varying: settings that differ between the runs that it lists.
        measured: metrics that these have; without a main one the runs are in the order of their names.
        listed: LISTED for those alone that its report shows as rows; empty for all of its runs.
    """
    metrics = telling(measured)
    columns = [f"params.`{key}`" for key in varying] + _of_metrics(measured)
    order = {"orderByKey": "attributes.`run_name`", "orderByAsc": True}
    if metrics:
        order = {"orderByKey": f"metrics.`{metrics[0]}`", "orderByAsc": direction(metrics[0]) > 0}
    own = (
        f"tags.`{member_tag(sweep)}` " + (f"= '{listed}'" if listed else "LIKE '%'") + " and tags.kind != 'superseded'"
    )
    return {"searchFilter": own} | order | _columns(columns) | _charts(varying, metrics)


def of_all(varying: Sequence[str], measured: Collection[str], sweeps: bool) -> View:
    """The view of all cells by name; where there are sweeps, of these, with their rows and cells below when unfolded.

    Args:
        varying: settings that differ between cells.
        measured: metrics that cells, rows or sweeps have.
        sweeps: whether there are sweeps.
    """
    columns = [f"params.`{key}`" for key in varying] + _of_metrics(measured)
    if not sweeps:
        order = {"orderByKey": "attributes.`run_name`", "orderByAsc": True}
        return {"searchFilter": "tags.kind = 'cell'"} | order | _columns(columns)
    # the page draws a tree in the order of time alone, and its filter has no `or`
    others = " and ".join(f"tags.kind != '{kind}'" for kind in ASIDE)
    distances = [f"best/{scorer.fd}" for scorer in SCORERS.values()]
    of_sweeps = ("cells", "cells_finished", *distances, "best/reconstruct/psnr")
    columns = [f"metrics.`{key}`" for key in of_sweeps if key in measured] + columns
    return {"searchFilter": others, "orderByKey": "attributes.start_time", "orderByAsc": False} | _columns(columns)


def varying(settings: Iterable[Mapping[str, str]]) -> list[str]:
    """Settings that have more than one value."""
    values: dict[str, set[str]] = {}
    for each in settings:
        for key, value in each.items():
            values.setdefault(key, set()).add(value)
    return [key for key, seen in values.items() if len(seen) > 1]


def direction(key: str) -> int:
    """1 where lower is better, -1 where higher is, 0 where the catalogue does not say."""
    return {"lower": 1, "higher": -1, "": 0}[metric(key).better]


def _of_metrics(measured: Collection[str]) -> list[str]:
    """Columns of the metrics that say better or worse, each with its half-width behind it; before them the seeds."""
    keys = [SEEDS, *(key for metric in telling(measured) for key in (metric, f"{metric}{HALF}"))]
    return [f"metrics.`{key}`" for key in keys if key in measured]


def _columns(columns: Sequence[str]) -> View:
    """Columns in this order, each as wide as its title."""
    titles = {column: column.split("`")[1] for column in columns}
    widths = {column: max(NARROWEST, LETTER * len(title) + AROUND) for column, title in titles.items()}
    first = ["1", "attributes.`Run Name`"]
    last = ["runDateAndNestInfo", "duration"]
    return {"selectedColumns": [*columns], "columnOrder": [*first, *columns, *last], "columnWidths": widths}


def _charts(varying: Sequence[str], metrics: Sequence[str]) -> View:
    """What the chart view opens with: settings against the main metric, and a bar chart per metric."""
    if not metrics:
        return {}
    common = {"metricSectionId": "main", "deleted": False, "isGenerated": False, "runsCountToCompare": 20}
    charts: list[dict[str, Any]] = [{"type": "BAR", "uuid": f"bar-{key}", "metricKey": key} for key in metrics[:CHARTS]]
    if varying:
        paths = {"type": "PARALLEL", "uuid": "settings", "selectedParams": [*varying], "selectedMetrics": [metrics[0]]}
        charts.insert(0, paths)
    section = {"uuid": "main", "name": "main results", "display": True, "isReordered": False}
    cards = [common | chart for chart in charts]
    # the page adds a section for each prefix of a metric, before ours unless it is told that the order is meant
    return {"compareRunCharts": cards, "compareRunSections": [section], "isAccordionReordered": True}
