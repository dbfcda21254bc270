"""Who waits for a lock, and what it says; file systems without locks."""

import errno
import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tokenbridge.store.artifacts import Store

MAKING = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from tokenbridge.store import artifacts
    artifacts.WAITING_TOLD = 0.3
    with artifacts.Store(Path(sys.argv[1])).writing("x-1", {}) as out:
        if out is not None:
            print("made", flush=True)
            time.sleep(0.2)
            (out / "result").write_text("whole")
""")


def making(root, log):
    with open(log, "w") as file:
        return subprocess.Popen([sys.executable, "-c", MAKING, str(root)], stdout=file)


def lines(log, count):
    """The first lines of what a process says, as soon as it has said so many."""
    while len(said := log.read_text().splitlines()) < count:
        time.sleep(0.01)
    return said[:count]


def test_a_stopped_process_is_named_and_waited_for(tmp_path):
    root, logs = tmp_path / "runs", (tmp_path / "a", tmp_path / "b")
    holding = making(root, logs[0])
    assert lines(logs[0], 1) == ["made"]
    holding.send_signal(signal.SIGSTOP)
    waiting = making(root, logs[1])
    first, *others = lines(logs[1], 3)  # it goes on telling
    assert re.fullmatch(
        rf"waiting for x-1: process {holding.pid} on {platform.node()} has it since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        rf" and is stopped; kill -CONT {holding.pid} lets it go on",
        first,
    )
    assert others == [first] * 2
    assert waiting.poll() is None
    assert not Store(root).finished("x-1")
    holding.send_signal(signal.SIGCONT)
    assert (holding.wait(), waiting.wait()) == (0, 0)
    assert "made" not in logs[1].read_text()
    assert (Store(root).folder("x-1") / "result").read_text() == "whole"


def test_after_a_kill_the_lock_is_free(tmp_path):
    root, log = tmp_path / "runs", tmp_path / "a"
    holding = making(root, log)
    assert lines(log, 1) == ["made"]
    holding.kill()
    holding.wait()
    assert making(root, log).wait() == 0
    assert log.read_text() == "made\n"
    assert Store(root).finished("x-1")


REFUSED = textwrap.dedent("""
    import sys
    from tests.helpers.refusal import refuse
    refuse(int(sys.argv[1]), "flock", "link", "linkat")
    sys.argv[1:] = sys.argv[2:]
    from experiments.cli.main import main
    main()
""")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "error"),
    [(["run", "digits"], errno.ENOLCK), (["run", "digits"], errno.ENOSYS), (["sync"], errno.EOPNOTSUPP)],
)
def test_a_file_system_without_locks_is_one_line(words, error, tmp_path):
    (tmp_path / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(error), *words, "--runs", tmp_path / "runs"], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"tokenbridge: {tmp_path}/runs/locks/")
    assert line.endswith(
        f".lock cannot be locked ({os.strerror(error)}), and locks keep processes apart; choose a folder on another"
        " file system with --runs, or mount this one with locks (Lustre: -o flock)"
    )
    assert not (tmp_path / "runs" / "stages").exists()
