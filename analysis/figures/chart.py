"""A chart of any frame: a number against a setting or another number, by a third, with the intervals of the reports."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from analysis import stats
from analysis.figures.form import BETTER, MARKERS, WIDTH, spread, style, whole
from analysis.stats import Estimate
from analysis.tables.protocol import parted, reasons
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import metric
from tokenbridge.overrides import near, plain

HEIGHT = 3.6
MEASURED = ("data.", "score.", "sample.images")
"""settings by which images and scorers differ: only a chart that shows them puts such numbers side by side"""
SEED = "train.seed"


def plot(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None, dark: bool = False
) -> Axes:
    """Draw a number of runs against a setting or another number, as the charts of a report.

    >>> import analysis, pandas as pd
    >>> frame = pd.DataFrame({"quantizer.levels": [8, 8, 64, 64], "train.seed": [0, 1, 0, 1],
    ...                       "score/fd_digits": [3.1, 3.3, 2.8, 2.6]})
    >>> axes = analysis.plot(frame, x="quantizer.levels", y="score/fd_digits")
    >>> axes.get_ylabel(), axes.get_xscale()
    ('fd_digits, lower is better', 'log')

    A marker is the mean over training seeds with its 95 % Student t interval; of one training, the number with its
    interval over images, where the frame has one. Settings that neither x nor hue shows are averaged over, seed by
    seed. An axis is logarithmic where its values are positive and spread widely, y only where the metric varies in
    proportion to itself.

    Args:
        frame: one row per run, such as `analysis.runs("runs")` or what `tb.grid` returns.
        x: a column: a setting or a metric.
        y: a column of numbers, such as "score/fd_digits"; a metric is drawn in its unit.
        hue: a column whose values have colours and markers of their own.
        ax: where to draw; by default a new figure.
        dark: draw a new figure for a dark page.

    Returns:
        The axes, for whatever matplotlib can add.

    Raises:
        UserError: a column that is not there or has no number, rows that were measured in different ways.
    """
    shown = _rows(frame, x, y, hue)
    points = _points(shown, x, y, hue)
    with style(dark):
        if ax is None:
            ax = plt.subplots(figsize=(WIDTH, whole(HEIGHT)), layout="constrained")[1]
        _draw(ax, points, hue, joined="/" not in x and _numbers(_column(points, "x")))
        _name_axes(ax, points, x, y)
    return ax


def _rows(frame: pd.DataFrame, x: str, y: str, hue: str | None) -> pd.DataFrame:
    """The rows that have a number, of one protocol."""
    for name, key in (("x", x), ("y", y), ("hue", hue)):
        if key is not None and key not in frame:
            close = near(key, map(str, frame.columns))
            raise UserError(f"{name}={key} is no column{f'; did you mean {close[0]}?' if close else ' of the frame'}")
    if not _numbers(_column(frame, y).infer_objects()):
        raise UserError(f"y={y} holds no numbers; give a metric, such as score/fd_digits")
    shown = frame.loc[_column(frame, y).notna()].infer_objects()
    if shown.empty:
        raise UserError(f"y={y} has no number in {len(frame)} rows; run the stage {y.partition('/')[0]} of some first")
    if infinite := sum(map(math.isinf, shown[y])):
        raise UserError(f"y={y} is infinite in {infinite} rows; leave them out of the frame")
    there = _column(shown, x).notna()
    if empty := len(shown) - int(there.sum()):
        if empty == len(shown):
            raise UserError(f"x={x} is empty in all {empty} rows with a number; nothing of these runs reads it")
        warnings.warn(f"{empty} of {len(shown)} rows have no {x} and are not shown", stacklevel=3)
    shown = shown.loc[there].infer_objects()  # a report's source has whole numbers as objects
    _require_one_protocol(shown, x, y, hue)
    return shown


def _require_one_protocol(rows: pd.DataFrame, x: str, y: str, hue: str | None) -> None:
    column = f"protocol.{y.partition('/')[0]}"
    if "/" not in y or column not in rows:
        return
    settings = [str(key) for key in rows.columns if "." in str(key)]
    beside = (*MEASURED, "protocol.", "stage.")
    varied = [key for key in settings if key in (x, hue) or not key.startswith(beside)]
    names = rows["name"] if "name" in rows.columns else rows.index
    protocols = [_protocol(value) for value in rows[column]]
    told = [{str(key): str(value) for key, value in row.items()} for row in rows.to_dict("records")]
    found = parted(
        y,
        list(zip(map(str, names), protocols, strict=True)),
        lambda field: [tuple(row.get(key, "") for key in reasons(field, varied)) for row in told],
    )
    if found:
        field, (first, there), (second, here) = found
        raise UserError(
            f"{y}: {field}={there} in {first} but {here} in {second}; a chart holds one protocol: choose the rows of"
            " one, or show what differs as hue"
        )


def _protocol(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else json.loads(value) if isinstance(value, str) else {}


def _points(rows: pd.DataFrame, x: str, y: str, hue: str | None) -> pd.DataFrame:
    """A row for each marker and each end of its interval: x, y, hue as text."""
    across, named = _column(rows, x), [_text(value) for value in rows[hue]] if hue else [""] * len(rows)
    places = (across * _scale(x) if _numbers(across) else across.map(plain)).tolist()
    groups: dict[tuple[str, Any], list[int]] = {}
    for i, key in enumerate(zip(named, places, strict=True)):
        groups.setdefault(key, []).append(i)
    points = list[tuple[Any, float, str]]()
    for (name, place), members in groups.items():
        value = _estimate(rows.iloc[members], y)
        ends = () if value.half is None else (value.mean - value.half, value.mean + value.half)
        points += [(place, end, name) for end in (value.mean, *ends)]
    # numbers by size, words in the order in which they come
    order = rows.sort_values(hue)[hue].map(_text) if hue and _numbers(_column(rows, hue)) else named
    kind = pd.CategoricalDtype(list(dict.fromkeys(order)))
    return pd.DataFrame(points, columns=pd.Index(["x", "y", "hue"])).astype({"hue": kind})


def _estimate(group: pd.DataFrame, y: str) -> Estimate:
    """The number of a marker, as tables have it: a stage that several runs share is one measurement."""
    stage, scale = f"stage.{y.partition('/')[0]}", _scale(y)
    if stage in group:
        group = group.drop_duplicates(stage)
    seeds: Sequence[Hashable] = group[SEED].tolist() if SEED in group else group.index.tolist()
    error = group.get(f"{y}_se")
    single = float(error.iloc[0]) * scale if error is not None and len(group) == 1 else math.nan
    return stats.estimate((group[y] * scale).tolist(), seeds, None if math.isnan(single) else single)


def _draw(ax: Axes, points: pd.DataFrame, hue: str | None, joined: bool) -> None:
    names = list(_column(points, "hue").cat.categories)
    if len(names) > len(MARKERS):
        raise UserError(f"hue={hue} has {len(names)} values, and a chart tells {len(MARKERS)} apart; choose fewer rows")
    form: dict[str, Any] = {
        "x": "x",
        "y": "y",
        "hue": "hue",
        "palette": {name: to_hex(colour) for name, (colour, _) in zip(names, MARKERS, strict=False)},
        "markers": [marker for _, marker in MARKERS[: len(names)]],
        "estimator": "median",  # of a mean and the ends of its interval
        "errorbar": ("pi", 100),
        "err_kws": {"linewidth": 1.2},
        "legend": bool(hue),
        "linewidth": 1.4,
        "linestyle": "-" if joined else "none",
        "markersize": 6,
        "ax": ax,
    }
    if _numbers(_column(points, "x")):
        sns.lineplot(points, style="hue", dashes=False, err_style="bars", markeredgewidth=0, **form)
    else:
        beside: Any = 0.06 * len(names) if len(names) > 1 else False
        sns.pointplot(points, dodge=beside, **form)
    if hue:
        ax.legend(title=_title(hue))


def _name_axes(ax: Axes, points: pd.DataFrame, x: str, y: str) -> None:
    values, about = points["y"].tolist(), metric(y)
    better = BETTER[about.better] if "/" in y else ""
    named = ", ".join(filter(None, (_title(y), better)))
    ax.set_ylabel(named)
    if about.spread == "log":
        spread(ax, "y", named, values)
    ax.set_xlabel(_title(x))
    if _numbers(_column(points, "x")):
        spread(ax, "x", _title(x), points["x"].tolist())


def _title(key: str) -> str:
    about = metric(key)
    return ", ".join(filter(None, (about.title, about.unit))) if "/" in key else key


def _scale(key: str) -> float:
    return metric(key).scale if "/" in key else 1.0


def _text(value: Any) -> str:
    return "none" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else plain(value)


def _column(frame: pd.DataFrame, key: str) -> pd.Series:
    return cast(pd.Series, frame[key])


def _numbers(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
