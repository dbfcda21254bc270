"""The pages of guides and docstrings are made without a warning, and their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.helpers.machine import ROOT

PACKAGES = ("tokenbridge", "experiments", "analysis", "slurm")


@pytest.mark.slow
def test_the_pages_are_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "pages.py", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    modules = [path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    wanted = {path.parent if path.stem == "__init__" else path for path in modules if path.stem != "__main__"}
    assert {path.with_suffix(".html") for path in wanted} | {Path("index.html")} == {
        path.relative_to(tmp_path) for path in tmp_path.rglob("*.html")
    }
    anchors = {path: set(re.findall(r'id="([^"]+)"', path.read_text())) for path in tmp_path.rglob("*.html")}
    for page in anchors:
        for target in re.findall(r'href="([^"]+)"', page.read_text()):
            if re.match(r"https?:|mailto:|\$", target):  # the last in the script that searches
                continue
            path, _, anchor = unquote(target).partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there in anchors, f"{page}: {target}"
            inherited = not path and "." in anchor  # of a class of another library, which has no page here
            assert not anchor or inherited or anchor in anchors[there], f"{page}: {target}"
    for name in PACKAGES:
        title = re.search(r"^# (.+)$", (ROOT / name / "README.md").read_text(), re.M)
        assert title
        assert title[1] in (tmp_path / f"{name}.html").read_text()


def test_every_example_of_a_docstring_is_run():
    shown = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in PACKAGES
        for path in (ROOT / name).rglob("*.py")
        if re.search(r"^\s*>>> ", path.read_text(), re.M)
    }
    run = set[str]()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if "doctest.testmod(" in (text := path.read_text()):
            run |= {f"{place}.{name}" for place, names in re.findall(r"^from ([\w.]+) import (.+)$", text, re.M)
                    for name in names.split(", ")}  # fmt: skip
    assert len(shown) >= 4
    assert shown <= run
