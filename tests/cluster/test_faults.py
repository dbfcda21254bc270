"""What can happen to a sweep happens to this one; in the end every cell is there and each byte is the undisturbed.

What does not go on by itself is mended by what `status` and the commands themselves name, and by nothing else; only
drained nodes are resumed, as an administrator does. One seed here; `make cluster-soak ROUNDS=20` goes on with others,
and with several stages a job where PACK says how many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import pytest

from experiments.tracking import store as mlflow_store
from slurm import sweep
from tests.cluster.grids import (
    daemon,
    end_of,
    environment,
    grid,
    journal,
    on_slurm,
    packing,
    resume,
    stages,
    tokenbridge,
)
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import EXPERIMENT

WORDS = grid("faults", "quantizer.levels=4,8", seeds=2, settings=("train.epochs=30",))
PACK = int(os.environ.get("PACK", "1"))
WHERE = on_slurm(packing(Path(tempfile.mkdtemp()), PACK)) if PACK > 1 else on_slurm()
TRAININGS = 4
RETRIES = 6
FAULTS_A_ROUND = 5
DIFFERING = ("manifest.json", "metrics.jsonl", "progress.json")
"""files that tell times"""
TRIED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()
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


class OverError(Exception):
    """Nothing is left to be disturbed."""


def order(*arguments: str) -> None:
    """What Slurm may refuse, where the job has ended or begun meanwhile."""
    if subprocess.run(arguments, capture_output=True, timeout=60).returncode:
        raise OverError


def running_training(folder: Path, chance: random.Random) -> tuple[str, str, str]:
    """Stage, job and node of a training under way that has taken a step; mends what keeps them from running."""
    asked = time.monotonic()
    while True:
        queue = dict(line.split() for line in slurm("squeue", "-rh", "-t", "RUNNING", "-o", "%i %N").splitlines())
        jobs = {id: found[-1].job for id, found in sweep.jobs_by_stage(Store(folder / "runs")).items()}
        trainings = stages(folder, "faults", "train")
        found = [
            (id, jobs[id], queue[jobs[id]])
            for id in trainings
            if jobs.get(id) in queue and (folder / "runs" / "stages" / f"{id}.partial" / "metrics.jsonl").exists()
        ]
        if found:
            return chance.choice(found)
        if all((folder / "runs" / "stages" / id).exists() for id in trainings):
            raise OverError
        if time.monotonic() - asked > 20:
            if tokenbridge("status", "faults", "--json", cwd=folder, code=None).returncode == 1:
                retried(folder)
            asked = time.monotonic()
        time.sleep(0.3)


def requeue(cluster, folder, chance):
    order("scontrol", "requeue", running_training(folder, chance)[1])


def preempt(cluster, folder, chance):
    """As Slurm does with preempt_send_user_signal: both signals, and after a grace time the end and a new start."""
    _, job, _ = running_training(folder, chance)
    started = slurm("squeue", "-h", "-j", job, "-o", "%T %S")
    for name in ("SIGTERM", "SIGUSR2"):
        order("scancel", f"--signal={name}", job)
    time.sleep(10)
    if slurm("squeue", "-h", "-j", job, "-o", "%T %S") == started:
        order("scontrol", "requeue", job)


def time_limit(cluster, folder, chance):
    """The limit comes down on a job under way: USR2 comes at once, the kill would come a minute later."""
    _, job, _ = running_training(folder, chance)
    order("scontrol", "update", f"JobId={job}", "TimeLimit=1")


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
    controller_up(cluster)


def kill_controller(cluster, folder, chance):
    """It loses what it has not saved: jobs, releases, requeues."""
    os.kill(int((cluster / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
    time.sleep(chance.uniform(1, 8))
    controller_up(cluster)


def controller_up(cluster: Path) -> None:
    daemon(cluster, "slurmctld")
    while "is UP" not in slurm("scontrol", "ping"):
        time.sleep(0.2)


def requeue_again(cluster, folder, chance):
    """By hand, and again at once, while the first run is being killed, and by submitit after its signal."""
    _, job, _ = running_training(folder, chance)
    order("scontrol", "requeue", job)
    for _ in range(2):
        with suppress(OverError):  # refused where it waits
            order("scontrol", "requeue", job)
        time.sleep(chance.uniform(0, 3))
    with suppress(OverError):
        order("scancel", "--signal=USR2", job)


def cancel_waiting(cluster, folder, chance):
    order("scancel", waiting_task(chance))


def hold_waiting(cluster, folder, chance):
    order("scontrol", "uhold", waiting_task(chance))


def waiting_task(chance: random.Random) -> str:
    queue = slurm("squeue", "--array", "-h", "-t", "PENDING", "-o", "%i").split()
    if tasks := [job for job in queue if "_" in job]:
        return chance.choice(tasks)
    raise OverError


def stop_training(cluster, folder, chance):
    """All of its processes stand still for a while, with whatever locks they have."""
    _, job, _ = running_training(folder, chance)
    order("scancel", "--signal=STOP", "--full", job)
    time.sleep(chance.uniform(3, 12))
    order("scancel", "--signal=CONT", "--full", job)


def fail_launches(cluster, folder, chance):
    """A file is in the place of the folder that slurmd makes for a job: Slurm holds what it cannot start."""
    _, job, _ = running_training(folder, chance)
    number = slurm("squeue", "-h", "-j", job, "-o", "%A").strip()
    places = [node / f"job{int(number):05d}" for node in (cluster / "spool").iterdir()]
    order("scontrol", "requeue", job)
    time.sleep(1)
    for _ in range(100):
        if not any(place.exists() for place in places):
            break
        time.sleep(0.1)
    for place in places:
        place.touch()
    time.sleep(chance.uniform(8, 12))
    for place in places:
        place.unlink()


def submitted(cluster, folder, chance):
    """Nothing happens."""
    tokenbridge(*WORDS, *WHERE, cwd=folder)


def submitter_killed(cluster, folder, chance):
    with submitting(folder) as submitter:
        time.sleep(chance.uniform(0, 1))
        submitter.kill()


def controller_killed_at_submission(cluster, folder, chance):
    with submitting(folder):
        time.sleep(chance.uniform(0, 1))
        kill_controller(cluster, folder, chance)


def release_refused(cluster, folder, chance):
    """slurmctld stops when all jobs are written down, and is back when some releases were refused."""
    with submitting(folder) as submitter:
        while not (folder / "runs" / "sweeps" / "jobs.jsonl").exists() and submitter.poll() is None:
            time.sleep(0.001)
        os.kill(int((cluster / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
        time.sleep(chance.uniform(2, 14))
        controller_up(cluster)


SUBMISSIONS = (submitted, submitter_killed, controller_killed_at_submission, release_refused)
FAULTS = (
    requeue, time_limit, kill_node, restart_controller, kill_controller, requeue_again, cancel_waiting, hold_waiting,
    stop_training, fail_launches,
)  # fmt: skip


@contextmanager
def submitting(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A submission that has written down what it is about to do; at the end of the block it is waited for."""
    argv = [sys.executable, "-m", "tokenbridge", *WORDS, *WHERE]
    null = subprocess.DEVNULL
    with subprocess.Popen(argv, cwd=folder, env=environment(), stdout=null, stderr=null) as submitter:
        while not sweep.unsettled(Store(folder / "runs")) and submitter.poll() is None:
            time.sleep(0.01)
        yield submitter


