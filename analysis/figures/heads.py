"""The figures of table heads: every head on every token at a glance, and what a row costs."""

from __future__ import annotations

from itertools import chain

from analysis import stats
from analysis.figures import comparison
from analysis.figures.comparison import COSTS, GROUPS, Point, rival
from analysis.figures.form import Drawing
from analysis.figures.look import table
from analysis.frame.source import Source
from analysis.stats import number
from experiments.paper import FD, IMAGE_TIME, TABLE_HEADS
from experiments.paper.columns import PARAMETERS, TRAINING_FLOPS
from tokenbridge.config import TRAINED_TOKENS


def points(source: Source) -> list[Point]:
    """The rows that have a Fréchet distance, in the table's order. A label is `token, head`."""
    found, key = [], source.by_scorer(FD).key
    for cell, ids in source.rows(TABLE_HEADS):
        distances = [value for id in ids if (value := source.number(id, key)) is not None]
        if not distances:
            continue
        token, _, head = cell.label.partition(", ")
        quantizer = source.setting(ids[0], "quantizer.kind")
        group = GROUPS[2] if quantizer == "identity" else GROUPS[1] if quantizer in TRAINED_TOKENS else GROUPS[0]
        ms, tflop, weights = (_mean(source, ids, key) for key in (IMAGE_TIME.key, TRAINING_FLOPS.key, PARAMETERS.key))
        weights = None if weights is None else weights / 1e6
        found.append(Point(token, head, group, stats.estimate(distances), ms, tflop, weights))
    return found


def _mean(source: Source, ids: list[str], key: str) -> float | None:
    values = [value for id in ids if (value := source.number(id, key)) is not None]
    return stats.estimate(values).mean if values else None


def heads(source: Source) -> Drawing | None:
    found, fd = points(source), source.by_scorer(FD).title
    if len(found) < 2:
        return None
    caption = (
        f"Fréchet distance of generated {source.measured_on} images (lower is better) for each row of the table, with"
        " its 95 % interval over seeds where there are several. Filled markers: heads that predict levels; open ones:"
        " heads that predict continuous values."
    )
    best = comparison.front(found)
    if len([point for point in found if point.ms is not None]) > 1:
        caption += (
            " Below: the same against the time to sample one image. Dashed: what no other row beats in both time and"
            f" distance, from the fastest: {'; '.join(point.name for point in best)}."
        )
    alt = "Fréchet distance of every head on every token, by token and against the time an image takes"
    rows = [(p.token, p.head, p.group, p.fd.mean, p.fd.half, p.fd.seeds, p.ms, _yes(p in best)) for p in found]
    data = table(["token", "head", "group", fd, "half-width", "seeds", "ms an image", "on the front"], rows)
    title = "Every head on every token"
    return Drawing("heads", title, caption, alt, comparison.comparison(found, fd), TABLE_HEADS.id, data)


def costs(source: Source) -> Drawing | None:
    """Discrete against continuous at equal cost: training, weights and time an image."""
    found, fd = points(source), source.by_scorer(FD).title
    keys = [key for key in COSTS if len({p.continuous for p in found if p.cost(key) is not None}) == 2]
    if not keys:
        return None
    best = min((point for point in found if point.continuous), key=lambda point: point.fd.mean)
    told = "; ".join(filter(None, (_told(best, found, key, fd) for key in keys)))
    caption = (
        "Discrete tokens beside continuous ones at what they cost: floating-point operations of the generator's"
        " training (all rows train for the same steps; training a tokenizer is not counted), weights of the generator,"
        " and time to sample one image. Each point is a row of the table, with its 95 % interval over seeds. Lines:"
        " what no row of the same kind beats in both. At equal cost the lower line is better."
        + (
            f" Best discrete row that costs no more than the best continuous one ({best.name}): {told}; more is worse."
            if told
            else ""
        )
    )
    alt = f"Fréchet distance of discrete and continuous rows against {', '.join(COSTS[key] for key in keys)}"
    header = ["row", "group", *(COSTS[key] for key in keys), fd, "half-width"]
    header += [
        f"{word} ({key})" for key in keys for word in ("best of the other kind at no more", "difference", "half")
    ]
    rows = [
        [
            p.name,
            p.group,
            *(p.cost(k) for k in keys),
            p.fd.mean,
            p.fd.half,
            *chain(*(_against(p, found, k) for k in keys)),
        ]
        for p in found
    ]
    title = "Discrete against continuous at equal cost"
    return Drawing("cost", title, caption, alt, comparison.costs(found, keys, fd), TABLE_HEADS.id, table(header, rows))


def _against(point: Point, found: list[Point], key: str) -> tuple[str | None, float | None, float | None]:
    """The row's rival at no more cost, and rival minus row with its half-width."""
    other = rival(point, found, key)
    if other is None:
        return None, None, None
    gap = stats.gap(other.fd, point.fd)
    return other.name, gap.mean, gap.half()


def _told(point: Point, found: list[Point], key: str, fd: str) -> str:
    name, gap, half = _against(point, found, key)
    if name is None or gap is None:
        return f"{COSTS[key]}: none"
    sign = "+" if gap > 0 else ""
    spread = "" if half is None else f" ± {number(half, FD.decimals)}"
    return f"{COSTS[key]}: {name}, {fd} {sign}{number(gap, FD.decimals)}{spread}"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else ""
