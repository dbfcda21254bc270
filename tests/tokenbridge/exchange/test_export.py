"""Exported samples, read back as other evaluators read them."""

import json
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.utils import prepare_input_from_descriptor

from experiments.cli.exchange import write_samples
from tests.helpers.runs import without_checksums
from tokenbridge.config import UserError
from tokenbridge.exchange.export import Samples, write_npz, write_png
from tokenbridge.store.artifacts import Store
from tokenbridge.store.rows import Rows


@pytest.fixture(scope="module")
def stage(finished):
    return next(stage for stage in finished[1].stages() if stage.kind.name == "sample")


@pytest.fixture(scope="module")
def drawn(finished, stage):
    """Pixels (71, 16, 16) and labels of the digits."""
    folder = finished[0].folder(stage.id)
    return np.load(folder / "samples.npy")[:, 0], np.load(folder / "labels.npy")


@pytest.fixture
def broken(finished, stage, tmp_path):
    """A store of our own, and the folder of its samples."""
    store = Store(tmp_path / "runs")
    shutil.copytree(finished[0].folder(stage.id), store.folder(stage.id))
    shutil.copytree(finished[0].root / "cells", store.root / "cells")
    return store, store.folder(stage.id)


def colourful(folder, count=7, size=(5, 3)):
    """Folder of RGB samples: random pixels."""
    folder.mkdir()
    shapes = {"samples": (np.uint8, (3, *size)), "tokens": (np.uint16, (1, 1))}
    Rows.create(folder, count, shapes)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, *size), np.uint8)
    Rows(folder, tuple(shapes)).write(0, samples=pixels, tokens=np.zeros((count, 1, 1), np.uint16))
    np.save(folder / "labels.npy", np.arange(count) % 2)
    return pixels


def as_adm_reads(path, most):
    """Batches of arr_0 as evaluations/evaluator.py of github.com/openai/guided-diffusion streams it."""
    with path.open("rb") as file, zipfile.ZipFile(file, "r") as archive, archive.open("arr_0.npy", "r") as array:
        assert np.lib.format.read_magic(array) == (1, 0)  # it takes others whole into memory
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(array)
        assert not fortran
        left, row = shape[0], int(np.prod(shape[1:])) * dtype.itemsize
        while left:
            count = min(most, left)
            left -= count
            yield np.frombuffer(array.read(row * count), dtype).reshape(count, *shape[1:])


def test_an_npz_that_adm_reads(finished, stage, drawn, tmp_path):
    pixels, labels = drawn
    said = write_samples(finished[0], "tiny", None, tmp_path / "new" / "samples.npz")
    assert said == [f"71 images of {stage.id}: {tmp_path / 'new' / 'samples.npz'}"]
    with np.load(tmp_path / "new" / "samples.npz") as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        assert (arrays["arr_0"].dtype, arrays["arr_0"].shape) == (np.uint8, (71, 16, 16, 3))
        assert all(np.array_equal(arrays["arr_0"][..., channel], pixels) for channel in range(3))
        assert np.array_equal(arrays["arr_1"], labels)
        streamed = np.concatenate(list(as_adm_reads(tmp_path / "new" / "samples.npz", 16)))
        assert np.array_equal(streamed, arrays["arr_0"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["samples.npz"]


def test_a_folder_of_png_that_torch_fidelity_reads(finished, stage, drawn, tmp_path):
    """As the inputs of its FID and KID."""
    write_samples(finished[0], stage.id, tmp_path / "png", None)
    files = sorted((tmp_path / "png").iterdir())
    assert [path.name for path in files] == [f"{i:06d}.png" for i in range(71)]
    for path, pixels in zip(files, drawn[0], strict=True):
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.array(image), np.repeat(pixels[..., None], 3, -1))
    options = {"samples_find_deep": False, "samples_find_ext": "png,jpg,jpeg", "verbose": False}
    read = prepare_input_from_descriptor({"input": str(tmp_path / "png")}, **options)
    assert len(read) == 71
    for image, pixels in zip(read, drawn[0], strict=True):
        assert image.dtype == torch.uint8
        assert np.array_equal(image, np.repeat(pixels[None], 3, 0))


def test_colours_stay_in_their_place(tmp_path):
    pixels = colourful(tmp_path / "samples")
    samples = Samples(tmp_path / "samples")
    write_npz(samples, tmp_path / "x.npz")
    write_png(samples, tmp_path / "png")
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["arr_0"].transpose(0, 3, 1, 2), pixels)
    for i, own in enumerate(pixels):
        with Image.open(tmp_path / "png" / f"{i:06d}.png") as image:
            assert np.array_equal(np.array(image).transpose(2, 0, 1), own)


