"""Sweeps on a real Slurm: the numbers of a local run, each stage once, failures that harm nobody else."""

import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.cluster.grids import (
    CLUSTER,
    ROOT,
    SETTINGS,
    end_of,
    environment,
    events,
    grid,
    jobs_by_stage,
    journal,
    numbers,
    on_slurm,
    stages,
    tokenbridge,
)
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import read_sweep

AXES = ("quantizer.levels=4,8", "sample.temperature=0.9,1.0")


@pytest.fixture(scope="module")
def eight(cluster, tmp_path_factory):
    """8 cells with 4 trainings: submitted, and run to their end."""
    folder = tmp_path_factory.mktemp("eight")
    done = tokenbridge(*grid("eight", *AXES, seeds=2), *on_slurm(), cwd=folder)
    assert "submitted 28 jobs" in done.stdout  # latents, 2 quantizers, 4 trainings, 4 likelihoods, 8 + 8, the end
    shown = end_of(folder, "eight")
    assert shown.returncode == 0, shown.stdout
    return folder


def test_the_table_is_that_of_a_local_run(eight, tmp_path):
    tokenbridge(*grid("eight", *AXES, seeds=2), "--on", "local", "--jobs", "2", cwd=tmp_path)
    ours, theirs = numbers(eight), numbers(tmp_path)
    assert len(ours) == 8
    assert ours["score/fd_digits"].nunique() == 8
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    plans = [folder / "runs" / "plans" / "eight.json" for folder in (eight, tmp_path)]
    assert plans[0].read_text() == plans[1].read_text()


def test_the_last_job_has_filled_mlflow(eight):
    """All but the rows over seeds, which a command computes: no job has analysis."""
    sent = tokenbridge("sync", cwd=eight).stdout
    assert sent.startswith("sent 4 runs, "), sent
    assert "points" not in sent
    assert "MLflow was up to date" in tokenbridge("sync", cwd=eight).stdout


def test_again_nothing_and_after_one_more_value_only_the_new(eight):
    before = jobs_by_stage(eight)
    assert set(before.values()) == {1}
    again = tokenbridge(*grid("eight", *AXES, seeds=2), *on_slurm(), cwd=eight)
    assert "nothing was submitted" in again.stdout
    assert jobs_by_stage(eight) == before
    more = ("quantizer.levels=4,8", "sample.temperature=0.9,1.0,1.1")
    tokenbridge(*grid("eight", *more, seeds=2), *on_slurm(), cwd=eight)
    new = jobs_by_stage(eight).keys() - before.keys()
    assert sorted(id.partition("-")[0] for id in new) == ["sample"] * 4 + ["score"] * 4
    assert end_of(eight, "eight").returncode == 0


def test_two_people_at_the_same_moment_train_each_shared_cell_once(cluster, tmp_path):
    """Three values of levels in all, one of them in both."""
    axes = {"mine": "quantizer.levels=4,5", "yours": "quantizer.levels=5,6"}
    argv = [sys.executable, "-m", "tokenbridge"]
    both = [
        subprocess.Popen([*argv, *grid(name, axis), *on_slurm()], cwd=tmp_path, env=environment())
        for name, axis in axes.items()
    ]
    assert [each.wait() for each in both] == [0, 0]
    assert [end_of(tmp_path, name).returncode for name in axes] == [0, 0]
    found = jobs_by_stage(tmp_path)
    assert set(found.values()) == {1}
    assert sum(stage.startswith("train-") for stage in found) == 3


def test_a_cell_that_always_fails_is_told_and_harms_no_other(cluster, tmp_path):
    broken = ("quantizer.kind=quantile", "quantizer.per=channel")
    tokenbridge(*grid("broken", "quantizer.levels=8,65000", settings=broken), *on_slurm(), cwd=tmp_path)
    shown = end_of(tmp_path, "broken")
    assert shown.returncode == 1
    assert "levels=65000 must be at most" in shown.stdout
    (failed,) = [id for id in stages(tmp_path, "broken", "quantizer") if "failed" in events(tmp_path, id)]
    log = tokenbridge("logs", failed, cwd=tmp_path).stdout
    assert "Traceback (most recent call last)" in log
    assert "levels=65000 must be at most" in log
    for kind in ("train", "likelihood", "sample", "score"):
        own = stages(tmp_path, "broken", kind)
        assert [events(tmp_path, id) for id in own].count(["started", "finished"]) == 1
        assert [events(tmp_path, id) for id in own].count([]) == 1  # cancelled: it never began
    again = tokenbridge("retry", "broken", cwd=tmp_path)  # the same failure, and it ends again
    assert "submitted" in again.stdout
    assert end_of(tmp_path, "broken").returncode == 1


