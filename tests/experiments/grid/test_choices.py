"""No setting is chosen on test images: searches read training and validation images alone."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.grid import run as run_grid
from experiments.grid import search
from experiments.grid.request import Request
from experiments.grid.tune import Search
from experiments.presets import DIGITS, PRESETS
from experiments.trained import Models
from tests.conftest import SHORT
from tokenbridge.config import Data, Runtime, UserError
from tokenbridge.data import images as data
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_metrics

TEST_AS_REFERENCE = override(DIGITS, ["score.reference=test"])


def searched(base):
    """Configurations that a search of a row and one of `tune` look at."""
    request = Request(name="x", tables=("2a",), assignments=(f"score.reference={base.score.reference}",))
    cells = [cell for row in request.grid().search.values() for point in row.first() for cell in point.cells]
    tuned = Search(Models("x", (base,)))
    return [cell.config for cell in [*cells, *chain(*(tuned.cells(place, 100) for place in tuned.places))]]


@pytest.mark.parametrize("base", [DIGITS, TEST_AS_REFERENCE], ids=["train", "test"])
def test_what_a_search_looks_at_reads_no_test_image(base):
    for config in searched(base):
        assert config.score.split == "validation"
        assert config.score.reference == ("train" if base is DIGITS else "validation")
        assert "test" not in (config.floor_split, config.score.reference_split)
    (final,) = Search(Models("x", (base,))).cells((1.0, 0.9))
    assert (final.config.score.split, final.config.score.reference) == ("test", base.score.reference)


def test_test_images_are_refused_as_what_settings_are_chosen_by(tmp_path):
    with pytest.raises(UserError, match=r"score\.reference=test must not be the test images with score\.split=valid"):
        override(TEST_AS_REFERENCE, ["score.split=validation"])
    folder = ["data.source=folder", "data.path=a", "data.test_path=b", "score.reference=b"]
    assert override(DIGITS, folder).reads_test
    with pytest.raises(UserError, match=r"score\.reference=b must not be the test images"):
        override(DIGITS, [*folder, "score.split=validation"])
    with pytest.raises(UserError, match=r"score\.reference=validation needs validation images, and data\.validation_f"):
        Search(Models("x", (override(TEST_AS_REFERENCE, ["data.validation_fraction=0"]),)))


def test_a_search_needs_no_validation_images_where_its_reference_has_others():
    released = PRESETS["imagenet256-L-released"]
    assert released.data.validation_fraction == 0
    assert override(released, search.unreported(released)).floor_split is None


def write(root: Path, split: str, noise: bool = False) -> Path:
    """Digits as image files, twelve to train and three to test of each class; noise: other images of these classes."""
    pixels, labels = data.stack(data.load(Data(), split))
    draws = np.random.default_rng(0)
    for label in range(10):
        (folder := root / str(label)).mkdir(parents=True)
        for i, image in enumerate(pixels[labels == label][: 12 if split == "train" else 3]):
            seen = draws.integers(0, 256, image.shape, dtype=np.uint8) if noise else image
            Image.fromarray(seen[0]).save(folder / f"{i:02d}.png")
    return root


@pytest.mark.slow
def test_other_test_images_change_no_choice(tmp_path, monkeypatch):
    """Two data sets that differ in their test images alone: each score that a search reads is the same bit for bit."""
    monkeypatch.setattr(search, "SEARCH", {"sample.guidance": (1.0, 2.0), "sample.temperature": (0.9,)})
    monkeypatch.setattr(search, "SEARCH_IMAGES", 80)
    train, seen = write(tmp_path / "train", "train"), []
    for name in ("real", "noise"):
        test = write(tmp_path / name, "test", noise=name == "noise")
        words = [*SHORT, "train.batch=32", "data.source=folder", f"data.path={train}", f"data.test_path={test}"]
        grid = Request(name="mine", tables=("2a",), seeds=1, assignments=tuple(words)).grid()
        store = Store(tmp_path / f"runs-{name}")
        assert run_grid.run(store, grid, Runtime(threads=1, bars=False), jobs=1) == []
        tried = chain(*(row.points(store) for row in grid.search.values()))
        points = [cell.stages()[-1] for point in tried for cell in point.cells]
        plan = json.loads((store.root / "plans" / "mine.json").read_text())
        last = run_grid.final(store, grid)
        reported = [read_metrics(store.folder(s.id)) for row in last.rows for s in row.cell.stages() if s.kind.result]
        searched = [read_metrics(store.folder(point.id)) for point in points]
        seen.append((plan["search"], [(each.metrics, each.protocol) for each in searched], reported))
    (choice, scores, reported), (other_choice, other_scores, other_reported) = seen
    assert choice == other_choice
    assert scores == other_scores
    assert {protocol["floor"] for _, protocol in scores} == {"validation against train"}
    for metric in ("fd_digits_floor", "bits_per_dim"):
        numbers, others = (
            [r.metrics[metric] for r in each if metric in r.metrics] for each in (reported, other_reported)
        )
        assert len(numbers) == 2
        assert numbers != others
