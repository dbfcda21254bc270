"""Every figure of the committed reports and of made-up ones: text can be read, series are told apart without colour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import same_color, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from analysis import figures
from analysis.figures import Drawing
from analysis.figures.form import WIDTH
from analysis.frame.source import read
from experiments.axes import Axis
from tests.helpers.machine import REPORTS
from tests.helpers.report_axes import write_axes
from tests.helpers.report_source import write_source

COLUMN, SMALLEST = 3.3, 5.0
"""inches of a column of a paper, and points of type that can be read"""
STEP = 10
"""of CIE lightness (0 to 100) between two series that differ in nothing else"""
FEW = ("bag", "sandal", "trouser")
LONG = ("ankle boot with laces and a very long name", "T-shirt/top", "coat for $5, $6", "外套")
"""names of classes; of the last the figures' font has no letters"""
MANY = ("1a", "1b", "2a", "2b", "heads")


def _sources(folder: Path) -> Iterator[tuple[str, Path]]:
    yield "digits", REPORTS / "digits"
    yield "ablation", REPORTS / "ablation"
    yield "synthetic", write_source(folder / "many", seeds=3, tables=MANY, strengths=(0, 1, 16))
    for name, classes in (("few", FEW), ("long", LONG)):
        yield name, write_source(folder / name, seeds=2, tables=("1a", "2a"), strengths=(0, 1, 16), classes=classes)
    values = (
        Axis("quantizer.levels", (4, 8, 16, 32, 64)),
        Axis("quantizer.kind", ("gaussian", "uniform", "lloyd-max")),
    )
    more = (Axis("head.kind", ("autoregressive", "parallel")), Axis("quantizer.range", (3.0, 5.0)))
    last = (Axis("sample.guidance", (1.0, 1.5)),)
    yield (
        "axes",
        write_axes(
            folder / "axes", (*values, *more, *last), lambda trial: {"score/fd_digits": 3.0 + trial.seed}, each=True
        ),
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Drawing]]:
    folder = tmp_path_factory.mktemp("form")
    return [
        (f"{name} {drawing.name}", drawing)
        for name, report in _sources(folder)
        for drawing in figures.draw(read(report / "source"))
    ]


def _drawn_text(figure: Figure) -> tuple[dict[tuple[str, float, float], tuple[Bbox, float]], Bbox]:
    """What the renderer really writes (tick labels beyond the limits are not), with boxes and sizes; and the canvas."""
    found: dict[tuple[str, float, float], tuple[Bbox, float]] = {}
    original = RendererAgg.draw_text

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext: Text | None = None):
        if mtext is not None:
            box = mtext.get_window_extent(self)
            found[mtext.get_text(), box.x0, box.y0] = (box, float(mtext.get_fontsize()))
        return original(self, gc, x, y, s, prop, angle, ismath=ismath, mtext=mtext)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RendererAgg, "draw_text", draw_text)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return found, Bbox.from_bounds(0, 0, *canvas.get_width_height())


def _faults(figure: Figure) -> list[str]:
    """Texts that lie on each other, leave the canvas, or are too small in a column; markers out of view."""
    boxes, canvas = _drawn_text(figure)
    found = [] if boxes else ["no text at all"]
    shrink = min(1.0, COLUMN / figure.get_size_inches()[0])
    for (text, *_), (box, size) in boxes.items():
        if box.x0 < canvas.x0 or box.x1 > canvas.x1 or box.y0 < canvas.y0 or box.y1 > canvas.y1:
            found.append(f"{text!r} at {box.extents} leaves {canvas.extents}")
        if size * shrink < SMALLEST:
            found.append(f"{text!r} has {size * shrink:.1f} points in a column")
    for (a, (box, _)), (b, (other, _)) in combinations(boxes.items(), 2):
        if box.overlaps(other):
            found.append(f"{a[0]!r} at {box.extents} lies on {b[0]!r} at {other.extents}")
    return found + _out_of_view(figure)


def _out_of_view(figure: Figure) -> list[str]:
    """Markers outside the limits of their axes, of a figure that is drawn."""
    found = []
    for axes in figure.axes:
        for line in axes.lines if axes.axison else ():
            if line.get_marker() != "None" and len(line.get_xydata()):
                places, view = line.get_transform().transform(line.get_xydata()), axes.bbox.padded(1)
                found += [f"{line.get_marker()} at {x:.0f}, {y:.0f}" for x, y in places if not view.contains(x, y)]
    return found


