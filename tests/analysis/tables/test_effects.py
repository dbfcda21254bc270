"""Main effects of a grid over axes: by hand, unbalanced, over seeds; as tables, figure and sentences."""

import csv
import io
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis import figures, verdicts
from analysis.frame.source import read
from analysis.report.build import build, render
from analysis.stats import number
from analysis.tables import effects, html, latex
from analysis.tables.fill import fill
from analysis.tables.text import effects_text, pipe_table, tables_text, to_csv, to_markdown
from experiments.axes import Axis
from tests.helpers.machine import REPORTS
from tests.helpers.report_axes import write_axes
from tokenbridge.config import UserError
from tokenbridge.metrics.catalogue import BITS, MSE, every

FD, IS = (every()[f"score/{name}_digits"] for name in ("fd", "is"))

LEVELS, DEPTH, TEMPERATURE = (
    Axis("quantizer.levels", (8, 64)),
    Axis("head.depth", (1, 2, 3)),
    Axis("sample.temperature", (0.9, 1.0)),
)
CASES = {(8, 1): 10.0, (8, 2): 12.0, (8, 3): 17.0, (64, 1): 13.0, (64, 2): 14.0, (64, 3): 21.0}
"""fd_digits by levels and depth: 64 levels add 3, 2, 4"""


def by_hand(trial):
    values = trial.values
    fd = CASES[values["quantizer.levels"], values["head.depth"]] + 0.5 * values.get("train.seed", trial.seed)
    return {
        "score/fd_digits": fd + 4 * (values.get("sample.temperature", 0.9) - 0.9),
        "likelihood/bits_per_dim": fd / 8,
        "score/is_digits": fd / 8,
    }


def certain(trial):
    """64 levels add about 3 at each depth."""
    depth, many = trial.values["head.depth"], trial.values["quantizer.levels"] == 64
    return {"score/fd_digits": 10 + depth + (3 + 0.01 * depth if many else 0)}


def steps(trial):
    """64 levels add 2.9, 3.0, 3.1 to is_digits at depths 1, 2, 3; depths add 0.1 or nothing by the levels."""
    many, depth = trial.values["quantizer.levels"] == 64, trial.values["head.depth"]
    return {"score/is_digits": 5.05 + (2.8 + 0.1 * depth if many else 0.0), "likelihood/bits_per_dim": 1.0 + many}


def source_of(folder, *axes, **options):
    return read(write_axes(folder, axes, options.pop("metrics", by_hand), **options) / "source")


def test_effects_are_what_a_hand_computes(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH)
    eight, many = effects.effects_on(source, source.axes[0], FD)
    plain = effects.effects_on(source, source.axes[0], IS)[1]
    assert (eight.value, eight.mean, eight.difference) == (8, 13.0, None)
    assert (many.value, many.mean) == (64, 16.0)
    # differences 3, 2, 4: mean 3, deviation 1, t(0.975, 2) = 4.302653
    assert plain.difference.gap.mean == pytest.approx(3 / 8)
    assert plain.difference.gap.half() == pytest.approx(4.302653 / math.sqrt(3) / 8, rel=1e-6)
    assert plain.comparison.p == pytest.approx(scipy_stats.ttest_1samp((3, 2, 4), 0).pvalue)
    assert plain.difference.way == "better"
    # bits by bins of 64 and of 8 levels measure the bins, so that they are no test
    bits = effects.effects_on(source, source.axes[0], BITS)[1]
    assert (bits.other_bins, bits.difference.effect, bits.comparison) == (True, pytest.approx(3 / 8), None)
    # a Fréchet distance by its ratios: 13/10, 14/12, 21/17
    ratios = np.log([13 / 10, 14 / 12, 21 / 17])
    assert many.difference.effect == pytest.approx(100 * (np.exp(ratios.mean()) - 1))
    expected = scipy_stats.ttest_1samp(ratios, 0)
    assert many.comparison.p == pytest.approx(expected.pvalue)
    low, high = (100 * (np.exp(end) - 1) for end in expected.confidence_interval(0.95))
    assert many.difference.interval() == pytest.approx((low, high))
    # all effects of the report are explored together
    every = [e.comparison for c in effects.metrics(source) for by in effects.effects(source, c).values() for e in by]
    every = [each for each in every if each]
    assert [e.adjusted for e in every] == pytest.approx(scipy_stats.false_discovery_control([e.p for e in every]))
    assert {e.family for e in every} == {"exploratory"}
    one, two, three = effects.effects_on(source, source.axes[1], FD)
    assert [each.mean for each in (one, two, three)] == [11.5, 13.0, 19.0]
    two, three = effects.effects_on(source, source.axes[1], BITS)[1:]
    # 2 and 1, 7 and 8, over 8: t(0.975, 1) = 12.7062
    assert two.difference.gap.half() == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2) / 8, rel=1e-5)
    assert three.difference.gap.mean == 7.5 / 8
    alone = effects.effects_on(source_of(tmp_path / "alone", LEVELS, DEPTH, metrics=certain), source.axes[0], FD)[1]
    assert (alone.settled, alone.comparison.verdict) == (True, "worse")


