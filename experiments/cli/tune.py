"""The command `tokenbridge tune`, and how its search is told."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.common import end_with
from experiments.cli.options import DEFAULT_RUNS, DEMO_JOBS, Device, Jobs, Runs, Settings, Threads, TrustWeights
from tokenbridge.config import Runtime, UserError
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store, require_folder, writable, write_json

if TYPE_CHECKING:
    from analysis.stats import Comparison, Estimate
    from experiments.grid.tune import Place, Rung, ScoredPoint, Search


def tune(
    cell: Annotated[
        str,
        typer.Argument(
            help="a trained cell, by id or name (all its training seeds are used), a file of settings or a preset"
        ),
    ],
    settings: Settings = None,
    guidance: Annotated[str, typer.Option("--guidance", help="values to try")] = "1,1.5,2",
    temperature: Annotated[str, typer.Option("--temperature", help="values to try")] = "0.8,0.9,1.0",
    images: Annotated[
        str, typer.Option("--images", help="images per point and training seed, for each rung of the search")
    ] = "100,300,900",
    metric: Annotated[str, typer.Option("--metric", help="of the score stage (default: fd_digits or the like)")] = "",
    name: Annotated[
        str | None, typer.Option("--name", help="of the record in runs/tunes (default: the cell's name)")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would run, and run nothing")] = False,
    jobs: Jobs = DEMO_JOBS,
    threads: Threads = None,
    device: Device = "auto",
    trust_weights: TrustWeights = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Find guidance and temperature of a trained model by sampling alone: few images first, more for what promises.

    Example: tokenbridge tune 2a-autoregressive --guidance 1,1.5,2 --temperature 0.8,0.9,1.0
    """
    from experiments import presets, trained
    from experiments.grid.search import metric_of
    from experiments.grid.tune import Failed, Search, before, climb, final, forecast, record_path

    require_one("tune")
    store = Store(runs)
    models = trained.models(store, cell, settings or ())
    search = Search(
        models,
        _numbers("guidance", guidance),
        _numbers("temperature", temperature),
        tuple(map(int, _numbers("images", images, whole=True))),
        metric or metric_of(models.configs[0]),
    )
    path = record_path(store, search.models.name if name is None else name)
    print("\n".join(_heading(search)), flush=True)
    if dry_run:
        print("\n".join(forecast(store, search, jobs)))
        return
    preset = trained.nearest(search.models.configs[0])
    how = {"device": device, "threads": threads or presets.THREADS.get(preset)}
    runtime = build(Runtime, how | {"trust_weights": trust_weights})
    require_folder(path.parent)
    rungs = []
    try:
        for rung in climb(store, search, runtime, jobs):
            rungs.append(rung)
            print("\n".join(["", *_rung(search, len(rungs), rung)]), flush=True)
        last = final(store, search, rungs[-1].points[0].place, runtime, jobs)
    except Failed as failed:
        end_with(failed.failures)
        return
    own = before(store, search)
    with writable(path.parent):
        write_json(path, _record(search, rungs, last, own))
    print("\n".join(["", *_end(search, rungs, last, own), f"all of it: {path}"]))


def _numbers(name: str, text: str, whole: bool = False) -> tuple[float, ...]:
    from experiments.grid.search import finite

    try:
        return tuple(float(int(word)) if whole else finite(word) for word in text.split(","))
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise UserError(f"--{name}={text} must be {kind} with a comma between two, such as 1,2") from None


def _heading(search: Search) -> list[str]:
    seeds, waiting = [config.train.seed for config in search.models.configs], search.models.untrained
    listed = ", ".join(map(str, seeds))
    models = f"training seeds {listed}, mean over them" if len(seeds) > 1 else f"training seed {listed}"
    left_out = f"; not trained yet and left out: {', '.join(map(str, waiting))}" if waiting else ""
    axes = " × ".join(
        f"{name} {', '.join(f'{value:g}' for value in values)}"
        for name, values in (("guidance", search.guidance), ("temperature", search.temperature))
    )
    return [
        f"{search.models.name}: {len(search.places)} points, {axes}, by {search.metric} ({search.better} is better)",
        f"models: {models}{left_out}",
        f"images: sample.seed={search.seed} for the search, {search.final_seed} for the final score",
    ]


