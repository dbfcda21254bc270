"""Real processes over gloo, with one thread each: they train as one process does, and stop as one."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from experiments.presets import DIGITS
from tests.conftest import TINY
from tests.helpers.processes import CHECKS, start
from tests.tokenbridge.stages.test_train import inputs_of, saved_step
from tokenbridge.config import Runtime, UserError
from tokenbridge.data.latents import Latents
from tokenbridge.distributed import World, joined, require_one
from tokenbridge.model.batches import Draws
from tokenbridge.model.trainer import Trainer
from tokenbridge.overrides import override
from tokenbridge.stages import STAGES, train
from tokenbridge.stages.train import build_model
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_journal

SMOOTH = (*TINY, "backbone.attention_dropout=0")  # dropout is drawn by rank, so it would make other curves
LOSS, WEIGHT = 1e-5, 1e-3
"""how far several processes may be from one after 36 steps: relative loss (measured: 3e-7), absolute weight (3e-4, in
biases of attention keys: their gradient is nothing but rounding, which AdamW brings to the size of its steps)"""


def trained(inputs, out, size, settings=SMOOTH):
    out.mkdir(exist_ok=True)
    group = start(inputs, out, size, settings)
    assert group.end() == [0] * size, [group.complained(rank) for rank in range(size)]
    assert all(group.said(rank) == "" for rank in range(1, size))
    return out


def curve(folder, kind="loss"):
    return [(step, value) for key, value, _, step in read_journal(folder / "metrics.jsonl") if key == kind]


def weights(folder):
    return load_file(folder / "model.safetensors") | {
        f"raw {key}": value for key, value in load_file(folder / "model_raw.safetensors").items()
    }


def assert_near(ours, theirs):
    for kind in ("loss", "validation_loss"):
        a, b = curve(ours, kind), curve(theirs, kind)
        assert [step for step, _ in a] == [step for step, _ in b]
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=LOSS, atol=0)
    a, b = weights(ours), weights(theirs)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=WEIGHT, msg=key)


def assert_same(ours, theirs):
    assert curve(ours) == curve(theirs)
    a, b = weights(ours), weights(theirs)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def inputs(finished):
    return inputs_of(*finished)


@pytest.fixture(scope="module")
def one(inputs, tmp_path_factory):
    """What one process trained."""
    return trained(inputs, tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def two(inputs, tmp_path_factory):
    """What two trained, undisturbed."""
    return trained(inputs, tmp_path_factory.mktemp("two"), 2)


def test_two_processes_train_as_one(one, two):
    assert_near(two, one)


@pytest.mark.slow
def test_a_batch_that_three_processes_cannot_share_evenly(inputs, one, tmp_path):
    assert_near(trained(inputs, tmp_path / "three", 3), one)


def test_micro_batches_change_nothing_but_rounding(inputs, one, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKS", CHECKS)
    train.run(override(DIGITS, SMOOTH), inputs, tmp_path, Runtime(threads=1, accumulate=3))
    assert_near(tmp_path, one)


def test_gradients_of_the_shares_add_up(inputs):
    """Of the same weights, to float32 rounding: a part's mean counts by its images."""
    tiny = override(DIGITS, [*SMOOTH, "train.clip=1e9"])
    draws = Draws(tiny.train, Latents(inputs["latents"]))

    def gradient(world):
        trainer = Trainer(tiny.train, draws, build_model(tiny, inputs), torch.device("cpu"), world=world)
        return torch.cat([torch.tensor([trainer.update()]), *(p.grad.flatten() for p in trainer.model.parameters())])

    class Alone(World):
        def adding(self, tensors):
            return lambda: None

    parts = sum(gradient(Alone(rank, 5)) for rank in range(5))
    torch.testing.assert_close(parts, gradient(World()), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_signal_to_one_stops_all_at_the_same_step_and_resuming_changes_nothing(inputs, two, tmp_path):
    out = tmp_path / "out"
    step = stopped(inputs, out, 2, signal.SIGTERM, rank=1)
    assert f"stopped at step {step} of 36" in (tmp_path / "out-0.out").read_text()
    assert (tmp_path / "out-1.out").read_text() == ""
    assert_same(trained(inputs, out, 2), two)


def stopped(inputs, out, size, number, rank=0):
    """Start, send one of them a signal after some steps, and see all stop; returns the step of the checkpoint."""
    out.mkdir()
    group = start(inputs, out, size, SMOOTH)
    while saved_step(out) < 5 and group.running():
        time.sleep(0.02)
    group.signal(rank, number)
    assert group.end() == [128 + number] * size, [group.complained(rank) for rank in range(size)]
    assert 5 <= saved_step(out) < 36
    return saved_step(out)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_any_number_of_processes_goes_on_from_a_checkpoint(inputs, one, tmp_path, before, after):
    stopped(inputs, tmp_path / "out", before, signal.SIGINT)
    assert_near(trained(inputs, tmp_path / "out", after), one)


def test_an_error_in_one_ends_the_other(inputs, tmp_path):
    (tmp_path / "out").mkdir()
    group = start(inputs, tmp_path / "out", 2, SMOOTH, fails_at=7)
    assert group.end() == [1, 1]
    assert "rank 1 is out of memory" in group.complained(1)
    assert "process 0 of 2 lost another, which says why" in group.complained(0)
    assert saved_step(tmp_path / "out") == 7


@pytest.mark.slow
def test_dropout_is_drawn_by_rank(inputs, tmp_path):
    """The same again bit for bit, and other draws than those of one process."""
    settings = (*TINY, "backbone.dropout=0.3", "train.epochs=1", "train.warmup_epochs=0")
    first, again = (trained(inputs, tmp_path / name, 2, settings) for name in ("first", "again"))
    assert_same(first, again)
    alone = trained(inputs, tmp_path / "alone", 1, settings)
    assert abs(curve(alone)[0][1] / curve(first)[0][1] - 1) > LOSS


def test_what_processes_share():
    """A stage that rank 0 began alone would wait for the others, who wait for its end."""
    assert [kind.name for kind in STAGES.values() if kind.shared] == ["latents", "train", "sample"]


@pytest.mark.slow
def test_torchrun_runs_a_cell(two, tmp_path):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tokenbridge"]
    wanted = ["run", "digits", *SMOOTH, "--only", "train", "--runs", str(tmp_path / "runs")]

    def run(*settings):
        line = [sys.executable, *command, *wanted, *settings]
        return subprocess.run(line, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 of 3 stages done") == 1
    assert done.stdout.count("train/validation_loss") == 1
    store = Store(tmp_path / "runs")
    (id,) = (path.name for path in store.root.glob("stages/train-*"))
    assert store.manifest(id)["processes"] == 2
    assert_same(store.folder(id), two)
    again = run()
    assert again.returncode == 0, again.stderr
    assert "stages done" not in again.stdout
    refused = run("train.batch=5000")
    assert refused.returncode != 0
    assert "train.batch=5000 must be at most 1198" in refused.stderr


@pytest.mark.slow
def test_no_thread_of_the_group_outlives_it(tmp_path):
    """A thread that still drops a tensor while Python ends aborts the process, all of whose work is done."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "from pathlib import Path\n"
        "from tokenbridge.distributed import joined\n"
        "threads = lambda: [path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')]\n"
        "with joined() as world:\n"
        "    torch.optim.AdamW(torch.nn.Linear(8, 8).parameters())\n"
        "    world.barrier()\n"
        "    assert 'pt_gloo_runloop' in threads()\n"
        "assert 'pt_gloo_runloop' not in threads(), threads()\n"
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_several_processes_cannot_do(inputs, tiny, monkeypatch):
    small = override(tiny, ["train.batch=2"])
    draws = Draws(small.train, Latents(inputs["latents"]))
    with pytest.raises(UserError, match=r"train\.batch=2 must be at least 3, the number of processes"):
        Trainer(small.train, draws, build_model(small, inputs), torch.device("cpu"), world=World(0, 3))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"WORLD_SIZE=2 needs .*MASTER_ADDR"), joined():
        pass
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match="grid is one process, not WORLD_SIZE=2"):
        require_one("grid")
