"""Trained models of a runs folder, found by the name of a cell or as a preset with settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from experiments.axes import run_name
from experiments.pipeline import Cell, Stage
from experiments.presets import ENDING, PRESETS, SPLITS
from experiments.presets import base as base_of
from tokenbridge.config import RunConfig, Runtime, UserError, holds_path
from tokenbridge.metrics.programs import require_known
from tokenbridge.metrics.scorers import SCORERS
from tokenbridge.overrides import build, differing, near, override, settings, typed
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import RecordedCell, read_cells

SHOWN = 4
"""cells that a message lists"""


@dataclass(frozen=True)
class Models:
    """One configuration with each training seed that is trained."""

    name: str
    configs: tuple[RunConfig, ...]
    untrained: tuple[int, ...] = ()
    """training seeds of which the runs folder has a cell, but no finished training"""


def models(store: Store, what: str, assignments: Sequence[str] = ()) -> Models:
    """The trained models of a configuration, one for each training seed.

    Args:
        store: the runs folder.
        what: a cell (id or name), a preset or a file of settings.
        assignments: settings to change, as section.key=value.

    Raises:
        UserError: an unknown name, or a model that is not trained.
    """
    cells = read_cells(store)
    if what in PRESETS or what.endswith(ENDING):
        start = base_of(what)
        name, base, run = start.name, start.config, shlex.join(["tokenbridge", "run", what, *assignments])
    else:
        name, base = _named(what, cells, store)
        run = command(override(base, assignments))
    config = override(base, assignments)
    try:
        finished = store.finished(training(config))
    except UserError:
        _require_here(what, config)
        raise
    if not finished:
        raise UserError(f"{what} is not trained in {store.root}; run first: {run} --only train")
    stages = {id for cell in cells.values() if (id := cell.stages.get("train"))}
    seeds = {config.train.seed, *(cell.config.get("train", {}).get("seed", 0) for cell in cells.values())}
    seeds = {0} if config.train.released else seeds
    same = {seed: override(config, {"train.seed": seed}) for seed in sorted(seeds)}
    untrained = [seed for seed, config in same.items() if not store.finished(training(config))]
    trained = tuple(config for seed, config in same.items() if seed not in untrained)
    waiting = tuple(seed for seed in untrained if training(same[seed]) in stages)
    recorded = cells.get(Cell("", config).id)
    names = recorded.names if recorded else [run_name(name, differing(config, base))]
    return Models(re.sub(r"[^\w.=-]+", "-", name if name in names else names[0]), trained, waiting)


def _require_here(what: str, config: RunConfig) -> None:
    """Refuse relative paths that are not here: a cell has them as they were typed where it ran."""
    for key, value in settings(config).items():
        named = holds_path(*key.split(".")) and isinstance(value, str) and value not in SPLITS
        if named and not Path(value).is_absolute() and not Path(value).exists():
            raise UserError(
                f"{key}={value} of {what} is not in this folder; go where it was run, or give {key}=PATH as well"
            )


def training(config: RunConfig) -> str:
    """Id of the stage that trains a configuration. UserError for a pair that cannot work."""
    config.require_pair()
    return Cell("", config, ("train",)).stages()[-1].id


def require_imported(store: Store, stages: Iterable[Stage]) -> None:
    """Refuse stages that need weights or samples which nobody imported, before those they do not need take hours.

    Args:
        store: the runs folder.
        stages: what is to run.

    Raises:
        UserError: names the weights or samples and the command that imports them.
    """
    for stage in stages:
        released, given = stage.config.train.released, stage.config.sample.given
        if stage.kind.name == "sample" and given and not store.finished(stage.id):
            raise UserError(f"sample.given={given} is not in {store.root}; run first: tokenbridge samples add")
        if stage.kind.name == "train" and released and not store.finished(stage.id):
            raise UserError(
                f"train.released={released} has no weights in {store.root} that fit {stage.label}; run first:"
                " tokenbridge import PATH --as MODEL, with the same settings of backbone and head"
            )


def require_trusted(store: Store, stages: Iterable[Stage], runtime: Runtime) -> None:
    """Refuse stages that would run code of a scorer's weights which nobody knows, before others take hours.

    Args:
        store: the runs folder.
        stages: what is to run.
        runtime: says whether such code is trusted.

    Raises:
        UserError: names the code and --trust-weights.
    """
    todo = (stage for stage in stages if stage.kind.scores and not store.finished(stage.id))
    scores: Any = dict.fromkeys(cast(Any, stage.config.score) for stage in todo)  # frozen models hash
    for score in scores:
        require_known(score, runtime)


def require_networks(store: Store, stages: Iterable[Stage]) -> None:
    """Refuse stages whose scorers' weights, or those of LPIPS, are not what they should be, before others take hours.

    Each is loaded once, on the processor; those that ship are known.

    Args:
        store: the runs folder.
        stages: what is to run.

    Raises:
        UserError: names the file, what it must hold and the remedy.
    """
    todo = [stage for stage in stages if stage.kind.scores and not store.finished(stage.id)]
    scores: Any = dict.fromkeys(cast(Any, stage.config.score) for stage in todo)  # frozen models hash
    for score in scores:
        for name in score.scorers:
            if SCORERS[name].shipped is None:
                from tokenbridge.metrics.networks import load_extractor

                load_extractor(name, "cpu", score, trusted=True)  # require_trusted refuses what is not
    of_lpips = {(s.config.score.lpips, s.config.data.image_size) for s in todo if s.kind.name == "reconstruct"}
    for path, size in of_lpips:
        if path is not None:
            from tokenbridge.metrics.images import Lpips

            Lpips(Path(path), size)


def command(config: RunConfig) -> str:
    """The command that runs a configuration, from the preset with the fewest changes."""
    name = nearest(config)
    changes = differing(config, PRESETS[name])
    return shlex.join(["tokenbridge", "run", name, *(f"{key}={typed(value)}" for key, value in changes.items())])


def nearest(config: RunConfig) -> str:
    """The preset from which a configuration differs in the fewest settings."""
    return min(PRESETS, key=lambda name: len(differing(config, PRESETS[name])))


def _named(what: str, cells: Mapping[str, RecordedCell], store: Store) -> tuple[str, RunConfig]:
    """Name and config of the cell; cells of one name must differ in the training seed alone."""
    matching = [cell for cell in cells.values() if cell.called(what)]
    if not matching:
        names = [*{name: None for cell in cells.values() for name in cell.names}, *cells, *PRESETS]
        close = near(what, names, SHOWN)
        hint = f"did you mean {' or '.join(close)}?" if close else f"presets are {', '.join(PRESETS)}"
        raise UserError(f"{what} is no cell of {store.root / 'cells'} and no preset; {hint}")
    configs = [build(RunConfig, cell.config) for cell in matching]
    first, *others = configs
    for config in others:
        if changes := differing(override(config, {"train.seed": first.train.seed}), first):
            ids = ", ".join(cell.id for cell in matching[:SHOWN]) + (", …" if len(matching) > SHOWN else "")
            raise UserError(
                f"{what} names {len(matching)} cells, which differ in {', '.join(changes)}; give an id: {ids}"
            )
    return what if what in matching[0].names else matching[0].names[0], first