def _rung(search: Search, number: int, rung: Rung) -> list[str]:
    """A table of the rung's points, the best first."""
    count, dropped = len(rung.points), rung.points[rung.kept :]
    first, last = rung.points[0], rung.kept == 1
    lines = [
        f"rung {number}: {rung.images} images per point and training seed, {count} points,"
        f" {'the best is chosen' if last else f'{rung.kept} go on'}",
        f"  guidance  temperature  {search.metric:>20}  {'to the best':>22}  (intervals over {_over(search)})",
    ]
    against = comparisons(search, rung.points, first)
    for i, point in enumerate(rung.points):
        place = f"  {point.guidance:>8g}  {point.temperature:>11g}  {_value(point):>20}"
        what = "chosen" if last and i == 0 else "goes on" if i < rung.kept else "dropped"
        change, verdict = ("", "") if i == 0 else _told(search, against[point.place])
        lines.append(f"{place}  {change:>22}  {what}{verdict and f', {verdict}'}")
    if not last:
        unsettled = sum((it := against[point.place]) is None or not it.shown for point in dropped)
        lines.append(f"  dropped though not shown to be worse than the best: {unsettled} of {len(dropped)}")
    return lines


def _end(search: Search, rungs: Sequence[Rung], last: ScoredPoint, own: ScoredPoint | None) -> list[str]:
    """What came out, and how far it is settled."""
    from experiments.grid.tune import images_drawn, words

    best, second, *_ = rungs[-1].points
    comparison, edges = comparisons(search, rungs[-1].points, best)[second.place], _edges(rungs, best)
    change, verdict = _told(search, comparison)
    more = "" if comparison and comparison.shown else " (more --images or training seeds may tell)"
    lines = [
        f"chosen: {words(best.place)}",
        f"runner-up: {words(second.place)}: {change and f'{change} to the chosen; '}{verdict}{more}",
    ]
    if edges:
        lines.append(f"the point is at an end of what was tried ({', '.join(edges)}): better ones may lie beyond")
    lines.append(
        f"final: {search.metric} {_value(last)} with {last.images} images per training seed,"
        f" sample.seed={search.final_seed}"
    )
    if own is not None and own.place == last.place:
        lines.append("that is the point that the cell had already")
    elif own is not None:
        change, verdict = _told(search, comparisons(search, (last, own), own)[last.place])
        chosen = f"the chosen one {change and f'differs by {change}: '}{verdict}"
        lines.append(f"the cell's own point, {words(own.place)}: {_value(own)}; {chosen}")
    lines.append(f"repeat: {_repeat(search, last)[0]}")
    if len(last.cells) > 1:
        lines.append(f"  and with train.seed={', '.join(str(c.train.seed) for c in search.models.configs[1:])}")
    drawn, again, whole = images_drawn(search, [(rung.images, len(rung.points)) for rung in rungs])
    lines += [
        f"± is the half-width of a 95 % interval over {_over(search)}"
        + ("" if len(last.cells) > 1 else ", which say nothing of another training")
        + "; verdicts are by the false-discovery rate of a rung's points, each with the interval that it goes by",
        f"fewer images read otherwise (Fréchet distances higher), so points are compared within a rung only; the search"
        f" drew {drawn:,} images ({again:,} anew that a rung before had drawn), the whole grid with the last rung's"
        f" would be {whole:,}",
    ]
    return lines


def comparisons(search: Search, points: Sequence[ScoredPoint], base: ScoredPoint) -> dict[Place, Comparison | None]:
    """Each other point against one, on the scale on which the metric's spread is even; None where there is no test.

    Args:
        search: by whose metric.
        points: of the same models and numbers of images, the base among them.
        base: with which the others are compared.
    """
    from analysis import stats

    scale = stats.Scale(search.of_metric.spread)
    values = {point.place: scale.of(estimate(point), point.count) for point in points}
    return stats.compare_with(base.place, values, search.better, scale)


