"""What can happen to a sweep happens to this one; in the end every cell is there and each number is the undisturbed.

One seed here; `make cluster-soak ROUNDS=20` goes on with others.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from experiments.tracking import store as mlflow_store
from slurm import sweep
from tests.cluster.grids import daemon, end_of, events, grid, journal, on_slurm, stages, tokenbridge
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import EXPERIMENT

WORDS = grid("faults", "quantizer.levels=4,8,16", seeds=2, settings=("train.epochs=30",))
TRAININGS = 6
SEEDS = range(int(os.environ.get("SEED", "0")), int(os.environ.get("SEED", "0")) + int(os.environ.get("ROUNDS", "1")))


class Server:
    """MLflow's own, on one port and one database, which goes down and comes back."""

    def __init__(self, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.up()

    def up(self) -> None:
        store, artifacts = f"sqlite:///{self.folder / 'server.db'}", str(self.folder / "artifacts")
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        argv = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.process = subprocess.Popen(
            [*argv, "--artifacts-destination", artifacts, *where],
            env=env,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise AssertionError("MLflow's server does not come up")

    def down(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def slurm(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 or arguments[1] == "ping", done.stderr
    return done.stdout


def running_training(folder: Path, chance: random.Random) -> tuple[str, str, str]:
    """Stage, job and node of a training under way that has taken a step."""
    for _ in range(600):
        queue = dict(line.split() for line in slurm("squeue", "-rh", "-t", "RUNNING", "-o", "%i %N").splitlines())
        jobs = {id: found[-1].job for id, found in sweep.jobs_by_stage(Store(folder / "runs")).items()}
        found = [
            (id, jobs[id], queue[jobs[id]])
            for id in stages(folder, "faults", "train")
            if jobs.get(id) in queue and (folder / "runs" / "stages" / f"{id}.partial" / "metrics.jsonl").exists()
        ]
        if found:
            return chance.choice(found)
        time.sleep(0.3)
    raise AssertionError("no training runs")


def requeue(cluster, folder, chance):
    """By hand, and again at once, while the first run is being killed, and by submitit after its signal."""
    _, job, _ = running_training(folder, chance)
    slurm("scontrol", "requeue", job)
    for _ in range(2):
        subprocess.run(["scontrol", "requeue", job], capture_output=True)  # refused, or taken if it runs again
        time.sleep(chance.uniform(0, 3))
    subprocess.run(["scancel", "--signal=USR2", job], capture_output=True)


def preempt(cluster, folder, chance):
    """As Slurm does with preempt_send_user_signal, and a SIGTERM as well."""
    _, job, _ = running_training(folder, chance)
    for name in ("SIGTERM", "SIGUSR2"):
        slurm("scancel", f"--signal={name}", job)


def time_limit(cluster, folder, chance):
    """The limit comes down on a job under way: USR2 comes at once, the kill would come a minute later."""
    _, job, _ = running_training(folder, chance)
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=1")


def kill_node(cluster, folder, chance):
    """slurmd and all that runs below it; a new slurmd comes half a minute later."""
    _, _, node = running_training(folder, chance)
    for pid in below(cluster, node):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(chance.uniform(1, 5))
    daemon(cluster, "slurmd", "-N", node)


def restart_controller(cluster, folder, chance):
    os.kill(int((cluster / "run" / "slurmctld.pid").read_text()), signal.SIGTERM)
    time.sleep(chance.uniform(1, 8))
    daemon(cluster, "slurmctld")
    while "is UP" not in slurm("scontrol", "ping"):
        time.sleep(0.2)


def below(cluster: Path, node: str) -> list[int]:
    """Processes of a node: slurmd and its slurmstepd keep its log open, what runs in its jobs knows its name."""
    log, name = str(cluster / "log" / f"slurmd.{node}.log"), f"SLURMD_NODENAME={node}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            own = (process / "environ").read_bytes().split(b"\0")
            inside = name in own and f"SLURM_CONF={cluster / 'slurm.conf'}".encode() in own
            if inside or any(str(file.readlink()) == log for file in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    tokenbridge(*WORDS, "--on", "local", "--jobs", "2", cwd=folder)
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_every_cell_is_there_in_the_end(cluster, undisturbed, tmp_path, monkeypatch, seed):
    chance = random.Random(seed)
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    try:
        tokenbridge(*WORDS, *on_slurm(), cwd=tmp_path)
        faults = [requeue, preempt, time_limit, kill_node, restart_controller]
        chance.shuffle(faults)
        away = chance.randrange(len(faults))
        for number, fault in enumerate(faults):
            time.sleep(chance.uniform(0, 6))
            if number == away:
                server.down()
            print(f"{time.strftime('%T')} {fault.__name__}, MLflow {'down' if number == away else 'up'}", flush=True)
            fault(cluster, tmp_path, chance)
            if number == away:
                time.sleep(chance.uniform(5, 20))
                server.up()
        shown = end_of(tmp_path, "faults")
        if shown.returncode:
            print(shown.stdout)
            tokenbridge("retry", "faults", cwd=tmp_path)
            shown = end_of(tmp_path, "faults")
        assert shown.returncode == 0, shown.stdout
        tokenbridge("sync", cwd=tmp_path)
        same_weights(tmp_path, undisturbed)
        each_point_once(tmp_path, server.uri)
    finally:
        server.down()


def same_weights(folder: Path, undisturbed: Path) -> None:
    trained = stages(folder, "faults", "train")
    assert len(trained) == TRAININGS
    assert any("stopped" in events(folder, id) for id in trained)
    for id in trained:
        for name in ("model.safetensors", "model_raw.safetensors"):
            ours, theirs = (where / "runs" / "stages" / id / name for where in (folder, undisturbed))
            assert ours.read_bytes() == theirs.read_bytes(), (id, name, events(folder, id))


def each_point_once(folder: Path, uri: str) -> None:
    """MLflow has every line of every journal, with its value, once."""
    mlflow = mlflow_store.client(uri)
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = mlflow.search_runs([experiment.experiment_id], "tags.kind = 'training'")
    assert len(runs) == TRAININGS
    for run in runs:
        wanted: dict[str, list[tuple[int, float]]] = {}
        for key, value, step in journal(folder, run.data.tags["stage"]):
            wanted.setdefault(f"train/{key}", []).append((step, value))
        assert wanted
        for key, points in wanted.items():
            found = mlflow.get_metric_history(run.info.run_id, key)
            assert sorted((point.step, point.value) for point in found) == sorted(points), (run.info.run_name, key)
        assert run.info.status == "FINISHED"
