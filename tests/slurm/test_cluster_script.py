"""What slurm/cluster.sh refuses before it starts anything."""

import subprocess
import sys
from pathlib import Path

import pytest

import slurm
from slurm import resources

SCRIPT = Path(slurm.__file__).parent / "cluster.sh"


@pytest.mark.parametrize("name", ["a b", "a#b", "a%n", "a,b", 'a"b', "a'b", "a\\b", "a[1]", "a=b", "a\nb", "a*", "a?"])
def test_a_folder_that_slurms_files_cannot_hold_is_one_line(tmp_path, name):
    done = subprocess.run(["bash", SCRIPT, "up", tmp_path / name], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        "must hold no white space and none of # % , = \" ' \\ * ? [ ], which Slurm's files cannot hold" in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / name).exists()


def test_help_is_told_without_a_folder():
    done = subprocess.run(["bash", SCRIPT, "up"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cluster.sh up DIR [NODES] [CPUS]" in done.stderr


def test_the_example_is_a_cluster_file(call, tmp_path):
    done = call("cluster", "example", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "cluster.toml").write_text(done.stdout)
    assert resources.read("cluster.toml").of("train").devices == 8


def test_the_command_starts_the_script(tmp_path):
    words = [sys.executable, "-m", "tokenbridge", "cluster", "down", tmp_path / "none"]
    done = subprocess.run(words, capture_output=True, text=True)
    of_script = subprocess.run(["bash", SCRIPT, "down", tmp_path / "none"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (of_script.returncode, of_script.stderr)
