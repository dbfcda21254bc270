"""Figures: text that can be read, pixels that are whole, heights that mean what the caption says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import norm

from analysis import figures, stats
from analysis.figures import Drawing, generation, heads, latents, mosaic, quantization, reconstruction
from analysis.figures.heads import GROUPS, Point, front
from analysis.frame.source import Source, read
from experiments.axes import Axis
from tests.helpers.report_axes import write_axes
from tests.helpers.report_source import write_source
from tokenbridge.config import UserError

NAMES = [
    "claims", "figure-3-latents", "levels-used", "distortion", "quality-bits", "figure-6-reconstructions",
    "figure-5-patches", "figure-7-prediction", "samples", "figure-8-confidence", "training", "spectra", "pipeline",
    "heads", "cost", "search",
]  # fmt: skip
MOSAICS = ["figure-6-reconstructions", "figure-5-patches", "figure-7-prediction", "samples", "figure-8-confidence"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("figures") / "report"
    return read(write_source(folder, seeds=2, tables=("1a", "2a", "2b", "heads"), strengths=(0, 1, 16)) / "source")


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def drawings(request: pytest.FixtureRequest, source: Source) -> list[Drawing]:
    return list(figures.draw(source, dark=request.param))


def test_every_figure_is_there_with_words_for_it(drawings: list[Drawing]) -> None:
    assert [drawing.name for drawing in drawings] == NAMES
    for drawing in drawings:
        assert len(drawing.caption) > 60
        assert drawing.data.count("\n") > 1
        assert drawing.alt


@pytest.mark.parametrize("name", MOSAICS)
def test_image_pixels_are_whole_squares_of_one_colour(drawings: list[Drawing], name: str) -> None:
    figure = next(drawing.figure for drawing in drawings if drawing.name == name)
    for frame in (patch for axes in figure.axes for patch in axes.patches):
        frame.set_visible(False)  # it lies on the pixels around a detail
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    seen = np.asarray(canvas.buffer_rgba())[..., :3]
    pictures = [axes for axes in figure.axes if axes.get_images() and not axes.axison]
    assert pictures
    for axes in pictures:
        picture = np.asarray(axes.get_images()[0].get_array())
        box = axes.get_window_extent()
        top, left = seen.shape[0] - round(box.y1), round(box.x0)
        part = seen[top : top + picture.shape[0], left : left + picture.shape[1]]
        np.testing.assert_array_equal(part, picture)


def test_a_sheet_enlarges_by_a_whole_number_and_keeps_the_order() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 1, 5, 7), dtype=np.uint8)
    picture = mosaic.sheet([images, images[::-1]], 3, "#336699")
    assert picture.shape == (2 * 5 * 3 + mosaic.GAP, 3 * 7 * 3 + 2 * mosaic.GAP, 3)
    second = picture[:15, 21 + mosaic.GAP : 42 + mosaic.GAP]
    np.testing.assert_array_equal(second[::3, ::3, 0], images[1, 0])
    np.testing.assert_array_equal(second, np.kron(second[::3, ::3], np.ones((3, 3, 1), np.uint8)))
    np.testing.assert_array_equal(picture[0, 21], [0x33, 0x66, 0x99])


def test_colour_images_keep_their_colours() -> None:
    images = np.zeros((1, 3, 4, 4), np.uint8)
    images[0, 2] = 200
    assert mosaic.sheet([images], 2, "white")[0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize(("side", "factor"), [(16, 6), (32, 3), (256, 1), (8, 12)])
def test_enlargement_is_whole_and_at_least_one(side: int, factor: int) -> None:
    assert mosaic.enlargement(np.zeros((1, 1, side, side), np.uint8)) == factor


def test_a_stem_s_height_is_the_density_of_its_interval() -> None:
    edges = np.linspace(0, 1, 1001)
    centers = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # of intervals that are 0.2 wide
    counts = np.zeros(1000)
    counts[np.searchsorted(edges, centers, side="right") - 1] = [10, 20, 40, 20, 10]
    x, height = latents.stems(edges, counts, centers)
    np.testing.assert_allclose(x, centers)
    np.testing.assert_allclose(height * 0.2, [0.1, 0.2, 0.4, 0.2, 0.1])


def test_levels_within_one_bin_share_a_stem_of_the_same_meaning() -> None:
    edges = np.linspace(0, 1, 6)
    centers = (np.arange(20) + 0.5) / 20  # four levels a bin, uniform density 1
    x, height = latents.stems(edges, np.full(5, 7.0), centers)
    np.testing.assert_allclose(x, (np.arange(5) + 0.5) / 5)
    np.testing.assert_allclose(height, 1)


def test_the_error_maps_and_the_scale_end_at_the_largest_error(source: Source) -> None:
    stages = [source.stage(source.cells("1a", label)[0], "reconstruct") for label in ("continuous", "B=4")]
    examples = [source.example(stage) for stage in stages]
    errors = [np.abs(e["reconstructed"].astype(int) - e["original"]) for e in examples]
    caption = _of(source, reconstruction.reconstructions).caption
    assert errors[0].max() < errors[1].max()
    assert f"({errors[1].max()} of 255 grey levels)" in caption


def test_the_titles_of_figure_7_quote_numbers_of_one_seed_only(tmp_path: Path) -> None:
    single = read(write_source(tmp_path / "report", seeds=1, tables=("2a",)) / "source")
    drawn = {drawing.name: drawing.figure for drawing in figures.draw(single)}
    titles = [text.get_text() for text in drawn["figure-7-prediction"].texts]
    assert f"parallel  ·  fd_digits {single.number('cell-b016-r5-parallel-s0', 'score/fd_digits'):.2f}" in " ".join(
        titles
    )
    assert set(drawn) == {"claims", "figure-7-prediction", "samples", "training", "search"}


def _of(source: Source, make: Callable[[Source], Drawing | None]) -> Drawing:
    with figures.style():
        drawing = make(source)
    assert drawing is not None
    return drawing


def test_trained_tokenizers_stand_below_the_levels_with_the_same_originals(source: Source, tmp_path: Path) -> None:
    names = [text.get_text() for text in _of(source, reconstruction.reconstructions).figure.texts]
    rows = [name for name in names if name in ("original", "continuous", "VQ", "FSQ", "LFQ") or name.startswith("B =")]
    tokenizers = ["continuous", "B = 64", "B = 32", "B = 16", "B = 8", "B = 4", "VQ", "FSQ", "LFQ"]
    assert rows == ["original", *tokenizers, *tokenizers]  # images, then errors
    alone = read(write_source(tmp_path / "report", tables=("1a",)) / "source")
    assert "LFQ" not in _of(alone, reconstruction.reconstructions).caption
    assert "VQ, FSQ, LFQ: autoencoders of the same body" in _of(source, reconstruction.patches).caption


def test_images_of_one_class_have_numbers_and_no_class(tmp_path: Path) -> None:
    single = read(write_source(tmp_path / "report", tables=("1a", "2a"), classes=("",)) / "source")
    numbers = [str(number) for number in range(1, 11)]
    for make in (reconstruction.reconstructions, generation.samples, generation.prediction):
        drawing = _of(single, make)
        texts = [text.get_text() for text in drawing.figure.texts]
        assert "class" not in texts
        assert "class" not in drawing.caption + drawing.title + drawing.alt
        assert "number" in texts
        assert [text for text in texts if text.isdigit()][:10] == numbers
        assert drawing.data.count("\n") > 1
    assert "number" in [text.get_text() for text in _of(single, reconstruction.patches).figure.texts]
    with_test = [axes.get_images()[0].get_array() for axes in _of(single, generation.samples).figure.axes]
    assert [len(picture) for picture in with_test] == [96, 3 * 96 + 2 * mosaic.GAP]  # ten real ones, three rows of 34


def test_each_point_of_axes_shows_images_of_the_same_classes(tmp_path: Path) -> None:
    axes = (Axis("quantizer.levels", (8, 64)), Axis("sample.temperature", (0.9, 1.0)))
    folder = write_axes(tmp_path / "report", axes, lambda trial: {}, seeds=2)
    source = read(folder / "source")
    with figures.style():
        assert generation.points(source) is None  # sources that are older hold no images of points
    points = ["b08-t0.9", "b08-t1.0", "b64-t0.9", "b64-t1.0"]
    for k, point in enumerate(points):
        (cell,) = (trial.cell for trial in source.trials if trial.label == point and trial.seed == 0)
        images = np.full((14, 1, 4, 4), 60 * k, np.uint8) + np.arange(14, dtype=np.uint8).reshape(14, 1, 1, 1)
        path = folder / "source" / "examples" / f"{source.stage(cell, 'sample')}.npz"
        np.savez(path, images=images, labels=np.arange(14) % 3)
    drawing = _of(source, generation.points)
    (picture,) = (axes.get_images()[0].get_array() for axes in drawing.figure.axes)
    step = mosaic.steps(np.zeros((1, 1, 4, 4), np.uint8), 24)[0]
    assert picture[::step, ::step, 0].tolist() == [
        [60 * k + i for i in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
        for k in range(4)  # class 0, then 1, then 2
    ]
    texts = [text.get_text() for text in drawing.figure.texts]
    assert texts == ["class", *("0", "0-2", "0-3", "1", "1-2", "1-3", "2", "2-2", "2-3"), *points]
    assert drawing.table == "axes"
    assert [line.partition(",")[0] for line in drawing.data.splitlines()[1:]] == points


def test_a_detail_is_where_the_error_is_largest() -> None:
    error = np.zeros((7, 11))
    error[4:6, 8:10] = 1.0
    error[0, 0] = 2.0
    assert reconstruction.worst(error, 3) == (3, 7)
    assert reconstruction.worst(np.zeros((5, 5)), 2) == (0, 0)


def test_confidence_is_shown_by_strength_with_its_scores(source: Source, tmp_path: Path) -> None:
    texts = [text.get_text() for text in _of(source, generation.confidence).figure.texts]
    titles = [text for text in texts if len(text) > 1 and text != "class"]
    assert titles == [
        f"{name}  ·  fd_digits 11.48  ·  agreement 96.7 %"
        for name in ("random order", "confidence × 1", "confidence × 16")
    ]
    folder = write_source(tmp_path / "report", tables=("2a",), strengths=(0, 2))
    path = folder / "source" / "plan.json"
    plan = json.loads(path.read_text())
    plan["confidence"][1]["cell"] = "nowhere"
    path.write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"cell nowhere of confidence is not in frame.csv"):
        read(folder / "source")


def test_the_front_is_what_nothing_beats_in_time_and_distance() -> None:
    def point(name: str, fd: float, ms: float | None) -> Point:
        return Point(name, "parallel", GROUPS[0], stats.estimate([fd]), {} if ms is None else {"ms": ms})

    points = [point("a", 3.0, 2.0), point("b", 5.0, 1.0), point("c", 4.0, 3.0), point("d", 2.0, None)]
    best = front([*points, point("e", 3.0, 9.0), point("f", 2.5, 7.0)], "ms")
    assert [point.token for point in best] == ["b", "a", "f"]


def test_the_chart_of_all_heads_tells_tokens_heads_and_times(source: Source, tmp_path: Path) -> None:
    left, right = _of(source, heads.heads).figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == [
        "B=8", "B=16", "B=32", "B=64", "VQ", "FSQ", "LFQ", "latents",
    ]  # fmt: skip
    assert right.get_xscale() == "log"
    points = [container[0] for container in right.containers]
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in points}
    assert len(looks) == len({marker for _, marker, _ in looks}) == 6  # each head by its marker alone
    folder = write_source(tmp_path / "report", tables=("heads",))
    path = folder / "source" / "frame.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="speed/image_ms").to_csv(path, index=False)
    drawing = _of(read(folder / "source"), heads.heads)
    assert len(drawing.figure.axes) == 1
    assert "time" not in drawing.caption


def test_names_of_the_fronts_lie_on_no_marker_and_not_on_each_other() -> None:
    def point(group: int, head: str, fd: float, ms: float) -> Point:
        return Point(f"B={ms:g}", head, GROUPS[group], stats.estimate([fd]), {"ms": ms})

    crowd = [point(0, "parallel", 3.0 + 0.05 * k, 4.2 + 0.2 * (k % 4)) for k in range(1, 9)]
    points = [point(2, "mixture", 3.0, 4.0), point(0, "parallel", 2.6, 5.0), point(2, "flow", 2.55, 5.2), *crowd]
    with figures.style():
        figure = heads._costs_chart(points, ["ms"], "fd")
        figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert {"mixture", "B=5", "flow"} <= boxes.keys()
    markers = axes.transData.transform([(point.costs["ms"], point.fd.mean) for point in points])
    for name, box in boxes.items():
        assert not [place for place in markers if box.contains(*place)], name
        assert axes.bbox.contains(box.x0, box.y0), name
        assert axes.bbox.contains(box.x1, box.y1), name
        assert not [other for other in boxes.values() if other is not box and box.overlaps(other)], name


@pytest.mark.parametrize("levels", [4, 8])
def test_the_best_errors_of_few_levels_that_a_caption_tells_are_lloyd_s_and_max_s(source: Source, levels: int) -> None:
    """Their conditions for N(0, 1), iterated: bounds half-way between levels, each level the mean of its interval."""
    values = norm.ppf((np.arange(levels) + 0.5) / levels)
    for _ in range(2000):
        bounds = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
        share = np.diff(norm.cdf(bounds))
        values = -np.diff(norm.pdf(bounds)) / share
    assert f"{1 - share @ values**2:.3f} at B = {levels}" in _of(source, quantization.distortion).caption


def test_two_rows_of_one_token_on_a_front_are_named_with_their_heads() -> None:
    points = [
        Point("B=16", head, GROUPS[0], stats.estimate([fd]), {"ms": ms})
        for head, fd, ms in (("parallel", 3.0, 4.0), ("autoregressive", 2.0, 9.0))
    ]
    points.append(Point("B=8", "parallel", GROUPS[0], stats.estimate([3.5]), {"ms": 2.0}))
    points.append(Point("continuous", "flow", GROUPS[2], stats.estimate([5.0]), {"ms": 3.0}))
    with figures.style():
        figure = heads._costs_chart(points, ["ms"], "fd")
    texts = {text.get_text().replace("\n", " ") for text in figure.axes[0].texts}
    assert texts == {"B=8", "B=16, parallel", "B=16, autoregressive", "flow"}


def test_a_missing_example_file_is_named(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("1a",))
    (folder / "source" / "examples" / "reconstruct-b008-r5.npz").unlink()
    with pytest.raises(UserError, match=r"reconstruct-b008-r5.npz is missing; write the report's source again"):
        list(figures.draw(read(folder / "source")))


def test_the_style_leaves_matplotlib_as_it_was() -> None:
    before = dict(mpl.rcParams)
    with figures.style(dark=True):
        assert mpl.rcParams["figure.facecolor"] == "#15181d"
    assert dict(mpl.rcParams) == before


def test_a_head_without_a_look_of_its_own_is_drawn(source: Source, monkeypatch) -> None:
    monkeypatch.delitem(heads.LOOKS, "flow")
    assert heads.heads(source) is not None
