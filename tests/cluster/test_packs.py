"""Packed jobs on a real Slurm: the bytes of a grid without them, and each stage a unit of its own all the same."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from slurm import scheduler, sweep
from tests.cluster.grids import SECONDS, end_of, events, grid, on_slurm, packing, stages, tokenbridge
from tests.cluster.test_faults import files_of
from tokenbridge.store.artifacts import Store


@pytest.fixture
def four(tmp_path) -> Path:
    return packing(tmp_path, 4)


def jobs_of(folder: Path, name: str, kind: str) -> list[str]:
    """Slurm's id of the newest job of each stage of a kind."""
    found = sweep.jobs_by_stage(Store(folder / "runs"))
    return [found[id][-1].job for id in stages(folder, name, kind)]


def wait_until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, scheduler.queue()
        time.sleep(0.2)


def states(folder: Path, name: str, kind: str) -> list[tuple[str, str]]:
    """State and detail of each stage of a kind, as `status` tells programs."""
    found = json.loads(tokenbridge("status", name, "--json", cwd=folder, code=None).stdout)
    by_id = {cell["stages"][kind]["id"]: cell["stages"][kind] for cell in found["cells"].values()}
    return [(by_id[id]["state"], by_id[id]["detail"]) for id in stages(folder, name, kind)]


def step(folder: Path, stage: str) -> bool:
    """Whether a training has taken a step."""
    return (folder / "runs" / "stages" / f"{stage}.partial" / "metrics.jsonl").exists()


def test_a_packed_grid_that_is_requeued_has_the_bytes_of_one_without_packs(cluster, tmp_path, four):
    words = grid("packed", "quantizer.levels=4,8", "sample.temperature=0.9,1.0", settings=("train.epochs=15",))
    shown = tokenbridge(*words, *on_slurm(four), "--dry-run", cwd=tmp_path).stdout
    assert "1 jobs of 4 sample and 4 score stages" in shown
    assert "5 jobs of 15 stages" in shown
    done = tokenbridge(*words, *on_slurm(four), cwd=tmp_path)
    assert "submitted 6 jobs of 16 stages" in done.stdout  # and the end
    first, second = stages(tmp_path, "packed", "train")
    (job,) = {*jobs_of(tmp_path, "packed", "train")}
    wait_until(lambda: step(tmp_path, second))
    subprocess.run(["scontrol", "requeue", job], check=True)
    assert states(tmp_path, "packed", "train")[0][0] == "finished"
    assert states(tmp_path, "packed", "train")[1][0] in ("requeued", "running")
    assert {word for word, _ in states(tmp_path, "packed", "score")} == {"blocked"}
    alone = tmp_path / "alone"
    alone.mkdir()
    tokenbridge(*words, "--on", "local", "--jobs", "1", cwd=alone)
    assert end_of(tmp_path, "packed").returncode == 0
    assert events(tmp_path, first) == ["started", "finished"]
    assert events(tmp_path, second).count("started") == 2
    ours, theirs = (files_of(folder / "runs" / "stages") for folder in (tmp_path, alone))
    assert ours == theirs
    plans = [folder / "runs" / "plans" / "packed.json" for folder in (tmp_path, alone)]
    assert plans[0].read_text() == plans[1].read_text()


def test_a_cancelled_stage_ends_alone_beside_others_of_its_job(cluster, tmp_path):
    beside = packing(tmp_path, 2)
    beside.write_text(beside.read_text().replace("pack = 2", "pack = 2\nworkers = 2", 1))
    words = grid("beside", "quantizer.levels=4,8", settings=("train.epochs=15",))
    tokenbridge(*words, *on_slurm(beside), cwd=tmp_path)
    first, second = stages(tmp_path, "beside", "train")
    assert len({*jobs_of(tmp_path, "beside", "train")}) == 1
    wait_until(lambda: step(tmp_path, first) and step(tmp_path, second))
    tokenbridge("cancel", "beside", "--cell", "b04", "--yes", cwd=tmp_path)
    assert end_of(tmp_path, "beside").returncode == 1
    assert events(tmp_path, first) == ["started", "cancelled", "stopped"]
    assert events(tmp_path, second) == ["started", "finished"]
    assert [word for word, _ in states(tmp_path, "beside", "score")] == ["cancelled", "finished"]


