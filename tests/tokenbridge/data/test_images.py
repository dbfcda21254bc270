"""Images: the shipped digits, the ADM crop, folders, and input that cannot work."""

import numpy as np
import pytest
import torch
from PIL import Image

from tokenbridge.config import Data, UserError
from tokenbridge.data import digits
from tokenbridge.data import files as image_files
from tokenbridge.data import images as data

DIGITS = Data()


def folder_config(path, **changes):
    return Data(
        **{"source": "folder", "path": str(path), "classes": 2, "image_size": 8, "test_fraction": 0.4} | changes
    )


@pytest.fixture
def folder(tmp_path):
    """Two classes of five RGB images of differing sizes."""
    draws = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(5):
            pixels = draws.integers(0, 256, (19 + i, 23 + label, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_digits_are_split_by_class_without_overlap():
    train, *_ = parts = [data.load(DIGITS, split) for split in image_files.SPLITS]
    assert [len(part) for part in parts] == [1198, 240, 359]
    counts = [np.bincount(part.labels) for part in parts]
    assert np.abs(counts[2] / sum(counts) - 0.2).max() < 0.005
    assert np.abs(counts[1] / sum(counts) - 0.134).max() < 0.005
    together = np.concatenate([data.stack(part)[0] for part in parts])
    everything = data.stack(data.load(Data(split_seed=1), "train"))[0]
    assert len(np.unique(together.reshape(1797, -1), axis=0)) >= 1790  # nothing twice (a few digits are equal)
    assert not np.array_equal(everything, data.stack(train)[0])


def test_digits_have_the_promised_form():
    image, label = data.load(DIGITS, "train")[0]
    assert image.shape == (1, 16, 16)
    assert image.dtype == torch.uint8
    assert isinstance(label, int)
    pixels, labels = data.stack(data.load(DIGITS, "train"))
    assert (pixels.dtype, labels.dtype) == (np.uint8, np.int64)
    assert pixels.min() == 0
    assert pixels.max() == 255


def test_digits_are_scikit_learns_enlarged():
    from sklearn.datasets import load_digits

    source = load_digits()
    assert np.array_equal(digits._digits_table(), np.column_stack([source.data, source.target]))
    pixels = digits.digits(DIGITS)[0].astype(float)
    averaged = pixels.reshape(-1, 8, 2, 8, 2).mean((2, 4))
    # bicubic enlargement overshoots at edges, but the mean of a 2×2 block stays near its source pixel
    assert np.corrcoef(averaged.ravel(), source.images.ravel())[0, 1] > 0.98


def adm_reference(image, size):
    """center_crop_arr of github.com/openai/guided-diffusion, image_datasets.py (MIT)."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Image.Resampling.BICUBIC)
    array = np.array(image)
    crop_y = (array.shape[0] - size) // 2
    crop_x = (array.shape[1] - size) // 2
    return array[crop_y : crop_y + size, crop_x : crop_x + size]


@pytest.mark.parametrize("shape", [(16, 16), (17, 31), (67, 41), (15, 64), (5, 7)])
def test_adm_crop_equals_the_reference(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(np.array(data.adm_crop(image, 16)), adm_reference(image, 16))


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_splits_and_converts(folder, channels):
    config = folder_config(folder, image_channels=channels)
    train, validation, test = parts = [data.load(config, split) for split in image_files.SPLITS]
    assert [len(part) for part in parts] == [4, 2, 4]
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert validation.labels.tolist() == [0, 1]
    assert len({str(path) for part in parts for path in part.places}) == 10
    pixels, labels = data.stack(test)
    assert pixels.shape == (4, channels, 8, 8)
    assert labels.tolist() == [0, 0, 1, 1]


def test_folder_with_its_own_test_images(folder, tmp_path):
    (other := tmp_path / "other").mkdir()
    root = tmp_path / "all"
    root.mkdir()
    for name in ("cat", "dog"):
        (other / name).mkdir()
        Image.new("L", (9, 9), 7).save(other / name / "one.JPG")
        (folder / name).rename(root / name)
    config = folder_config(root, test_path=str(other))
    assert [len(data.load(config, split)) for split in image_files.SPLITS] == [8, 2, 2]
    whole = folder_config(root, test_path=str(other), validation_fraction=0)
    assert image_files.splits(whole) == ("train", "test")
    assert [len(data.load(whole, split)) for split in image_files.SPLITS] == [10, 0, 2]
    (other / "dog").rename(other / "wolf")
    with pytest.raises(UserError, match="dog is in one only"):
        data.load(config, "test")


def test_fingerprint_follows_the_images(folder):
    config = folder_config(folder)
    before = data.fingerprint(config)
    assert data.fingerprint(config) == before
    assert data.fingerprint(DIGITS) != data.fingerprint(Data(image_size=20)) != before
    Image.new("RGB", (9, 9)).save(folder / "cat" / "new.png")
    assert data.fingerprint(config) != before


def test_batches_are_the_same_whoever_reads_them(folder, monkeypatch):
    images = data.load(folder_config(folder, validation_fraction=0), "train")
    state, order = torch.get_rng_state(), [5, 0, 3, 1]
    alone = [[torch.cat(parts) for parts in zip(*data.batches(images, 3, o), strict=True)] for o in (None, order)]
    monkeypatch.setattr(data, "FEW", 2)
    monkeypatch.setattr(data, "_readers", lambda: 2)
    for (pixels, labels), o in zip(alone, (None, order), strict=True):
        found = list(data.batches(images, 3, o))
        assert [len(part) for part, _ in found] == ([3, 3] if o is None else [3, 1])
        assert torch.equal(torch.cat([part for part, _ in found]), pixels)
        assert torch.equal(torch.cat([part for _, part in found]), labels)
    assert torch.equal(alone[1][0], alone[0][0][order])
    assert torch.equal(torch.get_rng_state(), state)
    broken = images.places[4]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"^{broken} cannot be read as an image [^\n]*$"):
        list(data.batches(images, 3))


def test_processes_that_torchrun_started_share_the_processors(monkeypatch):
    monkeypatch.setattr(data.os, "sched_getaffinity", lambda _: range(24), raising=False)
    for processes, readers in (("1", data.READERS), ("6", 4), ("13", 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert data._readers() == readers


def test_truncated_image_is_named(folder):
    broken = folder / "dog" / "2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    config = folder_config(folder)
    with pytest.raises(UserError, match=r"dog/2\.png cannot be read"):
        [data.stack(data.load(config, split)) for split in ("train", "test")]


def test_file_that_is_no_image_is_named(folder):
    (folder / "cat" / "0.png").write_text("not an image")
    config = folder_config(folder)
    with pytest.raises(UserError, match=r"cat/0\.png cannot be read"):
        [data.stack(data.load(config, split)) for split in ("train", "test")]


def test_bad_folders_are_refused(folder, tmp_path):
    (empty := tmp_path / "empty").mkdir()
    (single := tmp_path / "single").mkdir()
    (single / "only").mkdir()
    with pytest.raises(UserError, match="must be a folder"):
        data.load(folder_config(tmp_path / "absent"), "train")
    with pytest.raises(UserError, match="holds 0"):
        data.load(folder_config(empty), "train")
    with pytest.raises(UserError, match="holds 1"):
        data.load(folder_config(single), "train")


def test_class_count_must_fit(folder):
    with pytest.raises(UserError, match=r"data\.classes=3 must be 2"):
        data.load(folder_config(folder, classes=3), "train")
    with pytest.raises(UserError, match=r"data\.classes=7"):
        data.load(Data(classes=7), "train")


def test_class_without_images_is_refused(folder):
    for path in (folder / "cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cat holds no image"):
        data.load(folder_config(folder), "train")


def test_split_that_leaves_nothing_to_train_on_is_refused(folder):
    with pytest.raises(
        UserError,
        match=r"data\.validation_fraction=0\.134 leave no training image in class 0",
    ):
        data.load(folder_config(folder, test_fraction=0.95), "train")


def test_validation_images_are_taken_from_the_training_part():
    """The test images are those that there were before validation images; shipped weights saw all others."""

    def rows(config, split):
        pixels, labels = image_files.split_of(config, split)
        return {(image.tobytes(), int(label)) for image, label in zip(pixels, labels, strict=True)}

    with_validation, without = Data(), Data(validation_fraction=0)
    assert rows(with_validation, "test") == rows(without, "test")
    assert rows(with_validation, "train") | rows(with_validation, "validation") == rows(without, "train")
    assert len(image_files.split_of(without, "train")[0]) == 1438


def test_a_few_images_stand_for_all_also_where_they_lie_class_by_class():
    by_class = np.repeat(np.arange(100), [20, *[10] * 98, 40])
    few = data.few_of(by_class, 104)
    assert len(few) == 104
    assert np.all(np.diff(few) > 0)
    share = np.bincount(by_class[few], minlength=100) / 104
    assert np.abs(share - np.bincount(by_class) / len(by_class)).max() < 1 / 104
    mixed = np.random.default_rng(0).permutation(by_class)
    for labels in (mixed, np.zeros(500, int), by_class[:80]):  # as they were
        assert data.few_of(labels, 100).tolist() == list(range(min(100, len(labels))))
