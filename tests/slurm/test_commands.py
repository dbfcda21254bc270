"""status, sweeps, logs, retry and cancel as a user calls them, on a machine without Slurm that sees the folder.

On a real Slurm: tests/cluster.
"""

import json
import threading
import time

import pytest

from slurm import commands, logs
from slurm import sweep as records
from tests.helpers import command as small_command
from tests.helpers.sweeps import Small
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store


@pytest.fixture(autouse=True)
def away(monkeypatch, tmp_path_factory):
    """No Slurm here."""
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


@pytest.fixture
def small(tmp_path):
    made = Small(Store(tmp_path / "runs"))
    made.submit()
    touch(made)
    return made


@pytest.fixture
def call(small, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("LINES", "50")

    def run(*arguments, runs=small.store.root):
        return small_command.call(monkeypatch, capsys, *arguments, "--runs", runs)

    return run


def touch(small):
    """MLflow has all that there is."""
    (small.store.root / "tracking.json").touch()


def test_status_by_exit_code(call, small):
    train = small.id("train")
    small.say(train, "started")
    small.train(train)
    touch(small)
    done = call("status")
    assert (done.returncode, done.stderr) == (3, "")
    assert "small: 4 cells: 2 running, 2 queued" in done.stdout
    assert "without Slurm: " in done.stdout
    small.say(train, "failed", error="loss=nan must be finite")
    small.finish(*(id for id in small.sweep.stages if id.split("-")[1] != train.split("-")[1]))
    small.finish(small.id("latents"), *(small.id(kind) for kind in ("quantizer", "reconstruct")))
    small.finish(small.id("sample", 1), small.id("score", 1))
    small.say(small.sweep.last, "started", "finished")
    touch(small)
    done = call("status", "small", "--all")
    assert (done.returncode, done.stderr) == (1, "")
    assert "failed: train of 2a-b000-t0 (2 cells): loss=nan must be finite" in done.stdout
    small.finish(*small.sweep.stages)
    touch(small)
    done = call("status", "small", "--watch")  # ends, since nothing is under way
    assert (done.returncode, done.stderr) == (0, "")
    assert "small: 4 cells: 4 finished" in done.stdout


def test_status_for_programs(call, small):
    train = small.id("train")
    small.say(train, "started")
    small.train(train, 45, 100)
    done = call("status", "--json")
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode == 3
    cell = found["cells"][next(iter(small.sweep.cells))]
    assert cell["state"] == "running"
    assert cell["stages"]["train"] == {
        "id": train, "state": "running", "detail": "", "job": small.jobs[train],
        "step": 45, "steps": 100, "loss": pytest.approx(1 / 45), "seconds_left": pytest.approx(55),
    }  # fmt: skip
    assert cell["stages"]["score"]["cause"] == small.id("latents")


def test_status_brings_mlflow_up_to_date_and_does_without_it(call, small, monkeypatch):
    """Only once the screen is there, and no server that is away changes the exit code."""
    small.finish(*small.sweep.stages)
    small.say(small.sweep.last, "started", "finished")
    cells = small.store.root / "cells"
    cells.mkdir()
    for id, cell in small.sweep.cells.items():
        about = {"id": id, "name": cell.name, "experiment": "small", "config": {}, "stages": cell.stages}
        (cells / f"{id}.json").write_text(json.dumps(about))
    (small.store.root / "tracking.json").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = call("status")
    assert done.returncode == 0
    assert "4 finished" in done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("MLflow is not up to date: MLflow at http://127.0.0.1:9 takes no data")


def test_what_is_not_there(call, small, tmp_path):
    for arguments, words in (
        (["status", "smal"], "smal is no sweep; there is small"),
        (["logs", "2a-b01"], "2a-b01 is no cell, stage or job of any sweep"),
        (["logs", "2a-b01"], "did you mean 2a-b001-t"),
        (["logs", "2a-b000"], "2a-b000 is part of 2 names (2a-b000-t0, 2a-b000-t1); give one of them"),
        (["logs", "2a-b000-t0", "--stage", "drain"], "--stage=drain is no stage of 2a-b000-t0; it has latents"),
        (["retry", "yours"], "yours is no sweep"),
        (["cancel", "yours"], "yours is no sweep"),
        (["retry", "small"], "no Slurm client"),
        (["cancel", "small", "--yes"], "no Slurm client"),
    ):
        done = call(*arguments)
        assert done.returncode == 2, arguments
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    empty = tmp_path / "empty"
    done = call("status", runs=empty)
    assert (done.returncode, "there is no grid in" in done.stderr) == (2, True)
    done = call("sweeps", runs=empty)
    assert (done.returncode, done.stdout) == (0, f"no sweep in {empty}\n")
    assert not empty.exists()


def test_sweeps_are_listed(call, small):
    Small(small.store, 2, "later", first=8)
    done = call("sweeps")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["small", "later"]
    assert "0/4" in done.stdout


def test_logs_of_the_stage_that_failed(call, small):
    train = small.id("train")
    small.finish(small.id("latents"), small.id("quantizer"))
    for id in (small.id("quantizer"), train):
        small.say(id, "started")
        small.log(id, f"out of {id}\n", "loading\rtrain 1%\rtrain 45%\nTraceback (most recent call last):\n")
    small.say(train, "failed", error="loss=nan", traceback="Traceback (most recent call last):\nUserError: loss=nan\n")
    for target in ("2a-b000-t1", train, small.jobs[train]):
        done = call("logs", target)
        assert (done.returncode, done.stderr) == (0, "")
        first, *rest = done.stdout.splitlines()
        assert first == f"train of 2a-b000-t0: failed (loss=nan); stage {train}, job {small.jobs[train]}"
        out, err = (records.jobs_by_stage(small.store)[train][-1].log(small.store, stream) for stream in ("out", "err"))
        assert rest == [
            f"==> {out} <==",
            f"out of {train}",
            f"==> {err} <==",
            "train 45%",
            "Traceback (most recent call last):",
            "==> what the job said when it failed on node1 <==",
            "Traceback (most recent call last):",
            "UserError: loss=nan",
        ]
    done = call("logs", "2a-b000-t0", "--stage", "quantizer")
    assert f"out of {small.id('quantizer')}" in done.stdout
    done = call("logs", "2a-b001-t0")  # nothing has begun: the first that has a job
    assert "(nothing yet)" in done.stdout


def test_logs_show_the_newest_attempt_and_its_end(call, small):
    train = small.id("train")
    small.say(train, "started", "failed")
    small.log(train, "first attempt\n")
    small.submit(200, [train])
    small.log(train, "".join(f"line {n}\n" for n in range(1000)))
    found = call("logs", train).stdout
    assert "first attempt" not in found
    assert "(the last 100 lines)\nline 900\n" in found
    assert "first attempt" in call("logs", "103_0").stdout


def test_following_ends_with_the_job(small, monkeypatch):
    """All that is written meanwhile comes, and what the job writes before its last word."""
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(logs, "ASK_SECONDS", 0.1)
    train = small.id("train")
    small.say(train, "started")
    small.log(train, "one\n")
    attempt = logs.find(small.store, "2a-b000-t0")
    assert (attempt.stage, attempt.state) == (train, "running")
    written: list[str] = []
    read = logs.show(small.store, attempt, written.append)

    def job():
        for word in ("two\n", "three\n"):
            time.sleep(0.2)
            with open(attempt.job.log(small.store, "out"), "a") as file:
                file.write(word)
        small.say(train, "stopped")  # requeued
        small.say(train, "started")
        with open(attempt.job.log(small.store, "err"), "a") as file:
            file.write("last\n")
        small.say(train, "failed", error="no")

    thread = threading.Thread(target=job)
    thread.start()
    logs.follow(small.store, attempt, read, written.append)
    thread.join()
    text = "".join(written)
    assert [text.count(word) for word in ("one\n", "two\n", "three\n", "last\n")] == [1, 1, 1, 1]


def test_a_name_in_several_sweeps_is_of_the_latest(small):
    later = Small(small.store, 2, "later", first=0)
    later.submit(300)
    assert logs.find(small.store, "2a-b000-t0").job == records.jobs_by_stage(small.store)[small.id("latents")][-1]
    with pytest.raises(UserError, match="2a-b001-t0 is no cell, stage or job of sweep later"):
        logs.find(small.store, "2a-b001-t0", "later")
    assert logs.find(small.store, "2a-b001-t0").label == "latents of 2a-b000-t0"


@pytest.fixture
def packed(tmp_path, small):
    """Another sweep in the same folder, with two stages of a kind in each job."""
    made = Small(small.store, 4, "packed", first=20)
    made.submit(500, pack=2)
    return made


def test_logs_of_a_stage_are_its_own_where_it_shares_a_job(call, packed):
    first, second, job = packed.id("train"), packed.id("train", 2), packed.jobs[packed.id("train")]
    packed.say(first, "started", "finished")
    packed.log(first, "out of the first\n")
    assert "out of the first" in call("logs", job).stdout  # that ran last
    packed.say(second, "started")
    packed.log(second, "out of the second\n")
    for target in (second, job):
        found = call("logs", target).stdout
        assert "out of the second" in found
        assert "out of the first" not in found
    assert "out of the first" in call("logs", first).stdout
    packed.say(second, "failed", error="no")
    assert f"stage {second}, job {job}" in call("logs", job).stdout


def test_following_a_stage_ends_with_it_and_not_with_its_job(packed):
    first = packed.id("train")
    packed.say(first, "started", "finished")
    assert logs.ended(packed.store, logs.find(packed.store, first))
    assert not logs.ended(packed.store, logs.find(packed.store, packed.id("train", 2)))


def test_a_packed_job_is_wanted_while_one_of_its_stages_can_run(packed):
    jobs = [of_stage[-1] for of_stage in records.jobs_by_stage(packed.store).values() if of_stage[-1].packed]
    packed.finish(packed.id("latents"), packed.id("quantizer"), packed.id("quantizer", 2))
    first, second = packed.id("train"), packed.id("train", 2)
    behind = {packed.jobs[packed.id(kind, number)] for kind in ("likelihood", "sample") for number in (0, 2)}
    packed.say(first, "started", "failed", error="no")
    assert commands._wanted(packed.store, jobs) >= {packed.jobs[second], packed.jobs[packed.id("likelihood")]}
    packed.say(second, "cancelled", by="ada")
    assert not commands._wanted(packed.store, jobs) & {packed.jobs[first], *behind}
    assert packed.jobs[packed.id("reconstruct")] in commands._wanted(packed.store, jobs)


def test_a_cell_that_is_to_be_cancelled_must_be_one(call, packed):
    alone = logs.alone(packed.sweep, "2a-b010-t1")
    assert alone == [packed.id("sample", 1), packed.id("score", 1)]  # its training is that of another cell too
    for target, words in (
        ("2a-b01", "2a-b01 is part of 4 names (2a-b010-t0, 2a-b010-t1, 2a-b011-t0, 2a-b011-t1); give one of them"),
        ("2a-b010-t7", "--cell=2a-b010-t7 is no cell of packed; did you mean 2a-b010-t1"),
    ):
        with pytest.raises(UserError) as error:
            logs.alone(packed.sweep, target)
        assert words in str(error.value)
