"""A chart of any frame: its numbers are those of the tables, and what cannot be drawn is refused."""

import doctest
import json
import math
from statistics import fmean, stdev

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import same_color

import analysis
from analysis.figures import chart
from analysis.frame.source import read
from analysis.tables.estimates import measure
from experiments.paper import TABLE_2C
from tests.helpers.machine import REPORTS
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import metric

FD, BITS, T2 = "score/fd_digits", "likelihood/bits_per_dim", 4.302653
"""t(0.975) of two degrees of freedom"""


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def frame_of(**columns):
    return pd.DataFrame({name.replace("__", "/").replace("_dot_", "."): values for name, values in columns.items()})


def markers(axes):
    """(x, y) of each marker, series by series."""
    return [(float(x), float(y)) for line in axes.lines for x, y in line.get_xydata() if line.get_marker() != "None"]


def intervals(axes):
    """(x, lowest, highest) of each interval that has a width: of numbers across, and of words."""
    bars = [bar for each in axes.collections for bar in each.get_segments()]
    bars += [line.get_xydata() for line in axes.lines if (line.get_marker(), line.get_linestyle()) == ("None", "-")]
    ends = [(bar[0][0], bar[:, 1].min(), bar[:, 1].max()) for bar in bars if len(bar)]
    return [tuple(map(float, bar)) for bar in ends if bar[1] < bar[2]]


def test_the_example_runs():
    found = doctest.testmod(chart)
    assert found.attempted > 0
    assert found.failed == 0


def test_markers_and_intervals_are_student_s_over_seeds():
    values = {8: (3.0, 3.4, 3.1), 64: (2.0, 2.6, 2.1)}
    rows = [(levels, seed, value) for levels, three in values.items() for seed, value in enumerate(three)]
    axes = analysis.plot(pd.DataFrame(rows, columns=["quantizer.levels", "train.seed", FD]), "quantizer.levels", FD)
    expected = {levels: (fmean(three), T2 * stdev(three) / math.sqrt(3)) for levels, three in values.items()}
    assert markers(axes) == [(levels, pytest.approx(mean)) for levels, (mean, _) in expected.items()]
    assert sorted(intervals(axes)) == [
        (levels, pytest.approx(mean - half), pytest.approx(mean + half)) for levels, (mean, half) in expected.items()
    ]


def test_a_committed_report_s_frame_has_its_table_s_numbers():
    source = read(REPORTS / "digits" / "source")
    cells = {row.label: ids for row, ids in source.rows(TABLE_2C) if ids}
    frame = source.frame.loc[[id for ids in cells.values() for id in ids]].reset_index()
    axes = analysis.plot(frame, x="quantizer.levels", y=FD)
    expected = {
        float(source.setting(ids[0], "quantizer.levels")): measure(metric(FD), label, ids, source)
        for label, ids in cells.items()
    }
    assert len(expected) > 2
    shown = dict(markers(axes))
    assert {levels: shown[levels] for levels in expected} == {
        levels: pytest.approx(value.mean) for levels, value in expected.items()
    }


def test_one_run_has_its_interval_over_images_and_a_metric_its_unit():
    frame = frame_of(head_dot_kind=["flow", "parallel"], score__agreement=[0.9, 0.8], score__agreement_se=[0.01, 0.02])
    axes = analysis.plot(frame, "head.kind", "score/agreement")
    assert axes.get_ylabel() == "agreement, %, higher is better"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["flow", "parallel"]
    assert sorted(intervals(axes)) == [
        (0, pytest.approx(90 - 1.959964), pytest.approx(90 + 1.959964)),
        (1, pytest.approx(80 - 1.959964 * 2), pytest.approx(80 + 1.959964 * 2)),
    ]


def test_a_stage_that_seeds_share_is_one_measurement():
    """Three seeds of one quantizer have one number, not an interval of no width."""
    frame = frame_of(
        quantizer_dot_levels=[8] * 3, train_dot_seed=[0, 1, 2], quantizer__mse=[0.04] * 3, stage_dot_quantizer=["q"] * 3
    )
    axes = analysis.plot(frame, "quantizer.levels", "quantizer/mse")
    assert markers(axes) == [(8.0, pytest.approx(40.0))]
    assert intervals(axes) == []


