"""What the charts say: the numbers behind them, and what their captions settle."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_rel

from analysis import figures, stats
from analysis.figures import Drawing, heads, latents, quantization, search, training
from analysis.figures.heads import GROUPS, Point, rival
from analysis.frame.source import Source, read
from experiments.paper import TABLE_HEADS
from tests.helpers.machine import REPORTS
from tests.helpers.report_source import write_source

COMMITTED = REPORTS / "digits" / "source"


@pytest.fixture(scope="module")
def digits() -> Source:
    return read(COMMITTED)


def drawn(source: Source, make: Callable[[Source], Drawing | None]) -> Drawing:
    with figures.style():
        drawing = make(source)
    assert drawing is not None
    return drawing


def rows(drawing: Drawing) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(drawing.data)))


def test_error_stands_beside_the_limits_at_its_own_levels_and_entropy(digits: Source) -> None:
    drawing = drawn(digits, quantization.distortion)
    left, right = drawing.figure.axes
    (points,) = [line for line in left.lines if line.get_marker() == "o"]
    assert list(points.get_xdata()) == [2, 3, 4, 5, 6]  # of the base's range alone, log2 of the levels
    (same,) = [line for line in right.lines if line.get_marker() == "o"]
    entropies = [float(row["entropy, bits"]) for row in rows(drawing)]
    np.testing.assert_allclose(np.asarray(same.get_xdata(), float), entropies)
    for row, entropy in zip(rows(drawing), entropies, strict=True):
        levels = int(row["levels"])
        assert float(row["Panter-Dite"]) == pytest.approx(math.pi * math.sqrt(3) / 2 / levels**2)
        assert float(row["entropy-coded"]) == pytest.approx(math.pi * math.e / 6 * 2 ** (-2 * entropy))
        assert float(row["Shannon"]) == pytest.approx(2 ** (-2 * entropy))
    for axes, factor in ((left, math.pi * math.sqrt(3) / 2), (right, math.pi * math.e / 6)):
        limit = axes.lines[0].get_xydata()
        np.testing.assert_allclose(limit[:, 1], factor * 4.0 ** -limit[:, 0])


def test_quality_against_bits_has_every_tokenizer_with_its_interval(digits: Source) -> None:
    found = {(row["tokenizer"], row["name"]): row for row in rows(drawn(digits, quantization.quality))}
    assert [name for name, _ in found].count("post-training levels") == 5
    assert {name for name, _ in found} >= {"continuous", "VQ, trained", "FSQ, trained", "LFQ, trained"}
    cell = digits.cells("1a", "B=16")[0]
    row = found["post-training levels", "B=16"]
    assert float(row["bits per image"]) == pytest.approx(digits.number(cell, "reconstruct/effective_bits"))
    half = float(row["fd_digits (lower is better), 95 % half"])
    assert half == pytest.approx(1.959964 * (digits.number(cell, "reconstruct/fd_digits_se") or 0))
    assert found["continuous", "continuous"]["bits per image"] == ""


def test_the_bands_of_training_reach_from_the_lowest_seed_to_the_highest(digits: Source) -> None:
    drawing = drawn(digits, training.training)
    curves = digits.curves.set_index(["stage", "key", "step"])["value"]
    stages = [digits.stage(cell, "train") for cell in digits.cells("2a", "parallel")]
    wanted = [curves[stage, "validation_loss", 444] for stage in stages]
    (row,) = [r for r in rows(drawing) if (r["model"], r["key"], r["step"]) == ("parallel", "validation_loss", "444")]
    found = [float(row[name]) for name in ("mean", "low", "high")]
    assert found == pytest.approx([np.mean(wanted), min(wanted), max(wanted)])
    assert "from the lowest seed to the highest" in drawing.caption
    ends = [np.mean([curves[stage, "validation_loss", step] for stage in stages]) for step in (666, 740)]
    assert f": parallel −{ends[0] - ends[1]:.4f} to {ends[1]:.4f}, autoregressive −" in drawing.caption


def test_levels_in_use_are_counted_exactly(digits: Source) -> None:
    drawing = drawn(digits, latents.levels_used)
    cell = digits.cells("1a", "B=64")[0]
    empty = sum(row["values"] == "0" for row in rows(drawing))
    assert empty / 8 == digits.number(cell, "quantizer/unused_levels")


def test_spectra_give_the_share_and_the_order_that_heads_predict_in(digits: Source) -> None:
    found = rows(drawn(digits, latents.spectra))
    shares = {int(row["channel"]): float(row["low-frequency share"]) for row in found}
    places = {int(row["place in order"]): int(row["channel"]) for row in found}
    assert [places[i] for i in range(8)] == sorted(shares, key=lambda channel: -shares[channel])
    # places of a 4×4 transform with each radial frequency
    counts = [1, 4, 4, 2, 4, 1]
    for channel, share in shares.items():
        power = [float(row["power"]) for row in found if int(row["channel"]) == channel]
        total = [n * p for n, p in zip(counts, power, strict=True)]
        assert sum(total[:2]) / sum(total) == pytest.approx(share, abs=1e-6)


def test_a_point_of_the_search_is_worse_by_pairs_of_seeds(tmp_path: Path) -> None:
    source = read(write_source(tmp_path / "report", seeds=3, tables=("2a",)) / "source")
    points = source.plan["search"]["points"]
    for point in points:  # temperature 1 is worse with every seed by about the same, guidance 1 only on average
        worse, seed = 0.5 * (point["temperature"] == 1.0), point["train_seed"]
        noise = (3.0, -1.0, 1.0)[seed] if point["guidance"] == 1.0 else 0.01 * (point["guidance"] == 2.0) * seed
        point["fd_digits"] = 3 + 0.4 * seed + worse * (1 + 0.01 * seed) + noise + 0.1 * (point["guidance"] == 2.0)
        source.plan["search"]["chosen"][point["row"]] = {"sample.guidance": 1.5, "sample.temperature": 0.9}
    found = rows(drawn(source, search.search))
    own = [row for row in found if row["row"] == found[0]["row"]]
    told = {(row["guidance"], row["temperature"]): (row["chosen"], row["verdict"]) for row in own}
    values = dict[tuple[str, str], list[float]]()
    for point in (point for point in points if point["row"] == found[0]["row"]):
        values.setdefault((f"{point['guidance']:g}", f"{point['temperature']:g}"), []).append(
            math.log(point["fd_digits"])
        )
    others = [place for place in values if place != ("1.5", "0.9")]
    p = false_discovery_control([ttest_rel(values[place], values["1.5", "0.9"]).pvalue for place in others])
    shown = dict(zip(others, p < 0.05, strict=True))
    assert sum(shown.values()) == 3
    assert told == {("1.5", "0.9"): ("yes", "")} | {
        place: ("", "worse" if shown[place] else "no difference shown") for place in others
    }


def test_one_seed_of_the_search_settles_nothing(tmp_path: Path) -> None:
    drawing = drawn(read(write_source(tmp_path / "report", tables=("2a",)) / "source"), search.search)
    assert "no point is shown" in drawing.caption
    assert {row["verdict"] for row in rows(drawing)} == {""}


def test_a_rival_is_the_best_of_the_other_kind_at_no_more_cost() -> None:
    def point(name: str, group: str, fd: float, cost: float | None) -> Point:
        return Point(name, "parallel", group, stats.estimate([fd]), {} if cost is None else {"tflop": cost})

    own = point("own", GROUPS[2], 2.0, 3.0)
    others = [point("dear", GROUPS[0], 1.0, 3.5), point("good", GROUPS[1], 2.5, 3.0), point("bad", GROUPS[0], 9.0, 1.0)]
    found = rival(own, [own, *others, point("same kind", GROUPS[2], 1.0, 1.0)], "tflop")
    assert found is not None
    assert found.token == "good"
    assert rival(point("none", GROUPS[2], 2.0, None), others, "tflop") is None


def test_cost_says_what_a_discrete_row_of_equal_cost_reaches(digits: Source) -> None:
    drawing = drawn(digits, heads.costs)
    row = next(row for row in rows(drawing) if row["row"] == "continuous, flow")
    assert row["best of the other kind at no more (tflop)"] == "FSQ, autoregressive"
    values = [[digits.number(c, "score/fd_digits") or 0 for c in digits.cells("heads", name)]
              for name in ("FSQ, autoregressive", "continuous, flow")]  # fmt: skip
    gap = sum(values[0]) / 3 - sum(values[1]) / 3
    assert float(row["difference (tflop)"]) == pytest.approx(gap)
    assert f"FSQ, autoregressive, fd_digits +{gap:.2f};" in drawing.caption
    assert "without a test" in drawing.caption  # of a pair that was picked by looking at it


def test_a_cost_that_is_equal_by_design_has_no_panel(digits: Source) -> None:
    drawing = drawn(digits, heads.costs)
    assert [axes.get_xlabel() for axes in drawing.figure.axes] == ["training TFLOP", "time per image, ms, log"]
    ids = [cell for _, cells in digits.rows(TABLE_HEADS) for cell in cells]
    weights = [w for cell in ids if (w := digits.number(cell, "train/parameters"))]
    assert max(weights) / min(weights) < 1.1
    assert "All rows have as many parameters, within 10%." in drawing.caption
