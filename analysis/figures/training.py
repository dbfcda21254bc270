"""The figure of training: curves of the models of table 2a, with bands over their seeds."""

from __future__ import annotations

from analysis.figures import charts
from analysis.figures.form import Drawing
from analysis.figures.look import table
from analysis.frame.source import Source
from experiments.paper import TABLE_2A


def training(source: Source) -> Drawing | None:
    """Loss and learning rate of the models of table 2a."""
    named = {source.stage(id, "train"): cell.label for cell, ids in source.rows(TABLE_2A) for id in ids}
    curves = source.curves[source.curves["stage"].isin(list(named))]
    if curves.empty:
        return None
    curves = curves.assign(model=[named[stage] for stage in curves["stage"]])
    groups = curves.groupby(["model", "key", "step"], sort=False)["value"]
    bands = groups.agg(mean="mean", low="min", high="max", seeds="count").reset_index()
    most = max(map(int, bands["seeds"].tolist()))
    over = f"Lines: the mean of {most} training seeds; bands: from the lowest seed to the highest." if most > 1 else ""
    caption = (
        "Negative log-likelihood of masked tokens during training, in nats a channel (lower is better); a random guess"
        " among B levels costs ln B. Held-out: the averaged weights, which are those that the tables measure, on images"
        f" that training does not see. {over or 'One training seed.'}"
    )
    alt = "Training and held-out loss and the learning rate against the training step"
    columns = ["model", "key", "step", "mean", "low", "high", "seeds"]
    data = table(columns, bands[columns].itertuples(index=False, name=None))
    return Drawing("training", "Training", caption, alt, charts.training(bands), "2a", data)
