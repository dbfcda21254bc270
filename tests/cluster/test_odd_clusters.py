"""Sweeps where something is missing or in the way: accounting, room in arrays, a shared folder, space."""

import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from slurm import sweep
from tests.cluster.conftest import started
from tests.cluster.grids import (
    CLUSTER,
    SECONDS,
    daemon,
    drained,
    end_of,
    events,
    grid,
    jobs_by_stage,
    on_slurm,
    shifted,
    stages,
    tokenbridge,
)
from tokenbridge.store.artifacts import Store


def test_without_accounting(plain_cluster, tmp_path):
    """What failed, what was cancelled for it and what is there are told by the queue and by the jobs' own words."""
    broken = ("quantizer.kind=quantile", "quantizer.per=channel")
    tokenbridge(*grid("plain", "quantizer.levels=8,65000", settings=broken), *on_slurm(), cwd=tmp_path)
    following = tokenbridge("logs", "b00008", "--stage", "latents", "-f", cwd=tmp_path)
    assert "Job completed successfully" in following.stdout + following.stderr
    shown = end_of(tmp_path, "plain")
    assert shown.returncode == 1
    assert "levels=65000 must be at most" in shown.stdout
    assert "1 finished" in shown.stdout
    assert sorted(events(tmp_path, id) for id in stages(tmp_path, "plain", "score")) == [[], ["started", "finished"]]
    tokenbridge("cancel", "plain", "--yes", cwd=tmp_path)
    assert "plain" in tokenbridge("sweeps", cwd=tmp_path).stdout


def test_arrays_larger_than_the_cluster_allows_are_split(tmp_path):
    with started(nodes=2, MAX_ARRAY_SIZE="3"):
        tokenbridge("grid", "1a", "--name", "split", *on_slurm(), cwd=tmp_path)
        shown = end_of(tmp_path, "split")
    assert shown.returncode == 0, shown.stdout
    kinds = [id.partition("-")[0] for id in jobs_by_stage(tmp_path)]
    assert kinds.count("quantizer") > 3
    report = tokenbridge("report", "1a", "--name", "split", cwd=tmp_path).stdout
    assert "B=16" in report


def test_a_folder_that_nodes_do_not_share_is_named(tmp_path):
    """The node sees an empty folder where the runs are: its own mount, as a local disk would be."""
    with started(nodes=1) as folder:
        pid = (folder / "run" / "slurmd.127.0.0.1.pid").read_text().strip()
        subprocess.run(["kill", pid], check=True)
        subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], check=True, timeout=30)
        mount = f"mount -t tmpfs none {tmp_path} && exec slurmd -N 127.0.0.1"
        daemon(folder, "unshare", "--mount", "sh", "-c", mount)
        tokenbridge(*grid("apart", "quantizer.levels=8"), *on_slurm(), cwd=tmp_path)
        shown = end_of(tmp_path, "apart")
        assert shown.returncode == 1
        where = f"it wrote nothing into {tmp_path / 'runs'}, which node 127.0.0.1 must share with this one"
        # the screen breaks lines, and a path at its hyphens
        assert where.replace(" ", "") in "".join(shown.stdout.split()), shown.stdout


def test_waiting_tasks_that_are_cancelled_and_code_that_is_gone(plain_cluster, tmp_path):
    """Both while all wait: what needs a cancelled task does not begin, and no job runs other code than its own."""
    with drained():
        tokenbridge(*grid("gone", "sample.temperature=0.9"), *on_slurm(), cwd=tmp_path)
        waiting = {id: found[-1].job for id, found in sweep.jobs_by_stage(Store(tmp_path / "runs")).items()}
        (train,), (score,) = stages(tmp_path, "gone", "train"), stages(tmp_path, "gone", "score")
        subprocess.run(["scancel", waiting[train], waiting[score]], check=True)
        assert "cancelled: train of" in tokenbridge("status", "gone", cwd=tmp_path, code=3).stdout
        shutil.rmtree(tmp_path / "runs" / "sweeps" / "code")
    shown = end_of(tmp_path, "gone")
    assert shown.returncode == 1
    assert "thecodethatthisjobwassubmittedwith,isgone" in "".join(shown.stdout.split())
    assert not list((tmp_path / "runs").glob("stages/*"))
    tokenbridge("retry", "gone", cwd=tmp_path)
    assert end_of(tmp_path, "gone").returncode == 0
    assert {tuple(events(tmp_path, id)) for id in waiting} == {("started", "finished")}


def test_a_time_limit_that_a_stage_never_keeps_ends_it(plain_cluster, tmp_path):
    """With the signal that Slurm sends before the limit. After each of two runs nothing is there to go on from."""
    own = tmp_path / "cluster.toml"
    own.write_text(CLUSTER.read_text() + "\n[likelihood]\ntime = 1\n")
    slow = ("backbone.encoder_depth=6", "train.epochs=1", "train.warmup_epochs=0", "train.batch=256")
    tokenbridge(*grid("vain", "quantizer.levels=8", settings=slow), *on_slurm(own), cwd=tmp_path)
    (stage,) = stages(tmp_path, "vain", "likelihood")
    (job,) = sweep.jobs_by_stage(Store(tmp_path / "runs"))[stage]
    until = time.monotonic() + SECONDS
    for run in (1, 2):
        while events(tmp_path, stage).count("started") < run:
            assert time.monotonic() < until
            time.sleep(0.1)
        subprocess.run(["scancel", "--signal=USR2", job.job], check=True)
    shown = end_of(tmp_path, "vain")
    assert shown.returncode == 1
    assert events(tmp_path, stage) == ["started", "stopped", "started", "failed"]
    line = "time limit reached 2 times in turn with nothing to go on from: likelihood begins anew each time"
    assert line.replace(" ", "") in "".join(shown.stdout.split())


def test_any_clock_of_the_login_node_submits_each_stage_once(cluster, tmp_path):
    """No node takes jobs, so all that is known of them is Slurm's."""
    with drained():
        for number, seconds in enumerate((-70, 70, -600, 600, -86_400, 86_400)):
            words = [*grid("clocks", "quantizer.levels=8", f"sample.temperature=1.{number}"), *on_slurm()]
            with shifted(seconds):
                assert "submitted" in tokenbridge(*words, cwd=tmp_path).stdout, seconds
            with shifted(-seconds * (number // 2)):  # as it was, and further away
                assert "nothing was submitted" in tokenbridge(*words, cwd=tmp_path).stdout, seconds
        assert set(jobs_by_stage(tmp_path).values()) == {1}
        assert "lost" not in tokenbridge("status", "clocks", cwd=tmp_path, code=3).stdout
    tokenbridge("cancel", "clocks", "--yes", cwd=tmp_path)


@contextmanager
def mounted(folder, *options):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [(("-o", "size=400k"), "disk full while writing"), (("-o", "ro"), "cannot be written (Read-only file system)")],
)
def test_a_folder_that_takes_nothing_leaves_no_job(cluster, tmp_path, options, words):
    with mounted(tmp_path / "small", *options) as small:
        words_of = grid("none", "quantizer.levels=8")
        done = tokenbridge(*words_of, *on_slurm(), "--runs", small / "runs", cwd=tmp_path, code=2)
        assert words in done.stderr
        assert done.stderr.strip().count("\n") == 0
        assert not list(small.glob("runs/sweeps/*/sweep.json"))
    queue = subprocess.run(["squeue", "--noheader", "--format=%j"], capture_output=True, text=True, check=True)
    assert "none-" not in queue.stdout
