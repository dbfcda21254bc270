"""The machine that the tests run on: where the repository and its data lie, and what may be missing, but not in CI."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
REPORTS = ROOT / "reports"


def missing(text: str) -> NoReturn:
    """In CI a failure, elsewhere a skip, with the text as its reason."""
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)