@pytest.mark.slow
def test_no_text_overlaps_leaves_the_canvas_or_is_small_in_a_column_and_no_marker_is_out_of_view(
    drawn: list[tuple[str, Drawing]],
) -> None:
    assert {name.split()[0] for name, _ in drawn} == {"digits", "ablation", "synthetic", "few", "long", "axes"}
    assert {name: faults for name, drawing in drawn if (faults := _faults(drawing.figure))} == {}


def test_columns_of_images_have_the_names_of_their_classes(drawn: list[tuple[str, Drawing]]) -> None:
    mosaics = ("figure-6-reconstructions", "figure-7-prediction", "samples", "figure-8-confidence")
    for name in mosaics:
        few, long = (
            {text.get_text() for text in drawing.figure.texts}
            for source in ("few", "long")
            for title, drawing in drawn
            if title == f"{source} {name}"
        )
        assert {*FEW} <= few
        assert {*LONG[1:3], "3"} <= long
        assert any(text.startswith("ankle boot") and text.endswith("…") for text in long)
        assert not {"0", "1", "2"} & few
        digits = next(drawing for title, drawing in drawn if title == f"digits {name}")
        assert {*map(str, range(10))} <= {text.get_text() for text in digits.figure.texts}


def test_charts_have_one_width(drawn: list[tuple[str, Drawing]]) -> None:
    assert all(drawing.figure.get_size_inches()[0] <= WIDTH for _, drawing in drawn)


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (((0.5, 0.5, "one", 12), (0.52, 0.5, "two", 12)), r"'one' at .* lies on 'two'"),
        (((0.9, 0.5, "a long one", 12),), r"leaves"),
        (((0.1, 0.5, "a small one", 4),), r"4\.0 points in a column"),
    ],
)
def test_the_check_sees_each_fault(texts: tuple[tuple[float, float, str, float], ...], fault: str) -> None:
    figure = Figure(figsize=(2, 1))
    for x, y, text, size in texts:
        figure.text(x, y, text, fontsize=size)
    (found,) = _faults(figure)
    assert re.search(fault, found)


def test_the_check_sees_a_marker_out_of_view() -> None:
    figure = Figure(figsize=(2, 1))
    axes = figure.add_axes((0.2, 0.3, 0.6, 0.6), xlim=(0, 1), ylim=(0, 1))
    axes.plot([0.5, 2], [0.5, 0.5], marker="o")
    assert [fault[:4] for fault in _faults(figure) if "points" not in fault] == ["o at"]


def _lightness(colour: Any) -> float:
    """CIE L*, from 0 to 100."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def _look(handle: Any) -> tuple[tuple[Any, ...], float]:
    """Form of a legend's entry, which grey leaves as it is, and its lightness."""
    if not isinstance(handle, Line2D):
        return ("area",), _lightness(handle.get_facecolor()[:3])
    marker = handle.get_marker()
    is_open = marker != "None" and not same_color(handle.get_markerfacecolor(), handle.get_color())
    return (marker, is_open, handle.get_linestyle()), _lightness(handle.get_color())


def _alike(legend: Legend) -> list[str]:
    entries = [(text.get_text(), *_look(h)) for text, h in zip(legend.get_texts(), legend.legend_handles, strict=True)]
    return [
        f"{a} and {b}"
        for (a, form, light), (b, other, lightness) in combinations(entries, 2)
        if form == other and abs(light - lightness) < STEP
    ]


@pytest.mark.parametrize("name", ["synthetic", "axes", "digits", "ablation"])
def test_series_are_told_apart_in_grey(drawn: list[tuple[str, Drawing]], name: str) -> None:
    found = [drawing.figure for title, drawing in drawn if title.split()[0] == name]
    legends = [each for f in found for each in (*f.legends, *(axes.get_legend() for axes in f.axes)) if each]
    assert legends
    assert [pair for legend in legends for pair in _alike(legend)] == []


def test_the_grey_check_sees_two_alike() -> None:
    figure = Figure()
    lines = [Line2D([], [], color=colour, marker="o", label=colour) for colour in ("#029e73", "#cc78bc", "#0173b2")]
    assert _alike(figure.legend(handles=lines)) == ["#029e73 and #cc78bc"]
