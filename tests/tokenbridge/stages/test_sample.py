"""Sampling that several processes share and that a kill does not undo: the same images to the last bit."""

import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.pipeline import Cell
from experiments.runner import run_stage
from tests.conftest import TINY
from tests.helpers.processes import sampling, start
from tokenbridge.config import Runtime, UserError
from tokenbridge.devices import at_precision
from tokenbridge.model.generator import Generator
from tokenbridge.stages import sample
from tokenbridge.stages.train import load_model
from tokenbridge.store.artifacts import Store
from tokenbridge.store.rows import Rows

RUNTIME = Runtime(threads=1, batch=8)
BATCHES = 9  # of 71 images


@pytest.fixture(scope="module")
def stage(finished):
    return next(stage for stage in finished[1].stages() if stage.kind.name == "sample")


@pytest.fixture(scope="module")
def inputs(finished, stage):
    return {kind: finished[0].folder(id) for kind, id in stage.inputs}


@pytest.fixture(scope="module")
def undisturbed(inputs, tiny, tmp_path_factory):
    """What one process draws."""
    out = tmp_path_factory.mktemp("undisturbed")
    sample.run(tiny, inputs, out, RUNTIME)
    return out


@pytest.fixture
def work(undisturbed, tmp_path):
    """A folder in which everything is drawn."""
    return shutil.copytree(undisturbed, tmp_path / "work")


def assert_same(ours, theirs):
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in (name for name in names if name.endswith((".npy", ".json"))):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def recorded(folder):
    return np.flatnonzero(np.load(folder / "record.npy"))


@pytest.mark.slow
def test_three_processes_finish_what_a_killed_one_of_two_left(inputs, undisturbed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    group = start(inputs, out, 2, TINY, fails_at=3, work=sampling)
    codes = group.end()
    assert codes == [1, -signal.SIGKILL], group.complained(0)
    assert "process 0 of 2 lost another, which says why" in group.complained(0)
    # batches 0, 2, 4, 6, 8 are rank 0's; of 1, 3, 5, 7 the killed one finished two
    assert recorded(out).tolist() == [i for i in range(71) if i // 8 not in (5, 7)]
    assert not (out / "metrics.json").exists()
    again = start(inputs, out, 3, TINY, work=sampling)
    assert again.end() == [0, 0, 0], [again.complained(rank) for rank in range(3)]
    assert again.said(0) == "55 of 71 images are there; going on with the others\n"
    assert again.said(1) == again.said(2) == ""
    assert_same(out, undisturbed)


def test_only_batches_with_something_missing_are_drawn_again(inputs, tiny, undisturbed, work, monkeypatch):
    """What was lost, or is not what was recorded: bit rot, or a disk that lied about its flush."""
    record, samples = (np.load(work / f"{name}.npy", mmap_mode="r+") for name in ("record", "samples"))
    record[20] = 0
    samples[70, 0, 3, 3] ^= 1
    record.flush()
    samples.flush()
    for name in ("labels.npy", "examples.npz", "metrics.json"):
        (work / name).unlink()
    drawn = []
    draws = Generator.draws
    monkeypatch.setattr(Generator, "draws", lambda *given: drawn.append(given[-1]) or draws(*given))
    sample.run(tiny, inputs, work, RUNTIME)
    assert drawn == [range(16, 24), range(64, 71)]
    assert_same(work, undisturbed)


def test_no_gap_is_published(tiny, work, monkeypatch):
    """Even where every batch was drawn, the files are read once more."""
    with open(work / "tokens.npy", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\7")
    with pytest.raises(UserError, match=r"lacks image 70 \(and 0 others\); run again"):
        sample._finish(tiny, work)


@pytest.mark.parametrize("name", ["samples", "tokens", "record"])
def test_a_cut_file_is_named(inputs, tiny, work, name):
    whole = (work / f"{name}.npy").read_bytes()
    (work / f"{name}.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{name}\.npy is damaged .*; delete .*work and run again"):
        sample.run(tiny, inputs, work, RUNTIME)
    assert (work / f"{name}.npy").read_bytes() == whole[: len(whole) // 2]


def test_images_of_another_number_are_named(work, tmp_path):
    np.save(work / "tokens.npy", np.load(work / "tokens.npy")[:70])
    with pytest.raises(UserError, match=r"tokens\.npy is damaged \(it holds 70 images, the record 71\)"):
        Rows(work, sample.ARRAYS)


def whole_cell(config, inputs, root, _):
    run_stage(Store(root), Cell("tiny", config, ("sample",)).stages()[-1], Runtime(threads=1))


@pytest.mark.slow
def test_a_second_process_waits_and_draws_nothing(finished, stage, inputs, tiny, tmp_path):
    store = Store(shutil.copytree(finished[0].root, tmp_path / "runs"))
    shutil.rmtree(store.folder(stage.id))
    with store.writing(stage.id, stage.about(), resumable=True) as out:
        other = start(inputs, store.root, 1, TINY, work=whole_cell)
        while not other.said(0) and other.running():
            time.sleep(0.02)
        sample.run(tiny, inputs, out, RUNTIME)
        drawn = (out / "samples.npy").stat()
    assert other.end() == [0], other.complained(0)
    assert other.said(0).startswith(f"waiting for {stage.id}: process {os.getpid()} on ")
    assert (store.folder(stage.id) / "samples.npy").stat() == drawn


def test_a_full_disk_leaves_no_files_that_look_begun(tmp_path):
    """/dev/full answers every write with ENOSPC, as a full disk does."""
    (tmp_path / "tokens.npy.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left|Invalid argument"):
        Rows.create(tmp_path, 7, {"samples": (np.uint8, (3, 5, 5)), "tokens": (np.uint16, (2, 3))})
    assert list(tmp_path.iterdir()) == []
    assert not Rows.begun(tmp_path)


class Conversions(TorchDispatchMode):
    """Counts how often weights are converted into bfloat16."""

    def __init__(self, model):
        super().__init__()
        self.weights, self.count = {weight.data_ptr() for weight in model.parameters()}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten._to_copy and made.dtype == torch.bfloat16:
            self.count += args[0].data_ptr() in self.weights
        return made


def test_in_bfloat16_each_weight_is_converted_once_for_all_iterations(inputs, tiny):
    model, how = load_model(tiny, inputs, torch.device("cpu")), tiny.sample
    assert all(weight.requires_grad for weight in model.parameters())
    order = torch.arange(model.positions).expand(4, -1)
    noise = torch.rand(4, *model.noise_shape(how))
    counts = []
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        with at_precision(torch.device("cpu"), "bfloat16", "sample.precision"), Conversions(model) as seen:
            for _ in range(3):
                model.sample(torch.arange(4), order, noise, how)
        counts.append(seen.count)
    assert 0 < counts[0] < counts[1] / 5
