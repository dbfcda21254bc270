"""Guidance and temperature of a report's rows: the points of their search and the one that each row uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis import stats
from analysis.frame.source import Source
from analysis.stats import Setting, edges
from analysis.tables.filled import csv_text
from experiments.paper.plan import point_text
from tokenbridge.config import UserError


@dataclass(frozen=True)
class Chosen:
    """The point of the search that one or several rows use (rows with the same cells: one model)."""

    rows: tuple[str, ...]
    guidance: float
    temperature: float
    value: float
    """the metric at that point, the mean over training seeds"""
    edges: tuple[str, ...]
    """where the point ends the grid, so that the best may lie beyond: "lowest guidance"; empty inside it"""


def chosen(source: Source) -> list[Chosen]:
    """The point that each row's search chose, as the plan tells it."""
    plan = source.plan.get("search") or {}
    searches: dict[str, dict[Setting, list[float]]] = {}
    for point in points(source):
        setting = (point["guidance"], point["temperature"])
        searches.setdefault(point["row"], {}).setdefault(setting, []).append(point[plan["metric"]])
    sets: dict[tuple[Setting, tuple[tuple[Setting, float], ...], tuple[str, ...]], list[str]] = {}
    for row, values in searches.items():
        means = {setting: stats.estimate(v).mean for setting, v in values.items()}
        told = plan.get("chosen", {}).get(row, {})
        setting = (told.get("sample.guidance"), told.get("sample.temperature"))
        if setting not in means:
            values = point_text(told).replace(", ", " and ") or "no values"
            raise UserError(f"plan.json: {values} chosen for {row} are no point of its search; write the source again")
        cells = source.cells(*row.split(" ", 1))
        sets.setdefault((setting, tuple(means.items()), tuple(cells)), []).append(row)
    return [
        Chosen(tuple(rows), *setting, dict(means)[setting], _ends(setting, dict(means), plan.get("bounds", {})))
        for (setting, means, _), rows in sets.items()
    ]


def _ends(setting: Setting, settings: Iterable[Setting], bounds: Mapping[str, float]) -> tuple[str, ...]:
    """The ends of the grid that a point is at; one at which the search had to end says so."""
    at = {f"lowest {key.rpartition('.')[2]}": bound for key, bound in bounds.items()}
    values = {"lowest guidance": setting[0], "lowest temperature": setting[1]}
    return tuple(
        f"{end} (the search's bound)" if end in at and values[end] <= at[end] else end
        for end in edges(setting, settings)
    )


def points(source: Source) -> list[dict[str, Any]]:
    """The points of the search for rows of the report: each names its row as `<table> <label>`."""
    tables = {table.id for table in source.tables}
    every = (source.plan.get("search") or {}).get("points", [])
    return [point for point in every if point["row"].partition(" ")[0] in tables]


def to_csv(source: Source) -> str:
    """Every point of the search: row, guidance, temperature, training seed, the metric, whether the row uses it."""
    tried = points(source)
    if not tried:
        return ""
    metric = source.plan["search"]["metric"]
    lines = [["row", "guidance", "temperature", "train_seed", metric, "chosen"]]
    used = {(row, point.guidance, point.temperature) for point in chosen(source) for row in point.rows}
    for point in tried:
        setting = (point["row"], point["guidance"], point["temperature"])
        values = [point["row"], *(f"{value:.10g}" for value in setting[1:]), point.get("train_seed", "")]
        lines.append([*values, f"{point[metric]:.10g}", "yes" if setting in used else ""])
    return csv_text(lines)
