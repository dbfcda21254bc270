"""A server ends with the command that serves it, whatever ends that; real processes, and MLflow's own server."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.machine import ROOT
from tests.helpers.server import answers, free_port

GROUP = """
import os, signal, subprocess, sys, time
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    subprocess.Popen([sys.executable, __file__, "deaf"])
print(os.getpid(), flush=True)
time.sleep(600)
"""
ENDS = {signal.SIGTERM: 143, signal.SIGINT: 0, signal.SIGHUP: 129, signal.SIGKILL: -9}


def gone(ids: list[int], seconds: float) -> bool:
    late = time.monotonic() + seconds
    while left := [id for id in ids if Path(f"/proc/{id}").exists()]:
        if time.monotonic() > late:
            print(left)
            return False
        time.sleep(0.1)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_whole_group_ends_with_its_command(tmp_path, number):
    """One of the two takes no SIGTERM."""
    (tmp_path / "group.py").write_text(GROUP)
    words = (
        "import os, sys; from experiments.tracking import guard; guard.END_SECONDS = 1;"
        f"raise SystemExit(guard.run([sys.executable, {str(tmp_path / 'group.py')!r}], os.environ))"
    )
    command = subprocess.Popen([sys.executable, "-c", words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    with command.stdout as said:
        ids = [int(said.readline()) for _ in range(2)]
        command.send_signal(number)
        assert command.wait(60) == ENDS[number]
        assert gone(ids, 30)


def test_the_status_of_a_server_that_ends_itself_is_told():
    words = "import os; from experiments.tracking import guard; raise SystemExit(guard.run(['false'], os.environ))"
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT, timeout=60).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_mlflows_server_ends_with_tokenbridge_ui(tmp_path, template, number):
    runs, port = shutil.copytree(template, tmp_path / "runs"), free_port()
    words = ["ui", "--runs", str(runs), "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = subprocess.Popen([sys.executable, "-m", "tokenbridge", *words], env=environment)
    late = time.monotonic() + 300
    while not answers(f"http://127.0.0.1:{port}"):
        assert command.poll() is None
        assert time.monotonic() < late
        time.sleep(0.5)
    marked = f"sqlite:///{runs}/mlflow.db"
    ids = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if marked in path.read_text() and int(path.parent.name) != os.getpid()
    ]
    assert len(ids) >= 2
    listening = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True).stdout.split()
    assert f"127.0.0.1:{port}" in listening or not shutil.which("ss")
    command.send_signal(number)
    assert command.wait(60) == ENDS[number]
    assert gone(ids, 60)
    assert not answers(f"http://127.0.0.1:{port}")
