"""Claims at a glance: the numbers of the verdicts, each at the level that decided it, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from scipy import stats as scipy_stats

from analysis import figures
from analysis.figures import claims
from analysis.figures.claims import Glance, glance
from analysis.frame.source import Source, read
from analysis.report import build as report
from analysis.tables import effects
from analysis.tables.fill import fill
from analysis.tables.text import to_csv
from experiments.axes import Axis
from tests.helpers.machine import REPORTS
from tests.helpers.report_axes import write_axes
from tests.helpers.report_source import edit_frame, write_source

COMMITTED = ("digits", "ablation")
MANY = ("1a", "2a", "2b", "2c", "2d", "2e", "heads", "5")


def of(source: Source) -> Glance:
    found = glance(source)
    assert found is not None
    return found


def rows(source: Source) -> list[dict[str, str]]:
    with figures.style():
        drawing = claims.claims(source)
    assert drawing is not None
    return list(csv.DictReader(io.StringIO(drawing.data)))


@pytest.fixture(scope="module", params=[*COMMITTED, "synthetic"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    if request.param in COMMITTED:
        return read(REPORTS / request.param / "source")
    folder = write_source(tmp_path_factory.mktemp("claims") / "many", seeds=3, tables=MANY, examples=False)
    return read(folder / "source")


def test_two_claims_are_decided_as_scipy_decides_them(tmp_path: Path) -> None:
    """Table 2a of the committed report alone: two rows moderate nothing, so its two claims are paired t tests."""
    shutil.copytree(REPORTS / "digits" / "source", tmp_path / "source")
    path = tmp_path / "source" / "plan.json"
    plan = json.loads(path.read_text())
    kept = [row for row in plan["rows"] if row["table"] == "2a"]
    path.write_text(json.dumps(plan | {"rows": kept, "confidence": []}))
    frame = pd.read_csv(tmp_path / "source" / "frame.csv").set_index("cell")
    ids = {label: [row["cell"] for row in kept if row["label"] == label] for label in ("autoregressive", "parallel")}
    assert [*frame.loc[ids["autoregressive"], "train.seed"]] == [*frame.loc[ids["parallel"], "train.seed"]]
    tests = {
        key: scipy_stats.ttest_rel(*(scale(frame.loc[ids[label], key]) for label in ("autoregressive", "parallel")))
        for key, scale in (("score/fd_digits", np.log), ("likelihood/bits_per_dim", lambda values: values))
    }
    by_p = sorted(tests, key=lambda key: tests[key].pvalue)
    passed = tests[by_p[0]].pvalue < 0.025
    level = {by_p[0]: 0.025, by_p[1]: 0.05 if passed else 0.025}  # Holm 1979
    found = {row["metric"]: row for row in rows(read(tmp_path / "source"))}
    assert found.keys() == tests.keys()
    for key, row in found.items():
        low, high = tests[key].confidence_interval(1 - level[key])
        expected = (low, high) if key.startswith("like") else (100 * math.expm1(low), 100 * math.expm1(high))
        assert (float(row["low"]), float(row["high"])) == pytest.approx(expected)
        assert row["verdict"] == ("better" if tests[key].pvalue < level[key] and high < 0 else "no difference shown")


def test_an_effect_of_an_axis_is_decided_as_scipy_decides_it() -> None:
    """Temperature in the committed ablation: pairs that differ in it alone, by the false-discovery rate of all."""
    folder = REPORTS / "ablation" / "source"
    source = read(folder)
    frame = pd.read_csv(folder / "frame.csv")
    table = frame.pivot_table(index="stage.train", columns="sample.temperature", values="score/fd_digits")
    cold, warm = np.log(table.to_numpy()).T  # 0.9 and 1.0
    expected = scipy_stats.ttest_rel(warm, cold)
    every = [e.comparison for c in effects.metrics(source) for by in effects.effects(source, c).values() for e in by]
    p = [each.p for each in every if each]
    assert expected.pvalue in [pytest.approx(each) for each in p]
    shown = sum(scipy_stats.false_discovery_control(p) < 0.05)
    ends = expected.confidence_interval(1 - 0.05 * shown / len(p))
    (row,) = [r for r in rows(source) if r["first"] == "sample.temperature 1.0" and r["metric"] == "score/fd_digits"]
    assert (float(row["low"]), float(row["high"])) == pytest.approx([100 * math.expm1(end) for end in ends])
    assert (row["verdict"], row["seeds needed"], row["over"]) == ("worse", "", "pairs")


def test_the_figure_s_data_are_those_of_the_tables(source: Source) -> None:
    """Each verdict with its interval as the CSV of its table has it, turned round where that compares the other way."""
    tables = {table.id: fill(table, source) for table in source.tables} | {t.id: t for t in effects.matrix(source)}
    checked = 0
    for row in rows(source):
        held = tables[row["table"]]
        lines = {line["label"]: line for line in csv.DictReader(io.StringIO(to_csv(held)))}
        base, key = held.table.base_label, row["metric"]
        if held.kind == "effects":
            axis, _, value = row["first"].partition(" ")
            label, turned = f"{axis.rpartition('.')[2]} {row['second']} → {value}", False
        elif base in (row["first"], row["second"]):
            turned = row["first"] == base
            label = row["second"] if turned else row["first"]
        else:
            continue
        column, ratio = f"measured {key}", row["in"] == "per cent of the second"
        parts = [f"{column} difference{part}" for part in ("", " corrected low", " corrected high")]
        if row["kind"] == "not tested":
            assert not lines[label].get(parts[0])
            continue
        told = next(c for c in held.measured if c.key == key)
        effect, low, high = (float(lines[label][part]) * (1 if ratio else told.scale) for part in parts)
        if turned:
            assert told.spread != "logit"
            effect, high, low = (100 / (1 + x / 100) - 100 if ratio else -x for x in (effect, low, high))
        assert [float(row[part]) for part in ("effect", "low", "high")] == pytest.approx([effect, low, high], rel=1e-6)
        opposite = {"better": "worse", "worse": "better"} if turned else {}
        verdict = lines[label][f"{column} verdict"]
        assert row["verdict"] == opposite.get(verdict, verdict)
        assert row["kind"] == lines[label][f"{column} family"]
        assert row["seeds needed"] == lines[label][f"{column} seeds needed"]
        checked += 1
    assert checked >= 7


def test_sign_and_verdict_agree_and_a_bar_leaves_out_zero_just_where_a_difference_is_shown(source: Source) -> None:
    for panel in of(source).panels:
        for line in panel.lines:
            if line.comparison is None:
                assert panel.bar(line) is None
                continue
            low, high = panel.bar(line) or (0, 0)
            assert low < panel.point(line) < high
            assert (low > 0.5 or high < 0.5) == (line.entry.word != "no difference shown") == line.shown
            if line.shown:
                assert line.entry.word == ("better" if (high < 0.5) == (panel.column.better == "lower") else "worse")


def test_claims_come_first_and_what_is_explored_is_a_handful(source: Source) -> None:
    kinds = [row["kind"] for row in rows(source)]
    assert [kind for kind, _ in groupby(kinds)] == [k for k in ("claim", "exploratory", "not tested") if k in kinds]
    tables = [table.id for table in source.tables]
    claimed = [row for row in rows(source) if row["kind"] == "claim"]
    for _, of_metric in groupby(claimed, key=lambda row: row["metric"]):
        places = [tables.index(row["table"]) for row in of_metric]
        assert places == sorted(places)
    if source.axes:  # one line for each axis and metric
        assert len(kinds) <= 3 * len(source.axes)
    else:
        more = {"compute": 1, "autoencoders": 6}  # three amounts of information, each in two metrics
        assert len(claimed) == 11 + sum(more.get(id, 0) for id in tables)
        assert kinds.count("exploratory") + kinds.count("not tested") <= 7


def test_panels_of_one_unit_share_their_axis_and_ratios_are_as_far_to_either_side(source: Source) -> None:
    found = of(source)
    for unit in {panel.lines[0].unit for panel in found.panels}:
        assert len({panel.reach for panel in found.panels if panel.lines[0].unit == unit}) == 1
    for panel in found.panels:
        (low, _), middle, (high, _) = panel.ticks
        assert middle == (0.5, "0")
        assert 0 < low < 0.5 < high < 1
        assert low + high == pytest.approx(1)
        for line in panel.lines:
            if line.difference.scale.told_in_percent:
                assert panel.place(line, 100.0) + panel.place(line, -50.0) == pytest.approx(1)


def test_a_verdict_is_told_by_its_marker_alone(source: Source) -> None:
    with figures.style():
        drawing = claims.claims(source)
    assert drawing is not None
    looks: dict[str, set[tuple[str, bool]]] = {}
    for axes, panel in zip(drawing.figure.axes, (p for _, ps in of(source).groups for p in ps), strict=True):
        points = [line for line in axes.lines if line.get_marker() in ("o", "D", "x")]
        for line, point in zip(panel.lines, points, strict=True):
            is_open = not same_color(point.get_markerfacecolor(), point.get_color())
            looks.setdefault(line.entry.word, set()).add((str(point.get_marker()), is_open))
            assert np.asarray(point.get_xdata(), float)[0] == pytest.approx(panel.point(line))
    assert all(len(each) == 1 for each in looks.values())
    assert len({next(iter(each)) for each in looks.values()}) == len(looks) > 1


def test_an_interval_beyond_the_axis_ends_in_an_arrow(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", seeds=2, tables=("2a", "2b", "2d"), examples=False)
    edit_frame(folder, "frequency", {"score/fd_digits": 300.0}, "2b", 1)
    source = read(folder / "source")
    ends = {line.table: panel.bar(line) for panel in of(source).panels for line in panel.lines}
    assert ends["2b"]
    with figures.style():
        drawing = claims.claims(source)
    assert drawing is not None
    lines = [line for axes in drawing.figure.axes for line in axes.lines]
    assert {"<", ">"} <= {str(line.get_marker()) for line in lines}
    assert all(0 <= x <= 1 for line in lines for x in np.asarray(line.get_xdata(), float))


@pytest.mark.parametrize(
    ("tables", "kinds"),
    [
        (("1b",), []),
        (("2a",), ["not tested"] * 2),  # one seed
        (("5",), ["not tested"]),
        (("1a",), ["not tested"] * 2),  # without the values of each image
    ],
)
def test_what_is_not_tested_has_no_interval_and_what_is_not_compared_no_picture(
    tmp_path: Path, no_figures: None, tables: tuple[str, ...], kinds: list[str]
) -> None:
    folder = write_source(tmp_path / "report", tables=tables, examples=False)
    found = glance(read(folder / "source"))
    assert [line.kind for line in found.lines] == kinds if found else kinds == []
    page = report.build(folder).read_text()
    assert ('id="claims"' in page) == bool(kinds)
    assert ("lower is better" in page[: page.index('id="summary"')].partition("</style>")[2]) == bool(kinds)


def test_a_duel_is_one_line(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", seeds=3, tables=("2a",), examples=False)
    path = folder / "source" / "plan.json"
    plan = json.loads(path.read_text())
    duel = {
        "duel": ["2a autoregressive", "2a parallel"],
        "tables": ["duel"],
        "rows": [row | {"table": "duel"} for row in plan["rows"]],
    }
    path.write_text(json.dumps(plan | duel))
    (line,) = of(read(folder / "source")).lines
    assert (line.name, line.says, line.kind) == ("autoregressive against parallel", "better", "claim")


def test_an_axis_that_moves_nothing_and_bits_of_other_bins_are_no_lines(tmp_path: Path) -> None:
    axes = (Axis("quantizer.levels", (8, 64)), Axis("sample.temperature", (0.9, 1.0)), Axis("head.depth", (1, 2, 3)))
    numbers = {
        "likelihood/bits_per_dim": lambda v: v["quantizer.levels"] / 8 + v["head.depth"] ** 2,
        "score/fd_digits": lambda v: 5 + v["sample.temperature"] * v["head.depth"] + v["quantizer.levels"] / 9,
    }
    folder = write_axes(tmp_path / "report", axes, lambda t: {key: of(t.values) for key, of in numbers.items()})
    found = [(line.column.key, line.first, line.second) for line in of(read(folder / "source")).lines]
    assert [line for line in found if line[0].startswith("like")] == [("likelihood/bits_per_dim", "head.depth 3", "1")]
    firsts = [first for key, first, _ in found if key == "score/fd_digits"]
    assert sorted(firsts) == ["head.depth 3", "quantizer.levels 64", "sample.temperature 1.0"]


def test_the_picture_comes_before_every_paragraph_in_each_form() -> None:
    for name in COMMITTED:
        folder = REPORTS / name
        page, text, paper = ((folder / file).read_text() for file in ("index.html", "report.md", "paper.tex"))
        assert page.index('<figure id="claims">') < page.index("<p")
        assert text.splitlines()[2].startswith("![Forest plot")
        assert "figures/claims.pdf" in paper[: paper.index(r"\section*")]
        assert paper.index("figures/claims.pdf") < paper.index("Measured on")
        for line in of(read(folder / "source")).lines:
            assert line.entry.change in page
            assert f'<td class="says {line.entry.word.replace(" ", "-")}">{line.says}</td>' in page
