"""Jobs that never start by themselves: whatever stopped them is named, and one of the commands mends it.

The faults are real: a program of Slurm is called through a script that kills its caller, or slurmctld, at that moment.
"""

import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from slurm import scheduler, sweep
from tests.cluster.conftest import started
from tests.cluster.grids import (
    CLUSTER,
    daemon,
    drain,
    drained,
    environment,
    events,
    grid,
    on_slurm,
    stages,
    tokenbridge,
)
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_sweep, write_sweep

WORDS = grid("held", "quantizer.levels=4,8", settings=("train.epochs=30",))
JOBS = 12  # latents, 2 quantizers, trainings, likelihoods, samples and scores, the end
KILL = "kill -9 $PPID; exit 1"
SHIM = r"""#!/bin/bash
me=$(basename "$0"); count=$(($(cat "$COUNTS/$me" 2>/dev/null) + 1)); echo $count >"$COUNTS/$me"
if [ "before $me $count" = "$AT" ]; then eval "$DO"; fi
PATH=${PATH#*:} "$me" "$@"; status=$?
if [ "after $me $count" = "$AT" ]; then eval "$DO"; fi
exit $status
"""


@pytest.fixture(scope="module")
def plain_cluster():
    with started(ACCOUNTING="0", KILL_WAIT="1") as folder:
        yield folder


@pytest.fixture(autouse=True)
def nothing_left(plain_cluster):
    yield
    wait_for_none()


def wait_for_none() -> None:
    scheduler.cancel(live())
    while live():  # tasks of submitit ignore SIGTERM
        subprocess.run(["scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}"], check=True)
        time.sleep(0.2)


@pytest.fixture
def nothing_starts(plain_cluster):
    with drained():
        yield


@pytest.fixture
def shim(tmp_path, monkeypatch, nothing_starts):
    """Does something at a moment of what is called meanwhile: `after sbatch 2`."""

    @contextmanager
    def doing(moment: str, do: str) -> Iterator[None]:
        folder = tmp_path / "shim"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "counts").mkdir(parents=True)
        for program in ("sbatch", "scontrol", "squeue"):
            (folder / program).write_text(SHIM)
            (folder / program).chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
            for name, value in {"COUNTS": folder / "counts", "AT": moment, "DO": do}.items():
                patch.setenv(name, str(value))
            yield

    return doing


@pytest.fixture
def submit_at(tmp_path, shim):
    """Submits, and does something at a moment; the exit status."""

    def submit(moment: str, do: str) -> int:
        with shim(moment, do):
            return tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path, code=None).returncode

    return submit


def live() -> dict[str, scheduler.Task]:
    return {job: task for job, task in scheduler.queue().items() if task.live}


def wait_for_stuck(seconds: float = 60) -> None:
    """Until Slurm has looked at a job that it cannot start, and says why."""
    until = time.monotonic() + seconds
    while not [task for task in live().values() if task.remedy]:
        assert time.monotonic() < until, scheduler.queue()
        time.sleep(0.3)


def status(folder: Path, code: int, *words: str) -> str:
    """What it says, without the breaks of lines."""
    done = tokenbridge("status", "held", *words, cwd=folder, code=code)
    return " ".join((done.stdout + done.stderr).split())


def goes_on(folder: Path) -> None:
    """All jobs are there, once, and can start; --json leaves MLflow alone."""
    assert len(live()) == JOBS
    assert not [job for job, task in live().items() if task.remedy]
    assert '"cut_off": []' in status(folder, 3, "--json")


@pytest.mark.parametrize(
    ("moment", "left", "remedies"),
    [
        ("after sbatch 1", 1, [WORDS]),  # before it knows the job's number
        ("before sbatch 4", 5, [["retry", "held"], WORDS]),
        ("after squeue 2", JOBS, [WORDS]),  # all are there, none is written down
        ("before scontrol 8", JOBS, [WORDS]),  # written down, not released
        ("before scontrol 8", JOBS, [["retry", "held"]]),
    ],
)
def test_a_submission_that_is_killed_is_named_and_mended(tmp_path, submit_at, moment, left, remedies):
    assert submit_at(moment, KILL) == -9
    assert {task.remedy for task in live().values()} == {"release"}
    assert len(live()) == left
    recorded = moment == "before scontrol 8"
    said = status(tmp_path, 1 if recorded else 2)
    assert "cut off at" in said
    assert "may have left held jobs" in said
    assert ("tokenbridge retry held releases what is held" in said) == recorded
    if not recorded:
        assert "held is not recorded" in said
        assert "the same command goes on: tokenbridge grid --name held" in said
    for words in remedies:
        more = on_slurm() if words is WORDS else []
        done = tokenbridge(*words, *more, cwd=tmp_path, code=None)
        assert f"held jobs {'released' if recorded else 'cancelled'}: {left}" in done.stdout or words is not remedies[0]
    assert done.returncode == 0, done.stderr
    goes_on(tmp_path)


