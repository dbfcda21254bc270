"""The figure of the search for guidance and temperature."""

from __future__ import annotations

from analysis import stats
from analysis.figures.form import Drawing
from analysis.figures.look import table
from analysis.figures.search_charts import OPEN, Panel, heat_maps
from analysis.frame.source import Source
from analysis.stats import Place
from analysis.tables.search import Chosen, chosen
from experiments.paper import TABLE_HEADS
from tokenbridge.config import TRAINED_TOKENS

MOST = 12
"""panels that one figure holds"""


def search(source: Source) -> Drawing | None:
    """The metric at each point that was tried, for one row of each kind of token and head."""
    told = source.plan.get("search") or {}
    every = [each for each in chosen(source) if _is_searched(source, each)]
    rows = _shown(source, every)
    panels = [_panel(source, name, each) for name, each in rows]
    if not panels:
        return None
    seeds = max(len(value.values) for panel in panels for value in panel.values.values())
    metric = told["metric"]
    caption = (
        f"{metric} (lower is better, lighter) at each guidance and temperature that was tried, before the images of the"
        f" tables were made{_of_images(told.get('images'))}. Frame: the point that the row uses."
    )
    if seeds > 1:
        caption += (
            f" Values are means over {seeds} training seeds; ±: the 95 % Student t interval over them. {OPEN}: not"
            " settled to be worse than the framed point, as the paired 95 % interval of the difference over seeds holds"
            " zero; all others are settled worse, each by itself, without a correction for the number of points. The"
            " framed point was chosen by these numbers, so its own value is a little too good; the tables have new"
            " images."
        )
    else:
        caption += " One training seed: no point is settled to be worse than another."
    if len(rows) < len(every):
        caption += f" {len(rows)} of {len(every)} searches are shown; tables/search.csv has every point."
    alt = f"Heat maps of {metric} by guidance and temperature, one a row, with the chosen point framed"
    data = table(
        ["row", "guidance", "temperature", f"mean {metric}", "half-width", "seeds", "chosen", "settled worse"],
        [
            (panel.name, *place, value.mean, value.half, value.seeds, *_said(panel, place))
            for panel in panels
            for place, value in panel.values.items()
        ],
    )
    title = "The search for guidance and temperature"
    return Drawing("search", title, caption, alt, heat_maps(panels), rows[0][1].rows[0].partition(" ")[0], data)


def _of_images(told: object) -> str:
    """How many images a point had, as the plan tells it: a number, or words that say of what."""
    return f" ({told} images)" if isinstance(told, int) else f" (images {told})" if told else ""


def _is_searched(source: Source, chosen: Chosen) -> bool:
    """Whether the row ran, and more than one point was tried for it."""
    return bool(source.cells(*chosen.rows[0].split(" ", 1))) and len(_values(source, chosen)) > 1


def _shown(source: Source, every: list[Chosen]) -> list[tuple[str, Chosen]]:
    """Names and searches to show: of table heads those at the base's levels, where there are any; else the first."""
    found = []
    for each in every:
        named = [row.partition(" ") for row in each.rows]
        label = next((label for id, _, label in named if id == TABLE_HEADS.id), "")
        if label:
            cell = source.cells(TABLE_HEADS.id, label)[0]
            kind, levels = source.setting(cell, "quantizer.kind"), source.setting(cell, "quantizer.levels")
            if kind in (*TRAINED_TOKENS, "identity") or levels == source.base["quantizer.levels"]:
                found.append((label, each))
    return found[:MOST] or [(f"{each.rows[0]}", each) for each in every[:MOST]]


def _values(source: Source, chosen: Chosen) -> dict[Place, dict[object, float]]:
    """Place -> training seed -> the metric."""
    plan, found = source.plan["search"], dict[Place, dict[object, float]]()
    for point in plan["points"]:
        if point["row"] == chosen.rows[0]:
            place = (float(point["guidance"]), float(point["temperature"]))
            found.setdefault(place, {})[point.get("train_seed")] = point[plan["metric"]]
    return found


def _panel(source: Source, name: str, chosen: Chosen) -> Panel:
    values, place = _values(source, chosen), (float(chosen.guidance), float(chosen.temperature))
    estimates = {other: stats.estimate([*measured.values()], [*measured]) for other, measured in values.items()}
    gaps = {other: stats.gap(value, estimates[place]) for other, value in estimates.items() if other != place}
    unsettled = {other for other, gap in gaps.items() if gap.over != "images" and not (gap.settled and gap.mean > 0)}
    return Panel(name, estimates, place, frozenset(unsettled))


def _said(panel: Panel, place: Place) -> tuple[str, str]:
    one_seed = panel.values[place].half is None
    if place == panel.chosen:
        return "yes", ""
    return "", "" if one_seed else "no" if place in panel.unsettled else "yes"
