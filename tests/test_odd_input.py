"""What a store or a report's source may look like on a bad day: a readable result, or one line and exit code 2."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from analysis import load, report, tables
from analysis.source import read
from experiments import tracking
from experiments.paper import TABLE_1A, TABLE_2A
from tests import small_runs
from tests.synthetic_source import edit_frame, write_source
from tokenbridge.artifacts import JOURNAL, Store, write_json
from tokenbridge.config import UserError

Edit = Callable[[Path], object]


@pytest.fixture
def store(tmp_path, template) -> Store:
    return Store(shutil.copytree(template, tmp_path / "runs"))


@pytest.fixture
def source(tmp_path) -> Path:
    """A report with three seeds, in the place where the command looks for it."""
    return write_source(tmp_path / "reports" / "odd", seeds=3, tables=("1a", "2a")) / "source"


def planned(store: Store) -> Store:
    """With the plan of a report of the four cells."""
    names = {"1a-b002": "B=2", "1a-b004": "B=4", "2a-g1.5": "autoregressive"}
    found = load.frame_from_stages(store.root).set_index("name")["cell"]
    rows = [
        {"table": name[:2], "label": "B=8" if "1a" in name else label, "cell": found[name]}
        for name, label in names.items()
    ]
    base = json.loads(small_runs.config_of(8).model_dump_json())
    (store.root / "plans").mkdir()
    write_json(
        store.root / "plans" / "odd.json", {"name": "odd", "title": "Odd", "base": base, "rows": rows, "notes": []}
    )
    return store


def one_line(done, *parts: str) -> str:
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip()
    assert line.startswith("tokenbridge: "), line
    assert "\n" not in line
    for part in parts:
        assert part in line
    return line


def test_an_empty_store(store):
    shutil.rmtree(store.root / "cells")
    assert sum(tracking.sync(store).values()) == 0
    for frame in (load.runs(store.root), load.frame_from_stages(store.root)):
        assert frame.shape == (0, 4)
        assert len(load.describe(frame)) == 0


def test_one_run(store, tmp_path):
    for path in (store.root / "cells").glob("*.json"):
        if "1a-b004" not in path.read_text():
            path.unlink()
    tracking.sync(store)
    frame = load.runs(store.root)
    pd.testing.assert_frame_equal(frame.assign(run_id=""), load.frame_from_stages(store.root), check_exact=True)
    assert list(frame["name"]) == ["1a-b004"]
    shape = load.runs(store.root).shape
    assert shape == frame.shape


def test_a_report_of_one_run(call, tmp_path):
    source = write_source(tmp_path / "reports" / "odd", tables=("1a",)) / "source"
    plan = json.loads((source / "plan.json").read_text())
    (source / "plan.json").write_text(json.dumps(plan | {"rows": plan["rows"][:1]}))
    done = call("report", "odd", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "reports" / "odd" / "tables").glob("*").__next__().read_text()) > 0


def test_two_protocols_in_one_column(call, source, tmp_path):
    edit_frame(source.parent, "parallel", {"protocol.score": '{"features": "digits", "images": 7}'})
    line = one_line(
        call("report", "odd", cwd=tmp_path), "table 2a, column score/fd_digits", "one column holds one protocol"
    )
    assert "images=7" in line or "but 7" in line or "absent" in line


def filled(source: Path, column: str, table: str = "2a") -> dict[str, tables.Entry]:
    found = tables.fill(TABLE_2A if table == "2a" else TABLE_1A, read(source))
    place = [each.key for each in found.measured].index(column)
    return {row.label: row.measured[place] for row in found.rows}


@pytest.mark.parametrize(("value", "reason"), [("nan", "not a number"), ("inf", "infinite"), ("-inf", "infinite")])
def test_a_cell_says_that_its_metric_is_no_number(call, source, tmp_path, value, reason):
    before = filled(source, "score/fd_digits")
    edit_frame(source.parent, "parallel", {"score/fd_digits": value}, seed=1)
    after = filled(source, "score/fd_digits")
    assert (after["parallel"].text, after["parallel"].reason) == ("", reason)
    assert after["autoregressive"].text == before["autoregressive"].text
    assert call("report", "odd", cwd=tmp_path).returncode == 0
    assert reason in (tmp_path / "reports" / "odd" / "index.html").read_text()


def test_a_metric_that_is_missing(call, source, tmp_path):
    edit_frame(source.parent, "parallel", {"score/fd_digits": None})
    assert filled(source, "score/fd_digits")["parallel"].reason == "not reported"
    assert call("report", "odd", cwd=tmp_path).returncode == 0
    edit_frame(source.parent, "parallel", {"score/is_digits": None}, seed=1)
    one_line(call("report", "odd", cwd=tmp_path), "score/is_digits: row 'parallel' has it for 2 of 3 seeds")


def write(name: str, content: str | bytes) -> Edit:
    def edit(source: Path) -> None:
        path = source / name if "*" not in name else sorted(source.glob(name))[0]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return edit


def of_plan(**changes: object) -> Edit:
    def edit(source: Path) -> None:
        plan = json.loads((source / "plan.json").read_text()) | changes
        kept = {key: value for key, value in plan.items() if value is not None}
        (source / "plan.json").write_text(json.dumps(kept))

    return edit


DAMAGED: dict[str, tuple[Edit, str]] = {
    "frame: empty": (write("frame.csv", ""), "frame.csv is not readable"),
    "frame: bytes": (write("frame.csv", b"\xff\xfe\x00cell"), "frame.csv is not readable"),
    "frame: ragged": (write("frame.csv", "cell,a\n1,2\n1,2,3,4\n"), "frame.csv is not readable"),
    "frame: no cell": (write("frame.csv", "name\nx\n"), "frame.csv must have a column cell"),
    "frame: twice": (write("frame.csv", "cell,name\nx,y\nx,z\n"), "frame.csv must have a column cell, each once"),
    "frame: no rows": (write("frame.csv", "cell,name\n"), "is not in frame.csv"),
    "frame: word": (lambda s: edit_frame(s.parent, "parallel", {"score/fd_digits": "many"}), "score/fd_digits='many'"),
    "frame: protocol": (lambda s: edit_frame(s.parent, "parallel", {"protocol.score": "{"}), "protocol.score of cell"),
    "frame: protocol list": (lambda s: edit_frame(s.parent, "parallel", {"protocol.score": "7"}), "protocol.score"),
    "plan: cut": (write("plan.json", '{"rows": ['), "plan.json is not readable JSON"),
    "plan: list": (write("plan.json", "[]"), "plan.json must hold a JSON object"),
    "plan: bytes": (write("plan.json", b"\xff\xfe"), "plan.json is not readable JSON"),
    "plan: no base": (of_plan(base=None), "plan.json must have title, base"),
    "plan: no title": (of_plan(title=None), "plan.json must have title"),
    "plan: empty base": (of_plan(base={"data": {}}), "base"),
    "plan: rows": (of_plan(rows=[{"table": "2a"}]), "rows must be a list of objects with cell, label, table"),
    "plan: number of rows": (of_plan(rows=3), "rows must be a list"),
    "plan: no such table": (of_plan(rows=[{"table": "9z", "label": "x", "cell": "x"}]), "table '9z' is none of ours"),
    "plan: no such cell": (of_plan(rows=[{"table": "2a", "label": "parallel", "cell": "x"}]), "cell x of table 2a"),
    "curves: empty": (write("curves.csv", ""), "curves.csv is not readable"),
    "curves: words": (write("curves.csv", "stage,key,step,value\na,loss,1,much\n"), "curves.csv is not readable"),
    "curves: columns": (write("curves.csv", "a,b\n1,2\n"), "curves.csv has columns"),
    "manifest: cut": (write("manifests/*.json", "{"), "is not readable JSON"),
    "manifest: list": (write("manifests/*.json", "[1]"), "must hold a JSON object"),
    "example: cut": (write("examples/quantizer*.npz", b"PK\x03\x04"), "npz is not readable"),
    "example: text": (write("examples/quantizer*.npz", "words"), "npz is not readable"),
    "example: gone": (lambda s: sorted(s.glob("examples/quantizer*.npz"))[0].unlink(), "npz is missing"),
    "examples: gone": (lambda s: shutil.rmtree(s / "examples"), "npz is missing"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_source_is_one_line(call, source, tmp_path, name):
    edit, part = DAMAGED[name]
    edit(source)
    one_line(call("report", "odd", cwd=tmp_path), part)
    assert not (source.parent / "index.html").exists()


def test_an_example_without_its_array(source):
    import numpy as np

    path = sorted(source.glob("examples/quantizer*.npz"))[0]
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UserError, match=r"quantizer-.*npz has no array \w+; write the report's source again"):
        report.build(source.parent)


def test_no_manifests_are_no_environment(call, source, tmp_path):
    shutil.rmtree(source / "manifests")
    assert call("report", "odd", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "other"])
def test_a_damaged_database_is_one_line(store, kind):
    tracking.sync(planned(store))
    path = store.root / "mlflow.db"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"words\n" * 1000, "cut": whole[: len(whole) // 3]}.get(kind, b""))
    if kind == "other":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(UserError, match=r"mlflow.db is (damaged|no store of MLflow).*run `tokenbridge sync`") as caught:
        load.runs(store.root)
    assert "\n" not in str(caught.value)


def test_a_store_of_a_newer_mlflow_is_one_line(tmp_path, template):
    path = shutil.copyfile(template / "mlflow.db", tmp_path / "mlflow.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.commit()
    with pytest.raises(UserError, match=r"cannot be read .*use the MLflow that wrote it, or delete it") as caught:
        load.runs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["metrics.json", "examples.npz", JOURNAL, "manifest.json"])
def test_a_damaged_stage_is_one_line(call, store, tmp_path, file):
    """`sync` names it and so does the report; the other cells are sent."""
    kind = {JOURNAL: "train", "examples.npz": "reconstruct"}.get(file, "quantizer")
    stage = small_runs.id_of(kind, 8 if file == JOURNAL else 2)
    (planned(store).folder(stage) / file).write_text('["loss"\n')
    one_line(call("sync", cwd=tmp_path), stage, file)
    one_line(call("report", "odd", cwd=tmp_path), stage, file)
    assert "2a-g1.5" in list(load.runs(store.root)["name"])


def test_a_stage_that_was_deleted_is_told(store, tmp_path):
    planned(store)
    tracking.sync(store)
    plan = json.loads((store.root / "plans" / "odd.json").read_text())
    shutil.rmtree(store.folder(small_runs.id_of("quantizer", 2)))
    with pytest.raises(UserError, match=r"stage quantizer-\w+ of cell 1a-b002 is gone .* run the cell again"):
        load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    assert len(load.runs(store.root)) == 4  # MLflow keeps the numbers


def test_nan_reaches_the_source_as_such(store, tmp_path):
    path = planned(store).folder(small_runs.id_of("quantizer", 2)) / "metrics.json"
    entry = json.loads(path.read_text())
    write_json(path, entry | {"metrics": entry["metrics"] | {"mse": float("nan")}})
    tracking.sync(store)
    plan = json.loads((store.root / "plans" / "odd.json").read_text())
    load.collect(store.root, tracking.tracking_uri(store), plan, tmp_path / "source")
    found, cells = read(tmp_path / "source"), [row["cell"] for row in plan["rows"]]
    assert [found.odd(cell, "quantizer/mse") for cell in cells] == ["not a number", "", ""]
    assert [found.odd(cell, "score/fd_pixels") for cell in cells] == ["", "", ""]


def test_a_sweep_with_a_running_cell(store):
    """No run of a sweep, a training or an older state counts as a cell, and both frames agree."""
    for path in (store.root / "cells").glob("*.json"):
        write_json(path, json.loads(path.read_text()) | {"sweeps": ["levels", "other"]})
    stages = {kind: small_runs.id_of(kind, 8) for kind in ("latents", "quantizer")}
    running = stages | {"train": small_runs.id_of("train", "running"), "score": small_runs.id_of("score", "running")}
    small_runs.add_cell(store, "2a-running", small_runs.config_of(8, **{"train.seed": 7}), running)
    partial = store.folder(f"{running['train']}.partial")
    partial.mkdir(parents=True)
    small_runs.journal(partial, range(4))
    tracking.sync(store)
    agree(store)
    frame = load.runs(store.root).set_index("name")
    assert len(frame) == 5
    assert pd.isna(frame.loc["2a-running", "score/fd_pixels"])
    assert frame.loc["2a-running", "stage.score"] == running["score"]
    small_runs.stage(store, "score", "running", metrics={"fd_pixels": 3.0})
    path = store.folder(small_runs.id_of("quantizer", 2)) / "metrics.json"
    write_json(path, {"metrics": {"mse": 7.0}})  # fewer metrics than MLflow has: its run steps aside
    tracking.sync(store)
    agree(store)
    assert load.runs(store.root).set_index("name").loc["2a-running", "score/fd_pixels"] == 3.0


def agree(store: Store) -> None:
    pd.testing.assert_frame_equal(
        load.runs(store.root).assign(run_id=""), load.frame_from_stages(store.root), check_exact=True
    )
