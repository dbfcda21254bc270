"""Sources that are plausible and uneven: seeds that one row has alone, trainings that diverged, very long intervals."""

import json
import math
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.figures import axes, heads
from analysis.figures.form import style
from analysis.frame.source import Source, read
from analysis.tables import effects
from analysis.tables.fill import fill
from analysis.tables.latex import to_latex
from analysis.verdicts import verdicts
from tests.helpers.machine import REPORTS
from tests.helpers.report_source import edit_frame

FD = "score/fd_digits"


def changed(report: str, folder: Path) -> Path:
    shutil.copytree(REPORTS / report / "source", folder / "source")
    return folder


def table_of(source: Source, id: str):
    return fill(next(table for table in source.tables if table.id == id), source)


def test_a_row_with_more_seeds_is_told_by_those_that_both_have(tmp_path):
    """Two more seeds that did badly: the verdict is over the other three, and so are the numbers beside it."""
    folder, key = changed("duel-fashion", tmp_path), "score/fd_fashion"
    first, base = "B=16, autoregressive", "continuous, flow"
    plan = json.loads((folder / "source" / "plan.json").read_text())
    spare = [row["cell"] for row in plan["rows"] if row["label"] == base][3:]
    plan["rows"] = [row for row in plan["rows"] if row["cell"] not in spare]
    for label, values in ((first, (3.0, 3.05, 2.98, 9.4, 9.1)), (base, (3.45, 3.52, 3.40))):
        for seed, value in enumerate(values):
            edit_frame(folder, label, {key: value}, "duel", seed)
    (folder / "source" / "plan.json").write_text(json.dumps(plan))
    source = read(folder / "source")
    (said,) = (verdict.text for verdict in verdicts(source))
    assert "beats continuous, flow in fd_fashion: 3.01 against 3.46" in said
    assert not any(entry.best for row in table_of(source, "duel").rows for entry in row.measured)


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_seed_that_diverged_leaves_its_row_without_a_mean_everywhere(tmp_path, value):
    folder, label = changed("digits", tmp_path), "B=8, autoregressive"
    edit_frame(folder, label, {FD: value}, "heads", 0)
    source = read(folder / "source")
    with style():
        drawing = heads.heads(source)
    assert drawing is not None
    assert "B=8,autoregressive" not in drawing.data
    assert "B=8,parallel" in drawing.data
    (row,) = (row for row in table_of(source, "heads").rows if row.label == label)
    assert {"infinite", "not a number"} & {entry.reason for entry in row.measured}
    said = [verdict for verdict in verdicts(source) if label in verdict.text and "has no number" in verdict.text]
    assert [verdict.status for verdict in said] == ["undecided"] * 2  # the search's best: no other takes its place


def test_a_cell_that_diverged_is_named_under_the_effects(tmp_path):
    folder = changed("ablation", tmp_path)
    path = folder / "source" / "frame.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[0, FD] = "inf"
    frame.to_csv(path, index=False)
    (matrix,) = effects.matrix(read(folder / "source"))
    assert "fd_digits: cells that measured no finite number and do not count: 1." in matrix.notes


def test_an_interval_of_two_pairs_may_be_very_long(tmp_path):
    """A Fréchet distance that grows fivefold at one of two temperatures, over 30 levels that all are compared."""
    folder, draws = changed("ablation", tmp_path), random.Random(1)
    path, plan_path = folder / "source" / "frame.csv", folder / "source" / "plan.json"
    like = pd.read_csv(path, dtype=str, keep_default_na=False).iloc[0].to_dict()
    rows, cells, levels = [], [], list(range(4, 34))
    for i, level in enumerate(levels):
        for j, temperature in enumerate((0.9, 1.0)):
            values = {"quantizer.levels": level, "sample.temperature": temperature}
            row = like | {"cell": f"{i}{j}".rjust(12, "0")} | {key: str(value) for key, value in values.items()}
            row |= {key: f"{id}{i}{j}" for key, id in like.items() if key.startswith("stage.")}
            row[FD] = str(3 + draws.random() * 0.3 if i == 0 or j == 0 else 15 + draws.random())
            rows.append(row)
            cells.append({"cell": row["cell"], "seed": 0, "values": values})
    varied = [{"key": "quantizer.levels", "values": levels}, {"key": "sample.temperature", "values": [0.9, 1.0]}]
    plan = json.loads(plan_path.read_text()) | {"cells": cells, "axes": varied, "rows": [], "confidence": []}
    plan_path.write_text(json.dumps(plan | {"search": {}}))
    pd.DataFrame(rows).to_csv(path, index=False)
    source = read(folder / "source")
    with style():
        drawing = axes.effects(source)
    assert drawing is not None
    numbers = [float(row[FD]) for row in rows]
    _, high = drawing.figure.axes[0].get_ylim()
    assert math.isclose(high - max(numbers), axes.ROOM * (max(numbers) - min(numbers)), rel_tol=0.2)
    (matrix,) = effects.matrix(source)
    told = [entry.change for row in matrix.rows for entry in row.measured if entry.change]
    assert max(map(len, told)) < 80
    assert any("to over" in text for text in told), told[:5]


@pytest.mark.parametrize(("name", "part"), [("Моя папка", "{[}U+041C]"), ("FashionMNIST and more", "FashionMNIST")])
def test_headings_in_latex_keep_their_words_and_begin_no_option(tmp_path, name, part):
    folder = changed("duel-fashion", tmp_path)
    plan = json.loads((folder / "source" / "plan.json").read_text())
    plan["base"]["data"]["name"] = name
    (folder / "source" / "plan.json").write_text(json.dumps(plan))
    text = to_latex(table_of(read(folder / "source"), "duel"))
    assert part in text
    assert "\\\\[" not in text