def test_pairs_of_the_same_two_trainings_are_one_observation(tmp_path):
    """Another temperature is another sampling of the same two models, and the same bits."""
    source = source_of(tmp_path, LEVELS, DEPTH, TEMPERATURE)
    many = effects.effects_on(source, source.axes[0], FD)[1]
    assert len(many.cells) == 6
    assert many.pairs == 3
    warm = effects.effects_on(source, source.axes[2], FD)[1]
    assert warm.difference.gap.values == pytest.approx([math.log(1 + 0.4 / fd) for fd in CASES.values()])
    assert not warm.unmoved
    assert effects.effects_on(source, source.axes[2], BITS)[1].unmoved
    rows = {row.label: row for row in effects.filled(source)[1].rows}
    assert rows["sample.temperature = 1.0"].measured[1].reason == effects.UNMOVED


def test_a_quantizer_s_error_has_as_many_pairs_as_there_are_quantizers():
    """The committed ablation: neither depth nor seed enters the error of a quantizer, so 16 cells hold 4 numbers."""
    folder = REPORTS / "ablation" / "source"
    frame = pd.read_csv(folder / "frame.csv").drop_duplicates("stage.quantizer")
    errors = 1e3 * frame.pivot_table(index="quantizer.levels", columns="quantizer.range", values="quantizer/mse")
    assert errors.shape == (2, 2)
    expected = scipy_stats.ttest_rel(errors.loc[64], errors.loc[8])
    low, high = expected.confidence_interval(0.95)
    found = effects.effects(read(folder), MSE)
    (_, levels), (_, wide) = found["quantizer.levels"], found["quantizer.range"]
    assert levels.pairs == wide.pairs == 2
    assert levels.difference.interval() == pytest.approx((low, high))
    assert levels.difference.effect == pytest.approx(-40.55, abs=0.005)
    assert levels.difference.gap.half() == pytest.approx(21.72, abs=0.005)
    assert wide.comparison.p == pytest.approx(scipy_stats.ttest_rel(errors[5.0], errors[3.0]).pvalue)
    assert wide.comparison.p == pytest.approx(0.278, abs=0.0005)
    assert not wide.settled


def test_seeds_are_pairs_of_their_own(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH, seeds=2)
    assert source.seeds == 2
    many = effects.effects_on(source, source.axes[0], FD)[1]
    bits = effects.effects_on(source, source.axes[0], BITS)[1]
    assert sorted(bits.difference.gap.values) == [2 / 8, 2 / 8, 3 / 8, 3 / 8, 4 / 8, 4 / 8]
    assert effects.over(source, many) == "6 matched pairs, 2 seeds"
    assert "one training seed" not in " ".join(effects.filled(source)[0].notes)


def test_a_seed_may_be_an_axis(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH, Axis("train.seed", (0, 1)))
    later = effects.effects_on(source, source.axes[2], BITS)[1]
    assert later.difference.gap.values == (0.5 / 8,) * 6
    # the same in each pair: a tie says nothing
    assert later.comparison is None


def test_what_is_missing_is_left_out_of_every_value(tmp_path):
    """Else the mean of one value would be over easier cells than that of another."""
    source = source_of(tmp_path, LEVELS, DEPTH, without=["b64-d3"])
    eight, many = effects.effects_on(source, source.axes[0], FD)
    assert (eight.mean, many.mean, many.pairs) == (11, 13.5, 2)
    assert effects.effects_on(source, source.axes[1], FD)[2].mean == 17
    (table,) = [table for table in source.tables if table.id == "axes"]
    (row,) = [row for row in fill(table, source).rows if row.label == "b64-d3"]
    assert row.measured[0].reason == "not reported"


def test_one_axis_at_a_time(tmp_path):
    """The base is 16 levels, depth 2: each axis has one place, so one pair a value and no interval."""
    found = {(8, 2): 12.0, (16, 2): 11.0, (16, 1): 15.0}
    numbers = lambda t: {"score/fd_digits": found[t.values["quantizer.levels"], t.values["head.depth"]]}  # noqa: E731
    source = source_of(
        tmp_path, Axis("quantizer.levels", (16, 8)), Axis("head.depth", (2, 1)), metrics=numbers, each=True
    )
    assert len(source.trials) == 3
    eight = effects.effects_on(source, source.axes[0], FD)[1]
    assert (eight.difference.effect, eight.difference.interval()) == (pytest.approx(100 / 11), None)
    (matrix,) = effects.matrix(source)
    assert [row.measured[0].word for row in matrix.rows] == ["", ""]
    assert matrix.rows[0].measured[0].text == "+9.1 %"


