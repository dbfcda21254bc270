"""The report's page in a browser that knows nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.report import build as report
from tests.helpers.machine import REPORTS
from tests.helpers.report_source import write_source

COMMITTED = [REPORTS / name / "index.html" for name in ("ablation", "digits", "fashion")]
BROKEN = "images => images.filter(image => !image.complete || !image.naturalWidth).map(image => image.alt)"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Path:
    return report.build(write_source(tmp_path_factory.mktemp("fresh") / "report", seeds=2))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("which", [*COMMITTED, None], ids=[*(path.parent.name for path in COMMITTED), "fresh"])
def test_the_report_stands_alone(which: Path | None, dark: bool, visit, request) -> None:
    path = which or request.getfixturevalue("fresh")
    seen = visit(path.resolve().as_uri(), dark)
    seen.page.locator("h1").first.wait_for()
    images = seen.page.locator("img")
    assert images.count() > 0
    seen.page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => 0)))")
    assert images.evaluate_all(BROKEN) == []
    assert seen.errors == []
    assert seen.outside() == []
    wide = seen.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not wide, "the page must not be wider than its window"


def test_dark_is_dark(visit, fresh: Path) -> None:
    def brightness(dark: bool) -> float:
        seen = visit(fresh.as_uri(), dark)
        colour = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(float(part) for part in colour.strip("rgba()").split(",")[:3]) / 3

    assert brightness(True) < 64 < 192 < brightness(False)


@pytest.mark.parametrize("which", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_the_first_screen_is_the_picture_of_the_claims_on_wide_and_narrow_pages(which: Path, visit) -> None:
    lines = len(pd.read_csv(which.parent / "figures" / "claims.csv"))
    seen = visit(which.resolve().as_uri())
    for width in (1300, 600, 360):
        seen.page.set_viewport_size({"width": width, "height": 1000})
        picture, paragraph = seen.page.locator("#claims"), seen.page.locator("p").first
        box, below = picture.bounding_box(), paragraph.bounding_box()
        assert box["y"] < 250
        assert box["y"] + box["height"] <= below["y"]
        assert not seen.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        # every bar and point lies in view, every line of words within the picture
        strips = picture.locator(".strip")
        assert strips.count() == lines
        outside = picture.locator(".strip .bar, .strip .point, .says, .effect, th").evaluate_all(
            """(parts, [left, right]) => parts.map(part => part.getBoundingClientRect())
               .filter(box => box.width && (box.left < left - 7 || box.right > right + 7)).length""",
            [box["x"], box["x"] + box["width"]],
        )
        assert outside == 0
        widths = strips.evaluate_all("strips => strips.map(strip => strip.getBoundingClientRect().width)")
        assert min(widths) > (0.9 if width < 800 else 0.25) * box["width"]


FORMER = 29_725 / 12
"""CSS pixels that the digits' page was high, at 1,300 wide, for each of the twelve files of tables that it then had,
before tables had folds and figures stood two abreast"""
OVERFLOWING = "regions => regions.filter(region => region.scrollWidth > region.clientWidth + 1)"


def opened(visit, path: Path, width: int, dark: bool = False):
    """A page at a width, its images decoded."""
    page = visit(path.resolve().as_uri(), dark).page
    page.set_viewport_size({"width": width, "height": 1000})
    page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => 0)))")
    return page


def test_the_page_is_half_as_long_as_it_was_and_not_cut(visit) -> None:
    page = opened(visit, REPORTS / "digits" / "index.html", 1300)
    former = FORMER * len(list((REPORTS / "digits" / "tables").glob("*.csv")))
    assert page.evaluate("document.documentElement.scrollHeight") <= former / 2
    page.set_viewport_size({"width": 600, "height": 1000})
    assert page.evaluate("document.documentElement.scrollHeight") <= 0.8 * former


@pytest.mark.parametrize("which", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_a_wide_page_has_whole_tables_across_it_and_figures_two_abreast(which: Path, visit) -> None:
    page = opened(visit, which, 1300)
    regions = page.locator(".wide:visible")
    assert regions.count() >= 2
    assert regions.evaluate_all(f"regions => ({OVERFLOWING})(regions).map(region => region.ariaLabel)") == []
    assert page.locator(".below:visible").count() == 0
    results = page.locator("table.generation:visible, table.reconstruction:visible, table.effects:visible")
    widths = results.evaluate_all(
        "tables => tables.map(table => table.clientWidth / table.closest('main').clientWidth)"
    )
    assert min(widths) > 0.9
    assert page.locator(".figures figure").count() >= 2
    for figures in page.locator(".figures:not(.alone)").all():
        left, right = (column.bounding_box() for column in figures.locator("> div").all())
        assert left["x"] + left["width"] <= right["x"]
        assert abs(left["y"] - right["y"]) < 2


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("which", COMMITTED, ids=[path.parent.name for path in COMMITTED])
def test_on_a_narrow_page_a_table_that_goes_on_has_a_shadow_where_it_does(which: Path, dark: bool, visit) -> None:
    page = opened(visit, which, 600, dark)
    region = page.locator(".wide:visible").filter(has=page.locator("tbody")).first
    assert region.evaluate("region => region.scrollWidth > region.clientWidth + 100")

    def edge() -> float:
        """How far the last pixels of the table's headings are from the page's paper, of 255."""
        with Image.open(io.BytesIO(region.screenshot())) as image:
            grey = np.asarray(image.convert("L"), float)
        paper = 255 if not dark else 24
        return float(abs(grey[4:14, -3:] - paper).mean())

    goes_on = edge()
    region.evaluate("region => { region.scrollLeft = region.scrollWidth }")
    page.wait_for_timeout(100)
    assert goes_on > 25
    assert edge() < goes_on / 2  # the tint of what is published, at most


@pytest.mark.parametrize("which", COMMITTED, ids=[path.parent.name for path in COMMITTED])
@pytest.mark.parametrize("width", [1300, 600])
def test_no_words_and_no_figure_leave_the_page(which: Path, width: int, visit) -> None:
    page = opened(visit, which, width)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    outside = page.locator("main p, main li, h1, h2, h3, figcaption, summary, dt, dd, img, .facts td, .sources code")
    assert outside.count() > 50
    assert (
        outside.evaluate_all(
            """all => all.filter(each => !each.closest('.wide') && each.getClientRects().length)
           .filter(each => each.getBoundingClientRect().right > innerWidth || each.scrollWidth > each.clientWidth + 1
                           && getComputedStyle(each).display != 'inline')
           .map(each => each.outerHTML.slice(0, 80))"""
        )
        == []
    )


def test_what_is_folded_is_reached_by_links_and_stands_open_on_paper(visit) -> None:
    page = opened(visit, REPORTS / "digits" / "index.html", 1300)
    commands = page.locator("#sources table")
    assert not commands.is_visible()
    page.locator("#table-2a td.number a").first.click()
    assert commands.is_visible()
    page.reload()
    assert page.locator("details").count() > 20
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 673, "height": 1000})  # A4 within its margins
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    closed = page.locator("details").evaluate_all(
        "all => all.filter(each => each.scrollHeight <= each.querySelector('summary').offsetHeight).length"
    )
    assert closed == 0
