"""The reports in the repository are what their sources say: built again, every file has the same bytes."""

import csv
import math
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from analysis.frame.source import read
from analysis.tables.fill import fill
from experiments.paper import TABLES
from tests.helpers.machine import REPORTS

COMMITTED = REPORTS / "digits"
README = REPORTS.parent / "README.md"


@pytest.mark.slow
def test_report_all_builds_them_again_byte_for_byte(tmp_path, call):
    for name in ("digits", "duel", "ablation", "fashion", "duel-fashion"):
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


def test_levels_separate_on_fashion_mnist():
    """Of reconstructions, even as if rows had no images in common, where the digits show nothing."""
    source = read(REPORTS / "fashion" / "source")

    def distance(row: str) -> tuple[float, float]:
        (cell,) = source.cells("1a", row)
        return tuple(source.number(cell, f"reconstruct/fd_fashion{ending}") for ending in ("", "_se"))

    (coarse, error), (fine, other) = distance("B=4"), distance("continuous")
    assert coarse - fine > 3 * math.hypot(error, other)


def logs(report, table, distance, *labels):
    """The logarithms of a distance over the seeds of rows."""
    source = read(REPORTS / report / "source")
    return [np.log([source.number(id, f"score/{distance}") for id in source.cells(table, row)]) for row in labels]


def test_the_readmes_bits_of_autoregressive_against_parallel():
    """A difference of densities is that of the bits to name the bins; a ratio of them would mean nothing."""
    source = read(COMMITTED / "source")
    for key in ("bits_per_dim", "token_bits_per_dim"):
        ours, rival = (
            [source.number(id, f"likelihood/{key}") for id in source.cells("2a", label)]
            for label in ("autoregressive", "parallel")
        )
        assert len(ours) == len(rival) == 3
        assert min(rival) - max(ours) > 0.6
        less = f"{np.mean(rival) - np.mean(ours):.2f}"
        assert f"need {less} bits per dimension less than all at once" in README.read_text()


def test_the_readmes_headline_is_what_the_duel_settled():
    """Recomputed from the scores: Student's t over seeds of the logarithms, of unequal variances."""
    discrete, continuous = logs("duel", "duel", "fd_digits", "B=8, autoregressive", "continuous, flow")
    assert len(discrete) == len(continuous) == 10
    test = stats.ttest_ind(discrete, continuous, equal_var=False)
    assert test.pvalue < 1e-4
    readme = README.read_text()
    told = re.search(r"`fd_digits` is (\d+) % higher .* \(95 % interval (\d+) to (\d+)\)", readme)
    told = [float(word) for word in told.groups()]
    effect = discrete.mean() - continuous.mean()
    interval = test.confidence_interval(0.95)
    for ours, log in zip(told, (effect, interval.low, interval.high), strict=True):
        assert abs(ours - 100 * (np.exp(log) - 1)) < 1.1


def test_what_the_readme_says_of_the_duel_on_fashion_mnist():
    """Paired over seeds as the report has it; Welch's interval, which pairs nothing, is much the same."""
    first, second = logs("duel-fashion", "duel", "fd_fashion", "B=16, autoregressive", "continuous, flow")
    assert len(first) == len(second) == 5
    told = re.search(r"five fresh seeds\S+ each, B=16 reads (\d+) % higher \((\d+) to (\d+)\)", README.read_text())
    told = [float(word) for word in told.groups()]
    paired = stats.ttest_rel(first, second).confidence_interval(0.95)
    ours = 100 * np.expm1([(first - second).mean(), *paired])
    assert [round(each) for each in ours] == told
    welch = 100 * np.expm1([*stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)])
    assert np.abs(welch - told[1:]).max() < 5


def test_what_the_readme_says_of_equal_compute_and_of_other_autoencoders():
    """The ratio is computed from the scores; its interval is of the level at which all claims were corrected."""
    source = read(COMMITTED / "source")
    ours, rival = logs("digits", "compute", "fd_digits", "B=8, autoregressive", "continuous, flow")
    readme = README.read_text()
    told = re.search(r"At equal compute B=8 reads (\d+) % higher than flow \((\d+) to (\d+), three seeds\)", readme)
    assert int(told[1]) == round(100 * np.expm1(ours.mean() - rival.mean()))
    claims = list(csv.DictReader((COMMITTED / "figures" / "claims.csv").read_text().splitlines()))
    (claim,) = (row for row in claims if row["table"] == "compute" and row["kind"] == "claim")
    assert [told[1], told[2], told[3]] == [f"{float(claim[key]):.0f}" for key in ("effect", "low", "high")]
    for floor in ("0", "0.5", "1.5"):  # three autoencoders each, one for each seed
        ours, rival = (
            [
                source.number(id, "likelihood/bits_per_dim")
                for id in source.cells("autoencoders", f"{floor} nats, {head}")
            ]
            for head in ("autoregressive", "parallel")
        )
        assert len(ours) == 3
        assert all(a < b for a, b in zip(ours, rival, strict=True))
