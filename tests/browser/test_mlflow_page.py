"""MLflow's own page on a sweep, as a reader sees it."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import SWEEP, Served, Visit
from tests.helpers import runs as small_runs

CELLS = ["b04-cfg1.5", "b04-cfg3.0", "b08-cfg1.5", "b08-cfg3.0"]
LEVELS, GUIDANCE, DISTANCE = "params.`quantizer.levels`", "params.`sample.guidance`", "tags.`score/fd_pixels`"
WITHOUT_ACCOUNTS = "/ajax-api/2.0/mlflow/users/current"
"""MLflow 3.17's page asks its server who the user is, also where there are no accounts: not found"""
UNSIZED = re.compile(r"Error: <\w+> attribute \w+: (Expected|A negative value)|null ResizeObserver loop completed")
"""its plots complain where they are drawn before their card has a size, which depends on the machine's speed"""


def texts(seen: Visit, selector: str) -> list[str]:
    return [text.strip() for text in seen.page.locator(selector).all_inner_texts()]


def names(seen: Visit) -> list[str]:
    """Run names in the order of the rows."""
    links = seen.page.locator(".ag-row [col-id='attributes.`Run Name`'] a")
    rows = links.evaluate_all("links => links.map(a => [+a.closest('.ag-row').getAttribute('row-index'), a.innerText])")
    return [name for _, name in sorted(rows)]


def row(seen: Visit, name: str) -> dict[str, str]:
    """What the table shows of a run, by column."""
    index = names(seen).index(name)
    cells = seen.page.locator(f".ag-row[row-index='{index}'] .ag-cell")
    return dict(cells.evaluate_all("cells => cells.map(cell => [cell.getAttribute('col-id'), cell.innerText.trim()])"))


def wait_for(seen: Visit, text: str) -> None:
    seen.page.get_by_text(text, exact=True).first.wait_for()


def assert_quiet(seen: Visit) -> None:
    assert seen.requests
    assert seen.outside() == []
    others = [error for error in seen.errors if not error.endswith(WITHOUT_ACCOUNTS)]
    assert [error for error in others if not UNSIZED.match(error)] == []


def test_a_sweeps_page_ranks_its_cells_by_the_settings_that_vary(served: Served, visit) -> None:
    seen = visit(served.urls[SWEEP])
    wait_for(seen, CELLS[0])
    ranked = names(seen)
    assert ranked[-1] == SWEEP
    assert sorted(ranked[:-1]) == CELLS
    distances = [float(row(seen, name)[DISTANCE]) for name in ranked[:-1]]
    assert distances == sorted(distances)
    assert distances[0] < distances[-1]
    shown = row(seen, "b04-cfg3.0")
    assert (shown[LEVELS], shown[GUIDANCE]) == ("4", "3.0")
    columns = seen.page.locator(".ag-header-cell[col-id]").evaluate_all(
        "cells => cells.sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left)"
        ".map(cell => cell.getAttribute('col-id'))"
    )
    ours = [column for column in columns if column.startswith(("tags.", "params.", "metrics."))]
    assert ours[:3] == [DISTANCE, LEVELS, GUIDANCE]  # none of the first is empty
    assert all(re.fullmatch(r"\d{1,4}(\.\d+)?", row(seen, name)[DISTANCE]) for name in CELLS)
    assert not [name for name in CELLS if len(row(seen, name)[DISTANCE].replace(".", "")) > 6]
    for part in (".ag-header-cell-text", ".ag-row [col-id='attributes.`Run Name`'] a"):
        cut = seen.page.locator(part).evaluate_all(
            "all => all.filter(each => each.scrollWidth > each.clientWidth && each.clientWidth)"
            ".map(each => each.innerText)"
        )
        assert cut == []
    assert_quiet(seen)


def test_the_page_of_all_holds_the_sweep_with_its_cells_below(served: Served, visit) -> None:
    seen = visit(served.urls[""])
    wait_for(seen, SWEEP)
    folded = names(seen)
    assert SWEEP in folded
    assert not {*CELLS} & {*folded}
    seen.page.locator(f".ag-row[row-index='{folded.index(SWEEP)}'] button, .ag-row [aria-expanded]").first.click()
    wait_for(seen, CELLS[0])
    opened = names(seen)
    assert opened[opened.index(SWEEP) + 1 :][:4] == CELLS
    assert_quiet(seen)


def test_charts_begin_with_the_main_results(served: Served, visit) -> None:
    seen = visit(f"{served.urls[SWEEP]}&compareRunsMode=CHART")
    wait_for(seen, "main results")
    wait_for(seen, "score/fd_pixels")
    sections = texts(seen, "[data-testid='experiment-view-compare-runs-section-header']")
    assert sections[0].startswith("main results"), sections
    assert seen.page.locator(".xtitle").count() == 0  # the card says it
    assert_quiet(seen)


def test_comparing_three_cells_shows_what_differs_and_the_metrics(served: Served, visit) -> None:
    cells = [small_runs.runs_of(served.store, "cell")[name].data for name in CELLS[:3]]
    seen = visit(served.compare(*CELLS[:3]))
    for name in CELLS[:3]:
        wait_for(seen, name)
    seen.page.get_by_label("Parameters - Show diff only").click()
    seen.page.get_by_text("quantizer.kind", exact=True).wait_for(state="hidden")
    lines = [line.split("\t") for line in texts(seen, "tr")]
    differing = {key: values for key, *values in lines if key in cells[0].params}
    assert differing == {"quantizer.levels": ["4", "4", "8"], "sample.guidance": ["1.5", "3.0", "1.5"]}
    metrics = seen.page.locator("div:has(> [role=button]:text-is('Metrics'))").inner_text().split()
    for key in ("score/fd_pixels", "sample/images"):
        assert key in metrics
    shown = [float(word) for word in metrics if re.fullmatch(r"[-+.\de]*\d", word)]
    for cell in cells:  # four digits of each
        assert pytest.approx(cell.metrics["score/fd_pixels"], rel=1e-3) in shown
    assert seen.page.locator(".axis-title", has_text="score/fd_pixels").count() > 0  # the plot takes the main one
    assert_quiet(seen)


@pytest.mark.parametrize("path", ["sample/grid.png", "reconstruct/strip.png"])
def test_pictures_of_a_cell_show(served: Served, visit, path: str) -> None:
    name = CELLS[0] if path.startswith("sample") else "1a-b004"
    seen = visit(served.run("cell", name, f"/artifacts/{path}"))
    seen.page.wait_for_function("[...document.images].some(image => image.naturalWidth >= 64 * 10)")
    assert_quiet(seen)


def test_a_cells_page_leads_to_its_sweep(served: Served, visit) -> None:
    seen = visit(served.run("cell", CELLS[0]))
    link = seen.page.locator("a[href*=viewStateShareKey]").first
    assert link.inner_text() == SWEEP
    assert served.root + link.get_attribute("href") == served.urls[SWEEP]
    assert_quiet(seen)


def test_a_sweeps_own_page_says_what_varies(served: Served, visit) -> None:
    seen = visit(served.run("sweep", SWEEP))
    wait_for(seen, "quantizer.levels")
    assert {"quantizer.levels: 4, 8", "sample.guidance: 1.5, 3.0"} <= {*texts(seen, "li")}
    wait_for(seen, "best/fd_pixels")
    assert_quiet(seen)
