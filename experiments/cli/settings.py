"""The commands `tokenbridge settings`, what may stand before and behind `=`, and `config`, what a run would have."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.cli.options import Preset, Settings
from tokenbridge.config import Config, RunConfig, UserError, bounds_of, holds_path, words_of
from tokenbridge.overrides import differing, near, override, plain
from tokenbridge.overrides import settings as flat_settings

if TYPE_CHECKING:
    from experiments.presets import Base


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


def config(preset: Preset = "digits", settings: Settings = None) -> None:
    """Print what a run would have for every setting, as a file that `run` and every other command takes.

    A line that differs from the preset's says what that has. Paths are absolute, so that the file may lie anywhere.

    Example: tokenbridge config digits quantizer.levels=8 > mine.toml; tokenbridge run mine.toml
    """
    from experiments.presets import base

    print(config_text(base(preset), settings or ()), end="")


def config_text(base: Base, words: Sequence[str]) -> str:
    """The text of a file of settings that names all of them.

    Args:
        base: a preset or a file of settings.
        words: settings on top of it, as they are typed.

    Raises:
        UserError: a setting that cannot be.
    """
    from experiments.axes import run_name
    from experiments.fitting import toml_value
    from experiments.presets import SPLITS, preset

    usual, wanted = flat_settings(preset(base.preset)), override(base.config, words)
    name = run_name(base.name, differing(wanted, base.config))
    lines = [
        "# Every setting of a run, written by `tokenbridge config`; remarks say what the preset has where it differs.",
        f"preset = {toml_value(base.preset)}",
        f"name = {toml_value(name)}  # what runs are called",
    ]
    section = ""
    for key, value in flat_settings(wanted).items():
        here, _, last = key.partition(".")
        lines += ["", f"[{here}]"] if here != section else []
        section, remark = here, "" if value == usual[key] else f"  # {base.preset}: {toml_value(usual[key])}"
        if isinstance(value, str) and value and holds_path(here, last) and value not in SPLITS:
            value = str(Path(value).expanduser().absolute())
        lines.append(f"{last} = {toml_value(value)}{remark}")
    return "\n".join(lines) + "\n"


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
