"""The reports in the repository are what their sources say: built again, every file has the same bytes."""

import shutil

import pytest

from analysis.frame.source import read
from analysis.tables.fill import fill
from experiments.paper import TABLES
from tests.helpers.machine import REPORTS

COMMITTED = REPORTS / "digits"


@pytest.mark.slow
def test_report_all_builds_them_again_byte_for_byte(tmp_path, call):
    for name in ("digits", "ablation"):
        shutil.copytree(REPORTS / name / "source", tmp_path / "reports" / name / "source")
    assert call("report", "all", cwd=tmp_path).returncode == 0
    built = tmp_path / "reports"
    names = {path.relative_to(built) for path in built.rglob("*") if path.is_file()}
    committed = {path.relative_to(REPORTS) for name in built.iterdir() for path in (REPORTS / name.name).rglob("*")}
    assert names == {name for name in committed if (REPORTS / name).is_file()}
    for name in names:
        assert (built / name).read_bytes() == (REPORTS / name).read_bytes(), name


def test_it_shows_what_the_readme_says():
    """The README's table is some rows and columns of the filled one, in its words, bold where that is."""
    filled = fill(TABLES["heads"], read(COMMITTED / "source"))
    titles = [column.title for column in filled.measured]
    wanted = [titles.index(title) for title in ("fd_digits", "bits/dim", "agreement", "recall", "time per image")]
    rows = {row.label: [row.measured[i] for i in wanted] for row in filled.rows}
    shown = [line.strip("|").split("|") for line in (COMMITTED.parents[1] / "README.md").read_text().splitlines()]
    shown = {label.strip(): texts for label, *texts in shown if label.strip() in rows}
    assert len(shown) == 6
    for label, texts in shown.items():
        for entry, text in zip(rows[label], texts, strict=True):
            number = f"{entry.text} ± {entry.half}" if entry.half else entry.text
            assert text.strip().strip("*").removesuffix(" %") == (number or entry.reason), label
            assert ("**" in text) == entry.best, (label, text)


def test_autoregressive_beats_parallel_with_every_seed():
    source = read(COMMITTED / "source")
    for metric in ("score/fd_digits", "likelihood/bits_per_dim"):
        ours, rival = (
            [source.number(id, metric) for id in source.cells("2a", label)] for label in ("autoregressive", "parallel")
        )
        assert len(ours) == len(rival) == 3
        assert max(ours) < min(rival)
