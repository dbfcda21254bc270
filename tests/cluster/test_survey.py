"""The cluster file of a real Slurm: its jobs are taken."""

import subprocess

from slurm import resources


def test_the_written_file_s_jobs_are_taken(cluster, call, tmp_path):
    done = call("cluster", "init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "main (default): 3 nodes of 2 CPUs, 4000 MB, 2 GPUs; no time limit" in done.stdout.splitlines()
    found = resources.read(tmp_path / "cluster.toml")
    for kind in ("all", "train", "next"):
        asked = found.of(kind)
        words = [f"--partition={asked.partition}", f"--mem={asked.memory}", f"--time={asked.minutes}"]
        words += [f"--cpus-per-task={asked.cpus}", f"--gpus-per-node={asked.gpus}"] if asked.gpus else []
        taken = subprocess.run(["sbatch", "--test-only", *words, "--wrap=true"], capture_output=True, text=True)
        assert taken.returncode == 0, taken.stderr
