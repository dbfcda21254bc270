"""The cells of a grid over axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from typing import Any

from experiments.axes import Axis, names, points
from experiments.pipeline import Cell, generated
from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import override, plain

SHOWN = 3
"""cells that cannot run, named in a message"""


@dataclass(frozen=True)
class Trial:
    """One cell of a grid over axes: the value of each axis, the training seed. It is not searched."""

    values: Mapping[str, Any]
    seed: int
    cell: Cell


def trials(axes: Sequence[Axis], base: RunConfig, seeds: int, each: bool) -> tuple[tuple[Axis, ...], tuple[Trial, ...]]:
    """The points of the axes with each training seed, every cell once; the axes with values as the config has them.

    UserError that names the cells that cannot run.
    """
    keys, found, wrong = [axis.key for axis in axes], dict[RunConfig, Trial](), list[str]()
    if seeds > 1 and "train.seed" in keys:
        raise UserError(f"train.seed is an axis, so --seeds={seeds} has nothing to add; leave --seeds out")
    places = points(axes, each) if axes else []
    titles = names(axes, places)
    meant = dict[tuple[str, str], Any]()  # 3 is typed where the config has 3.0
    for seed, (point, name) in product(range(seeds), zip(places, titles, strict=True)):
        name += f"-s{seed}" if seed else ""
        try:
            config = override(base, point | ({"train.seed": base.train.seed + seed} if seed else {}))
            cell = Cell(name, config, generated(config))
            if not cell.stages():  # a head that cannot go with the tokens leaves nothing to generate
                config.require_pair()
        except UserError as error:
            wrong.append(f"{name} ({error})")
            continue
        own = {key: attrgetter(key)(config) for key in keys}
        meant |= {(key, plain(value)): own[key] for key, value in point.items()}
        found.setdefault(config, Trial(own, config.train.seed, cell))
    if wrong:
        shown, more = "; ".join(wrong[:SHOWN]), len(wrong) - SHOWN
        count = f"{len(wrong)} of {len(places) * seeds} cells cannot run"
        raise UserError(f"{count}: {shown}{f'; and {more} more' if more > 0 else ''}; leave these values out")
    real = [Axis(axis.key, tuple(meant[axis.key, plain(value)] for value in axis.values)) for axis in axes]
    return tuple(real), tuple(found.values())
