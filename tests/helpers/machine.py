"""What a machine may lack for some tests, and CI may not."""

import os
from typing import NoReturn

import pytest


def missing(text: str) -> NoReturn:
    """In CI a failure, elsewhere a skip, with the text as its reason."""
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)
