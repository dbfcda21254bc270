"""What each metric of the frame is: title, unit, direction, meaning, and the column that holds its protocol."""

from __future__ import annotations

from functools import cache

import pandas as pd

from experiments.paper import TABLES, Column
from experiments.paper.scored import every

FIELDS = ("title", "unit", "scale", "better", "meaning", "stage", "protocol")
OURS = "_digits"
"""ending of metrics whose features the shipped digit classifier sees; other networks' metrics end otherwise"""
DERIVED = {
    "_se": "standard error of {}",
    "_spread": "spread of {} over the repetitions",
    "_floor": "{} of as many real images, which no generator can beat",
    "_floor_images": "images behind the floor of {}",
}


def describe(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a metric column of the frame, indexed by its name, all as text but scale.

    title; unit, of value × scale; better ("lower", "higher" or empty); meaning, one sentence; stage, the kind of stage
    that measured it; protocol, the column of the frame that says how (JSON), or empty.

        frame = load.runs("runs")
        about = load.describe(frame)
        about.loc["score/agreement", ["title", "unit", "scale", "better"]]   # agreement, %, 100.0, higher
        frame["score/agreement"] * about.loc["score/agreement", "scale"]     # in that unit
        frame[about.loc["score/agreement", "protocol"]]                      # how each was measured
    """
    keys = [str(key) for key in frame.columns if "/" in str(key)]
    rows = []
    for key in keys:
        stage, column = key.partition("/")[0], _column(key)
        protocol = f"protocol.{stage}" if f"protocol.{stage}" in frame else ""
        rows.append((column.title, column.unit, column.scale, column.better, column.meaning, stage, protocol))
    return pd.DataFrame(rows, index=pd.Index(keys, name="metric", dtype="str"), columns=pd.Index(FIELDS)).astype(
        {"scale": "float64"} | {field: "str" for field in FIELDS if field != "scale"}
    )


def _column(key: str) -> Column:
    known, name = _known(), key.partition("/")[2]
    if key in known:
        return known[key]
    for ending, meaning in sorted(DERIVED.items(), key=lambda item: -len(item[0])):
        if key.endswith(ending):
            of = _column(key.removesuffix(ending))
            about = meaning.format(of.title)
            counted = ending == "_floor_images"
            return Column(
                key, name, "", unit="" if counted else of.unit, scale=1 if counted else of.scale, meaning=about
            )
    like = known.get(f"{key.rpartition('_')[0]}{OURS}")  # the same with features of another network
    return Column(key, name, like.better if like else "", unit=like.unit if like else "")


@cache
def _known() -> dict[str, Column]:
    return {column.key: column for table in TABLES.values() for column in every(table.measured)}
