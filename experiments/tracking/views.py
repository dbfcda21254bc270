"""Views that MLflow's page opens with: which runs, in which order, with which columns and charts.

Left alone, the page shows every run with no setting and no number. A view is kept as a tag of the experiment, and the
address names its key (read from the page of MLflow 3.17, which leaves out whatever it does not know). Which sweeps are
unfolded it does not take from there, so each sweep has a flat view of its own.

Its table prints a metric with all of its digits and no interval, so what a list shows of the metrics are tags: four
digits with the interval behind them (text_of). Its charts draw no intervals either: beside each stands one of these.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from experiments.tracking.rows import ERROR, HALF, NORMAL, SEEDS
from tokenbridge.metrics.catalogue import metric, telling
from tokenbridge.store.artifacts import digest

ALL = "tokenbridge"
"""key of the view of all sweeps and cells"""
ASIDE = ("training", "report", "superseded")
"""kinds of runs that a list of cells leaves out"""
ABSENT = ""
"""the value of a setting that a run does not read, as levels of continuous tokens"""
MEMBER, LISTED = "yes", "row"
"""values of a sweep's tag: a run of it; one that its report shows as a row, by itself or with its seeds below"""
LETTER, AROUND, NARROWEST, WIDEST = 8, 40, 110, 480
"""pixels of a column: a letter of its title, what stands around it, at least and at most"""
NAME, TEXT, BEST = "attributes.`Run Name`", "2.2500 ± 0.1234 †", "best 2.2500 ± 0.1234 †: a name of that length"
"""the column of names; the longest of most texts: of a run's metric, of a sweep's"""
CHARTS, PATHS, ACROSS, HIGH = 6, 5, 2, 400
"""charts of metrics; settings that one chart has side by side; charts in a row, and their height in pixels"""

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


def text_of(key: str, metrics: Mapping[str, float]) -> str:
    """A metric in four digits, with the half-width of its 95 % interval: over seeds, or behind † over images alone.

    Args:
        key: of the metric; a share is in per cent.
        metrics: of the run, by key.
    """
    of = metric(key)
    scale = of.scale if of.unit else 1.0  # else the key does not say what it is scaled by
    half, mark = metrics.get(f"{key}{HALF}"), ""
    if half is None and (error := metrics.get(f"{key}{ERROR}")) is not None:
        half, mark = NORMAL * error, " †"
    text = _digits(metrics[key] * scale, 4)
    text += "" if half is None or half != half else f" ± {_digits(half * scale, 2)}{mark}"
    return f"{text} {of.unit}".rstrip()


def _digits(value: float, count: int) -> str:
    """A number with so many digits, and with all of its whole ones."""
    return f"{value:.0f}" if 10**count <= abs(value) < 1e15 else f"{value:.{count}g}"


def texts(metrics: Mapping[str, float]) -> dict[str, str]:
    """The tags by which lists show a run's metrics: of those that say better or worse."""
    return {key: text_of(key, metrics) for key in telling(metrics)}


def of_sweep(
    sweep: str,
    varying: Mapping[str, Collection[str]],
    measured: Collection[str],
    listed: str = "",
    names: Iterable[str] = (),
) -> View:
    """The view of a sweep: its runs from the best to the worst, with what varies, the main metrics and charts of these.

    Args:
        sweep: its name.
        varying: settings that differ between the runs that it lists, with their values; ABSENT where it is not read.
        measured: metrics that these have; without a main one the runs are in the order of their names.
        listed: LISTED for those alone that its report shows as rows; empty for all of its runs.
        names: of the runs that it lists.
    """
    metrics = telling(measured)
    first, others = _of_metrics(measured)
    columns = first + [f"params.`{key}`" for key in varying] + others
    order = {"orderByKey": "attributes.`run_name`", "orderByAsc": True}
    if metrics:
        order = {"orderByKey": f"metrics.`{metrics[0]}`", "orderByAsc": direction(metrics[0]) > 0}
    own = (
        f"tags.`{member_tag(sweep)}` " + (f"= '{listed}'" if listed else "LIKE '%'") + " and tags.kind != 'superseded'"
    )
    read = [key for key, values in varying.items() if ABSENT not in values]
    return {"searchFilter": own} | order | _columns(columns, names) | _charts(read, metrics, measured)