def test_cancel_takes_what_a_killed_submission_left(tmp_path, submit_at):
    submit_at("before sbatch 4", KILL)
    assert "held jobs cancelled: 5" in tokenbridge("cancel", "held", "--yes", cwd=tmp_path).stdout
    assert live() == {}
    assert "held is no sweep" in status(tmp_path, 2)


def test_a_slurmctld_that_forgets_the_release_or_the_jobs(plain_cluster, tmp_path, submit_at):
    """It is killed when all is done, and what it had saved last is from before the release."""
    state, saved = plain_cluster / "state", tmp_path / "saved"
    copy = f"until rm -rf {saved} && cp -a {state} {saved}; do true; done"  # it writes there at the same time
    assert submit_at("before scontrol 8", copy) == 0
    own = live().keys()
    os.kill(int((plain_cluster / "run/slurmctld.pid").read_text()), signal.SIGKILL)
    shutil.rmtree(state)
    saved.rename(state)
    daemon(plain_cluster, "slurmctld")
    while scheduler.unavailable():
        time.sleep(0.2)
    drain()  # what was saved may be from before that too
    scheduler.cancel(live().keys() - own)  # of the test before: the saved state may still have them
    held = [task for task in live().values() if task.remedy == "release"]
    assert len(held) == len(live())  # the others it has not saved at all: how many is chance
    assert "tokenbridge retry held" in status(tmp_path, 1)
    tokenbridge("retry", "held", cwd=tmp_path)
    goes_on(tmp_path)


def test_a_launch_that_fails_is_named_and_released(plain_cluster, tmp_path):
    """slurmd cannot make the folder of a job: a file is in its place."""
    first = 1 + max((int(job.partition("_")[0]) for job in scheduler.queue()), default=0)
    nodes = list((plain_cluster / "spool").iterdir())
    blocked = [node / f"job{number:05d}" for node in nodes for number in range(first, first + 3 * JOBS)]
    for path in blocked:
        path.touch()
    tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path)
    wait_for_stuck()
    said = status(tmp_path, 1)
    assert "Slurm could not start it on its node, and holds it (launch failed requeued held)" in said
    assert "tokenbridge retry held releases what is held" in said
    again = tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path).stdout
    assert "1 of its stages are stuck in the queue" in again
    for path in blocked:
        path.unlink()
    assert "held: 1 held job released" in tokenbridge("retry", "held", cwd=tmp_path).stdout
    (latents,) = stages(tmp_path, "held", "latents")
    until = time.monotonic() + 60
    while events(tmp_path, latents) != ["started", "finished"]:
        assert time.monotonic() < until, scheduler.queue()
        time.sleep(0.5)


@pytest.mark.parametrize("remedy", ["retry", "cancel"])
def test_what_waits_for_a_held_job_whose_stage_is_finished_is_released(tmp_path, remedy):
    """As after a slurmctld that was killed; here the job is held while no node runs it, and its stage made by hand."""
    with drained():
        tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path)
        (latents,) = stages(tmp_path, "held", "latents")
        job = sweep.jobs_by_stage(Store(tmp_path / "runs"))[latents][-1].job
        subprocess.run(["scontrol", "uhold", job], check=True)
        tokenbridge("run", "digits", "--only", "latents", cwd=tmp_path)
    said = status(tmp_path, 1)
    assert f"waits for job {job} of a finished stage, held by a user" in said
    assert "tokenbridge retry held releases what is held" in said
    if remedy == "retry":
        assert "1 held job released" in tokenbridge("retry", "held", cwd=tmp_path).stdout
        assert not [job for job, task in live().items() if task.remedy]
        status(tmp_path, 3, "--json")
        return
    tokenbridge("cancel", "held", "--yes", cwd=tmp_path)
    for _ in range(60):
        if not live():
            return
        time.sleep(0.5)
    raise AssertionError(live())


