"""The command `tokenbridge settings`: what may stand before and behind `=`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from tokenbridge.config import Config, RunConfig, UserError, bounds_of, holds_path, words_of
from tokenbridge.overrides import near, plain
from tokenbridge.overrides import settings as flat_settings


def settings(
    section: Annotated[
        str | None, typer.Argument(help="a section, or one setting of it (default: all)", metavar="[SECTION|SETTING]")
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="values of a preset or a file of settings, in place of the defaults")
    ] = None,
) -> None:
    """List the settings: value, what it may be, and what it means.

    Example: tokenbridge settings sample; tokenbridge settings train.batch --preset digits
    """
    from experiments.presets import base

    keys = _keys(section)
    values = {} if preset is None else flat_settings(base(preset).config)
    width = min(120, shutil.get_terminal_size((100, 24)).columns)
    print("\n".join(line for key in keys for line in _lines(key, values, width)))


def _keys(section: str | None) -> list[str]:
    """The settings that are asked for."""
    keys = [*flat_settings(RunConfig)]
    if section is None:
        return keys
    if found := [key for key in keys if section in (key, key.partition(".")[0], key.partition(".")[2])]:
        return found
    close = near(section, [*RunConfig.model_fields, *keys, *(key.partition(".")[2] for key in keys)])
    hint = f"did you mean {close[0]}?" if close else f"sections are {', '.join(RunConfig.model_fields)}"
    raise UserError(f"{section or repr(section)} is no section and no setting; {hint}")


def _lines(key: str, values: Mapping[str, Any], width: int) -> Iterator[str]:
    """A setting in two or more lines: value, kind and range; what it means."""
    section, _, name = key.partition(".")
    model = _model(section)
    field = model.model_fields[name]
    value = values.get(key, field.default)
    default = "" if value == field.default else f"; the default is {plain(field.default)}"
    kind = words_of(model, name).replace("text", "a path" if holds_path(section, name) else "text")
    bounds = f", {words}" if (words := bounds_of(model, name)) else ""
    yield f"{key} = {plain(value)}  ({kind}{bounds}{default})"
    yield from textwrap.wrap(
        " ".join((field.description or "").split()), width, initial_indent="    ", subsequent_indent="    "
    )


def _model(section: str) -> type[Config]:
    model = RunConfig.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, Config)
    return model
