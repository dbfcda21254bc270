"""Configs from values and from `section.key=value` words; what is wrong is one line with the closest valid key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError

from tokenbridge.config import HEAD_KINDS, RENAMED, TRAINED_TOKENS, Config, UserError, kinds_of, words_of

_AnyConfig = TypeVar("_AnyConfig", bound=Config)


def build(model: type[_AnyConfig], values: Mapping[str, Any]) -> _AnyConfig:
    """Validate values into a config.

    Args:
        model: the class of the config.
        values: a value, or those of a section, by field.

    Raises:
        UserError: names a value that is refused and what it may be, or an unknown key and the closest one.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(model, error)) from None


def override(config: _AnyConfig, assignments: Iterable[str] | Mapping[str, Any]) -> _AnyConfig:
    """A config with some of its settings changed; the others stay the same objects.

    Args:
        config: what to change.
        assignments: `section.key=value` texts, whose values are read as JSON, else as text; or values by dotted key.

    Raises:
        UserError: an unknown key, or a value that is refused.
    """
    pairs = assignments if isinstance(assignments, Mapping) else typed_settings(assignments, type(config))
    # what is not touched stays the same object, so that a grid of thousands of configs validates only what varies
    values = {name: getattr(config, name) for name in type(config).model_fields}
    for key, value in pairs.items():
        require_key(key, type(config))
        *sections, last = key.split(".")
        place = values
        for section in sections:
            if isinstance(place[section], Config):
                place[section] = place[section].model_dump()
            place = place[section]
        place[last] = value
    return build(type(config), values)


def typed_settings(words: Iterable[str], model: type[Config]) -> dict[str, Any]:
    """Values by dotted key of `section.key=value` words, the last of a key. UserError for no setting of the model."""
    pairs = [_split(word, model) for word in words]
    for key, _ in pairs:
        require_key(key, model)
    return dict(pairs)


def require_key(key: str, model: type[Config]) -> None:
    """Refuse a key that is no setting.

    Args:
        key: dotted, such as "head.width".
        model: the class of the config.

    Raises:
        UserError: names the closest setting, or those of a section.
    """
    keys = _keys(model)
    if key in keys:
        return
    inside = [name for name in keys if name.startswith(f"{key}.")]
    if inside:
        raise UserError(f"{key} is a section, not a setting; its settings are {', '.join(inside)}")
    raise UserError(f"{key} is no setting; {_closest(key, model)}")


@cache
def _keys(model: type[Config]) -> dict[str, Any]:
    return settings(model)


def settings(config: Config | type[Config], prefix: str = "") -> dict[str, Any]:
    """Flat dotted settings: values of a config, or None for each of a class.

    Args:
        config: a config, or its class.
        prefix: what the keys begin with.
    """
    flat: dict[str, Any] = {}
    fields = config.model_fields if isinstance(config, type) else type(config).model_fields
    for name, field in fields.items():
        nested = field.annotation if isinstance(config, type) else getattr(config, name)
        if isinstance(nested, Config) or (isinstance(nested, type) and issubclass(nested, Config)):
            flat |= settings(nested, f"{prefix}{name}.")
        else:
            flat[prefix + name] = None if isinstance(config, type) else nested
    return flat


def differing(config: Config, base: Config) -> dict[str, Any]:
    """Dotted settings in which a config differs from its base."""
    before = settings(base)
    return {key: value for key, value in settings(config).items() if before[key] != value}


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flat dotted settings of a config that was read from JSON."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _split(text: str, model: type[Config]) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{_shown(text)} must have the form key=value, for example quantizer.levels=32")
    return key, setting_of(key, value, model)


def setting_of(key: str, text: str, model: type[Config]) -> Any:
    """The value of a word that is typed for a setting: one that takes text alone has `2012` as it is typed."""
    value, place = value_of(text), _place(key, model)
    if place is None or isinstance(value, str | None):
        return value
    kinds = kinds_of(*place)
    return text if kinds == {str} or (kinds == {str, tuple} and not isinstance(value, list)) else value


