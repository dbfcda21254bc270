"""The examples of CONTRIBUTING.md: put into a copy of the code where they say, their commands run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SHORT
from tests.helpers.machine import ROOT

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
PARTS = {title: text for title, text in re.findall(r"^### (.+?)\n(.*?)(?=^### |^## |\Z)", GUIDE, re.M | re.S)}
SETTINGS = [*SHORT, "sample.images=53"]
EXPECTED = {
    "An axis": "0.8 → 1",
    "A stage": "balance/smallest_class",
    "A metric": "score/certainty_digits",
    "A head": "likelihood/bits_per_dim",
    "A table": "constant",
}


def blocks(part: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PARTS[part], re.M | re.S)


def insert(root: Path, block: str) -> None:
    head, _, code = block.partition("\n")
    found = re.fullmatch(r"# (\S+), (?:new|(above|below|replacing): (.+))", head)
    assert found, head
    path, place, anchor = root / found[1], found[2], found[3]
    if place is None:
        assert not path.exists(), f"{path} is there already"
        path.write_text(code)
        return
    lines = path.read_text().splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if line.startswith(anchor)]
    assert len(at) == 1, f"{anchor!r} begins {len(at)} lines of {found[1]}"
    start, end = {"above": (at[0], at[0]), "below": (at[0] + 1, at[0] + 1), "replacing": (at[0], at[0] + 1)}[place]
    path.write_text("".join([*lines[:start], code, *lines[end:]]))


def with_settings(words: list[str]) -> list[str]:
    """The same command on a small model, its rows at one point: a search for each would take most of the time."""
    if words[0] == "grid":
        points = ["--points", "base"] if words[1] == "schedules" else []
        return [*words, *(w for setting in SETTINGS for w in ("--set", setting)), "--jobs", "1", *points]
    return [*words, *SETTINGS] if words[0] == "run" else words


def test_every_part_has_an_example_and_a_command() -> None:
    assert PARTS.keys() == EXPECTED.keys()
    for part in PARTS:
        assert blocks(part, "python"), part
        assert blocks(part, "sh"), part


@pytest.mark.slow
@pytest.mark.parametrize("part", EXPECTED)
def test_the_example_works(part: str, tmp_path: Path) -> None:
    code, work = tmp_path / "code", tmp_path / "work"
    for package in ("tokenbridge", "experiments", "analysis", "slurm"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    work.mkdir()
    for block in blocks(part, "python"):
        insert(code, block)
    for command in "".join(blocks(part, "sh")).splitlines():
        first, *words = shlex.split(command)
        assert first == "tokenbridge"
        done = subprocess.run(
            [sys.executable, "-m", "experiments.cli", *with_settings(words)],
            cwd=work,
            env={**os.environ, "PYTHONPATH": str(code)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert EXPECTED[part] in done.stdout