def test_tables_say_effect_interval_and_what_it_is_over(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH)
    tables = {filled.table.id: filled for filled in effects.filled(source)}
    assert {"effects-fd_digits", "effects-bits_per_dim", "effects-agreement", "effects-mse"} <= tables.keys()
    text = to_markdown(tables["effects-fd_digits"])
    (line,) = [line for line in text.splitlines() if "levels = 64" in line]
    assert [part.strip() for part in line.strip("|").split("|")] == [
        "quantizer.levels = 64",
        "16.00",
        "+23 % (+8 to +41) ≈°",
        "3",
    ]
    assert "not over seeds" in text
    for written in (latex.to_latex(tables["effects-fd_digits"]), html.to_html(tables["effects-fd_digits"])):
        assert "(+8 to +41)" in written
    lines = list(csv.DictReader(io.StringIO(to_csv(tables["effects-fd_digits"]))))
    told = {part: lines[1][f"measured score/fd_digits effect{part}"] for part in ("", " difference is", " family")}
    assert float(told[""]) == pytest.approx(100 * ((1.3 * 14 / 12 * 21 / 17) ** (1 / 3) - 1))
    assert (told[" difference is"], told[" family"]) == ("per cent of the base", "exploratory")
    plain = list(csv.DictReader(io.StringIO(to_csv(tables["effects-is_digits"]))))[1]
    assert plain["measured score/is_digits effect"] == "0.375"
    assert float(plain["measured score/is_digits effect half-width"]) == pytest.approx(2.484138 / 8, rel=1e-6)
    assert "+0.375 (other bins)" in to_markdown(tables["effects-bits_per_dim"])
    points = to_csv(fill(source.table_of_axes, source))
    (row,) = [row for row in csv.DictReader(io.StringIO(points)) if row["label"] == "b64-d3"]
    assert (row["chosen quantizer.levels"], row["chosen head.depth"]) == ("64", "3")
    assert row["measured score/fd_digits"] == "21"
    assert row["cells"] in {trial.cell for trial in source.trials}


def test_a_better_value_is_bold(tmp_path):
    metrics = lambda t: {"score/agreement": 0.5 + 0.1 * t.values["head.depth"] + 1e-3 * t.values["quantizer.levels"]}  # noqa: E731
    source = source_of(tmp_path, DEPTH, Axis("quantizer.levels", (8, 16, 32)), metrics=metrics)
    tables = {filled.table.id: filled for filled in effects.filled(source)}
    row = tables["effects-agreement"].rows[2]
    assert (row.label, row.measured[1].text, row.measured[1].best) == ("head.depth = 3", "+20.0", True)


def test_the_matrix_has_a_row_for_each_step_and_a_column_for_each_metric(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH, TEMPERATURE, metrics=steps)
    (matrix,) = effects.matrix(source)
    assert [row.label for row in matrix.rows] == [
        "levels 8 → 64", "depth 1 → 2", "depth 1 → 3", "temperature 0.9 → 1.0",
    ]  # fmt: skip
    assert [column.title for column in matrix.measured[:3]] == ["fd_digits", "bits/dim", "is_digits"]
    levels, two, three, warm = (dict(zip(matrix.measured, row.measured, strict=True)) for row in matrix.rows)
    # is_digits by hand: levels add 2.9, 3.0, 3.1 at the three depths, t(0.975, 2) = 4.302653; depths add nothing
    assert (levels[IS].text, levels[IS].half, levels[IS].word) == (
        "+3.00",
        number(4.302653 * 0.1 / math.sqrt(3), 2),
        "better",
    )
    assert (two[IS].word, two[IS].comparison.shown) == ("no difference shown", False)
    assert warm[IS].reason == three[BITS].reason == "equal"  # of other stages, with the same numbers
    assert warm[BITS].reason == "does not enter"
    assert levels[BITS].word == "other bins"
    assert levels[IS].change.startswith("5.05 → 8.05 over 3 matched pairs, one seed, corrected ± ")
    # the same effects as in the tables of single metrics, which files hold
    single = {table.id: table for table in effects.filled(source)}["effects-is_digits"]
    assert single.rows[1].measured[1].comparison == levels[IS].comparison


