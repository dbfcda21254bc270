"""The axes of a grid: a setting and its values each, and the points that they span around a base configuration."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import plain, require_key, setting_of, settings, typed

Point = dict[str, Any]
"""setting -> value; settings that are not in it are those of the base"""
SHORT = {
    "quantizer.levels": ("b", 2, 0),
    "quantizer.range": ("r", 1, 0),
    "head.depth": ("d", 1, 0),
    "head.width": ("w", 2, 0),
    "head.group": ("g", 1, 0),
    "sample.temperature": ("t", 1, 1),
    "sample.guidance": ("cfg", 1, 1),
    "train.seed": ("s", 1, 0),
    "train.epochs": ("e", 2, 0),
    "train.learning_rate": ("lr", 1, 0),
}
"""setting -> its letters in a name, fewest digits before and after the point, so that a value more renames no cell"""
_SPLIT = re.compile(r""",(?![^\[]*\])(?=(?:[^"]*"[^"]*")*[^"]*$)""")  # not within brackets or quotes


@dataclass(frozen=True)
class Axis:
    """A dotted setting and its values; effects are differences to the first."""

    key: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        require_key(self.key, RunConfig)
        if not self.values:
            raise UserError(f"axis {self.key} has no value; give some, for example {self.key}=1,2")
        for i, value in enumerate(self.values):
            if value in self.values[:i]:
                raise UserError(f"axis {self.key} has {plain(value)} twice; give each value once")


GRIDS: Mapping[str, tuple[Axis, ...]] = {
    "ablation": (
        Axis("quantizer.levels", (8, 64)),
        Axis("quantizer.range", (3.0, 5.0)),
        Axis("head.depth", (1, 3)),
        Axis("sample.temperature", (0.9, 1.0)),
    ),
}


def parse(text: str) -> Axis:
    """`quantizer.levels=16,32,64` as an axis; a value with commas stands in brackets: `head.order=[1,0],[0,1]`."""
    key, equals, values = text.partition("=")
    if not equals:
        raise UserError(f"axis {text!r} must have the form key=value,value, for example quantizer.levels=16,32")
    require_key(key, RunConfig)
    words = [word.strip() for word in _SPLIT.split(values)]
    if "" in words:
        raise UserError(f"axis {text} has an empty value; separate values by one comma each, as in {key}=1,2")
    return Axis(key, tuple(setting_of(key, word, RunConfig) for word in words))


def text(axis: Axis) -> str:
    """An axis as it is typed: what parse reads."""
    return f"{axis.key}={','.join(map(_word, axis.values))}"


def points(axes: Sequence[Axis], each: bool = False) -> list[Point]:
    """The settings of each point, by the config's paths.

    Args:
        axes: the axes, each once; of their product, the last one changes fastest.
        each: vary one axis at a time, with all others as in the base, in place of the full product.

    Raises:
        UserError: an axis is given more than once.
    """
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"axis {key} is given {keys.count(key)} times; give its values in one --axis")
    if each:
        return [{axis.key: value} for axis in axes for value in axis.values]
    return [dict(zip(keys, values, strict=True)) for values in product(*(axis.values for axis in axes))]


def names(axes: Sequence[Axis], points: Sequence[Point]) -> list[str]:
    """A short name of each point from what varies, numbers padded so that names sort: `b08-r3-d1-t0.9`.

    Args:
        axes: in the order in which the name has them.
        points: as `points` gives them; an axis that a point leaves as in the base is not in its name.
    """
    parts: dict[str, dict[str, str]] = {}
    for axis in axes:
        values = {plain(point[axis.key]): point[axis.key] for point in points if axis.key in point}
        form = SHORT.get(axis.key, (_word_of(axis.key), 1, 0))
        parts[axis.key] = {text: _part(axis, value, *form) for text, value in values.items()}
    return ["-".join(parts[axis.key][plain(point[axis.key])] for axis in axes if axis.key in point) for point in points]


def run_name(base: str, changes: Mapping[str, Any]) -> str:
    """The name of a run from its preset and the settings that differ from it: `digits-levels32-head-width48`.

    Args:
        base: the preset's name.
        changes: dotted settings with their values.
    """
    parts = [_part(Axis(key, (value,)), value, _word_of(key), 1, 0) for key, value in changes.items()]
    return "-".join([base, *parts])


def _word_of(key: str) -> str:
    """The last word of a setting, or all of it where two sections share the word: backbone.width and head.width."""
    word = key.rpartition(".")[2]
    return key.replace(".", "-") if _last_words()[word] > 1 else word


@cache
def _last_words() -> Counter[str]:
    return Counter(key.rpartition(".")[2] for key in settings(RunConfig))


def _part(axis: Axis, value: Any, letters: str, digits: int, decimals: int) -> str:
    if not _number(value):
        word = re.sub(r"[][ \"]", "", plain(value)).replace(",", ".")
        word = re.sub(r"[^\w.=-]+", "-", word)  # of a path: as in every name, see require_name
        return word if isinstance(value, str) and axis.key.endswith((".kind", ".order")) else f"{letters}-{word}"
    texts = [f"{number:g}" for number in (value, *filter(_number, axis.values))]
    if any("e" in text for text in texts):
        return f"{letters}{value:g}"
    wholes, _, fractions = zip(*(text.partition(".") for text in texts), strict=True)
    decimals = max(decimals, *map(len, fractions))
    digits = max(digits, *map(len, wholes)) + (decimals + 1 if decimals else 0)
    return f"{letters}{value:0{digits}.{decimals}f}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _word(value: Any) -> str:
    """A value as parse reads it again: text that would be read as something else, or split, stands in quotes."""
    return json.dumps(value) if isinstance(value, str) and "," in value else typed(value)