def value_of(text: str) -> Any:
    """The value of a typed word: JSON, none, or text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also of thousands of digits or brackets
        return None if text.lower() == "none" else text


def _place(key: str, model: type[Config]) -> tuple[type[Config], str] | None:
    """The section that a dotted setting is of and its name there; None where there is no such setting."""
    *sections, name = key.split(".")
    for section in sections:
        field = model.model_fields.get(section)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Config)):
            return None
        model = field.annotation
    return (model, name) if name in model.model_fields else None


def typed(value: Any) -> str:
    """A value as one types it, for value_of to read again: text that would be read as another value in quotes."""
    word = plain(value)
    return json.dumps(value) if isinstance(value, str) and value_of(word) != value else word


NEAR = 0.6
"""share of two words' letters that are alike in order, from which on one may be meant for the other (difflib's)"""


def near(word: str, names: Iterable[str], most: int = 1) -> list[str]:
    """Names that a word may be meant for, the nearest first; none where none is near."""
    return difflib.get_close_matches(word, list(dict.fromkeys(names)), most, NEAR)


def plain(value: Any) -> str:
    """A value as one types it on the command line."""
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, bool | list | tuple) else str(value)


def _closest(key: str, model: type[Config]) -> str:
    if key in RENAMED:
        return f"it is {RENAMED[key]} now"
    keys, last = list(_keys(model)), key.rsplit(".", 1)[-1]
    same = [k for k in keys if k.rsplit(".", 1)[-1] == last]
    close = near(key, same) or same or near(key, keys)
    if not close:  # a key without its section: compare the last words
        by_last = {k.rsplit(".", 1)[-1]: k for k in keys}
        close = [by_last[word] for word in near(last, by_last)]
    return f"did you mean {close[0]}?" if close else f"sections are {', '.join(model.model_fields)}"


BOUNDS = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
_SHOWN = 60
"""characters of a wrong value in a message"""


def _explain(model: type[Config], error: ValidationError) -> str:
    errors = error.errors()
    first = next((each for each in errors if each["type"] in BOUNDS), errors[0])  # of alternatives, the nearest
    if errors[0]["type"] == "extra_forbidden":
        key = ".".join(map(str, errors[0]["loc"]))
        return f"{key} is no setting; {_closest(key, model)}"
    if first["type"] == "value_error":
        return str(first.get("ctx", {})["error"])
    key, place = _setting_at(first["loc"], model)
    start, context = f"{key}={_shown(first['input'])}", first.get("ctx", {})
    if first["type"] in BOUNDS:
        return f"{start} must be {BOUNDS[first['type']]} {_shown(next(iter(context.values())))}"
    if first["type"] in ("huge", "path", "title", "utf8"):
        return f"{start} {first['msg']}"
    if place is None:  # a section, or the whole
        return f"{start} must be an object with {', '.join(model.model_fields)}"
    if first["type"] == "string_pattern_mismatch":
        return f"{start} must have the form {context['pattern']}"
    default, words = place[0].model_fields[place[1]].default, words_of(*place)
    if any(each["type"] == "finite_number" for each in errors):
        words = words.replace("a number", "a finite number")
    one_of = "one of " if words.startswith("'") and " or " in words else ""
    return f"{start} must be {one_of}{words}; the default is {plain(default)}"


def _setting_at(location: tuple[int | str, ...], model: type[Config]) -> tuple[str, tuple[type[Config], str] | None]:
    """The dotted setting that an error's location begins with, and its place; the whole location where it is none."""
    words = [str(part) for part in location]
    for end in range(1, len(words) + 1):
        if place := _place(key := ".".join(words[:end]), model):
            section = place[0].model_fields[place[1]].annotation
            if not (isinstance(section, type) and issubclass(section, Config)):
                return key, place
    return ".".join(words), None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SCALAR, _TRAINED = ("levels", "range", "std_range", "edges", "per"), ("levels", "epochs", "seed")
"""settings of Quantizer beside its kind that quantizers after training read, and trained ones"""
_BINS = ("range", "std_range", "edges")
"""those of the quantizers in whose bins a density of values is measured"""
_STARTS = ("autoregressive", "diffusion")
"""heads that read head.start"""


def unread(settings: Mapping[str, Any], kinds: Collection[str]) -> set[str]:
    """The settings that nothing of a run reads: levels of continuous tokens, a head where none is trained.

    Args:
        settings: by dotted key, which may come from an older version.
        kinds: of the run's stages.
    """
    tokens, kind = settings.get("quantizer.kind"), str(settings.get("head.kind"))
    head, generates = HEAD_KINDS.get(kind), not {"train", "speed"}.isdisjoint(kinds)
    if head is None:
        return set()
    binned = generates and head.predicts == "values" and head.density
    of_tokens = _TRAINED if tokens in TRAINED_TOKENS else _SCALAR if tokens != "identity" else _BINS if binned else ()
    of_head = ("kind", "width", "depth", *head.reads, *(("start",) if kind in _STARTS else ()))
    draws = {
        "top_k": head.predicts == "levels",
        "top_p": head.predicts == "levels",
        "confidence": head.density,
        "head_steps": kind in ("diffusion", "flow"),
        "solver": kind == "flow",
    }

    def read(key: str) -> bool:
        section, _, name = key.partition(".")
        if section == "quantizer":
            return name == "kind" or name in of_tokens
        if section in ("backbone", "train"):
            return generates
        if section == "head":
            return generates and name in of_head
        if section == "sample":
            return generates and draws.get(name, True)
        return binned if section == "likelihood" else True

    return {key for key in settings if not read(key)}
