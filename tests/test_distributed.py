"""Real processes over gloo, with one thread each: they train as one process does, and stop as one."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from experiments.presets import DIGITS
from tests.conftest import TINY
from tests.test_train import inputs_of, saved_step
from tokenbridge import train
from tokenbridge.artifacts import Store, read_journal
from tokenbridge.batches import Draws
from tokenbridge.config import Runtime, UserError
from tokenbridge.distributed import World, joined, require_one
from tokenbridge.latents import Latents
from tokenbridge.overrides import override
from tokenbridge.train import CHECKPOINT, build_model
from tokenbridge.trainer import Trainer

SMOOTH = (*TINY, "backbone.attention_dropout=0")  # dropout is drawn by rank, so it would make other curves
LOSS, WEIGHT = 1e-5, 1e-3
"""how far several processes may be from one after 44 steps: relative loss (measured: 3e-7), absolute weight (3e-4, in
biases of attention keys: their gradient is nothing but rounding, which AdamW brings to the size of its steps)"""

SCRIPT = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from experiments.presets import DIGITS
from tokenbridge import train
from tokenbridge.config import Runtime
from tokenbridge.distributed import joined
from tokenbridge.overrides import override
latents, quantizer, out, fails_at, *settings = sys.argv[1:]
with joined() as world:
    if world.rank == 1 and fails_at != "-":
        update = train.Trainer.update
        def failing(self):
            if self.step == int(fails_at):
                raise MemoryError("rank 1 is out of memory")
            return update(self)
        train.Trainer.update = failing
    inputs = {"latents": Path(latents), "quantizer": Path(quantizer)}
    train.run(override(DIGITS, settings), inputs, Path(out), Runtime(threads=1, checkpoint_seconds=0))
"""


def start(inputs, out, size, settings=SMOOTH, fails_at="-"):
    """Processes with the environment that torchrun and submitit set."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SCRIPT, inputs["latents"], inputs["quantizer"], out, fails_at, *settings]
    names = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [str(each) for each in command],
            env=os.environ | {key: str(value) for key, value in (names | {"RANK": rank, "LOCAL_RANK": rank}).items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def end(processes):
    """Exit codes, and what each said."""
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def trained(inputs, out, size, settings=SMOOTH):
    out.mkdir(exist_ok=True)
    codes, said = end(start(inputs, out, size, settings))
    assert codes == [0] * size, said
    assert all(output == "" for output, _ in said[1:])
    return out


def curve(folder, kind="loss"):
    return [(step, value) for key, value, _, step in read_journal(folder / "metrics.jsonl") if key == kind]


def weights(folder):
    return load_file(folder / "model.safetensors") | {
        f"raw {key}": value for key, value in load_file(folder / "model_raw.safetensors").items()
    }


def assert_near(ours, theirs):
    for kind in ("loss", "held_out_loss"):
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
    assert not (two / CHECKPOINT).exists()


def test_a_batch_that_three_processes_cannot_share_evenly(inputs, one, tmp_path):
    assert_near(trained(inputs, tmp_path / "three", 3), one)


def test_micro_batches_change_nothing_but_rounding(inputs, one, tmp_path):
    train.run(override(DIGITS, SMOOTH), inputs, tmp_path, Runtime(threads=1, accumulate=3))
    assert_near(tmp_path, one)


def test_gradients_of_the_shares_add_up(inputs):
    """Of the same weights, to float32 rounding: a part's mean counts by its images."""
    tiny = override(DIGITS, SMOOTH)
    draws = Draws(tiny.train, Latents(inputs["latents"]))

    def gradient(world):
        trainer = Trainer(tiny.train, draws, build_model(tiny, inputs), torch.device("cpu"), world=world)
        return torch.cat([trainer.gradients()[None], *(p.grad.flatten() for p in trainer.model.parameters())])

    class Alone(World):
        def sum(self, tensors):
            pass

    parts = sum(gradient(Alone(rank, 5)) for rank in range(5))
    torch.testing.assert_close(parts, gradient(World()), rtol=1e-4, atol=1e-6)


def test_a_signal_to_one_stops_all_at_the_same_step_and_resuming_changes_nothing(inputs, two, tmp_path):
    processes = start(inputs, tmp_path, 2)
    while saved_step(tmp_path) < 5 and processes[1].poll() is None:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    codes, said = end(processes)
    assert codes == [128 + signal.SIGTERM] * 2, said
    step = saved_step(tmp_path)
    assert 5 <= step < 44
    assert f"stopped at step {step} of 44" in said[0][0]
    assert said[1][0] == ""
    assert_same(trained(inputs, tmp_path, 2), two)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_any_number_of_processes_goes_on_from_a_checkpoint(inputs, one, tmp_path, before, after):
    processes = start(inputs, tmp_path, before)
    while saved_step(tmp_path) < 9 and processes[0].poll() is None:
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGINT)
    assert end(processes)[0] == [128 + signal.SIGINT] * before
    assert 9 <= saved_step(tmp_path) < 44
    assert_near(trained(inputs, tmp_path, after), one)


def test_an_error_in_one_ends_the_other(inputs, tmp_path):
    codes, said = end(start(inputs, tmp_path, 2, fails_at=7))
    assert codes == [1, 1]
    assert "rank 1 is out of memory" in said[1][1]
    assert "process 0 of 2 lost another, which says why" in said[0][1]
    assert saved_step(tmp_path) == 7


def test_dropout_is_drawn_by_rank(inputs, tmp_path):
    """The same again bit for bit, and other draws than those of one process."""
    settings = (*TINY, "backbone.dropout=0.3", "train.epochs=1", "train.warmup_epochs=0")
    first, again = (trained(inputs, tmp_path / name, 2, settings) for name in ("first", "again"))
    assert_same(first, again)
    alone = trained(inputs, tmp_path / "alone", 1, settings)
    assert abs(curve(alone)[0][1] / curve(first)[0][1] - 1) > LOSS


def test_torchrun_runs_a_cell(two, tmp_path):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "experiments.cli"]
    wanted = ["run", "digits", *SMOOTH, "--only", "train", "--runs", str(tmp_path / "runs")]

    def run(*settings):
        line = [sys.executable, *command, *wanted, *settings]
        return subprocess.run(line, capture_output=True, text=True, timeout=200)

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 of 3 stages done") == 1
    assert done.stdout.count("train/held_out_loss") == 1
    store = Store(tmp_path / "runs")
    (id,) = (path.name for path in store.root.glob("stages/train-*"))
    assert store.manifest(id)["processes"] == 2
    assert_same(store.folder(id), two)
    again = run()
    assert again.returncode == 0, again.stderr
    assert "stages done" not in again.stdout
    refused = run("train.batch=5000")
    assert refused.returncode != 0
    assert "train.batch=5000 must be at most 1438" in refused.stderr


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
