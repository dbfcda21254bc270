"""The figure of training: curves of the models of table 2a, with bands over their seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.form import MARKERS, Drawing, charts, csv_of, face, grey
from analysis.frame.source import Source
from analysis.stats import number, signed
from experiments.paper import TABLE_2A

COLUMNS = ["model", "key", "step", "mean", "low", "high", "seeds"]
LATE = 0.9
"""share of the steps after which the caption tells of changes"""
LINES: dict[str, tuple[Any, str]] = {
    "loss": ("-", "training"),
    "validation_loss": ("--", "validation, averaged weights"),
    "held_out_loss": ("--", "test, averaged weights"),  # of runs that had no validation images
}
"""curve -> its line and name"""


def training(source: Source) -> Drawing | None:
    """Loss and learning rate of the models of table 2a."""
    models = {source.stage(id, "train"): cell.label for cell, ids in source.rows(TABLE_2A) for id in ids}
    curves = source.curves[source.curves["stage"].isin(list(models))]
    if curves.empty:
        return None
    curves = curves.assign(model=[models[stage] for stage in curves["stage"]])
    groups = curves.groupby(["model", "key", "step"], sort=False)["value"]
    bands = groups.agg(mean="mean", low="min", high="max", seeds="count").reset_index()
    most = max(map(int, bands["seeds"].tolist()))
    over = f"Lines: the mean of {most} training seeds; bands: from the lowest seed to the highest." if most > 1 else ""
    caption = (
        "Negative log-likelihood of masked tokens during training, in nats per channel (lower is better); a random"
        " guess among B levels costs ln B. Dashed: the averaged weights, which are those that the tables measure, on"
        f" images that training does not see. {over or 'One training seed.'}{_late(bands)}"
    )
    alt = "Loss on training images and others and the learning rate against the training step"
    data = csv_of(COLUMNS, bands[COLUMNS].itertuples(index=False, name=None))
    return Drawing("training", "Training", caption, alt, _chart(bands), "2a", data)


def _late(bands: pd.DataFrame) -> str:
    """What the last tenth of the steps changed in the loss on other images, as a sentence; empty where none was read.

    Args:
        bands: as for the chart.
    """
    told, held = [], bands[bands["key"].isin([key for key in LINES if key != "loss"])]
    for model in dict.fromkeys(held["model"]):
        curve = held[held["model"] == model]
        values: dict[int, float] = dict(zip(curve["step"].tolist(), curve["mean"].tolist(), strict=True))
        end = max(values)
        if before := [value for step, value in values.items() if step <= LATE * end]:
            told.append(f"{model} {signed(values[end] - before[-1], 4)} to {number(values[end], 4)}")
    if not told:
        return ""
    return (
        f" Its change over the last tenth of the steps: {', '.join(told)}. Small changes there are not"
        " convergence: the learning rate has nearly reached its end, and a longer training may read lower."
    )


def _chart(bands: pd.DataFrame) -> Figure:
    """Loss above, learning rate below. bands: one row per COLUMNS[:3], mean, lowest and highest over its seeds."""
    figure, (loss, rate) = charts(5.2, 2, height_ratios=(3, 1), sharex=True)
    looks = dict(zip(dict.fromkeys(bands["model"]), MARKERS, strict=False))
    present = [key for key in LINES if key in set(bands["key"])]
    for model, (colour, marker) in looks.items():
        for key in present:
            band = bands[(bands["model"] == model) & (bands["key"] == key)]
            every = max(1, len(band) // 8)  # markers tell the models apart where colours do not
            look = {"marker": marker, "markevery": every, "markersize": 4, "linewidth": 1.3}
            look |= {"linestyle": LINES[key][0], "markerfacecolor": face(key != "loss", colour)}
            loss.plot(band["step"], band["mean"], color=colour, **look)
            loss.fill_between(band["step"], band["low"], band["high"], color=colour, alpha=0.25, linewidth=0)
    handles = [Line2D([], [], color=c, marker=m, markersize=4, label=model) for model, (c, m) in looks.items()]
    handles += [Line2D([], [], color=grey(), linestyle=LINES[key][0], label=LINES[key][1]) for key in present]
    loss.set_ylabel("loss, nats per channel")
    loss.legend(handles=handles, loc="upper right", ncols=2, columnspacing=2)
    _draw_rates(rate, bands.query("key == 'learning_rate'"), looks)
    rate.set(xlabel="step", ylabel="learning rate", xlim=(0, bands["step"].max()))
    return figure


def _draw_rates(axes: Axes, rates: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    schedules = {tuple(rows["mean"]): str(model) for model, rows in rates.groupby("model", sort=False)}
    # one schedule for all: one line in no model's colour
    colours = {model: grey() if len(schedules) == 1 else looks[model][0] for model in schedules.values()}
    shown = rates.query("model in @colours")
    sns.lineplot(shown, x="step", y="mean", hue="model", palette=colours, ax=axes, legend=False, linewidth=1.3)