def test_the_matrix_is_told_by_marks_and_colours_instead_of_sentences(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH, metrics=steps)
    (matrix,) = effects.matrix(source)
    line = next(line for line in pipe_table(matrix).splitlines() if "levels 8 → 64" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3] == "**+3.00 ± 0.25** better°"
    assert " ≈° |" in pipe_table(matrix)
    page = html.to_html(matrix)
    assert re.search(r'<td class="number measured shown better"[^>]*>(<a[^>]*>)?\+3\.00', page)
    assert "no difference shown: " in page  # behind the sign, where a reader asks
    assert [verdict for verdict in verdicts.verdicts(source) if "against 8" in verdict.text] == []


def test_axes_of_one_name_keep_their_section(tmp_path):
    axes = (Axis("head.depth", (1, 2)), Axis("backbone.decoder_depth", (1, 2)), Axis("backbone.width", (48, 96)),
            Axis("head.width", (32, 64)))  # fmt: skip
    source = source_of(tmp_path, *axes, metrics=lambda trial: {"score/is_digits": 5.0 + trial.values["head.width"]})
    (matrix,) = effects.matrix(source)
    assert [row.label for row in matrix.rows] == [
        "depth 1 → 2", "decoder_depth 1 → 2", "backbone.width 48 → 96", "head.width 32 → 64",
    ]  # fmt: skip


def test_the_figure_shows_every_cell_and_the_means(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH)
    drawing = next(drawing for drawing in figures.draw(source) if drawing.name == "effects")
    panels = drawing.figure.axes
    assert len(panels) == 3 * 2
    cells, means = panels[0].lines[:2]
    assert sorted(cells.get_ydata()) == sorted(CASES.values())
    (joined,) = (each for each in panels[0].collections if len(each.get_paths()) == 3)
    assert sorted(y for path in joined.get_paths() for _, y in path.vertices) == sorted(CASES.values())
    assert list(means.get_ydata()) == [13.0, 16.0]
    assert "not over seeds" in drawing.caption
    rows = list(csv.DictReader(io.StringIO(drawing.data)))
    assert len(rows) == 3 * ((2 + 6) + (3 + 6))
    assert {row["metric"] for row in rows} == {FD.key, BITS.key, "score/agreement"}


def test_a_marker_of_the_figure_is_filled_just_where_its_bar_leaves_out_zero(tmp_path):
    source = source_of(tmp_path, LEVELS, DEPTH)
    drawing = next(drawing for drawing in figures.draw(source) if drawing.name == "effects")
    tested = [row for row in csv.DictReader(io.StringIO(drawing.data)) if row["verdict"]]
    assert tested
    settled = [float(row["corrected low"]) > 0 or float(row["corrected high"]) < 0 for row in tested]
    assert settled == [row["verdict"] != "no difference shown" for row in tested]
    bars = [bar for axes in drawing.figure.axes for bar in axes.containers if bar.has_yerr]
    assert len(bars) == len(tested)
    colours = [bar.lines[0].get_markerfacecolor() == bar.lines[0].get_color() for bar in bars]
    assert sum(colours) == sum(settled)
    # around a mean of 16, a ratio between the ends of its interval
    many = effects.effects_on(source, source.axes[0], FD)[1]
    half = many.comparison.difference.gap.half(many.comparison.level)
    drawn = [bar.lines[2][0].get_segments()[0][:, 1] for bar in bars]
    assert any(ends == pytest.approx([16 * math.exp(-half), 16 * math.exp(half)]) for ends in drawn)


@pytest.mark.slow
def test_the_report_holds_all_of_it_and_stays_the_same(tmp_path):
    folder = write_axes(tmp_path, (LEVELS, DEPTH), by_hand)
    page = build(folder).read_text()
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for ending in ("png", "pdf", "csv"):
        assert f"figures/effects.{ending}" in names
    assert {"tables/table-axes.csv", "tables/table-effects.tex", "tables/table-effects-fd_digits.csv"} <= names
    for part in ("Main effects", "Every point of the axes", "levels 8 → 64", "depth 1 → 3", "b64-d3"):
        assert part in page
    assert "Published numbers stand beside" not in page
    assert render(read(folder / "source"))["index.html"] == page.encode()
    source = read(folder / "source")
    assert effects_text(source) == tables_text(source, ["effects"])
    assert "Main effects on fd_digits" in tables_text(source, ["effects-fd_digits"])


def test_effects_of_two_protocols_are_refused(tmp_path):
    folder = write_axes(tmp_path, (LEVELS, DEPTH), by_hand)
    path = folder / "source" / "frame.csv"
    path.write_text(path.read_text().replace('""images"": 2000', '""images"": 500', 1))
    source = read(folder / "source")
    for made in (effects.filled, effects.matrix):
        with pytest.raises(UserError, match="axes, column score/fd_digits: images=500 in row"):
            made(source)
