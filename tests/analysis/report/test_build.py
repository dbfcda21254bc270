"""The report: one page that needs nothing else, says what the numbers say, and comes out the same every time."""

from __future__ import annotations

import base64
import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.frame.source import read
from analysis.report import build as report
from analysis.tables import search
from tests.helpers.report_source import edit_frame, write_source
from tokenbridge.config import UserError

VOID = {"meta", "link", "br", "img", "source"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("built") / "report", seeds=2, strengths=(0, 4))
    assert report.build(folder) == folder / "index.html"
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_source(tmp_path / "report")


class _Page(HTMLParser):
    """Collects what the tests ask for; unbalanced elements fail."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [value for key, value in values.items() if key in ("href", "src", "srcset") and value]
        self.ids += [values["id"]] if values.get("id") else []
        self.images += [values] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


@pytest.fixture(scope="module")
def page(built: Path) -> _Page:
    return _Page((built / "index.html").read_text())


def test_the_folder_holds_page_tables_and_figures(built: Path) -> None:
    held = [table.id for table in read(built / "source").tables]
    assert {"1a", "1b", "2a"} <= set(held)
    wanted = {f"table-{id}.{end}" for id in held for end in ("csv", "tex")}
    assert {path.name for path in (built / "tables").iterdir()} == wanted | {"search.csv"}
    names = {path.name for path in (built / "figures").iterdir()}
    assert {f"figure-{n}.png" for n in ("3-latents", "6-reconstructions", "7-prediction")} <= names
    assert {"samples.png", "distortion.png", "training.png", "samples.pdf"} <= names


def test_the_page_asks_for_nothing_outside_itself(page: _Page) -> None:
    assert all(link.startswith(("#", "data:")) for link in page.links)
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_each_figure_is_embedded_sharp_and_described(built: Path, page: _Page) -> None:
    drawn = {path.name for path in (built / "figures").glob("*.png")} - {"claims.png"}  # which the page draws itself
    assert len(page.images) == len(drawn) == 11
    for image in page.images:
        data = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
        assert data in {path.read_bytes() for path in (built / "figures").glob("*.png")}
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        assert (width // 2, height // 2) == (int(image["width"] or 0), int(image["height"] or 0))
        assert image["alt"]


def test_the_page_names_no_machine_and_no_missing_number(built: Path) -> None:
    for path in [built / "index.html", *(built / "tables").iterdir()]:
        text = re.sub(r"data:image/png;base64,[\w+/=]+", "", path.read_text())
        assert "secret-host-name" not in text
        assert str(built) not in text
        assert not re.search(r"\bnan\b|\bNone\b|undefined", text), path.name


def test_the_page_tells_commit_versions_and_how_to_repeat_a_number(built: Path) -> None:
    text = (built / "index.html").read_text()
    for part in (
        "0123456789abcdef0123456789abcdef01234567",
        "2.9.0",
        "tokenbridge run digits quantizer.levels=8 --only reconstruct</code>",
        "<code>tokenbridge run digits head.kind=parallel sample.temperature=0.9</code>",
        'seed 1, cell <span class="id">cell-b016-r5-parallel-s1</span>: add <code>train.seed=1 sample.seed=1</code>',
        "train-parallel-s1",
        "published, ImageNet 256×256",
        "measured, digits 16×16",
        "not in the paper",
        "Tables of the paper that this report does not hold: 2b, 2c",
        "figure 8, confidence × 4</th>",
        "sample.guidance=2 sample.confidence=4</code>",
        ">train.mask_ratio_min</th><td>",
    ):
        assert part in text, part


def test_the_search_is_shown_by_its_chosen_points_and_whole_in_a_file(built: Path) -> None:
    parallel, ours = search.chosen(read(built / "source"))
    assert (parallel.rows, parallel.guidance, parallel.temperature) == (("2a parallel",), 1.5, 0.9)
    assert (parallel.value, parallel.edges) == (pytest.approx(12.1), ("lowest temperature",))
    assert ours.edges == ("highest guidance", "lowest temperature")
    points = list(csv.DictReader((built / "tables" / "search.csv").read_text().splitlines()))
    assert len(points) == 24
    assert [point["fd_digits"] for point in points if point["chosen"]] == ["12", "12.2"] * 2
    assert list(points[10].values()) == ["2a parallel", "2", "1", "0", "17", ""]
    assert "highest guidance, lowest temperature</td>" in (built / "index.html").read_text()


def test_a_chosen_point_that_was_never_searched_is_refused(one: Path) -> None:
    path = one / "source" / "plan.json"
    plan = json.loads(path.read_text())
    plan["search"]["chosen"]["2a parallel"]["sample.guidance"] = 7.0
    path.write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"guidance 7 and temperature 0.9 chosen for 2a parallel are no point"):
        search.chosen(read(one / "source"))


@pytest.mark.slow
def test_the_same_source_gives_the_same_bytes_anywhere(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "copy"
    shutil.copytree(built / "source", other / "source")
    # a process of its own, so that nothing carried over within this one can make them equal
    code = f"from pathlib import Path; from analysis.report.build import build; build(Path({str(other)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    files = [path.relative_to(built) for path in sorted(built.rglob("*")) if path.is_file()]
    assert [path.relative_to(other) for path in sorted(other.rglob("*")) if path.is_file()] == files
    for name in files:
        assert (built / name).read_bytes() == (other / name).read_bytes(), name


def test_a_report_of_one_table_holds_that_table_alone(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("1b",))
    text = report.build(folder).read_text()
    assert "Table 1b." in text
    assert "Table 2a." not in text
    assert [path.name for path in (folder / "figures").iterdir()] == []


def test_what_an_earlier_build_left_goes_and_what_others_put_there_stays(one: Path) -> None:
    (one / "tables").mkdir()
    (one / "tables" / "table-9z.md").write_text("old")
    (one / "notes.txt").write_text("mine")
    plan = one / "source" / "plan.json"
    kept = json.loads(plan.read_text())
    plan.write_text(json.dumps(kept | {"rows": [row for row in kept["rows"] if row["table"] == "1b"]}))
    report.build(one)
    held = [table.id for table in read(one / "source").tables]
    wanted = {f"table-{id}.{end}" for id in held for end in ("csv", "tex")}
    assert {path.name for path in (one / "tables").iterdir()} == wanted
    assert (one / "notes.txt").read_text() == "mine"


def test_nothing_is_written_where_the_source_does_not_fit(one: Path) -> None:
    edit_frame(one, "parallel", {"protocol.score": json.dumps({"images": 3})})
    with pytest.raises(UserError, match="one column holds one protocol"):
        report.build(one)
    assert [path.name for path in one.iterdir()] == ["source"]


def test_text_from_the_plan_is_text(one: Path) -> None:
    plan = one / "source" / "plan.json"
    title = "<script>alert(1)</script> & more"
    kept = json.loads(plan.read_text())
    plan.write_text(json.dumps(kept | {"title": title, "rows": [r for r in kept["rows"] if r["table"] == "1b"]}))
    text = report.build(one).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_each_measured_number_links_to_the_line_that_repeats_it(built: Path) -> None:
    text = (built / "index.html").read_text()
    cell = read(built / "source").cells("2a", "parallel")[0]
    row = re.search(rf'<th scope="row"><a href="#source-{cell}">parallel</a>.*?</tr>', text, re.DOTALL)
    assert row is not None
    linked = re.findall(r'<td class="number[^"]*"><a href="#source-([^"]+)">', row[0])
    assert len(linked) >= 6
    assert set(linked) == {cell}


def test_mlflow_runs_are_linked_where_an_address_is_given_and_nowhere_else(one: Path, no_figures: None) -> None:
    edit_frame(one, "parallel", {"run_id": "0123abcd"})
    address = "http://mlflow.example:5000"
    assert "mlflow.example" not in report.build(one).read_text()
    link = f"{address}/#/runs/0123abcd"
    assert f'<a href="{link}">MLflow run</a>' in report.build(one, f"{address}/").read_text()
    assert f"([MLflow]({link}))" in (one / "report.md").read_text()
    plan = one / "source" / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"mlflow": address}))
    assert link in report.build(one).read_text()


def test_the_markdown_shows_tables_and_figures_and_how_to_repeat_them(built: Path) -> None:
    text = (built / "report.md").read_text()
    for path in re.findall(r"\]\(((?:figures|tables)/[^)]+)\)", text):
        assert (built / path).is_file(), path
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == len(list((built / "figures").glob("*.png")))
    assert "### Table 2a. Prediction of the channels of a token" in text
    assert "(#table-2a-prediction-of-the-channels-of-a-token)" in text
    assert "```sh\ntokenbridge run digits quantizer.levels=8 --only reconstruct\n```" in text
    assert r"fd\_digits" in text


def test_a_full_disk_leaves_the_old_report_whole(disk):
    """Files that there is room for do not take their places before those that there is none for."""
    folder = disk("64k")
    old = {folder / "index.html": b"old page", folder / "report.md": b"old text"}
    report.write(old)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        report.write({folder / "index.html": b"new page", folder / "report.md": bytes(100_000)})
    assert {path: path.read_bytes() for path in folder.iterdir()} == old
