"""How commands that run cells begin and end: what the images are read as, and what failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from experiments.runner import Failure
    from tokenbridge.config import Data


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
