"""The commands `run` and `grid` as functions, tb.run and tb.grid: the same stages, with a run or a frame as result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.common import cell_of, told_on_stderr
from experiments.cli.options import DEFAULT_BATCH, MOST_SEEDS
from experiments.presets import NAMES, Base, base
from tokenbridge.config import Runtime, UserError
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build, flatten, typed
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import EXPERIMENT, read_cell, require_name

if TYPE_CHECKING:
    import pandas as pd

    from experiments.axes import Axis
    from tokenbridge.library.generators import Generator

PRESET = "digits"


def run(
    config: str | Path | Mapping[str, Any] = PRESET,
    *,
    only: str | Sequence[str] = (),
    name: str | None = None,
    runs: str | Path = "runs",
    jobs: int = 1,
    device: str = "auto",
    threads: int | None = None,
    batch: int = DEFAULT_BATCH,
    trust_weights: bool = False,
    **settings: Any,
) -> Generator:
    """Run one configuration through its stages, skipping what is finished, and log it to MLflow.

    >>> import tokenbridge as tb
    >>> done = tb.run("digits", quantizer={"levels": 8}, only="reconstruct")
    >>> done.config.quantizer.levels, round(done.metrics["reconstruct/psnr"])
    (8, 30)

    Progress is told on stderr. It is `tokenbridge run`: what that command finished is finished here too.

    Args:
        config: a preset, a file of settings (.toml), or what such a file holds.
        only: the last stages wanted; by default all that the configuration can have.
        name: of the run; by default the preset's with the settings that differ.
        runs: the runs folder.
        jobs: stages at a time; with more than one, a script must guard its start (`if __name__ == "__main__":`).
        device: auto, cpu or cuda.
        threads: CPU threads of a stage; by default the preset's, else its share.
        batch: images at once when encoding, sampling and scoring.
        trust_weights: run code in score.weights that is not known.
        settings: others than config's, by section or by their dotted names: `train={"epochs": 5}`,
            `**{"train.epochs": 5}`.

    Returns:
        What `tb.load` gives: config, metrics and, where it was trained, sample and likelihood.

    Raises:
        UserError: a setting that cannot be, images or weights that are not there, MLflow away.
        RuntimeError: a stage failed.
    """
    from experiments import runner
    from experiments.tracking import sync as tracking
    from tokenbridge.devices import pick_device
    from tokenbridge.library.generators import Generator

    require_one("tb.run")
    _require_count("jobs", jobs)
    start = _base(config, {})
    if name is not None:
        require_name(name, "name=")
    cell = cell_of(start, _words(settings), [only] if isinstance(only, str) else only, name)
    store, runtime = Store(Path(runs)), _runtime(start, device, threads, batch, trust_weights)
    with told_on_stderr():
        runner.run_cells(store, [cell], runtime, EXPERIMENT, jobs)
        tracking.sync(store, [cell.id])
    return Generator(store, read_cell(store, cell.id), pick_device(runtime.model_copy(update={"threads": None})))


def grid(
    axes: str | Mapping[str, Iterable[Any]],
    base: str | Path | Mapping[str, Any] = PRESET,
    *,
    rows: str | Iterable[str] = (),
    seeds: int | None = None,
    each: bool = False,
    name: str = "grid",
    runs: str | Path = "runs",
    jobs: int = 1,
    device: str = "auto",
    threads: int | None = None,
    batch: int = DEFAULT_BATCH,
    trust_weights: bool = False,
    **settings: Any,
) -> pd.DataFrame:
    """Run a grid of settings, skipping what is finished or shared, and log it to MLflow.

    >>> import tokenbridge as tb
    >>> short = {"train": {"epochs": 1, "warmup_epochs": 0}, "sample": {"images": 60}}
    >>> frame = tb.grid({"sample.temperature": [0.8, 1.0]}, "digits", name="short", **short)
    >>> frame["sample.temperature"].tolist(), bool((frame["score/fd_digits"] > 0).all())
    ([0.8, 1.0], True)

    `analysis.plot(frame, …)` draws it, `tokenbridge report NAME` writes its report. Progress is told on stderr.

    Args:
        axes: dotted settings and their values; or the name of a grid or table, such as "ablation" or "2a".
        base: what they change: a preset, a file of settings (.toml), or what such a file holds.
        rows: of a table only the rows that fit one of these, such as "heads:continuous, *"; empty: all.
        seeds: training seeds of each point; by default one, three of tables.
        each: vary one axis at a time, not the full product.
        name: of the grid and its report.
        runs: the runs folder.
        jobs: stages at a time; with more than one, a script must guard its start (`if __name__ == "__main__":`).
        device: auto, cpu or cuda.
        threads: CPU threads of a stage; by default the preset's, else its share.
        batch: images at once when encoding, sampling and scoring.
        trust_weights: run code in score.weights that is not known.
        settings: others than base's, by section or by their dotted names.

    Returns:
        A row per cell, as `analysis.runs` has them: name, settings, metrics, protocols.

    Raises:
        UserError: a setting that cannot be, cells that cannot run, images or weights that are not there, MLflow away.
        RuntimeError: a stage failed; the others ran.
    """
    from analysis.frame import load
    from experiments.axes import text
    from experiments.grid import run as run_grid
    from experiments.grid.request import Request
    from experiments.runner import raise_first
    from experiments.tracking import sync as tracking

    require_one("tb.grid")
    _require_count("jobs", jobs)
    if seeds is not None:
        _require_count("seeds", seeds, MOST_SEEDS)
    if not isinstance(axes, str | Mapping):
        raise UserError(f"axes={axes} must be settings with their values, as in {{'quantizer.levels': [8, 16]}}")
    start = _base(base, settings)
    named = (axes,) if isinstance(axes, str) else ()
    across = {} if isinstance(axes, str) else axes
    asked = {
        "name": name,
        "preset": start.preset,
        "tables": named,
        "rows": (rows,) if isinstance(rows, str) else tuple(rows),
        "axes": tuple(text(_axis(key, values)) for key, values in across.items()),
        "each": each,
        "assignments": start.settings,
        "seeds": seeds,
    }
    cells, store = build(Request, asked).grid(), Store(Path(runs))
    runtime = _runtime(start, device, threads, batch, trust_weights)
    with told_on_stderr():
        raise_first(run_grid.run(store, cells, runtime, jobs))
        ran = [*(row.cell.id for row in run_grid.final(store, cells).rows), *(trial.cell.id for trial in cells.trials)]
        ran = list(dict.fromkeys(ran))
        tracking.sync(store, ran)
    return load.frame(store.root, tracking.tracking_uri(store), ran)


def _base(config: str | Path | Mapping[str, Any], settings: Mapping[str, Any]) -> Base:
    """What to start from, with these settings on top; paths in them are relative to where one is."""
    if not isinstance(config, Mapping):
        start = base(str(config))
        return replace(start, settings=(*start.settings, *_words(settings)))
    names = {key: config.get(key, PRESET) for key in NAMES}
    for key, value in names.items():
        if not isinstance(value, str):
            raise UserError(f"{key}={value} must be text")
    content = {key: value for key, value in config.items() if key not in NAMES}
    require_name(names["name"], "name=")
    return replace(base(names["preset"]), name=names["name"], settings=(*_words(content), *_words(settings)))


def _runtime(start: Base, device: str, threads: int | None, batch: int, trust_weights: bool) -> Runtime:
    how = {"device": device, "threads": threads or start.threads, "batch": batch, "trust_weights": trust_weights}
    return build(Runtime, how)


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they would be typed."""
    for key in settings:
        if not isinstance(key, str):
            raise UserError(f"{key!r} must be the name of a setting, such as 'train.epochs'")
    return [f"{key}={typed(_plain(value))}" for key, value in flatten(settings).items()]


def _require_count(name: str, value: Any, most: int | None = None) -> None:
    """Refuse what is no count, as the command's options do."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most and value > most):
        rule = f"from 1 to {most:,}" if most else "of at least 1"
        raise UserError(f"{name}={value!r} must be a whole number {rule}")


def _axis(key: str, values: Any) -> Axis:
    from experiments.axes import Axis

    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"axis {key}={values!r} must be a list of values; write [{values!r}]")
    return Axis(key, tuple(map(_plain, values)))


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy or torch as Python's, a path as text."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value.tolist() if hasattr(value, "tolist") else value