def test_cancel_and_retry(cluster, tmp_path):
    tokenbridge(*grid("stopped", "quantizer.levels=4,8", settings=("train.epochs=15",)), *on_slurm(), cwd=tmp_path)
    tokenbridge("cancel", "stopped", "--yes", cwd=tmp_path)
    shown = end_of(tmp_path, "stopped")
    assert shown.returncode == 1
    assert "cancelled" in shown.stdout
    tokenbridge("retry", "stopped", cwd=tmp_path)
    assert end_of(tmp_path, "stopped").returncode == 0
    tokenbridge("retry", "stopped", cwd=tmp_path)  # nothing to do


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('partition = "nowhere"', "invalid partition specified: nowhere"),
        ('extra = { licenses = "none@here" }', "Invalid license specification"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(cluster, tmp_path, setting, words):
    own = tmp_path / "cluster.toml"
    key = setting.partition(" ")[0]
    lines = [line for line in CLUSTER.read_text().splitlines() if not line.startswith(f"{key} ")]
    own.write_text("\n".join(lines).replace("[all]", f"[all]\n{setting}", 1))
    done = tokenbridge(*grid("refused", "quantizer.levels=4"), *on_slurm(own), cwd=tmp_path, code=2)
    assert words in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not list(tmp_path.glob("runs/cells/*"))
    assert not list(tmp_path.glob("runs/sweeps/*/sweep.json"))
    assert subprocess.run(["squeue", "--noheader", "--name=refused-latents"], capture_output=True).stdout == b""


def test_two_processes_train_as_one(cluster, tmp_path):
    """The same loss curve within float tolerance, over two tasks of a Slurm job (gloo)."""
    own = tmp_path / "cluster.toml"
    own.write_text(CLUSTER.read_text() + "\n[train]\nprocesses = 2\n")
    words = grid("both", "quantizer.levels=8", settings=("backbone.attention_dropout=0",))
    for folder, cluster_file in (("one", CLUSTER), ("two", own)):
        (tmp_path / folder).mkdir()
        tokenbridge(*words, *on_slurm(cluster_file), cwd=tmp_path / folder)
    assert [end_of(tmp_path / folder, "both").returncode for folder in ("one", "two")] == [0, 0]
    (stage,) = stages(tmp_path / "one", "both", "train")
    one, two = (journal(tmp_path / folder, stage) for folder in ("one", "two"))
    assert [(key, step) for key, _, step in one] == [(key, step) for key, _, step in two]
    assert max(abs(a - b) for (_, a, _), (_, b, _) in zip(one, two, strict=True)) < 1e-4
    assert events(tmp_path / "two", stage) == ["started", "finished"]  # told once


def test_edits_after_the_submission_do_not_change_queued_jobs(cluster, tmp_path):
    """The code that runs is the snapshot, also where the checkout is the folder of the submission."""
    for package in ("tokenbridge", "experiments", "analysis", "slurm"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    words = [sys.executable, "-m", "tokenbridge", *grid("edited", "quantizer.levels=4"), *on_slurm()]
    subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), check=True)
    for path in tmp_path.glob("*/*.py"):
        path.write_text("raise SystemExit('edited')\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "runs").symlink_to(tmp_path / "runs")
    assert end_of(elsewhere, "edited").returncode == 0


def test_a_searched_table_goes_through_both_rounds(cluster, tmp_path):
    words = ["grid", "2a", "--name", "searched", "--seeds", "1", "--search-images", "60"]
    tokenbridge(*words, *SETTINGS, *on_slurm(), cwd=tmp_path)
    shown = end_of(tmp_path, "searched")
    assert shown.returncode == 0, shown.stdout
    assert shown.stderr == ""  # MLflow has all cells, though some only ran ahead of the choice
    assert (tmp_path / "runs" / "plans" / "searched.json").exists()
    report = tokenbridge("report", "2a", "--name", "searched", cwd=tmp_path).stdout
    assert "autoregressive" in report

    # one point of the search is missing, the second round lacks nothing: the job between them writes the plan
    known = read_sweep(Store(tmp_path / "runs"), "searched")
    score = next(cell.stages["score"] for cell in known.cells.values() if cell.name.startswith("search-"))
    plan = tmp_path / "runs" / "plans" / "searched.json"
    before = plan.read_text()
    plan.unlink()
    shutil.rmtree(tmp_path / "runs" / "stages" / score)
    tokenbridge(*words, *SETTINGS, *on_slurm(), cwd=tmp_path)
    assert end_of(tmp_path, "searched").returncode == 0
    assert plan.read_text() == before
    assert read_sweep(Store(tmp_path / "runs"), "searched").done
    states = subprocess.run(["squeue", "--noheader", "--states=all", "--name=searched-next", "--format=%T"],
        capture_output=True, text=True, check=True)  # fmt: skip
    assert "CANCELLED" not in states.stdout  # none has cancelled itself
