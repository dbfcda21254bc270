"""How commands that run cells end: what failed, or what was measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import has_metrics, read_metrics

if TYPE_CHECKING:
    from experiments.pipeline import Cell
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


def print_metrics(store: Store, cell: Cell) -> None:
    """Every metric of a cell, one a line."""
    for stage in cell.stages():
        if has_metrics(folder := store.folder(stage.id)):
            for key, value in read_metrics(folder).metrics.items():
                print(f"{f'{stage.kind.name}/{key}':<44} {value:.6g}")