def test_series_have_colours_and_markers_of_the_reports():
    frame = frame_of(
        quantizer_dot_levels=[8, 8, 16, 16],
        head_dot_kind=["flow", "parallel"] * 2,
        score__fd_digits=[3.0, 4.0, 2.0, 3.0],
    )
    axes = analysis.plot(frame, "quantizer.levels", FD, hue="head.kind")
    lines = [line for line in axes.lines if line.get_marker() in ("o", "s") and len(line.get_xydata()) > 1]
    assert [line.get_marker() for line in lines] == ["o", "s"]
    assert same_color(lines[0].get_color(), "#0173b2")
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "head.kind"
    assert [text.get_text() for text in legend.get_texts()] == ["flow", "parallel"]


def test_axes_are_logarithmic_where_the_metric_and_its_spread_say_so():
    wide = {"quantizer_dot_levels": [2, 64]}
    log = analysis.plot(frame_of(**wide, score__fd_digits=[1.0, 40.0]), "quantizer.levels", FD)
    assert (log.get_xscale(), log.get_yscale()) == ("log", "log")
    plain = analysis.plot(frame_of(**wide, likelihood__bits_per_dim=[0.1, 4.0]), "quantizer.levels", BITS)
    assert (plain.get_xscale(), plain.get_yscale()) == ("log", "linear")
    near = analysis.plot(frame_of(quantizer_dot_levels=[8, 16], score__fd_digits=[2.0, 3.0]), "quantizer.levels", FD)
    assert (near.get_xscale(), near.get_yscale()) == ("linear", "linear")


def test_given_axes_are_drawn_on():
    _, axes = plt.subplots()
    frame = frame_of(quantizer_dot_levels=[8, 16], score__fd_digits=[2.0, 3.0])
    assert analysis.plot(frame, "quantizer.levels", FD, ax=axes) is axes


def test_rows_without_the_setting_are_named():
    frame = frame_of(quantizer_dot_levels=[8, None], score__fd_digits=[2.0, 3.0])
    with pytest.warns(UserWarning, match=r"1 of 2 rows have no quantizer\.levels and are not shown"):
        analysis.plot(frame, "quantizer.levels", FD)


def protocols(*images):
    return [json.dumps({"images": each, "features": "digits"}) for each in images]


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({}, {"x": "quantizer.level"}, r"x=quantizer\.level is no column; did you mean quantizer\.levels\?"),
        ({}, {"y": "quantizer.kind"}, r"y=quantizer\.kind holds no numbers"),
        ({FD: [math.inf, 1.0]}, {}, "is infinite in 1 rows"),
        ({FD: [math.nan] * 2}, {}, r"y=score/fd_digits has no number in 2 rows; run the stage score of some first"),
        ({"quantizer.levels": [math.nan] * 2}, {}, r"x=quantizer\.levels is empty in all 2 rows"),
        ({"protocol.score": protocols(50, 2000)}, {}, "images=50 in a but 2000 in b; a chart holds one protocol"),
    ],
)
def test_what_cannot_be_drawn_is_refused(columns, asked, message):
    rows = {"name": ["a", "b"], "quantizer.levels": [8, 16], "quantizer.kind": ["gaussian"] * 2, FD: [1.0, 2.0]}
    frame = pd.DataFrame(rows | columns)
    with pytest.raises(UserError, match=message):
        analysis.plot(frame, **{"x": "quantizer.levels", "y": FD} | asked)


def test_what_differs_on_purpose_is_drawn():
    rows = {"sample.images": [50, 2000], FD: [1.0, 2.0], "protocol.score": protocols(50, 2000)}
    assert len(markers(analysis.plot(pd.DataFrame(rows), "sample.images", FD))) == 2


def test_more_series_than_can_be_told_apart_are_refused():
    frame = pd.DataFrame({"train.seed": range(9), "quantizer.levels": [8] * 9, FD: [1.0] * 9})
    with pytest.raises(UserError, match=r"hue=train\.seed has 9 values, and a chart tells 8 apart"):
        analysis.plot(frame, "quantizer.levels", FD, hue="train.seed")
