"""The command in the tests' process: an interpreter's start and imports would take most of their time."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import pytest

from experiments.cli.main import main


class Done(NamedTuple):
    returncode: Any
    stdout: str
    stderr: str


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    monkeypatch.setattr(sys, "argv", ["tokenbridge", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return Done(ended.value.code, *capsys.readouterr())
