"""What is refused or asked before anything goes to Slurm: one line, exit code 2, nothing written."""

import pytest

from tests.conftest import TINY

MANY = "quantizer.levels=" + ",".join(map(str, range(2, 135)))
FEW = ["--axis", "quantizer.levels=4,8"]


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([*FEW], "cluster.toml must be in the working directory"),
        ([*FEW, "--cluster", "nebula"], "nebula is neither a file with resources nor one of example, local-slurm"),
        ([*FEW, "--cluster", "local-slurm"], "not found on PATH: this machine has no Slurm client"),
        ([*FEW, "--cluster", "local-slurm", "--name", "a/b"], "--name=a/b must be letters, digits"),
        ([*FEW, "--cluster", "local-slurm", "--name", "code"], "--name=code must be letters, digits"),
        (["5", "--cluster", "local-slurm"], "table 5 compares times on one machine and is not for a cluster"),
        (
            ["--axis", MANY, "--cluster", "local-slurm"],
            "666 jobs, about 1 device-hours are more than 500 jobs or 100 hours, which asks first; give --yes",
        ),
        (["--axis", "head.group=3", "--cluster", "local-slurm"], "head.group=3 must divide 8"),
    ],
)
def test_refused(call, tmp_path, arguments, part):
    settings = [word for setting in TINY for word in ("--set", setting)]
    done = call("grid", *arguments, *settings, "--on", "slurm", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert part in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not list(tmp_path.glob("runs/cells/*"))
    assert not list(tmp_path.glob("runs/sweeps/*"))


def test_a_dry_run_counts_jobs_and_needs_no_slurm(call, tmp_path):
    (tmp_path / "cluster.toml").write_text('[train]\ngpus = 2\ntime = "1-00:00:00"\n')
    done = call("grid", *FEW, "--dry-run", "--on", "slurm", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "2 GPUs" in line]
    assert line.split()[:3] == ["train", "2", "jobs,"]
    assert "1440 min at most" in line
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.toml"]


def test_a_dry_run_counts_packed_jobs(call, tmp_path):
    (tmp_path / "cluster.toml").write_text("[all]\npack = 8\n[train]\npack = 1\n")
    lines = call("grid", *FEW, "--dry-run", "--on", "slurm", cwd=tmp_path).stdout.splitlines()
    assert lines[-1].startswith("6 jobs of 11 stages, about ")
    assert [" ".join(line.partition(",")[0].split()) for line in lines[-6:-1]] == [
        "latents 1 jobs", "quantizer 1 jobs of 2 quantizer stages", "train 2 jobs",
        "likelihood 1 jobs of 2 likelihood stages", "sample 1 jobs of 2 sample and 2 score stages",
    ]  # fmt: skip
