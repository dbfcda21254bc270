"""The plan of a report, runs/plans/NAME.json: which cell fills which row or point, and how that was chosen.

A grid writes it; the folder that a report is built from holds a copy as plan.json. Keys: name, title, preset, typed
(the words that make the base, where that takes more than the preset), base (a whole configuration); tables, rows
(table, label, cell); partial, the tables of which some rows alone were asked for; search (metric, chosen, points, ...);
duel, the keys of its two rows; command, what was typed where one command made all; looks, the seeds at each look;
points, those that all rows of a table have; confidence (strength, cell); axes (key, values), each, cells (cell, values,
seed); samples of other programs (label; cells, one for each set; from, their paths), which are rows of each table of
samples; notes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.paper import RECONSTRUCT, TABLES
from tokenbridge.config import UserError
from tokenbridge.overrides import plain
from tokenbridge.store.artifacts import read_json, require_folder, writable, write_json
from tokenbridge.store.runs import require_name

Plan = dict[str, Any]
_AGAIN = "delete it and give its command again"
LISTS = {
    "rows": {"table", "label", "cell"},
    "cells": {"values", "seed", "cell"},
    "confidence": {"strength", "cell"},
    "samples": {"label", "cells", "from"},
}
"""lists of a plan, and what each of their entries has"""
DATA = {"source", "path", "image_size"}
"""settings of base.data that a report names"""


def file(runs: Path, name: str) -> Path:
    """The file of a report's plan.

    Raises:
        UserError: a name that no report can have.
    """
    require_name(name, "")
    return runs / "plans" / f"{name}.json"


def names(runs: Path) -> list[str]:
    """Names of the plans in a runs folder, sorted."""
    return sorted(path.stem for path in (runs / "plans").glob("*.json"))


def read(path: Path, remedy: str = _AGAIN) -> Plan:
    """A plan with what every report needs of it.

    Raises:
        UserError: naming the file, what it must hold and the remedy.
    """
    plan = read_json(path, remedy)
    if not isinstance(plan, dict):
        raise UserError(f"{path} must hold a JSON object; {remedy}")
    base = plan.get("base")
    if not isinstance(base, dict) or not {"rows", "title"} <= plan.keys() or not {*(base.get("data") or ())} >= DATA:
        raise UserError(f"{path} must have title, base (a configuration) and rows; {remedy}")
    for name, keys in LISTS.items():
        entries = plan.get(name) or []
        if not isinstance(entries, list) or not all(isinstance(e, dict) and keys <= e.keys() for e in entries):
            raise UserError(f"{path}: {name} must be a list of objects with {', '.join(sorted(keys))}; {remedy}")
    if not isinstance(plan.get("partial", []), list):
        raise UserError(f"{path}: partial must be a list of tables; {remedy}")
    return plan


def write(runs: Path, plan: Plan) -> None:
    """Write a plan under its name; tables and points of an earlier one stay where it had the same base."""
    path = file(runs, plan["name"])
    replace(runs, merged(read(path), plan) if path.exists() else plan)


def replace(runs: Path, plan: Plan) -> None:
    """Write a plan in place of an earlier one of its name."""
    path = file(runs, plan["name"])
    with writable(path.parent):
        write_json(path, plan)


def entries(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every cell that a plan names, with where it does."""
    cells = [(f"table {row['table']}", row["cell"]) for row in plan["rows"]]
    cells += [("the axes", entry["cell"]) for entry in plan.get("cells") or []]
    cells += [("confidence", entry["cell"]) for entry in plan.get("confidence") or []]
    return cells + [(f"samples {row['label']}", id) for row in plan.get("samples") or [] for id in row["cells"]]


def require_room(runs: Path, name: str) -> None:
    """Raise UserError where a plan cannot be written, before what it is about runs."""
    require_folder((path := file(runs, name)).parent)
    if path.exists():
        read(path)


def ranked(values: Sequence[float], better: str) -> list[int]:
    """Positions from the best value to the worst, by which points and rows are chosen; of equals the first, NaN last.

    Args:
        values: the metric of each point.
        better: which way is better, "lower" or "higher".
    """
    sign = -1 if better == "higher" else 1
    return sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), sign * values[i]))


def point_text(point: Mapping[str, Any]) -> str:
    """A point of a plan for a reader: guidance 1.5, temperature 0.9."""
    values = {key: f"{value:g}" if isinstance(value, float) else plain(value) for key, value in point.items()}
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())


def merged(before: Mapping[str, Any], plan: Plan) -> Plan:
    """The plan, with those tables and points of an earlier one that it does not have itself.

    Args:
        before: the earlier plan; one on another base adds nothing, a duel and reconstructions of own images add
            samples of other programs alone.
        plan: the new one.
    """
    if before.get("base") != plan["base"]:
        return plan
    plan = plan | ({"samples": before["samples"]} if before.get("samples") else {})
    if any("duel" in each or RECONSTRUCT in each.get("tables", ()) for each in (before, plan)):
        return plan
    kept = [id for id in before.get("tables", ()) if id not in plan["tables"]]
    partial, new = plan.get("partial", ()), {_key(row) for row in plan["rows"]}
    rows = [r for r in before["rows"] if r["table"] in kept or (r["table"] in partial and _key(r) not in new)]
    return plan | {
        "tables": [id for id in TABLES if id in kept or id in plan["tables"]],
        **({"partial": some} if (some := [*partial, *(i for i in before.get("partial", ()) if i in kept)]) else {}),
        "rows": rows + plan["rows"],
        "search": _merged_search(before.get("search") or {}, plan.get("search") or {}, {_key(row) for row in rows}),
        **({"looks": looks} if (looks := plan.get("looks") or before.get("looks")) else {}),
        "points": {id: point for id, point in before.get("points", {}).items() if id in kept} | plan.get("points", {}),
        "confidence": plan.get("confidence") or before.get("confidence", []),
        **_merged_axes(before, plan),
    }


def _key(row: Mapping[str, str]) -> str:
    return f"{row['table']} {row['label']}"


def _merged_search(old: Mapping[str, Any], search: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """One search of both; of the earlier one what rows use that are kept, by their keys."""
    latest = search if search.get("chosen") else old or search  # how the latest search was done, if there was one
    if not latest:
        return {}
    earlier = {key: value for key, value in old.get("chosen", {}).items() if key in kept}
    points = [point for point in old.get("points", ()) if point["row"] in kept]
    return {
        **latest,
        "chosen": earlier | search.get("chosen", {}),
        "points": points + list(search.get("points", ())),
    }


def _merged_axes(before: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Axes with the values of both, and the cells of both; where only one varies a setting, the other has the base's.

    The request's order of values, of which the first is what effects refer to, where it names all; else earlier ones
    come first.
    """
    old, new = ({axis["key"]: axis["values"] for axis in each.get("axes", ())} for each in (before, plan))
    axes = []
    for key in dict.fromkeys([*old, *new]):
        first, second = old.get(key, []), new.get(key, [])
        if all(value in second for value in first):
            first, second = second, []
        axes.append({"key": key, "values": first + [value for value in second if value not in first]})
    base = {axis["key"]: _setting(plan["base"], axis["key"]) for axis in axes}
    cells = [cell | {"values": base | cell["values"]} for cell in (*before.get("cells", ()), *plan.get("cells", ()))]
    each = plan.get("each") or before.get("each", False)
    return {"axes": axes, "each": each, "cells": list({cell["cell"]: cell for cell in cells}.values())}


def _setting(base: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return base[section][name]