def _told(search: Search, comparison: Comparison | None) -> tuple[str, str]:
    """A difference with the interval that its verdict goes by, and the verdict."""
    from dataclasses import replace

    from analysis.tables.filled import change_text

    if comparison is None:
        return "", "not tested"
    # in stored numbers, as the values beside it
    return change_text(replace(search.of_metric, scale=1.0, decimals=3), comparison), comparison.verdict


def _record(search: Search, rungs: Sequence[Rung], last: ScoredPoint, own: ScoredPoint | None) -> dict[str, Any]:
    """Everything, for runs/tunes/<name>.json."""
    best = rungs[-1].points[0]
    return {
        "command": shlex.join(["tokenbridge", *sys.argv[1:]]),
        "models": search.models.name,
        "train_seeds": [config.train.seed for config in search.models.configs],
        "metric": search.metric,
        "better": search.better,
        "guidance": search.guidance,
        "temperature": search.temperature,
        "search_seed": search.seed,
        "final_seed": search.final_seed,
        "interval": f"95 %, over {_over(search)}",
        "rungs": [
            {
                "images": rung.images,
                "kept": rung.kept,
                "points": _points(search, rung.points, rung.points[0]),
            }
            for rung in rungs
        ],
        "chosen": {"sample.guidance": best.guidance, "sample.temperature": best.temperature},
        "ends": _edges(rungs, best),
        "runner_up": _points(search, rungs[-1].points, best)[1],
        "final": _point(last),
        "before": None if own is None else _points(search, (last, own), last)[-1],
        "repeat": _repeat(search, last),
    }


def _points(search: Search, points: Sequence[ScoredPoint], base: ScoredPoint) -> list[dict[str, Any]]:
    """Points with their values and how they compare with one of them."""
    against = comparisons(search, points, base)
    return [_point(point) | _compared(against.get(point.place)) for point in points]


def _point(point: ScoredPoint) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(point) | {"mean": fmean(point.values), "half": estimate(point).half}


def _compared(comparison: Comparison | None) -> dict[str, Any]:
    """A difference as it is told: of a metric that varies in proportion in per cent of the other point's."""
    if comparison is None:
        return {}
    low, high = comparison.corrected
    return {
        "difference": comparison.difference.effect,
        "difference_is": "per cent" if comparison.difference.scale.told_in_percent else "difference",
        "difference_corrected": [low, high],
        "p": comparison.p,
        "adjusted_p": comparison.adjusted,
        "verdict": comparison.verdict,
    }


def estimate(point: ScoredPoint) -> Estimate:
    """A point's training seeds, which pair with those of other points, or its one seed with what is known of images."""
    from analysis import stats

    left_out = point.left_out[0] if point.left_out else ()
    return stats.estimate(point.values, range(len(point.values)), point.errors[0], left_out=left_out)


def _edges(rungs: Sequence[Rung], point: ScoredPoint) -> tuple[str, ...]:
    """Ends of all that was tried at which a point lies; the bounds of every search are none."""
    from analysis.stats import edges
    from experiments.grid.search import BOUNDS

    bounds = {
        f"lowest {key.rpartition('.')[2]}" for key, at in zip(BOUNDS, point.place, strict=True) if at <= BOUNDS[key]
    }
    return tuple(end for end in edges(point.place, [p.place for p in rungs[0].points]) if end not in bounds)


def _repeat(search: Search, last: ScoredPoint) -> list[str]:
    """A command for each training seed."""
    from experiments.trained import command

    return [command(cell.config) for cell in search.cells(last.place)]


def _over(search: Search) -> str:
    return "seeds" if len(search.models.configs) > 1 else "images"


def _value(point: ScoredPoint) -> str:
    return f"{fmean(point.values):.3f}{_half(estimate(point).half)}"


def _half(half: float | None) -> str:
    return "" if half is None else f" ± {half:.3f}"
