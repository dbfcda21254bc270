"""The pages that a reader goes through: every link leads somewhere, and the first one is short."""

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.exchange import write_samples

ROOT = Path(__file__).parents[1]
FOLDERS = ("tokenbridge", "experiments", "analysis", "slurm")
PAGES = ["README.md", "CONTRIBUTING.md", *(f"{folder}/README.md" for folder in FOLDERS)]


@pytest.mark.parametrize("page", [*PAGES, "experiments/imagenet.md"])
def test_each_link_leads_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_first_page_has_python_that_runs(finished, tmp_path, monkeypatch):
    """On a small run in place of the digits', with the samples that the commands above it leave."""
    store, cell = finished
    (tmp_path / "runs").symlink_to(store.root)
    monkeypatch.chdir(tmp_path)
    write_samples(store, cell.id, Path("samples"), None)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = block.replace('tb.load("runs", "digits")', f'tb.load("runs", "{cell.name}")').splitlines()
    shown = dict[str, Any]()
    exec("\n".join(lines[:-1]), shown)
    assert shown["latents"].shape == shown["tokens"].shape == (71, 8, 4, 4)
    assert shown["images"].shape == (10, 1, 16, 16)
    assert eval(lines[-1], shown) > 0


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().split()) < 1200
