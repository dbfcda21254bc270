"""How commands begin and end: what images are read as, what failed, and one line for what a user can mend."""

from __future__ import annotations

import errno
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any

import typer

from tokenbridge.config import UserError, on_one_line, short_of_memory
from tokenbridge.overrides import BOUNDS
from tokenbridge.store.runs import require_name

if TYPE_CHECKING:
    from experiments.pipeline import Cell
    from experiments.presets import Base
    from experiments.runner import Failure
    from tokenbridge.config import Data

PLACES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC)
"""errors of the system that are about a place, wherever they come up"""
KINDS = {"int_parsing": "a whole number", "float_parsing": "a number", "bool_parsing": "true or false"}
"""what a word of the command line must be, by pydantic's name for its being none"""


def cell_of(base: Base, settings: Sequence[str], only: Sequence[str], name: str | None) -> Cell:
    """The cell of a base with some settings changed.

    Args:
        base: a preset or a file of settings.
        settings: as they are typed, section.key=value.
        only: the last stages wanted; none: all that the configuration can have.
        name: of the run; None: the base's with the settings that differ.

    Raises:
        UserError: a name that no run can have, a setting that cannot be.
    """
    from experiments import axes, pipeline
    from tokenbridge.overrides import differing, override

    if name is not None:
        require_name(name)
    config = override(base.config, settings)
    wanted = tuple(only) if only else pipeline.wanted_of(config)
    return pipeline.Cell(name or axes.run_name(base.name, differing(config, base.config)), config, wanted)


@contextmanager
def told_on_stderr(wanted: bool = True) -> Iterator[None]:
    """What is told of progress goes to stderr, where stdout is for a result alone."""
    with redirect_stdout(sys.stderr) if wanted else nullcontext():
        yield


def show_json(document: object) -> None:
    """Print a result for programs; NaN and infinity, which JSON has not, are null."""
    text = json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False)
    print(text.encode(errors="backslashreplace").decode())  # a path need not be UTF-8


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_data(data: Data) -> None:
    """Say what folders of images are read as: labels, what is left out, what is doubtful. Digits need no word."""
    from tokenbridge.data.files import remarks

    for line in remarks(data):
        print(line, flush=True)


def end_with(failures: Sequence[Failure]) -> None:
    """Stop with a list of what failed and why, one line each; exit code 1."""
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    if failures:
        print("the same command tries these again and nothing else", file=sys.stderr)
        raise typer.Exit(1)


def told(error: Exception) -> str:
    """An error in one line; empty for one that is none of the user's."""
    if said := short_of_memory(error):
        return f"out of memory ({said}); set --batch or --jobs lower, or take a machine with more of it"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in PLACES:
        return on_one_line(
            f"{error.filename or 'what was to be written'}: {error.strerror}; mend that, or give another path"
        )
    # of Click, which newer versions of Typer hold a copy of
    return on_one_line(_of_words(error)) if hasattr(error, "format_message") else ""


def _of_words(error: Any) -> str:
    """What is wrong with the words of a command: value, rule, and where the rules are listed."""
    remedy = f"; see {error.ctx.command_path if getattr(error, 'ctx', None) else 'tokenbridge'} --help"
    cause, parameter = error.__cause__, getattr(error, "param", None)
    if parameter is not None and hasattr(cause, "errors"):
        first = cause.errors()[0]
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name
        rule = re.sub("^(Input should|Value error, must) ", "", first["msg"])
        if first["type"] in KINDS:
            rule = f"be {KINDS[first['type']]}"
        elif first["type"] in BOUNDS:
            bound = next(iter(first["ctx"].values()))
            rule = f"be {BOUNDS[first['type']]} {bound:,.0f}" if bound >= 1 else f"be {BOUNDS[first['type']]} {bound:g}"
        return f"{name}={first['input']} must {rule}{remedy}"
    said = error.format_message().rstrip(".")
    return said[0].lower() + said[1:] + ("" if said.endswith("?") else remedy)