def test_memory_holds_a_few_images(tmp_path):
    pixels = colourful(tmp_path / "samples", count=2_000, size=(32, 32))
    samples = Samples(tmp_path / "samples")
    tracemalloc.start()
    write_npz(samples, tmp_path / "x.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "x.npz").stat().st_size > pixels.nbytes > 2 * peak > 0


@pytest.mark.parametrize("option", ["png", "npz"])
def test_what_is_there_stays(finished, tmp_path, option):
    target = tmp_path / f"target.{option}"
    (target.mkdir if option == "png" else target.touch)()
    with pytest.raises(UserError, match=rf"target\.{option} is there already; it must be new"):
        write_samples(finished[0], "tiny", **({"png": None, "npz": None} | {option: target}))
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("option", ["png", "npz"])
def test_a_changed_pixel_stops_it_and_nothing_half_written_stays(broken, tmp_path, option):
    store, folder = broken
    pixels = np.load(folder / "samples.npy", mmap_mode="r+")
    pixels[64, 0, 3, 5] ^= 4
    pixels.flush()
    with pytest.raises(UserError, match=r"image 64 is not as it was drawn\); delete it and run again"):
        write_samples(store, "tiny", **({"png": None, "npz": None} | {option: tmp_path / "out" / f"target.{option}"}))
    assert not (tmp_path / "out").exists()


def test_damaged_stages_are_named(broken, tmp_path):
    store, folder = broken
    target = tmp_path / "x.npz"
    whole = (folder / "samples.npy").read_bytes()
    (folder / "samples.npy").write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"samples\.npy is damaged .* delete .* and run again"):
        write_samples(store, "tiny", None, target)
    (folder / "record.npy").unlink()  # as of samples from before there was one
    with pytest.raises(UserError, match=r"samples\.npy is damaged .* delete .* and run again"):
        write_samples(store, "tiny", None, target)
    (folder / "samples.npy").write_bytes(whole)
    np.save(folder / "labels.npy", np.arange(70))
    with pytest.raises(UserError, match=r"labels\.npy is damaged .* delete .* and run again"):
        write_samples(store, "tiny", None, target)
    without_checksums(store, folder.name)
    with pytest.raises(UserError, match="71 images have 70 labels"):
        write_samples(store, "tiny", None, target)
    assert not target.exists()


def test_samples_from_before_the_record(broken, drawn, tmp_path):
    store, folder = broken
    (folder / "record.npy").unlink()
    write_samples(store, "tiny", None, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["arr_0"][..., 1], drawn[0])


def test_what_cannot_be_exported(broken, stage, tmp_path, call):
    store, folder = broken
    target = tmp_path / "x.npz"

    def refused(what, *parts):
        done = call("export", what, "--npz", target, "--runs", store.root, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("tokenbridge: ")
        assert done.stderr.count("\n") == 1
        for part in parts:
            assert part in done.stderr
        assert not target.exists()

    refused("tny", "tny is no cell of", "did you mean tiny?")
    refused("sample-0", "sample-0 is no stage of", "give a cell's name or id")
    folder.rename(store.folder(f"{stage.id}.partial"))
    record = np.load(store.folder(f"{stage.id}.partial") / "record.npy", mmap_mode="r+")
    record[:11] = 0
    record.flush()
    unfinished = "is not finished (60 of 71 images are drawn); run first: tokenbridge run digits"
    refused("tiny", f"{stage.id} of tiny {unfinished}", "--only sample")
    refused(stage.id, f"{stage.id} {unfinished}")
    (cell,) = (store.root / "cells").iterdir()
    entry = json.loads(cell.read_text())
    other = entry | {"id": "other", "stages": entry["stages"] | {"sample": "sample-1"}}
    cell.with_name("other.json").write_text(json.dumps(other))
    refused("tiny", "tiny names 2 cells with different samples; give an id: ")
    cell.with_name("other.json").unlink()
    del entry["stages"]["sample"]
    cell.write_text(json.dumps(entry))
    refused("tiny", "tiny draws no samples; run first: tokenbridge run digits")
    done = call("export", "tiny", "--runs", store.root, cwd=tmp_path)
    assert "needs a target; give --png FOLDER, --npz FILE or --hub FOLDER" in done.stderr
    done = call("export", "tiny", "--npz", tmp_path / "x.txt", "--runs", store.root, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "x.txt must end in .npz; call it x.npz" in done.stderr
    assert not (tmp_path / "x.txt").exists()
