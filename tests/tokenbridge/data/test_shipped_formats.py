"""Parquet files and tar shards: pixel by pixel what pyarrow and tarfile read, with the splits and rules of folders."""

import bz2
import gzip
import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from experiments.presets import DIGITS
from tests.helpers.image_sets import drawn, png, samples, write_folder, write_parquet, write_tar
from tokenbridge.config import Data, Runtime, UserError
from tokenbridge.data import contents, files, tar
from tokenbridge.data import images as images_module
from tokenbridge.data import parquet as parquet_files
from tokenbridge.data.images import load, stack
from tokenbridge.data.survey import survey
from tokenbridge.overrides import override
from tokenbridge.stages import latents

NAMES = ("bag", "coat", "shoe")


def config(source, path, **changes):
    base = {"source": source, "path": str(path), "classes": 3, "image_size": 16, "validation_fraction": 0.2}
    return Data(**base | changes)


def refused(words, **changes):
    with pytest.raises(UserError, match=words) as error:
        data = config(**changes)
        files.fingerprint(data)
        files.split_of(data, "train")
        stack(load(data, "test"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_parquet_rows_are_those_of_pyarrow(tmp_path, channels, plain):
    images, labels = drawn(11, channels=channels)
    write_parquet(tmp_path / "train-00000-of-00002.parquet", images[:7], labels[:7], NAMES, plain=plain)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images[7:], labels[7:], NAMES, plain=plain)
    test, theirs = drawn(5, seed=6, channels=channels)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", test, theirs, NAMES, plain=plain)
    data = config("parquet", tmp_path, validation_fraction=0, image_channels=channels)
    expected = []
    for path in sorted(tmp_path.glob("train*")):
        for row in parquet.read_table(path).to_pylist():
            held = row["image"] if plain else row["image"]["bytes"]
            expected.append(np.asarray(Image.open(io.BytesIO(held))).reshape(16, 16, channels).transpose(2, 0, 1))
    pixels, found = stack(load(data, "train"))
    assert np.array_equal(pixels, expected)
    assert np.array_equal(pixels, images.reshape(-1, 16, 16, channels).transpose(0, 3, 1, 2))
    assert found.tolist() == labels.tolist()
    pixels, found = stack(load(data, "test"))
    assert np.array_equal(pixels[:, 0], test if channels == 1 else test[..., 0])
    assert found.tolist() == theirs.tolist()
    assert files.classes_of(data) == files.names_by_label(data) == list(NAMES)
    assert list(files.remarks(data)) == [
        "data.path: 11 images in 2 parquet files in 3 classes: 0 bag, 1 coat, 2 shoe",
        "data.path, test: 5 images in 1 parquet file in 3 classes: 0 bag, 1 coat, 2 shoe",
    ]


def test_tar_members_are_those_of_tarfile(tmp_path):
    images, labels = drawn(11)
    write_tar(tmp_path / "set-train-000000.tar", samples(images[:7], labels[:7]))
    beside = {"json": b"{}", "CLS": b" 2\n", "PNG": png(images[10])}
    write_tar(tmp_path / "set-train-000001.tar", [*samples(images[7:10], labels[7:10], 7), ("a.b/000010", beside)])
    test, theirs = drawn(5, seed=6)
    write_tar(tmp_path / "set-val-000000.tar", samples(test, theirs))
    data = config("tar", tmp_path / "set-train-{000000..000001}.tar", test_path=str(tmp_path / "set-val-000000.tar"))
    data = data.model_copy(update={"validation_fraction": 0.0})
    expected = []
    for path in sorted(tmp_path.glob("*train*")):
        with tarfile.open(path) as archive:
            names = [name for name in archive.getnames() if name.lower().endswith(".png")]
            expected += [np.asarray(Image.open(archive.extractfile(name))) for name in names]
    pixels, found = stack(load(data, "train"))
    assert np.array_equal(pixels[:, 0], expected)
    assert np.array_equal(pixels[:, 0], images)
    assert found.tolist() == [*labels[:10].tolist(), 2]
    pixels, found = stack(load(data, "test"))
    assert np.array_equal(pixels[:, 0], test)
    assert found.tolist() == theirs.tolist()
    assert files.names_by_label(data) == ["0", "1", "2"]
    same = config("tar", tmp_path, test_path=data.test_path, validation_fraction=0)
    assert files.fingerprint(same) == files.fingerprint(data)
    assert "left out: 1 files of other splits: set-val-000000.tar" in "".join(files.remarks(config(
        "tar", tmp_path, test_path=str(write_tar(tmp_path / "other" / "x.tar", samples(test, theirs)))
    )))  # fmt: skip


def test_the_same_images_give_the_same_latents_whatever_holds_them(tmp_path):
    images, labels = drawn(30)
    images, labels = images[np.argsort(labels, kind="stable")], np.sort(labels)
    places = {
        "folder": write_folder(tmp_path / "folder", images, labels),
        "parquet": write_parquet(tmp_path / "parquet" / "0000.parquet", images, labels).parent,
        "tar": write_tar(tmp_path / "tar" / "0000.tar", samples(images, labels)).parent,
    }
    left = {}
    for source, path in places.items():
        words = [f"data.source={source}", f"data.path={path}", "data.classes=3", "data.test_fraction=0.3"]
        (out := tmp_path / f"{source}-latents").mkdir()
        latents.run(override(DIGITS, words), {}, out, Runtime(threads=1, batch=8))
        left[source] = {name: (out / f"{name}.npy").read_bytes() for name in (
            "train_moments", "train_labels", "validation_moments", "test_moments", "test_labels",
        )}  # fmt: skip
    assert left["folder"] == left["parquet"] == left["tar"]


def test_a_shuffled_batch_reads_each_group_of_rows_once(tmp_path):
    """As pyarrow writes tables by default, each of these files is one group, which is read whole."""
    for part in range(5):
        images, labels = drawn(8, seed=part)[:2]
        write_parquet(tmp_path / f"{part}.parquet", images, labels, rows=8)
    data = config("parquet", tmp_path, validation_fraction=0, test_fraction=0.1)
    train = load(data, "train")
    order = np.random.default_rng(0).permutation(len(train)).tolist()
    parquet_files._group.cache_clear()
    pixels, found = train.__getitems__(order)
    assert parquet_files._group.cache_info().misses == 5
    assert found.tolist() == [train[i][1] for i in order]
    assert all(torch.equal(image, train[i][0]) for i, image in zip(order, pixels, strict=True))


@pytest.mark.parametrize("source", ["parquet", "tar"])
def test_files_are_looked_at_once(tmp_path, monkeypatch, source):
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    monkeypatch.setenv("TOKENBRIDGE_CACHE", str(tmp_path / "cache"))
    images, labels = drawn(12)
    for name in ("train", "test"):
        path = tmp_path / f"{name}-0.{source}"
        write_parquet(path, images, labels) if source == "parquet" else write_tar(path, samples(images, labels))
    data, looked = config(source, tmp_path), list[int]()
    module = parquet_files if source == "parquet" else tar
    look = module._index
    monkeypatch.setattr(module, "_index", lambda *words: looked.append(1) or look(*words))
    for held in ({}, contents._held):
        monkeypatch.setattr(contents, "_held", held)
        for split in files.SPLITS * 2:
            stack(load(data, split))
        assert len(looked) == 2


@pytest.mark.parametrize("source", ["parquet", "tar"])
def test_identity_is_what_files_hold_and_not_where_they_are(tmp_path, monkeypatch, source):
    monkeypatch.setattr(contents, "SETTLED_NS", 0)

    def write(name, images, labels):
        path = tmp_path / name / f"0.{source}"
        return write_parquet(path, images, labels) if source == "parquet" else write_tar(path, samples(images, labels))

    def labels_of(path):
        return files.split_of(config(source, path), "train")[1].tolist()

    images, labels = drawn(12)
    here, there = write("here", images, labels), write("there", images, labels)
    first = files.fingerprint(config(source, here.parent))
    assert files.fingerprint(config(source, there)) == first
    assert labels_of(here) == labels_of(there)
    write("here", images, labels[::-1])
    assert files.fingerprint(config(source, here.parent)) != first
    assert labels_of(here) != labels_of(there)


def test_with_one_class_no_label_is_read(tmp_path):
    images, labels = drawn(9)
    tar = write_tar(tmp_path / "0.tar", [(f"{i}", {"jpg": png(each)}) for i, each in enumerate(images)])
    table = write_parquet(tmp_path / "0.parquet", images, labels, NAMES)
    for source, path in (("tar", tar), ("parquet", table)):
        data = config(source, path, classes=1)
        parts = [stack(load(data, split)) for split in files.splits(data)]
        assert sorted(len(pixels) for pixels, _ in parts) == [2, 2, 5]
        assert not any(found.any() for _, found in parts)
        assert files.names_by_label(data) == []
        assert "whose labels are not read: one class" in next(files.remarks(data))


def test_planning_imports_no_torch(tmp_path):
    images, labels = drawn(12)
    write_parquet(tmp_path / "0.parquet", images, labels)
    write_tar(tmp_path / "0.tar", samples(images, labels))
    code = (
        "import sys; from tokenbridge.config import Data; from tokenbridge.data import files\n"
        "for source in ('parquet', 'tar'):\n"
        "    data = Data(source=source, path=sys.argv[1], classes=3)\n"
        "    files.fingerprint(data), files.split_of(data, 'train'), list(files.remarks(data))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_bad_parquet_is_refused(tmp_path):
    images, labels = drawn(12)
    path = write_parquet(tmp_path / "good" / "0.parquet", images, labels, NAMES)
    refused(
        r"data\.path=absent must be a \.parquet file, a folder of them or a pattern", source="parquet", path="absent"
    )
    (tmp_path / "empty").mkdir()
    refused("names no .parquet file", source="parquet", path=tmp_path / "empty")
    refused("names no .parquet file", source="parquet", path=tmp_path / "x-*.parquet")
    refused("has no column img and has image, label; name it with data.image_column", source="parquet", path=path,
            image_column="img")  # fmt: skip
    refused("has no column kind and .*data.label_column; data.classes=1", source="parquet", path=path,
            label_column="kind")  # fmt: skip
    refused("column label of .* is int64 and must hold the bytes of image files", source="parquet", path=path,
            image_column="label")  # fmt: skip
    refused("column image of .* must be whole numbers", source="parquet", path=path, label_column="image")
    refused(r"data\.classes=2 must be 3, the number of classes of", source="parquet", path=path, classes=2)
    unnamed = write_parquet(tmp_path / "1.parquet", images, labels)
    refused(r"a label of data\.path=.* is 2, and must be from 0 to 1 with data\.classes=2", source="parquet",
            path=unnamed, classes=2)  # fmt: skip
    refused(r"data\.classes=5 must be 3, one more than the largest", source="parquet", path=unnamed, classes=5)
    minus = write_parquet(tmp_path / "test" / "2.parquet", images, [-1] * 12)
    refused("is -1, and must be from 0 to 2 .* -1 stands for no label", source="parquet", path=path,
            test_path=str(minus))  # fmt: skip
    refused("is of data.path and data.test_path", source="parquet", path=path, test_path=str(path))
    data = path.read_bytes()
    (cut := tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    refused("cut.parquet cannot be read as a parquet file", source="parquet", path=cut)
    (lost := tmp_path / "lost" / "0.parquet").parent.mkdir()
    lost.symlink_to(tmp_path / "blob")
    refused("lost/0.parquet is a link to nothing", source="parquet", path=lost.parent)
    broken = write_parquet(tmp_path / "3.parquet", images, labels)
    broken.write_bytes(broken.read_bytes().replace(b"\x89PNG", b"\x89PNX"))
    refused("3.parquet, row . of group ., column image cannot be read as an image", source="parquet", path=broken)


def test_bad_shards_are_refused(tmp_path):
    images, labels = drawn(12)
    path = write_tar(tmp_path / "good" / "0.tar", samples(images, labels))
    data, half = path.read_bytes(), 512 * 12
    bad = {
        "cut.tar": (data[: half + 100], "cut.tar cannot be read as a tar file"),
        "boundary.tar": (data[:half], "boundary.tar cannot be read as a tar file"),
        "flipped.tar": (data[:half] + b"x" + data[half + 1 :], r"damaged at byte \d+, or cut off there"),
        "joined.tar": (data + data, "data follow its end"),
        "packed.tar": (gzip.compress(data), "shards must not be compressed: unpack it"),
        "packed-small.tar": (bz2.compress(bytes(10240)), "shards must not be compressed: unpack it"),
        "none.tar": (b"", "none.tar cannot be read as a tar file"),
    }
    for name, (content, words) in bad.items():
        (tmp_path / name).write_bytes(content)
        refused(words, source="tar", path=tmp_path / name)
    with tarfile.open(tmp_path / "boundary.tar") as archive:
        assert archive.getnames()  # tarfile takes it as whole

    def shard(name, *changed):
        return write_tar(tmp_path / name, [*samples(images, labels), *changed])

    image = png(images[0])
    refused("sample x has no label", source="tar", path=shard("a.tar", ("x", {"png": image})))
    refused("label of sample x is 'shoe', and must be a whole number", source="tar",
            path=shard("b.tar", ("x", {"png": image, "cls": b"shoe"})))  # fmt: skip
    refused("sample x must have one image, and has cls", source="tar", path=shard("c.tar", ("x", {"cls": b"0"})))
    refused("must have one image, and has png, jpg, cls", source="tar",
            path=shard("d.tar", ("x", {"png": image, "jpg": image, "cls": b"0"})))  # fmt: skip
    refused("is 7, and must be from 0 to 2", source="tar", path=shard("e.tar", ("x", {"png": image, "cls": b"7"})))
    broken = shard("f.tar", ("x", {"png": image[:60], "cls": b"0"}))
    refused("f.tar: x.png cannot be read as an image", source="tar", path=path, test_path=str(broken))
    refused("holds x.png twice", source="tar",
            path=shard("g.tar", ("x", {"png": image}), ("x", {"png": image, "cls": b"0"})))  # fmt: skip
    refused("hold no sample with an image", source="tar", path=write_tar(tmp_path / "h.tar", []))


@pytest.mark.parametrize(
    ("labels", "words"), [((), "must have images with labels from 0 on, and has none"), ((-1, -1), "from 0 on")]
)
def test_images_without_labels_have_no_number_of_classes(tmp_path, labels, words):
    path = write_parquet(tmp_path / "0.parquet", drawn(11)[0][: len(labels)], labels)
    with pytest.raises(UserError, match=words):
        survey(path)
    if labels:
        assert survey(path, {"data.classes": 1}).images == len(labels)


def test_names_of_files_say_their_split(tmp_path):
    images, labels = drawn(12)
    for name in ("train/0", "validation/0"):
        write_parquet(tmp_path / f"{name}.parquet", images, labels)
    refused(r"files whose names say train and validation, and none that says test; name test images", source="parquet",
            path=tmp_path)  # fmt: skip
    given = config("parquet", tmp_path, test_path=str(tmp_path / "validation"))
    assert [len(files.split_of(given, split)[1]) for split in files.SPLITS] == [9, 3, 12]
    (tmp_path / "train").rename(tmp_path / "test")
    refused("and none that says train", source="parquet", path=tmp_path)


@pytest.mark.parametrize("shape", [(28, 28), (27, 12), (40, 20), (64, 33)])
def test_padded_images_keep_their_pixels(tmp_path, shape):
    """Nothing is enlarged: what is missing is black on both sides; larger images have ADM's crop."""
    pixels = np.random.default_rng(0).integers(100, 156, shape, dtype=np.uint8)
    path = write_parquet(tmp_path / "0.parquet", [pixels] * 4, [0] * 4)
    padded, plain = (
        stack(load(config("parquet", path, classes=1, image_size=32, padded=padded), "train"))[0][0, 0]
        for padded in (True, False)
    )
    if min(shape) >= 32:
        assert np.array_equal(padded, plain)
        return
    expected = np.zeros((32, 32), np.uint8)
    rows, columns = (max(0, (32 - side + 1) // 2) for side in shape)
    cut = tuple(slice((side - 32) // 2, (side - 32) // 2 + 32) if side > 32 else slice(None) for side in shape)
    inside = pixels[cut]
    expected[rows : rows + inside.shape[0], columns : columns + inside.shape[1]] = inside
    assert np.array_equal(padded, expected)
    assert plain.min() > 0


@pytest.mark.parametrize("source", ["parquet", "tar"])
def test_records_are_the_same_whoever_reads_them(tmp_path, monkeypatch, source):
    images, labels = drawn(12)
    path = tmp_path / f"0.{source}"
    write_parquet(path, images, labels) if source == "parquet" else write_tar(path, samples(images, labels))
    shown = load(config(source, path, validation_fraction=0), "train")
    alone = stack(shown)
    monkeypatch.setattr(images_module, "FEW", 2)
    monkeypatch.setattr(images_module, "_readers", lambda: 2)
    for mine, theirs in zip(alone, stack(shown), strict=True):
        assert np.array_equal(mine, theirs)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x89PNG", b"\x89PNX"))
    parquet_files._group.cache_clear()
    with pytest.raises(UserError, match=r"^[^\n]* cannot be read as an image [^\n]*$"):
        stack(shown)
