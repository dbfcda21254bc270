"""What slurm/scheduler.py relies on, asked of a real Slurm."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from slurm import scheduler
from slurm.scheduler import Task
from slurm.status import ask
from slurm.sweep import Job
from tests.cluster.conftest import SCRIPT, started
from tests.cluster.grids import shifted
from tokenbridge.config import UserError

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", params=["1", "0"], ids=["accounting", "plain"])
def any_cluster(request) -> Iterator[str]:
    with started(ACCOUNTING=request.param) as folder:
        yield str(folder)


@pytest.fixture(autouse=True)
def no_jobs_left():
    yield
    if scheduler.unavailable() is None:
        scheduler.cancel(job for job, task in scheduler.queue().items() if task.live)


def submit(script: str, *options: str) -> str:
    words = ["sbatch", "--parsable", "--output=/dev/null", "--mem=10", "--kill-on-invalid-dep=yes", *options]
    return subprocess.run([*words, f"--wrap={script}"], check=True, capture_output=True, text=True).stdout.strip()


def wait_until(said: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end, scheduler.queue()
        time.sleep(0.2)


def ended(*jobs: str) -> dict[str, Task]:
    wait_until(lambda: not any(task.live for task in scheduler.queue(jobs).values()))
    assert set(scheduler.queue(jobs)) == set(jobs)
    return scheduler.queue(jobs)


def test_array_with_a_throttle_is_told_task_by_task(any_cluster):
    array = submit("sleep 30", "--array=0-4%2", "--time=1-02:00:00")
    jobs = [f"{array}_{index}" for index in range(5)]
    wait_until(lambda: sum(task.running for task in scheduler.queue(jobs).values()) == 2)
    told = scheduler.queue(jobs)
    assert list(told) == jobs
    assert [task.state for task in told.values()] == ["RUNNING"] * 2 + ["PENDING"] * 3
    running, waiting = told[jobs[0]], told[jobs[4]]
    assert waiting.reason == "JobArrayTaskLimit"
    assert waiting.started is None
    assert running.node.startswith("127.0.0.")
    assert running.limit == 26 * 3600
    assert abs((running.started or 0) - time.time()) < 60
    assert scheduler.array_limit() == 1001


def test_array_tasks_wait_each_for_its_own(any_cluster):
    first = submit("sleep 1; test $SLURM_ARRAY_TASK_ID != 1", "--array=0-2")
    second = submit("true", "--array=0-2", "--hold")
    third = submit("true", "--array=0-2", "--hold")
    scheduler.depend({f"{second}_{index}": [f"{first}_{index}"] for index in range(3)})
    scheduler.depend({f"{third}_{index}": [f"{second}_{index}", f"{first}_0"] for index in range(3)})
    scheduler.release([second, third])
    for array in (second, third):
        found = ended(*(f"{array}_{index}" for index in range(3)))
        assert [task.state for task in found.values()] == ["COMPLETED", "CANCELLED", "COMPLETED"]
        assert found[f"{array}_1"].reason == "DependencyNeverSatisfied"
        assert f"afterok:{first if array == second else second}_1(failed)" in found[f"{array}_1"].dependency


def test_dependents_wait_through_a_requeue(any_cluster):
    array = submit("sleep 4", "--array=0-1")
    after = submit("true", f"--dependency=afterok:{array}_1")
    wait_until(lambda: scheduler.queue()[f"{array}_1"].running)
    subprocess.run(["scontrol", "requeue", f"{array}_1"], check=True)
    wait_until(lambda: scheduler.queue()[f"{array}_1"].waiting)
    assert scheduler.queue()[after].waiting
    found = ended(f"{array}_1", after)
    assert found[f"{array}_1"].restarts == 1
    assert (found[after].started or 0) >= (found[f"{array}_1"].ended or 1e12)
    assert found[after].state == "COMPLETED"


def test_cancelled_jobs_and_their_dependents(any_cluster):
    stubborn = submit("trap '' TERM; sleep 600 & wait; sleep 600", "--array=0-3%1")
    after = submit("true", f"--dependency=afterok:{stubborn}_0")
    wait_until(lambda: scheduler.queue()[f"{stubborn}_0"].running)
    waits = submit("true", f"--dependency=afterok:{stubborn}_2")
    scheduler.cancel([f"{stubborn}_0", f"{stubborn}_2"])
    found = ended(f"{stubborn}_0", f"{stubborn}_2", after, waits)
    assert {task.state for task in found.values()} == {"CANCELLED"}
    scheduler.cancel([f"{stubborn}_0", "4000000"])  # ended, unknown: nothing to complain of


def test_array_task_without_a_record_of_its_own_is_cancelled_without_a_trace(any_cluster):
    plain, named = submit("true", "--array=0-1", "--hold"), submit("true", "--array=0-1", "--hold")
    scheduler.depend({f"{named}_1": []})
    after = {array: submit("true", f"--dependency=afterok:{array}_1") for array in (plain, named)}
    subprocess.run(["scancel", f"{plain}_1", f"{named}_1"], check=True)
    found = ended(*after.values(), f"{named}_1")
    assert f"{plain}_1" not in scheduler.queue()
    assert found[after[plain]].state == "COMPLETED", "an unknown job counts as satisfied"
    assert found[after[named]].state == found[f"{named}_1"].state == "CANCELLED"


def test_how_jobs_end(cluster):
    jobs = {
        "FAILED": submit("exit 3"),
        "COMPLETED": submit("true"),
        "CANCELLED": submit("sleep 60"),
        "killed": submit("kill -9 $$"),
        "requeued": submit("sleep 3"),
    }
    wait_until(lambda: scheduler.queue()[jobs["requeued"]].running)
    subprocess.run(["scontrol", "requeue", jobs["requeued"]], check=True)
    wait_until(lambda: scheduler.queue()[jobs["CANCELLED"]].running)
    scheduler.cancel([jobs["CANCELLED"]])
    seen = ended(*jobs.values())
    wait_until(lambda: all(not task.live for task in scheduler.history(jobs.values()).values()))
    kept = scheduler.history(jobs.values())
    for found in (seen, kept):
        assert {name: found[id].state for name, id in jobs.items()} == {
            "FAILED": "FAILED", "COMPLETED": "COMPLETED", "CANCELLED": "CANCELLED", "killed": "FAILED",
            "requeued": "COMPLETED",
        }  # fmt: skip
        assert found[jobs["FAILED"]].exit == "3:0"
        assert found[jobs["killed"]].exit == "0:9"
        assert found[jobs["CANCELLED"]].node.startswith("127.0.0.")
    assert kept[jobs["CANCELLED"]].reason == f"by uid {os.getuid()}"
    assert kept[jobs["COMPLETED"]].ended == seen[jobs["COMPLETED"]].ended


def test_times_are_of_one_clock(cluster, monkeypatch):
    """This machine's is a day away: accounting tells all jobs, and whether Slurm has just taken a node from one."""
    whole, failed = ("--exclusive", "--nodes=3"), submit("exit 3")
    ended(failed)
    victim = submit("sleep 60", "--partition=low", "--no-requeue", *whole)
    wait_until(lambda: scheduler.queue()[victim].running)
    submit("true", "--partition=high", *whole)
    wait_until(lambda: scheduler.queue()[victim].state == "PREEMPTED")
    wait_until(lambda: scheduler.history([victim])[victim].state == "PREEMPTED")
    told = []
    for seconds in (60.0, 0.0):
        monkeypatch.setattr(scheduler, "RETURNING_SECONDS", seconds)
        for day in (-86_400, 86_400):
            with shifted(day):
                assert scheduler.history([failed])[failed].state == "FAILED"
                told += [asked([victim])[victim].over for asked in (scheduler.queue, scheduler.history)]
    assert told == [False] * 4 + [True] * 4


