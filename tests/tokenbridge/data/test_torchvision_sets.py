"""torchvision's classification sets by name: pixel by pixel what torchvision reads, without torch where it can be."""

import gzip
import hashlib
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from tests.helpers.image_sets import drawn, write_idx
from tokenbridge.config import Data, UserError
from tokenbridge.data import contents, files, torchvision_sets
from tokenbridge.data.images import load, stack
from tokenbridge.data.torchvision_sets import CLASSES, SETS


def config(root, name="FashionMNIST", **changes):
    base = {"source": "torchvision", "name": name, "path": str(root), "classes": 3, "image_size": 16}
    return Data(**base | {"validation_fraction": 0} | changes)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "SETTLED_NS", 0)


@pytest.fixture
def no_internet(monkeypatch):
    """Every name is unknown at once; where there is none that takes many seconds."""
    import socket

    def refuse(*_args, **_options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_name_is_a_class_of_torchvision_that_takes_its_words():
    import inspect

    for name, splits in SETS.items():
        kind = getattr(torchvision.datasets, name)
        for words in splits.values():
            inspect.signature(kind).bind("root", **words)
    for name, classes in CLASSES.items():
        assert list(classes) == list(getattr(torchvision.datasets, name).classes)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_as_torchvision_reads_them(tmp_path, packed):
    train, test = drawn(12), drawn(7, seed=6)
    raw = write_idx(tmp_path / "torchvision" / "FashionMNIST" / "raw", train, test)
    debian = write_idx(tmp_path / "debian", train, test, packed)
    data = config(debian, classes=10)
    prints = {files.fingerprint(config(root, classes=1)) for root in (raw.parent.parent, debian)}
    assert len(prints) == 1
    for split, of_train, theirs in (("train", True, train), ("test", False, test)):
        set_ = torchvision.datasets.FashionMNIST(raw.parent.parent, train=of_train)
        pixels, _ = stack(load(data.model_copy(update={"classes": 1}), split))
        assert np.array_equal(pixels[:, 0], [np.asarray(image) for image, _ in set_])
        assert np.array_equal(pixels[:, 0], theirs[0])
        assert np.array_equal(torchvision_sets._items("FashionMNIST", debian, split).labels, set_.targets)
    with pytest.raises(UserError, match=r"^data\.classes=3 must be 10, the number of classes of FashionMNIST"):
        files.split_of(config(debian), "train")


@pytest.mark.skipif(not torchvision_sets.DEBIAN["FashionMNIST"].is_dir(), reason="dataset-fashion-mnist is not here")
def test_debian_files_are_found_without_a_path():
    data = Data(source="torchvision", name="FashionMNIST", image_size=28, validation_fraction=0)
    assert [len(files.split_of(data, split)[1]) for split in files.splits(data)] == [60_000, 10_000]
    assert np.bincount(files.split_of(data, "test")[1]).tolist() == [1000] * 10
    image, label = load(data, "test")[0]
    raw = gzip.decompress((torchvision_sets.DEBIAN["FashionMNIST"] / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert image.numpy().tobytes() == raw[16 : 16 + 28 * 28]
    assert files.classes_of(data)[label] == "Ankle boot"
    assert next(files.remarks(data)).startswith(
        "FashionMNIST, train: 60,000 images in /usr/share/datasets/fashion-mnist"
    )


def write_cifar(root: Path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Batches as CIFAR-10's are, of 15 and 6 images and 3 classes, with their checksums in torchvision's class."""
    images, labels = drawn(21, 32, channels=3)
    kind, folder = torchvision.datasets.CIFAR10, root / torchvision.datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)

    def put(name, content):
        (folder / name).write_bytes(data := pickle.dumps(content, 2))
        return hashlib.md5(data).hexdigest()

    def batch(some):
        planes = images[some].transpose(0, 3, 1, 2).reshape(-1, 3072)
        return {"data": planes, "labels": labels[some].tolist()}

    monkeypatch.setattr(kind, "train_list", [["data_batch_1", put("data_batch_1", batch(slice(15)))]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", put("test_batch", batch(slice(15, None)))]])
    names = put("batches.meta", {"label_names": ["ant", "bee", "cat"]})
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": names})
    return images, labels


def test_cifar_is_what_torchvision_gives_and_is_looked_at_once(tmp_path, monkeypatch, no_internet):
    root = tmp_path / "root"
    images, labels = write_cifar(root, monkeypatch)
    (folder := root / "cifar-10-batches-py").rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    data = config(root, "CIFAR10", image_size=32, image_channels=3, validation_fraction=0.2)
    parts = {split: stack(load(data, split)) for split in files.SPLITS}
    assert [len(pixels) for pixels, _ in parts.values()] == [12, 3, 6]
    assert np.array_equal(parts["test"][0], images[15:].transpose(0, 3, 1, 2))
    assert np.array_equal(parts["test"][1], labels[15:])
    shown = {pixels.tobytes() for split in ("train", "validation") for pixels in parts[split][0]}
    assert shown == {pixels.transpose(2, 0, 1).tobytes() for pixels in images[:15]}
    assert files.names_by_label(data) == ["ant", "bee", "cat"]
    first = files.fingerprint(data)
    code = (
        "import sys; from tokenbridge.config import Data; from tokenbridge.data import files\n"
        "data = Data.model_validate_json(sys.argv[1])\n"
        "files.split_of(data, 'train'), list(files.remarks(data))\n"
        "print(files.fingerprint(data), 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", code, data.model_dump_json()]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == f"{first} False\n"
    batch = folder / "data_batch_1"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"^CIFAR10 in .* cannot be read \(Dataset not found or corrupted.*and cannot be"
    ):
        files.fingerprint(data)


def test_a_set_without_test_images_gives_shares(tmp_path):
    images, labels = drawn(24, 64, channels=3)
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "root" / "eurosat" / "2750" / ("Forest", "River", "SeaLake")[label] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    data = config(tmp_path / "root", "EuroSAT", image_size=64, image_channels=3, validation_fraction=0.2)
    parts = [stack(load(data, split))[0] for split in files.SPLITS]
    assert [len(part) for part in parts] == [12, 6, 6]
    shown = {pixels.tobytes() for pixels in np.concatenate(parts)}
    assert shown == {pixels.transpose(2, 0, 1).tobytes() for pixels in images}
    assert files.names_by_label(data) == ["Forest", "River", "SeaLake"]


@pytest.mark.parametrize("name", ["VOCSegmentation", "CocoDetection", "Fashion-MNIST", "ImageFolder", "os"])
def test_what_is_no_classification_set_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"^data.name={name} must be a classification set of torchvision") as error:
        files.fingerprint(config(tmp_path, name))
    assert "\n" not in str(error.value)
    assert ("did you mean FashionMNIST?" in str(error.value)) == (name == "Fashion-MNIST")


@pytest.mark.parametrize("name", ["FashionMNIST", "CIFAR10", "ImageNet"])
def test_what_is_not_there_and_cannot_be_downloaded_is_one_line(tmp_path, name, no_internet, capfd):
    root = tmp_path / "no" / "root"
    with pytest.raises(UserError, match=rf"^{name} in {root} is not there, and cannot be downloaded \(") as error:
        files.fingerprint(config(root, name))
    assert ("apt-get install dataset-fashion-mnist" in str(error.value)) == (name == "FashionMNIST")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "no").exists()
    assert capfd.readouterr() == ("", "")


def test_broken_idx_files_are_refused(tmp_path):
    root = write_idx(tmp_path / "root", drawn(12), drawn(6))
    images, labels = root / "train-images-idx3-ubyte", root / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    for content, words in (
        (whole[:-3], "train-images-idx3-ubyte cannot be read as an IDX file"),
        (b"PK" + whole, "it does not begin as one of bytes does"),
        (labels.read_bytes(), r"has images \(12,\) and labels \(12,\), which must be one for each image"),
    ):
        images.write_bytes(content)
        with pytest.raises(UserError, match=words):
            files.fingerprint(config(root))
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-20])
    images.unlink()
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz cannot be read as an IDX file"):
        files.fingerprint(config(root))
    labels.unlink()
    with pytest.raises(UserError, match=r"root lacks train-labels-idx1-ubyte \(or \.gz\) of FashionMNIST"):
        files.fingerprint(config(root))


def test_labels_beyond_the_classes_are_refused(tmp_path):
    train = drawn(30)
    raw = write_idx(tmp_path / "root", (train[0], np.arange(30) % 10 + (np.arange(30) == 19)), drawn(6))
    with pytest.raises(UserError, match=r"^a label of FashionMNIST \(train\) is 10, and must be from 0 to 9"):
        files.split_of(config(raw, classes=10), "train")


@pytest.mark.skipif(find_spec("h5py") is not None, reason="h5py is here")
def test_a_library_that_a_set_needs_is_named(tmp_path, no_internet):
    (tmp_path / "pcam").mkdir()
    (tmp_path / "pcam" / "x").write_text("")
    with pytest.raises(UserError, match="h5py"):
        files.fingerprint(config(tmp_path, "PCAM", classes=2))
