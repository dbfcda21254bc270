"""A report on a folder of one's own images: what was not asked for is left out, and classes have their names."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from analysis.frame.source import read
from analysis.report.build import build
from analysis.tables.fill import fill
from tests.helpers.report_source import edit_frame, write_source
from tokenbridge.config import UserError

CLASSES = ("bag", "sandal", "trouser")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_source(tmp_path_factory.mktemp("own") / "report", seeds=2, classes=CLASSES)
    build(folder)
    return folder


@pytest.mark.slow
def test_nothing_published_stands_beside_own_images(own: Path) -> None:
    source = read(own / "source")
    assert [table.id for table in source.tables] == ["1a", "1b", "2a"]
    assert [fill(table, source).published for table in source.tables] == [(), (), ()]
    for name in ("index.html", "report.md", "paper.tex"):
        text = re.sub(r"data:image/png;base64,[\w+/=]+", "", (own / name).read_text())
        for part in ("ImageNet", "not reported", "not in the paper", "not given", "does not hold: 2b"):
            assert part not in text, (name, part)
        assert "wear 16" in text


@pytest.mark.slow
def test_own_classes_have_their_names_in_figures_data(own: Path) -> None:
    with (own / "figures" / "figure-6-reconstructions.csv").open() as file:
        names = [line["class"] for line in csv.DictReader(file) if line["tokenizer"] == "continuous"]
    assert names == [name + more for name in CLASSES for more in ("", "-2", "-3")]


def test_a_column_that_was_not_asked_for_is_left_out(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("2a",), examples=False, classes=CLASSES)
    titles = [column.title for column in fill(read(folder / "source").tables[0], read(folder / "source")).measured]
    assert "bits/dim" in titles
    for label in ("parallel", "autoregressive"):
        edit_frame(folder, label, {"likelihood/bits_per_dim": None, "stage.likelihood": None, "score/agreement": None})
    source = read(folder / "source")
    left = [column.title for column in fill(source.tables[0], source).measured]
    assert left == [title for title in titles if title not in ("bits/dim", "agreement")]


@pytest.mark.slow
def test_of_the_papers_images_the_published_numbers_stay(own: Path, tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("2a",), examples=False, classes=CLASSES)
    path = folder / "source" / "plan.json"
    plan = json.loads(path.read_text())
    plan["base"]["data"] |= {"classes": 1000, "image_size": 256}
    path.write_text(json.dumps(plan))
    source = read(folder / "source")
    assert [table.id for table in source.tables] == ["2a", "3", "4"]
    assert [column.title for column in fill(source.tables[0], source).published] == ["gFID", "IS"]


def test_a_damaged_list_of_names_is_one_line(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "report", tables=("2a",), examples=False, classes=CLASSES)
    (folder / "source" / "classes.json").write_text('{"0": "bag"}')
    with pytest.raises(UserError, match="must be a list of names of classes; write the report's source again"):
        read(folder / "source")