def test_a_number_of_an_earlier_cluster_is_no_job_of_this_one(cluster, tmp_path):
    """Only the job whose script lies in the folder of its submission counts, also when it was requeued."""
    folder = tmp_path / "sweeps" / "mine" / "jobs" / "1"
    folder.mkdir(parents=True)
    (folder / "own.sh").write_text("#!/bin/bash\nsleep 60\n")
    own = subprocess.run(
        ["sbatch", "--parsable", "--output=/dev/null", "--mem=10", folder / "own.sh"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    other = submit("sleep 60")
    wait_until(lambda: scheduler.queue()[own].running)
    jobs = [Job("train-1", number, "mine", "sweeps/mine/jobs/1", 0.0) for number in (own, other)]
    assert list(ask(jobs)[0] or {}) == [own]
    subprocess.run(["scontrol", "requeue", own], check=True)
    wait_until(lambda: scheduler.queue()[own].restarts == 1)
    assert list(ask(jobs)[0] or {}) == [own]
    scheduler.cancel([own, other])
    ended(own, other)
    wait_until(lambda: [bool(task.script) for task in scheduler.history([own, other]).values()] == [True, True])
    assert [scheduler.history([id])[id].is_of(jobs[0].folder) for id in (own, other)] == [True, False]


def test_without_accounting_there_is_no_history(plain_cluster):
    job = submit("true")
    ended(job)
    assert scheduler.history([job]) == {}
    assert scheduler.queue([job])[job].state == "COMPLETED"


def test_thousand_jobs_in_one_list(plain_cluster):
    first = submit("true", "--array=0-999", "--hold")
    after = submit("true", "--hold")
    jobs = [f"{first}_{index}" for index in range(1000)]
    scheduler.depend({after: jobs})
    assert scheduler.queue([after])[after].dependency.startswith(f"afterok:{first}_0(unfulfilled),")
    assert len(scheduler.queue(jobs)) == 1000
    scheduler.cancel(jobs)
    assert not any(task.live for task in scheduler.queue(jobs).values())
    scheduler.release([after])
    assert ended(after)[after].state == "CANCELLED"


def test_the_words_of_slurm_are_shown(plain_cluster):
    job = submit("true")
    ended(job)
    with pytest.raises(UserError, match=f"Job has already finished for job {job}"):
        scheduler.depend({job: [job]})
    with pytest.raises(UserError, match="Invalid job id"):
        scheduler.depend({"999999": [job]})
    with pytest.raises(UserError, match="'12; rm' is no job of Slurm"):
        scheduler.cancel(["12; rm"])


def test_cluster_script_leaves_no_process_and_says_what_is_up():
    with started(1, 1, ACCOUNTING="0") as folder:
        again = subprocess.run(["bash", SCRIPT, "up", folder], capture_output=True, text=True)
        assert again.returncode == 0
        assert "is up already" in again.stderr
        job = submit("trap '' TERM; setsid nohup sleep 617 & sleep 617", "--export=ALL")
        wait_until(lambda: scheduler.queue()[job].running)
        os.kill(int((folder / "run/slurmctld.pid").read_text()), 9)  # jobs can no longer be cancelled
        assert (scheduler.unavailable() or "").startswith("sinfo refused: ")  # in words that depend on the moment
    left = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True).stdout.splitlines()
    assert not [line for line in left if str(folder) in line or "sleep 617" in line]