def test_what_a_partition_never_runs_is_submitted_anew(nothing_starts, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(CLUSTER.read_text())
    subprocess.run(["scontrol", "update", "PartitionName=main", "MaxTime=10"], check=True)
    try:
        tokenbridge(*WORDS, *on_slurm(own), cwd=tmp_path)
        wait_for_stuck()
        said = status(tmp_path, 1)
        assert "asks for what this Slurm does not give (PartitionTimeLimit)" in said
        assert "and tokenbridge retry held submits again what cannot start" in said
        own.write_text(CLUSTER.read_text().replace("time = 30", "time = 5"))
        tokenbridge("retry", "held", cwd=tmp_path)
        goes_on(tmp_path)
    finally:
        subprocess.run(["scontrol", "update", "PartitionName=main", "MaxTime=INFINITE"], check=True)


def test_an_administrators_hold_is_left_to_one(plain_cluster, tmp_path):
    tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path)
    array = max((job for job in live() if "_" in job), key=lambda job: int(job.partition("_")[0])).partition("_")[0]
    subprocess.run(["scontrol", "hold", f"{array}_1"], check=True)
    line = f"only an administrator of Slurm can release what one holds: scontrol release {array}"
    assert line in status(tmp_path, 3)
    assert line in tokenbridge("retry", "held", cwd=tmp_path).stdout
    assert scheduler.queue()[f"{array}_1"].reason == "JobHeldAdmin"


def test_the_end_of_a_round_comes_back_and_waits_for_all(nothing_starts, tmp_path):
    tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path)
    end = max(live(), key=lambda job: int(job.partition("_")[0]))
    scheduler.cancel([end])
    assert "1 job submitted" in tokenbridge("retry", "held", cwd=tmp_path).stdout
    jobs = live()
    new = max(jobs, key=lambda job: int(job.partition("_")[0]))
    assert new != end
    arrays = {job.partition("_")[0] for job in jobs if job != new}
    awaits = subprocess.run(["squeue", "-h", "-j", new, "-O", "Dependency:500"], capture_output=True, text=True).stdout
    assert set(re.findall(r"afterany:(\d+)", awaits)) == arrays
    goes_on(tmp_path)


def test_the_end_of_a_round_that_dies_half_way_submits_the_next_when_it_runs_again(tmp_path, shim):
    """Slurm requeues it where its node dies. It may have recorded the next round, and not submitted it."""
    tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path)
    wait_for_none()
    store = Store(tmp_path / "runs")
    for moment in ("before sbatch 2", "after squeue 3", "before scontrol 8"):
        write_sweep(store, replace(read_sweep(store, "held"), round=0))
        with shim(moment, KILL):
            assert end_of_round(tmp_path).returncode == -9
        assert {task.remedy for task in live().values()} == {"release"}
        assert end_of_round(tmp_path).returncode == 0
        assert read_sweep(store, "held").round == 1
        goes_on(tmp_path)
        wait_for_none()


def end_of_round(folder: Path) -> subprocess.CompletedProcess[str]:
    script = "import pathlib, slurm.rounds as r; from tokenbridge.store.artifacts import Store;"
    script += " r.RoundJob(Store(pathlib.Path('runs').resolve()), 'held', 0)()"
    words = [sys.executable, "-c", script]
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)


def test_an_sbatch_that_outlives_its_submission_is_found(tmp_path, shim):
    """It comes through when all that its submission had left was mended already."""
    tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path)
    with shim("before sbatch 1", "kill -9 $PPID; until [ -e $COUNTS/go ]; do sleep 0.2; done"):
        tokenbridge(*grid("other", "quantizer.levels=4,9"), *on_slurm(), cwd=tmp_path, code=-9)
    assert "a submission was cut off and has left no job" in tokenbridge("cancel", "other", cwd=tmp_path).stdout
    (tmp_path / "shim" / "counts" / "go").touch()
    wait_for_stuck()
    assert "other: a submission was cut off" in tokenbridge("retry", "held", cwd=tmp_path).stdout
    assert not [task for task in live().values() if task.remedy]
