"""The files of a report's source, each read or refused in one line that names it."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tokenbridge.config import UserError

AGAIN = "write the report's source again"


_DATA = {"source", "path", "image_size"}


class Arrays(dict[str, np.ndarray]):
    """The arrays of an example file; what it lacks is a UserError that names the file."""

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]):
        super().__init__(arrays)
        self.path = path

    def __missing__(self, name: str) -> np.ndarray:
        raise UserError(f"{self.path} has no array {name}; {AGAIN}")


def read_csv(path: Path, **how: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **how)
    except ValueError as error:  # also what cannot be parsed, and bytes that are no text
        raise UserError(f"{path} is not readable ({_line(error)}); {AGAIN}") from error


def read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({_line(error)}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object; {AGAIN}")
    return value


def read_plan(path: Path) -> dict[str, Any]:
    """The plan, with what every report needs of it."""
    plan = read_object(path)
    lists = {
        "rows": {"table", "label", "cell"},
        "cells": {"values", "seed", "cell"},
        "confidence": {"strength", "cell"},
    }
    for name, keys in lists.items():
        entries = plan.get(name) or []
        if not isinstance(entries, list) or not all(isinstance(each, dict) and keys <= each.keys() for each in entries):
            raise UserError(f"{path}: {name} must be a list of objects with {', '.join(sorted(keys))}; {AGAIN}")
    base = plan.get("base")
    if (
        "rows" not in plan
        or "title" not in plan
        or not isinstance(base, dict)
        or not set(base.get("data") or ()) >= _DATA
    ):
        raise UserError(f"{path} must have title, base (a configuration) and rows; {AGAIN}")
    return plan


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def read_arrays(path: Path) -> Arrays:
    try:
        # a file that is none keeps the one that np.load opens by itself open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Arrays(path, arrays)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is not readable ({_line(error)}); {AGAIN}") from error