def of_all(varying: Sequence[str], measured: Collection[str], sweeps: bool, names: Iterable[str] = ()) -> View:
    """The view of all cells by name; where there are sweeps, of these, with their rows and cells below when unfolded.

    Args:
        varying: settings that differ between cells.
        measured: metrics that cells, rows or sweeps have.
        sweeps: whether there are sweeps.
        names: of the runs that it lists.
    """
    first, others = _of_metrics(measured)
    columns = first + [f"params.`{key}`" for key in varying] + others
    if not sweeps:
        order = {"orderByKey": "attributes.`run_name`", "orderByAsc": True}
        return {"searchFilter": "tags.kind = 'cell'"} | order | _columns(columns, names)
    # the page draws a tree in the order of time alone, and its filter has no `or`
    aside = " and ".join(f"tags.kind != '{kind}'" for kind in ASIDE)
    columns = [*first, *others, *(f"params.`{key}`" for key in varying)]  # which sweeps have as well, and settings not
    columns += [f"metrics.`{key}`" for key in ("cells", "cells_finished") if key in measured]
    view = {"searchFilter": aside, "orderByKey": "attributes.start_time", "orderByAsc": False}
    return view | _columns(columns, names, BEST)


def varying(settings: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Settings that have more than one value, with these; ABSENT is the one of a run that does not have the setting."""
    keys = dict.fromkeys(key for each in settings for key in each)
    values = {key: list(dict.fromkeys(each.get(key, ABSENT) for each in settings)) for key in keys}
    return {key: several for key, several in values.items() if len(several) > 1}


def direction(key: str) -> int:
    """1 where lower is better, -1 where higher is, 0 where the catalogue does not say."""
    return {"lower": 1, "higher": -1, "": 0}[metric(key).better]


def _of_metrics(measured: Collection[str]) -> tuple[list[str], list[str]]:
    """Columns of the main metric and the number of seeds; those of the other metrics that say better or worse."""
    tags = [f"tags.`{key}`" for key in telling(measured)]
    return tags[:1] + [f"metrics.`{SEEDS}`"] * (SEEDS in measured), tags[1:]


def _columns(columns: Sequence[str], names: Iterable[str], text: str = TEXT) -> View:
    """Columns in this order, each as wide as its title, those of names and of texts as what they hold."""
    longest = {NAME: max(map(len, names), default=0) + 4}  # a mark and its colour stand before it
    longest |= {column: len(column.split("`")[1]) for column in columns}
    longest |= {column: max(len(text), longest[column]) for column in columns if column.startswith("tags.")}
    widths = {column: min(max(NARROWEST, LETTER * length + AROUND), WIDEST) for column, length in longest.items()}
    last = ["runDateAndNestInfo", "duration"]
    return {"selectedColumns": [*columns], "columnOrder": ["1", NAME, *columns, *last], "columnWidths": widths}


def _charts(varying: Sequence[str], metrics: Sequence[str], measured: Collection[str]) -> View:
    """What the chart view opens with: of each metric bars, beside their errors, and settings against the main one.

    Args:
        varying: settings that all runs have: a run without one would not be in the chart of settings.
        metrics: those that say better or worse.
        measured: these and their errors.
    """
    if not metrics:
        return {}
    common = {"deleted": False, "isGenerated": False, "runsCountToCompare": 20}
    cards: list[dict[str, Any]] = []
    for key in metrics[:CHARTS]:
        error = next((each for each in (f"{key}{HALF}", f"{key}{ERROR}") if each in measured), None)
        bars = [{"type": "BAR", "uuid": f"bar-{each}", "metricKey": each} for each in (key, error) if each]
        cards += [common | {"metricSectionId": "main"} | bar for bar in bars]
    shape = {"display": True, "isReordered": False, "cardHeight": HIGH}
    sections = [{"uuid": "main", "name": "main results", "columns": ACROSS} | shape]
    if varying:  # over the whole width, or names of settings overlap
        few, main = [*varying[:PATHS]], metrics[:1]
        paths = {"type": "PARALLEL", "uuid": "settings", "selectedParams": few, "selectedMetrics": main}
        cards.append(common | {"metricSectionId": "settings"} | paths)
        sections.append({"uuid": "settings", "name": "settings", "columns": 1} | shape)
    # the page adds a section for each prefix of a metric, before ours unless it is told that the order is meant
    view = {"compareRunCharts": cards, "compareRunSections": sections, "isAccordionReordered": True}
    return view | {"runsHiddenMode": "FIRST_20_RUNS"}