@contextmanager
def administrator() -> Iterator[None]:
    """Resumes nodes that slurmctld has drained, as a restart after a kill does."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(3):
            with suppress(TimeoutError):  # a node that is away; the next try finds it
                resume(seconds=3)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
def undisturbed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    tokenbridge(*WORDS, "--on", "local", "--jobs", "2", cwd=folder)
    yield folder
    counts = ", ".join(f"{name} {SURVIVED[name]}/{number}" for name, number in sorted(TRIED.items()))
    plugin = request.config.pluginmanager.get_plugin
    with plugin("capturemanager").global_and_fixture_disabled():  # else a soak that passed does not say it
        plugin("terminalreporter").write_line(f"\nfaults survived of tried: {counts}")


@pytest.mark.parametrize("seed", SEEDS)
def test_every_cell_is_there_in_the_end(cluster, undisturbed, tmp_path, monkeypatch, seed):
    chance = random.Random(seed)
    begun = time.monotonic()
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    submission, faults = SUBMISSIONS[seed % len(SUBMISSIONS)], [preempt, *chance.sample(FAULTS, FAULTS_A_ROUND - 1)]
    chance.shuffle(faults)
    tried = [submission.__name__]
    try:
        with administrator():
            tell(submission.__name__)
            submission(cluster, tmp_path, chance)
            again = tokenbridge(*WORDS, *WHERE, cwd=tmp_path)  # the same command, whatever has become of the first
            tell(f"the same command: {again.stdout.splitlines()[-1]}")
            tried += disturb(cluster, tmp_path, chance, server, faults)
            mended(tmp_path)
        tokenbridge("sync", cwd=tmp_path)
        same_bytes(tmp_path, undisturbed)
        each_point_once(tmp_path, server.uri)
        SURVIVED.update(tried)
    finally:
        server.down()
        TRIED.update(tried)
        tell(f"seed {seed}: {time.monotonic() - begun:.0f} s")


def tell(text: str) -> None:
    print(f"{time.strftime('%T')} {text}", flush=True)


def disturb(cluster: Path, folder: Path, chance: random.Random, server: Server, faults) -> list[str]:
    """Lets the faults happen, MLflow being away during one of them; names of those that found a training to disturb."""
    away, tried = chance.randrange(len(faults)), []
    for number, fault in enumerate(faults):
        time.sleep(chance.uniform(0, 6))
        if number == away:
            server.down()
        tell(f"{fault.__name__}, MLflow {'down' if number == away else 'up'}")
        with suppress(OverError):
            fault(cluster, folder, chance)
            tried.append(fault.__name__)
        if number == away:
            time.sleep(chance.uniform(5, 20))
            server.up()
    return tried


def mended(folder: Path) -> None:
    """Waits for the end, and does what `status` says, until all is there."""
    for _ in range(RETRIES):
        shown = end_of(folder, "faults")
        if shown.returncode == 0:
            return
        print(shown.stdout)
        assert "tokenbridge retry faults" in shown.stdout
        retried(folder)
    raise AssertionError(f"still broken after {RETRIES} retries:\n{shown.stdout}")


def retried(folder: Path) -> None:
    tell(tokenbridge("retry", "faults", cwd=folder).stdout.replace("\n", "; "))


def same_bytes(folder: Path, undisturbed: Path) -> None:
    """Every file of every stage, but those that tell times."""
    ours, theirs = (files_of(where / "runs" / "stages") for where in (folder, undisturbed))
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []
    assert len(stages(folder, "faults", "train")) == TRAININGS


def files_of(folder: Path) -> dict[str, object]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in DIFFERING]
    return {str(path.relative_to(folder)): content(path) for path in files}


def content(path: Path) -> object:
    """What a file holds; safetensors writes the keys of what a file is about in an order of chance."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return sha256(data).hexdigest()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), sha256(data[end:]).hexdigest()


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
