"""Samples of other programs as rows: an own cell's images, handed in again, are scored exactly as that cell is."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.frame.load import source_from_stages
from analysis.tables.fill import fill
from experiments import samples as rows
from experiments.cli.exchange import write_samples
from experiments.cli.rows import refresh
from experiments.paper import plan as plan_file
from experiments.pipeline import GENERATION, Cell, wanted_of
from experiments.tracking import sync as tracking
from tests.helpers.runs import runs_of, with_database
from tokenbridge.config import RunConfig, Runtime, Sample, UserError
from tokenbridge.data.images import in_turn
from tokenbridge.library.sample_sets import read_set
from tokenbridge.overrides import build, override
from tokenbridge.store.artifacts import Store, digest, read_json
from tokenbridge.store.runs import read_cell, read_metrics

NAME, TABLE, LABEL = "digits", "2a", "autoregressive"
RUNTIME = Runtime(threads=1)
GIVEN = "sha256:0123456789ab"
BY_LABELS = {"agreement", "fd_digits_se"}
"""numbers that the labels of images enter: the jackknife is stratified by them"""


def given_config(base: RunConfig) -> RunConfig:
    return build(RunConfig, base.model_dump() | {"sample": {"images": 71, "given": GIVEN}})


def write_plan(store: Store, cells: list[str], base: RunConfig) -> None:
    entries = [{"table": TABLE, "label": LABEL, "cell": cell} for cell in cells]
    (store.root / "plans").mkdir(exist_ok=True)
    about = {"name": NAME, "title": "Digits", "preset": NAME, "base": base.model_dump(mode="json")}
    plan_file.replace(store.root, about | {"tables": [TABLE], "rows": entries})


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory) -> Path:
    """A runs folder with one finished cell, which is a row of a plan, beside what it exported."""
    store, cell = finished
    root = tmp_path_factory.mktemp("given")
    shutil.copytree(store.root, root / "runs")
    write_plan(Store(root / "runs"), [cell.id], cell.config)
    write_samples(Store(root / "runs"), cell.id, root / "flat", root / "own.npz")
    with np.load(root / "own.npz") as arrays:
        for path, label in zip(sorted((root / "flat").iterdir()), arrays["arr_1"], strict=True):
            place = root / "classes" / str(label) / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    return root


@pytest.fixture(scope="module")
def added(runs) -> Store:
    """The same with all three as rows."""
    store = Store(runs / "runs")
    for name, label in (("own.npz", "file"), ("classes", "class folders"), ("flat", "flat folder")):
        _, failures = rows.add(store, NAME, label, [runs / name], RUNTIME)
        assert not failures
    return store


def scores(store: Store, cell: str) -> dict[str, float]:
    return read_metrics(store.folder(read_cell(store, cell).stages["score"])).metrics


def test_exported_samples_have_the_numbers_of_the_row_that_drew_them(finished, added):
    own, given = scores(added, finished[1].id), plan_file.read(plan_file.file(added.root, NAME))["samples"]
    assert [row["label"] for row in given] == ["file", "class folders", "flat folder"]
    file, classes, flat = (row["cells"][0] for row in given)
    assert scores(added, file) == own
    assert classes == file  # the same images in the same classes are the same samples, whatever holds them
    unlabelled = scores(added, flat)
    assert unlabelled == {key: value for key, value in own.items() if key not in BY_LABELS} | {
        "fd_digits_se": unlabelled["fd_digits_se"]
    }
    assert unlabelled["fd_digits_se"] == pytest.approx(own["fd_digits_se"], rel=1)
    assert read_cell(added, file).stages.keys() == {"sample", "score"}


def test_they_stand_in_the_tables_and_say_why_they_lack_what_only_a_model_has(added):
    source = source_from_stages(added.root, plan_file.read(plan_file.file(added.root, NAME)))
    (table,) = (each for each in source.tables if each.id == TABLE)
    filled = fill(table, source)
    titles = [column.title for column in filled.measured]
    entries = {row.label: dict(zip(titles, row.measured, strict=True)) for row in filled.rows}
    assert list(entries) == ["parallel", LABEL, "file", "class folders", "flat folder"]
    assert entries["file"]["fd_digits"].text == entries[LABEL]["fd_digits"].text
    assert entries["file"]["fd_digits"].interval == entries[LABEL]["fd_digits"].interval
    assert entries["file"]["bits/dim"].reason == "samples alone"
    assert entries["flat folder"]["agreement"].reason == "no labels"
    assert any("flat folder (1 set)" in note for note in filled.notes)
    # one training against one set: images of one training say nothing of another
    assert all(entry.comparison is None for row in entries.values() for entry in row.values())


def test_mlflow_has_them_in_the_sweep_without_settings_of_a_model(added, template):
    assert refresh(with_database(added, template / "mlflow.db")) == []
    tracking.sync(added)
    run = runs_of(added, "cell")["file"].data
    assert run.tags["sweep.digits"] == "yes"
    assert {key.partition(".")[0] for key in run.params} == {"data", "score", "sample"}
    assert {key for key in run.params if key.startswith("sample.")} == {"sample.given", "sample.images"}
    assert run.metrics["score/fd_digits"] == scores(added, run.tags["cell"])["fd_digits"]


def test_a_report_names_the_command_that_adds_them(added, runs):
    source = source_from_stages(added.root, plan_file.read(plan_file.file(added.root, NAME)))
    cell = source.given["flat folder"][0]
    assert source.command(cell) == f"tokenbridge samples add digits {runs / 'flat'} --as 'flat folder'"


def test_they_leave_a_plan_and_what_was_measured_stays(added, tmp_path):
    shutil.copytree(added.root, tmp_path / "runs")
    store = Store(tmp_path / "runs")
    given = rows.given(rows.read_plan(store, NAME))
    assert rows.remove(store, NAME, "file") == 1
    assert [row["label"] for row in rows.given(rows.read_plan(store, NAME))] == ["class folders", "flat folder"]
    assert read_cell(store, given[0]["cells"][0]).sweeps == [NAME]  # class folders is the same cell
    rows.remove(store, NAME, "class folders")
    assert read_cell(store, given[0]["cells"][0]).sweeps == []
    assert scores(store, given[0]["cells"][0])
    with pytest.raises(UserError, match="file is no row of samples of digits; there is flat folder"):
        rows.remove(store, NAME, "file")


def test_mlflow_lists_those_that_left_no_more(added, tmp_path, template):
    shutil.copytree(added.root, tmp_path / "runs")
    store = with_database(Store(tmp_path / "runs"), template / "mlflow.db")
    tracking.sync(store)
    before = runs_of(store, "cell")
    assert set(before) == {"tiny", "file", "flat-folder"}
    sweep = runs_of(store, "sweep")[NAME]
    assert sweep.data.metrics["cells"] == 2  # the own cell was run alone
    assert before["flat-folder"].data.tags["mlflow.parentRunId"] == sweep.info.run_id
    rows.remove(store, NAME, "flat folder")
    tracking.sync(store)
    after = runs_of(store, "cell")
    left = after["flat-folder"].data
    assert not {"sweep", f"sweep.{NAME}", "mlflow.parentRunId", "mlflow.note.content"} & left.tags.keys()
    assert left.metrics == before["flat-folder"].data.metrics
    assert after["file"].data.tags == before["file"].data.tags
    assert runs_of(store, "sweep")[NAME].data.metrics["cells"] == 1
    rows.add(store, NAME, "flat folder", [added.root.parent / "flat"], RUNTIME)
    tracking.sync(store)
    parent = {"mlflow.parentRunId": runs_of(store, "sweep")[NAME].info.run_id}
    assert runs_of(store, "cell")["flat-folder"].data.tags == before["flat-folder"].data.tags | parent


def snapshot(store: Store) -> dict[str, str]:
    """What a runs folder holds; locks say who was last."""
    files = (path for path in store.root.rglob("*") if path.is_file() and "locks" not in path.parts)
    return {str(path): path.read_text("latin-1") for path in files}


def test_who_is_late_with_a_label_is_refused_and_leaves_nothing(added, runs, tmp_path):
    """Another took it while this one waited; and while this one measured, as a grid may that writes the plan."""
    shutil.copytree(added.root, tmp_path / "runs")
    store = Store(tmp_path / "runs")
    with np.load(runs / "own.npz") as arrays:
        np.savez(tmp_path / "new.npz", arr_0=arrays["arr_0"][::-1])
    plan = plan_file.read(plan_file.file(store.root, NAME))
    with ThreadPoolExecutor(1) as pool:
        with store.lock(f"samples-{digest([NAME, 'late'])}"):
            waiting = pool.submit(rows.add, store, NAME, "late", [tmp_path / "new.npz"], RUNTIME)
            late = {"label": "late", "cells": plan["samples"][0]["cells"], "from": ["elsewhere"]}
            plan_file.replace(store.root, plan | {"samples": [*plan["samples"], late]})
            before = snapshot(store)
        with pytest.raises(UserError, match="--as late is a row of samples already"):
            waiting.result()
    assert snapshot(store) == before
    cell = Cell("late", given_config(build(RunConfig, plan["base"])), ("score",))
    for base, message in ((plan["base"], "is a row of samples already"), ({}, "is on other settings now than when")):
        label = "late" if base else "other"
        with pytest.raises(UserError, match=message):
            rows._into_plan(store, NAME, {"label": label, "cells": [cell.id], "from": []}, [cell], base)
    assert snapshot(store) == before


def test_another_run_of_the_grid_keeps_them(added):
    plan = plan_file.read(plan_file.file(added.root, NAME))
    again = {key: value for key, value in plan.items() if key != "samples"}
    assert plan_file.merged(plan, again)["samples"] == plan["samples"]
    assert plan_file.merged(plan, again | {"duel": ["2a parallel", "2a autoregressive"]})["samples"] == plan["samples"]
    assert "samples" not in plan_file.merged(plan, again | {"base": {}})


def test_no_setting_of_a_model_enters_their_ids(tiny):
    def ids(*words: str) -> list[str]:
        config = given_config(override(tiny, words))
        assert wanted_of(config) == ("score",)
        return [stage.id for stage in Cell("given", config, ("score",)).stages()]

    assert ids() == ids("head.width=32", "quantizer.levels=8", "latents.scale=2", "train.seed=3")
    assert ids() != ids("score.reference=test")
    assert len(ids()) == 2
    assert "given" not in Sample().model_dump()


@pytest.mark.parametrize("kind", [name for name in ("reconstruct", "train", *GENERATION) if name != "score"])
def test_what_only_a_model_has_is_refused(tiny, kind):
    config = given_config(tiny)
    with pytest.raises(UserError, match="is not of given samples"):
        Cell("given", config, (kind,)).stages()


def test_settings_of_drawing_do_not_go_with_given_samples():
    with pytest.raises(UserError, match=r"sample\.guidance=1.5 goes with images that are drawn, not given"):
        build(Sample, {"given": GIVEN, "guidance": 1.5})


def test_classes_come_in_turn_each_in_its_own_order():
    labels = np.random.default_rng(0).integers(0, 3, 50)
    order = in_turn(labels)
    assert sorted(order) == list(range(50))
    queues = {label: list(np.flatnonzero(labels == label)) for label in range(3)}
    expected = []
    while any(queues.values()):  # brute force: one image of each class that has one left
        expected += [queues[label].pop(0) for label in range(3) if queues[label]]
    assert order.tolist() == expected


def test_of_more_images_than_are_asked_for_each_class_gives_its_first(tiny, runs, tmp_path):
    with np.load(runs / "own.npz") as arrays:
        pixels = arrays["arr_0"]
    labels = np.arange(20).repeat(10)[: len(pixels)] % 10
    np.savez(tmp_path / "more.npz", arr_0=pixels, arr_1=labels)
    np.savez(tmp_path / "unlabelled.npz", arr_0=pixels)
    config = override(tiny, {"sample.images": 40})
    chosen = read_set(tmp_path / "more.npz", config)
    assert chosen.labels is not None
    assert chosen.labels.tolist() == in_turn_of(labels, 40)
    some = read_set(tmp_path / "unlabelled.npz", config)
    assert some.labels is None
    assert len(set(some.order.tolist())) == 40
    assert some.order.tolist() == sorted(some.order.tolist())
    assert some.order.tolist() == read_set(tmp_path / "unlabelled.npz", config).order.tolist()
    assert some.order.tolist() != list(range(40))


def in_turn_of(labels: np.ndarray, count: int) -> list[int]:
    return labels[in_turn(labels)][:count].tolist()


def picture(path: Path, size: tuple[int, int] = (16, 16), mode: str = "L", colour: object = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # pyright: ignore[reportArgumentType]


def make_bad(root: Path) -> None:
    """Folders and files that cannot be rows of the plan of 71 grey images of 16 pixels."""
    for i in range(71):
        picture(root / "large" / f"{i}.png", (32, 32))
        picture(root / "oblong" / f"{i}.png", (20, 16))
        picture(root / "coloured" / f"{i}.png", mode="RGB", colour=(9, 9, 9 + (i == 70)))
        picture(root / "named" / ("0" if i % 2 else "zwei") / f"{i}.png")
    picture(root / "few" / "0.png")
    (root / "empty").mkdir()
    (root / "words").mkdir()
    for i in range(71):
        (root / "words" / f"{i}.png").write_text("no image")
    (root / "text.txt").write_text("no image")
    (root / "broken.npz").write_text("no zip")
    np.savez(root / "statistics.npz", mu=np.zeros(4), sigma=np.eye(4))
    images = np.zeros((71, 16, 16, 3), np.uint8)
    np.savez(root / "floats.npz", arr_0=images.astype(np.float32))
    np.savez(root / "wide.npz", arr_0=np.zeros((71, 16, 20, 3), np.uint8))
    np.savez(root / "label10.npz", arr_0=images, arr_1=np.arange(71) % 11)
    np.savez(root / "good.npz", arr_0=images)
    images[5, 3, 3, 0] = 1
    np.savez(root / "coloured.npz", arr_0=images)
    images[5] = 0
    np.savez(root / "same.npz", arr_0=images, more=np.zeros(1))


REFUSED = [
    ("add digits large --as X", "large has images of 32×32 pixels, which must be 16×16 (data.image_size); give images"),
    ("add digits oblong --as X", "oblong has images of 20×16 pixels, which must be 16×16"),
    ("add digits wide.npz --as X", "wide.npz has images of 20×16 pixels, which must be 16×16"),
    ("add digits few --as X", "few holds 1 images and must hold 71 at least, as many as the plan's own rows draw"),
    ("add digits coloured --as X", "coloured/70.png has colours, and the data are grey"),
    ("add digits coloured.npz --as X", "image 5 of coloured.npz has colours, and the data are grey"),
    ("add digits empty --as X", "empty holds no image; it needs files ending in"),
    ("add digits words --as X", "cannot be read as an image"),
    (
        "add digits named --as X",
        "named has a folder zwei, which is no class of the data (0, 1, 2, 3, 4, …); name folders",
    ),
    ("add digits text.txt --as X", "text.txt must be a folder of images, or a file ending in .npz; correct the path"),
    ("add digits missing --as X", "missing must be a folder of images, or a file ending in .npz; correct the path"),
    ("add digits missing.npz --as X", "missing.npz must be a folder of images, or a file"),
    ("add digits broken.npz --as X", "broken.npz must be a whole .npz file"),
    ("add digits statistics.npz --as X", "statistics.npz holds statistics or features and must hold images (arr_0)"),
    ("add digits floats.npz --as X", "arr_0 of floats.npz is float32 (71, 16, 16, 3) and must be uint8 images"),
    ("add digits label10.npz --as X", "label10.npz has label 10, which must be below 10 (data.classes); correct arr_1"),
    ("add digits good.npz same.npz --as X", "same.npz holds the same images as good.npz"),
    ("add digits good.npz good.npz --as X", "good.npz is named twice"),
    ("add digit good.npz --as X", "digit has no plan in runs/plans, as a grid leaves at its end; did you mean digits?"),
    ("add ../x good.npz --as X", "../x must be letters, digits"),
    ("add digits good.npz --as autoregressive", "--as autoregressive is a row of digits already; choose another name"),
    ("add digits good.npz --as parallel", "--as parallel is a row of digits already; choose another name"),
    ("add digits good.npz --as a|b", "--as 'a|b' must begin with a letter or digit"),
    ("add digits good.npz --as=", "--as '' must begin with a letter or digit"),
    ("add digits good.npz", "missing option '--as'"),
    ("add digits --as X", "missing argument 'FOLDER|NPZ...'"),
    ("add digits runs/stages --as X", "runs/stages is inside the runs folder runs, whose cells are rows already"),
    ("remove digits --as X", "X is no row of samples of digits; there is none yet"),
    ("list nothing", "nothing has no plan in runs/plans, as a grid leaves at its end; there is digits"),
    ("list digits --runs typo", "typo is no folder of runs"),
]


@pytest.fixture(scope="module")
def bad(tiny, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    make_bad(root)
    (root / "runs").mkdir()
    (root / "runs" / "stages").mkdir()
    write_plan(Store(root / "runs"), [], tiny)
    return root


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_cannot_be_a_row_is_one_line_and_leaves_nothing(call, bad, words, message):
    before = sorted(str(path) for path in (bad / "runs").rglob("*") if "locks" not in path.parts)
    done = call("samples", *words.split(" "), cwd=bad)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert sorted(str(path) for path in (bad / "runs").rglob("*") if "locks" not in path.parts) == before


def test_a_plan_without_generated_images_takes_no_samples(bad, tiny, tmp_path):
    store = Store(tmp_path)
    about = {"name": NAME, "title": "", "base": tiny.model_dump(mode="json"), "tables": ["1a"]}
    plan_file.replace(tmp_path, about | {"rows": [{"table": "1a", "label": "B=8", "cell": "x"}]})
    with pytest.raises(UserError, match="digits has no table of generated images"):
        rows.add(store, NAME, "X", [bad / "good.npz"], RUNTIME)


def test_images_of_another_size_are_cropped_where_that_is_asked_for(tiny, bad, tmp_path):
    large = [read_set(bad / name, tiny, resize=True) for name in ("large", "oblong")]
    assert all((next(iter(each.pixels())) == 7).all() for each in large)
    assert large[0].about["crop"] == "ADM's, to 16"
    gradient = np.linspace(0, 255, 32).astype(np.uint8)[None, :, None, None] * np.ones((71, 1, 32, 3), np.uint8)
    np.savez(tmp_path / "large.npz", arr_0=gradient)
    shrunk = next(iter(read_set(tmp_path / "large.npz", tiny, resize=True).pixels()))
    pairs = gradient[0, :, 0, 0].astype(float).reshape(16, 2).mean(1)  # ADM's crop halves by a box filter first
    assert np.abs(shrunk[0, 0, :, 0].numpy() - pairs).max() <= 1


def test_grey_images_do_not_stand_beside_colours(bad, tmp_path, tiny):
    for i in range(24):
        colour = (i, 255 - i, 3 * i)
        picture(tmp_path / "data" / "ab"[i % 2] / f"{i}.png", mode="RGB", colour=colour)
        picture(tmp_path / "grey data" / "ab"[i % 2] / f"{i}.png", mode="RGB", colour=(i, i, i))
    words = {"data.source": "folder", "data.image_channels": 3, "data.classes": 2, "sample.images": 20}
    colours = override(tiny, words | {"data.path": str(tmp_path / "data")})
    with pytest.raises(UserError, match=r"all images of .*good\.npz are grey, and the data have colours"):
        _ = read_set(bad / "good.npz", colours).hash
    grey = override(tiny, words | {"data.path": str(tmp_path / "grey data")})  # whose three channels are alike as well
    assert read_set(bad / "good.npz", grey).hash.startswith("sha256:")


def test_a_plan_is_read_whole_where_it_has_samples(added):
    path = plan_file.file(added.root, NAME)
    plan = read_json(path, "")
    plan["samples"][0].pop("cells")
    other = path.with_name("other.json")
    other.write_text(json.dumps(plan))
    try:
        with pytest.raises(UserError, match="samples must be a list of objects with cells, from, label"):
            plan_file.read(other)
    finally:
        other.unlink()
