"""The walk over folders: torchvision's order, each real directory once, and names that no image has."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tokenbridge.config import Data, UserError
from tokenbridge.data import files
from tokenbridge.data.class_folders import ClassFolders
from tokenbridge.data.folders import HIDDEN, walk
from tokenbridge.metrics.reference_files import files_in

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of ten images."""
    for label, name in enumerate(CLASSES):
        for i in range(10):
            draw(tmp_path / "images" / name / f"{i}.png", label * 10 + i)
    return tmp_path / "images"


def draw(path: Path, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)
    return path


def config(root: Path, **changes: object) -> Data:
    return Data.model_validate({"source": "folder", "path": str(root), "classes": 3, "image_size": 8} | changes)


def counts(root: Path, **changes: object) -> list[int]:
    return np.bincount(ClassFolders(config(root, **changes)).given("train")[1]).tolist()


def test_the_order_is_torchvisions(root):
    for name in ("a b/1.png", "a/2.png", "a/b/3.PNG", "a.c/0.jpeg", "Z.webp", "a-d/5.tif", "_/6.bmp"):
        draw(root / "ant" / name)
    theirs = [(Path(path), label) for path, label in ImageFolder(str(root)).samples]
    paths, labels = ClassFolders(config(root)).given("train")
    assert list(zip(paths, labels.tolist(), strict=True)) == theirs
    assert files_in(root / "ant") == [path for path, label in theirs if label == 0]


def test_loops_of_links_add_nothing_and_are_named(root):
    (root / "ant" / "again").symlink_to(".")
    (root / "bee" / "up").symlink_to("..")
    (root / "cat" / "there").symlink_to(root / "ant")
    assert counts(root) == [10, 10, 10]
    assert len(files_in(root)) == 30
    told = "\n".join(files.remarks(config(root)))
    for link in ("ant/again", "bee/up", "cat/there"):
        assert f"{link} leads to a folder that is read already or holds it" in told


def test_loops_outside_of_the_root_are_seen(root):
    draw(root.parent / "far" / "deep" / "1.png")
    (root.parent / "far" / "deep" / "back").symlink_to("..")
    draw(root.parent / "far" / "2.png")
    (root / "ant" / "far").symlink_to(root.parent / "far" / "deep")
    assert counts(root) == [11, 10, 10]


def test_linked_folders_are_read_once(root):
    (root.parent / "moved").mkdir()
    for name in ("ant", "bee"):
        (root / name).rename(root.parent / "moved" / name)
        (root / name).symlink_to(root.parent / "moved" / name)
    draw(root.parent / "more" / "x.png")
    (root / "cat" / "more").symlink_to(root.parent / "more")
    (root / "cat" / "more too").symlink_to(root.parent / "more")
    assert counts(root) == [10, 10, 11]
    assert len(files_in(root)) == 31
    (root / "dog").symlink_to(root / "cat")
    with pytest.raises(UserError, match=r"dog is a link to a folder that is read already .*: delete the link"):
        counts(root, classes=4)


@pytest.mark.parametrize("name", ["ant/lost.png", "ant/lost", "lost"])
def test_a_link_to_nothing_is_named(root, name):
    (root / name).symlink_to("nowhere")
    with pytest.raises(UserError, match=rf"{name} is a link to nothing \(No such file or directory\); mend or delete"):
        counts(root)
    (root / name).unlink()
    (root / name).symlink_to(Path(name).name)
    with pytest.raises(UserError, match=r"is a link to nothing \(Too many levels of symbolic links\)"):
        files_in(root)


def test_a_pipe_is_no_image(root):
    os.mkfifo(root / "ant" / "p.png")
    with pytest.raises(UserError, match=r"ant/p\.png must be a regular file"):
        counts(root)


def test_hidden_and_system_names_are_counted_and_not_read(root):
    for name in (
        ".ipynb_checkpoints/1.png",
        "__MACOSX/ant/2.png",
        "ant/._3.png",
        "ant/.cache/4.png",
        "cat/@eaDir/5.png",
    ):
        draw(root / name)
    for name in (
        "Thumbs.db",
        "ant/Thumbs.db",
        "bee/x.gif",
        "bee/y.JFIF",
        "bee/z.gif",
        "cat/notes.txt",
        "cat/README",
        "list",
    ):
        (root / name).write_text("x")
    assert counts(root) == [10, 10, 10]
    left = next(line for line in files.remarks(config(root)) if "left out" in line)
    assert left.startswith(
        "data.path: left out: 2 .gif, 1 .jfif, 1 .txt, 1 beside the class folders, 7 hidden or system,"
        " 1 without an ending; images end in .bmp .jpeg"
    )
    assert walk(root, [root]).left_out == Counter({HIDDEN: 7, ".gif": 2, ".jfif": 1, ".txt": 1, "without an ending": 2})


