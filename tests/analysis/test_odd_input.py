"""What a report's source may look like on a bad day: a readable result, or one line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.frame.source import read
from analysis.report import build as report
from analysis.tables import fill as tables
from experiments.paper import TABLE_1A, TABLE_2A
from tests.helpers.report_source import edit_frame, write_source
from tokenbridge.config import UserError

Edit = Callable[[Path], object]


@pytest.fixture
def source(tmp_path) -> Path:
    """A report with three seeds, in the place where the command looks for it."""
    return write_source(tmp_path / "reports" / "odd", seeds=3, tables=("1a", "2a")) / "source"


def one_line(done, *parts: str) -> str:
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip()
    assert line.startswith("tokenbridge: "), line
    assert "\n" not in line
    for part in parts:
        assert part in line
    return line


def test_a_report_of_one_run(call, tmp_path, no_figures):
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
def test_a_cell_says_that_its_metric_is_no_number(call, source, tmp_path, no_figures, value, reason):
    before = filled(source, "score/fd_digits")
    edit_frame(source.parent, "parallel", {"score/fd_digits": value}, seed=1)
    after = filled(source, "score/fd_digits")
    assert (after["parallel"].text, after["parallel"].reason) == ("", reason)
    assert after["autoregressive"].text == before["autoregressive"].text
    assert call("report", "odd", cwd=tmp_path).returncode == 0
    assert reason in (tmp_path / "reports" / "odd" / "index.html").read_text()


def test_a_metric_that_is_missing(call, source, tmp_path, no_figures):
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
    "plan: cut": (
        write("plan.json", '{"rows": ['),
        "char 10)); write the report's source again",
    ),
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


def test_no_manifests_are_no_environment(call, source, tmp_path, no_figures):
    shutil.rmtree(source / "manifests")
    assert call("report", "odd", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("second", ["AVX2", "AVX512"])
def test_instruction_sets_that_differ_are_told(source, no_figures, second):
    """With a caution where last bits may differ; older manifests say nothing of them."""
    paths = sorted((source / "manifests").glob("*.json"))
    for path, capability in zip(paths[:2], ("AVX2", second), strict=True):
        told = {"capability": capability, "instructions": "avx2 fma", "mkldnn": "v3.9", "set": {}}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"arithmetic": told}))
    report.build(source.parent)
    text = (source.parent / "report.md").read_text()
    assert "| arithmetic | AVX2; avx2 fma; MKL-DNN v3.9" in text
    assert ("AVX512; avx2 fma" in text) == (second == "AVX512")
    assert ("ran with different instruction sets" in text) == (second == "AVX512")
