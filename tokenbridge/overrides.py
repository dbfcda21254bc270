"""Configs from values and from `section.key=value` words; what is wrong is one line with the closest valid key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError

from tokenbridge.config import Config, UserError

_AnyConfig = TypeVar("_AnyConfig", bound=Config)


def build(model: type[_AnyConfig], values: Mapping[str, Any]) -> _AnyConfig:
    """Validate values into a config.

    Args:
        model: the class of the config.
        values: a value, or those of a section, by field.

    Raises:
        UserError: names the first value that is refused, the rule and, of an unknown key, the closest one.
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
    pairs = assignments.items() if isinstance(assignments, Mapping) else [_split(text) for text in assignments]
    # what is not touched stays the same object, so that a grid of thousands of configs validates only what varies
    values = {name: getattr(config, name) for name in type(config).model_fields}
    for key, value in pairs:
        require_key(key, type(config))
        *sections, last = key.split(".")
        place = values
        for section in sections:
            if isinstance(place[section], Config):
                place[section] = place[section].model_dump()
            place = place[section]
        place[last] = value
    return build(type(config), values)


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


def _split(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text!r} must have the form key=value, for example quantizer.levels=32")
    return key, value_of(value)


def value_of(text: str) -> Any:
    """The value of a typed word: JSON, none, or text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None if text.lower() == "none" else text


def plain(value: Any) -> str:
    """A value as one types it on the command line."""
    if value is None:
        return "none"
    return json.dumps(value) if isinstance(value, bool | list | tuple) else str(value)


def _closest(key: str, model: type[Config]) -> str:
    keys = list(_keys(model))
    by_last = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = by_last or difflib.get_close_matches(key, keys, 1, 0.4)
    if not near:  # a key without its section: compare the last words
        last = {k.rsplit(".", 1)[-1]: k for k in keys}
        near = [last[m] for m in difflib.get_close_matches(key.rsplit(".", 1)[-1], list(last), 1, 0.4)]
    return f"did you mean {near[0]}?" if near else f"sections are {', '.join(model.model_fields)}"


def _explain(model: type[Config], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(
        str(part) for part in first["loc"] if str(part) in str(list(settings(model))) or part in model.model_fields
    )
    if first["type"] == "extra_forbidden":
        key = ".".join(str(part) for part in first["loc"])
        return f"{key} is no setting; {_closest(key, model)}"
    if first["type"] == "value_error":
        return str(first.get("ctx", {})["error"])
    return f"{key}={first['input']!r} {_rule(first)}"


def _rule(first: Any) -> str:
    context = first.get("ctx", {})
    bounds = {"greater_than": ">", "greater_than_equal": ">=", "less_than": "<", "less_than_equal": "<="}
    if first["type"] in bounds:
        return f"must be {bounds[first['type']]} {next(iter(context.values()))}"
    if first["type"] == "literal_error":
        return f"must be one of {context['expected']}"
    return "is not valid: " + first["msg"].removeprefix("Input should be ").replace("a valid", "must be a valid")