def test_names_of_any_bytes(root, call, tmp_path):
    odd = os.fsdecode(b"dog\xff")
    for i in range(10):
        draw(root / odd / os.fsdecode(b"\xe9%d.png" % i))
    assert counts(root, classes=4) == [10] * 4
    assert next(files.remarks(config(root, classes=4))).endswith(r"0 ant, 1 bee, 2 cat, 3 dog\xff")
    (root.parent / "list.txt").write_bytes(b"\xef\xbb\xbfcat\r\ndog\xff\r\n")
    paths, _ = ClassFolders(config(root, classes=2, class_list=str(root.parent / "list.txt"))).given("train")
    assert {path.parent.name for path in paths} == {"cat", odd}
    settings = ("data.source=folder", f"data.path={root}", "data.classes=4", "data.image_size=16", "train.batch=8")
    done = call("run", "digits", *settings, "--only", "latents", "--runs", tmp_path / "runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert r"3 dog\xff" in done.stdout


def test_numeric_class_folders(root):
    for name in CLASSES:
        (root / name).rename(root / str(len(name)) if name == "ant" else root / {"bee": "10", "cat": "2"}[name])
    assert [path.parent.name for path in ClassFolders(config(root)).given("train")[0]][::10] == ["10", "2", "3"]
    told = "\n".join(files.remarks(config(root)))
    assert "0 10, 1 2, 2 3" in told
    assert "in the order of text, so that label 0 is 10; with data.class_order=numeric it is 2, data.cl" in told
    numeric = config(root, class_order="numeric")
    assert [path.parent.name for path in ClassFolders(numeric).given("train")[0]][::10] == ["2", "3", "10"]
    assert not any("order of text" in line for line in files.remarks(numeric))
    assert (files.names_by_label(config(root)), files.names_by_label(numeric)) == (["10", "2", "3"], ["2", "3", "10"])
    assert files.fingerprint(numeric) != files.fingerprint(config(root))
    (root / "2").rename(root / "two")
    with pytest.raises(UserError, match=r"class_order=numeric needs class folders that are whole numbers, and two of"):
        ClassFolders(numeric).given("train")


def test_names_by_label_are_those_of_the_folders_and_fit_to_be_printed(root, tmp_path):
    assert files.names_by_label(config(root)) == list(CLASSES)
    (root / "bee").rename(root / "b\x1bee")
    assert files.names_by_label(config(root)) == ["ant", r"b\x1bee", "cat"]
    draw(tmp_path / "flat" / "a.png")
    assert files.names_by_label(config(tmp_path / "flat", classes=1)) == []
    assert files.names_by_label(Data()) == []


def test_the_label_that_is_named_is_the_first_that_parts(tmp_path):
    for label in range(1, 12):
        draw(tmp_path / str(label) / "a.png")
    *_, line = files.remarks(config(tmp_path, classes=11))
    assert "so that label 1 is 10; with data.class_order=numeric it is 2" in line


def test_classes_that_a_list_leaves_out_are_counted(root):
    (root.parent / "list.txt").write_text("cat\nant\n")
    _, line = files.remarks(config(root, classes=2, class_list=str(root.parent / "list.txt")))
    assert line.startswith("data.path: left out: 1 class folders that data.class_list leaves out; images end in")


def test_many_classes_are_told_in_short(tmp_path):
    for label in range(1000):
        draw(tmp_path / f"n{label:08}" / "a.png")
    (line,) = files.remarks(config(tmp_path, classes=1000))
    assert line.startswith("data.path: 1,000 images in 1000 classes: 0 n00000000, 1 n00000001, ")
    assert line.endswith("18 n00000018, …, 999 n00000999")


@pytest.mark.parametrize(
    "changes",
    [{"class_order": "numeric", "source": "digits", "path": None}, {"class_order": "numeric", "class_list": "x"}],
)
def test_an_order_needs_folders_and_no_list(root, changes):
    with pytest.raises(ValueError, match=r"class_order=numeric goes with data\.source=folder without a class_list"):
        config(root, **changes)


def test_names_that_would_break_or_colour_a_line_are_escaped(root):
    (root / "ant").rename(root / "a\n\x1b[31mnt\x85")
    (line,) = files.remarks(config(root))
    assert line.startswith(r"data.path: 30 images in 3 classes: 0 a\n\x1b[31mnt\x85, 1 bee, 2 cat")