def test_jobs_of_stages_that_can_no_longer_run_leave_the_queue(cluster, tmp_path):
    settings = ("quantizer.kind=quantile", "quantizer.per=channel", "train.epochs=40")
    words = grid("gone", "quantizer.levels=4,65000,8,5", settings=settings)
    tokenbridge(*words, *on_slurm(packing(tmp_path, 2)), cwd=tmp_path)
    left = {kind: jobs_of(tmp_path, "gone", kind) for kind in ("train", "likelihood", "sample")}
    assert all(jobs[0] == jobs[1] != jobs[2] == jobs[3] for jobs in left.values())
    failed, third = stages(tmp_path, "gone", "quantizer")[1], stages(tmp_path, "gone", "train")[2]
    wait_until(lambda: events(tmp_path, failed)[-1:] == ["failed"] and step(tmp_path, third))
    tokenbridge("cancel", "gone", "--cell", "b00004", "--yes", cwd=tmp_path)
    tasks = scheduler.queue([jobs[0] for jobs in left.values()])
    assert {tasks[left[kind][0]].waiting for kind in left} == {False}
    wait_until(lambda: not any(task.live for task in scheduler.queue([jobs[0] for jobs in left.values()]).values()))
    assert "stopped" not in events(tmp_path, third)
    tokenbridge("cancel", "gone", "--yes", cwd=tmp_path)


def worker(job: str) -> int:
    """The process in which a packed job runs its stages."""
    id = f"SLURM_JOB_ID={scheduler_id(job)}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            own = (process / "environ").read_bytes().split(b"\0")
            if id in own and b"spawn_main" in (process / "cmdline").read_bytes():
                return int(process.name)
    raise AssertionError(f"job {job} has no worker")


def scheduler_id(job: str) -> str:
    """The number of an array's task among all jobs."""
    shown = subprocess.run(["squeue", "--noheader", "--job", job, "--format=%A"], capture_output=True, text=True)
    return shown.stdout.strip()


def test_failed_cancelled_and_killed_stages_spare_the_others_of_their_jobs(cluster, tmp_path, four):
    settings = ("quantizer.kind=quantile", "quantizer.per=channel", "train.epochs=15")
    words = grid("mixed", "quantizer.levels=4,65000,8,5", settings=settings)
    tokenbridge(*words, *on_slurm(four), cwd=tmp_path)
    quantizers, trainings = (stages(tmp_path, "mixed", kind) for kind in ("quantizer", "train"))
    assert len({*jobs_of(tmp_path, "mixed", "quantizer")}) == 1
    (job,) = {*jobs_of(tmp_path, "mixed", "train")}
    wait_until(lambda: step(tmp_path, trainings[0]))
    assert [events(tmp_path, id)[-1] for id in quantizers] == ["finished", "failed", "finished", "finished"]
    turn = ("queued", "earlier stages of its job")
    wanting = ("cancelled", "quantizer of b65000 failed")
    assert states(tmp_path, "mixed", "train") == [("running", ""), wanting, turn, turn]
    done = tokenbridge("cancel", "mixed", "--cell", "b00004", "--yes", cwd=tmp_path)
    assert "mixed: 1 job running, 2 waiting\n" in done.stdout
    wait_until(lambda: step(tmp_path, trainings[2]))
    os.kill(worker(job), signal.SIGKILL)
    shown = end_of(tmp_path, "mixed")
    assert shown.returncode == 1
    assert "failed: train of b00008: its process was killed, most often for want of memory" in shown.stdout
    assert [word for word, _ in states(tmp_path, "mixed", "train")] == ["cancelled", "cancelled", "failed", "finished"]
    for kind in ("likelihood", "sample", "score"):
        found = [word for word, _ in states(tmp_path, "mixed", kind)]
        assert found == ["cancelled", "cancelled", "cancelled", "finished"]
    assert "Traceback (most recent call last)" in tokenbridge("logs", quantizers[1], cwd=tmp_path).stdout
    assert "Traceback" not in tokenbridge("logs", trainings[3], cwd=tmp_path).stdout
    assert "submitted for" in tokenbridge("retry", "mixed", cwd=tmp_path).stdout
    assert end_of(tmp_path, "mixed").returncode == 1  # the same failure, and no other
    found = [word for word, _ in states(tmp_path, "mixed", "score")]
    assert found == ["finished", "cancelled", "finished", "finished"]
    assert events(tmp_path, trainings[3]).count("started") == 1
