"""What each metric of the frame is: title, unit, direction, meaning, and the column that holds its protocol."""

from __future__ import annotations

import pandas as pd

from tokenbridge.metrics.catalogue import metric

FIELDS = ("title", "unit", "scale", "better", "meaning", "stage", "protocol")


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
        stage, of = key.partition("/")[0], metric(key)
        protocol = f"protocol.{stage}" if f"protocol.{stage}" in frame else ""
        rows.append((of.title, of.unit, of.scale, of.better, of.meaning, stage, protocol))
    return pd.DataFrame(rows, index=pd.Index(keys, name="metric", dtype="str"), columns=pd.Index(FIELDS)).astype(
        {"scale": "float64"} | {field: "str" for field in FIELDS if field != "scale"}
    )
