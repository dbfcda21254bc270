"""The report in the repository is what its source says: built again, every file has the same bytes."""

import json
import shutil
from pathlib import Path

import pandas as pd

from analysis.report import build

COMMITTED = Path(__file__).parents[1] / "reports" / "digits"


def test_it_builds_again_byte_for_byte(tmp_path):
    shutil.copytree(COMMITTED / "source", tmp_path / "digits" / "source")
    build(tmp_path / "digits")
    names = {path.relative_to(COMMITTED) for path in COMMITTED.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "digits") for path in tmp_path.rglob("*") if path.is_file()} == names
    for name in names:
        assert (tmp_path / "digits" / name).read_bytes() == (COMMITTED / name).read_bytes(), name


def test_it_shows_what_the_readme_says():
    frame = pd.read_csv(COMMITTED / "source" / "frame.csv").set_index("cell")
    rows = json.loads((COMMITTED / "source" / "plan.json").read_text())["rows"]
    cells = {
        label: [r["cell"] for r in rows if (r["table"], r["label"]) == ("2a", label)]
        for label in ("parallel", "autoregressive")
    }
    readme = (COMMITTED.parents[1] / "README.md").read_text()
    for label, ids in cells.items():
        assert len(ids) == 3
        line = next(line for line in readme.splitlines() if line.startswith(f"| {label} |"))
        for metric, digits in (("score/fd_digits", 2), ("likelihood/bits_per_dim", 3), ("score/recall_digits", 3)):
            assert f"{frame.loc[ids, metric].mean():.{digits}f}" in line
    better = frame.loc[cells["autoregressive"]], frame.loc[cells["parallel"]]
    for metric in ("score/fd_digits", "likelihood/bits_per_dim"):
        assert better[0][metric].max() < better[1][metric].min()
