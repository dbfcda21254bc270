"""The report's page in a browser that knows nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.report import build as report
from tests.helpers.machine import REPORTS
from tests.helpers.report_source import write_source

COMMITTED = [REPORTS / name / "index.html" for name in ("ablation", "digits")]
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
        assert strips.count() >= 9
        outside = picture.locator(".strip .bar, .strip .point, .says, .effect, th").evaluate_all(
            """(parts, [left, right]) => parts.map(part => part.getBoundingClientRect())
               .filter(box => box.width && (box.left < left - 7 || box.right > right + 7)).length""",
            [box["x"], box["x"] + box["width"]],
        )
        assert outside == 0
        widths = strips.evaluate_all("strips => strips.map(strip => strip.getBoundingClientRect().width)")
        assert min(widths) > (0.9 if width < 800 else 0.25) * box["width"]
