"""The report in the repository is what its source says: built again, every file has the same bytes."""

import json
import shutil
from pathlib import Path

import pandas as pd
from scipy import stats

from analysis.report import build

COMMITTED = Path(__file__).parents[1] / "reports" / "digits"


def test_it_builds_again_byte_for_byte(tmp_path):
    shutil.copytree(COMMITTED / "source", tmp_path / "digits" / "source")
    build(tmp_path / "digits")
    names = {path.relative_to(COMMITTED) for path in COMMITTED.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path / "digits") for path in tmp_path.rglob("*") if path.is_file()} == names
    for name in names:
        assert (tmp_path / "digits" / name).read_bytes() == (COMMITTED / name).read_bytes(), name


def cells(table):
    """Row label -> cells, in the report's plan."""
    found = {}
    for row in json.loads((COMMITTED / "source" / "plan.json").read_text())["rows"]:
        if row["table"] == table:
            found.setdefault(row["label"], []).append(row["cell"])
    return found


def test_it_shows_what_the_readme_says():
    frame = pd.read_csv(COMMITTED / "source" / "frame.csv").set_index("cell")
    readme = (COMMITTED.parents[1] / "README.md").read_text().splitlines()
    heads = cells("heads")
    columns = {
        "score/fd_digits": (2, 1),
        "likelihood/bits_per_dim": (3, 1),
        "score/agreement": (1, 100),
        "score/recall_digits": (3, 1),
    }
    shown = [line for line in readme if line.removeprefix("| ").partition(" |")[0] in heads]
    assert len(shown) == 8
    for line in shown:
        label, *texts, time = (text.strip() for text in line.strip("|").split("|"))
        assert len(heads[label]) == 3
        for (metric, (digits, scale)), text in zip(columns.items(), texts, strict=True):
            values = frame.loc[heads[label], metric] * scale
            if values.isna().any():
                assert text in ("no exact density", "another latent space")
                continue
            half = stats.t.ppf(0.975, 2) * values.std() / 3**0.5
            assert f"{values.mean():.{digits}f} ± {half:.{digits}f}" in text, (label, metric)
        assert time == f"{frame.loc[heads[label][0], 'speed/image_ms']:.1f}"


def test_autoregressive_beats_parallel_with_every_seed():
    frame, table = pd.read_csv(COMMITTED / "source" / "frame.csv").set_index("cell"), cells("2a")
    ours, rival = frame.loc[table["autoregressive"]], frame.loc[table["parallel"]]
    for metric in ("score/fd_digits", "likelihood/bits_per_dim"):
        assert ours[metric].max() < rival[metric].min()
