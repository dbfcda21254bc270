"""A server that answers late, never, or with something else: a command waits a bounded time and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from experiments.tracking import live
from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers.runs import NOTHING, curve, runs_of
from tests.helpers.server import free_port, serving
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store

SLOW = "answers too slowly, .* nothing is lost: `tokenbridge sync`, which waits longer, sends the rest"


@pytest.fixture
def store(tmp_path, template) -> Store:
    return Store(shutil.copytree(template, tmp_path / "runs"))


@contextmanager
def delayed(target: int, seconds: float) -> Iterator[int]:
    """A port that passes everything on to another one, that much later for each piece of a request."""
    listening = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, wait: float) -> None:
        with source, suppress(OSError):  # the other direction closes the sink
            while data := source.recv(65536):
                time.sleep(wait)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", target))
                for pair in ((client, server, seconds), (server, client, 0)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


@contextmanager
def saying(answer: bytes | None) -> Iterator[int]:
    """A port that takes every request, and says this or nothing."""
    listening, kept = socket.create_server(("127.0.0.1", 0)), []

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                kept.append(client)
                if answer is not None:
                    client.recv(65536)
                    client.sendall(answer)
                    client.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        for each in (listening, *kept):
            each.close()


def http(status: str, kind: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


ANSWERS = {
    "nothing": None,
    "500": http("500 Internal Server Error", "text/html", "<html>oops</html>"),
    "a page": http("200 OK", "text/html", "<html>Please log in</html>"),
    "403": http("403 Forbidden", "text/plain", "no"),
    "other JSON": http("200 OK", "application/json", "[]"),
    "no HTTP": b"220 smtp ready\r\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))
def test_what_is_no_mlflow_is_left_in_one_line(store, monkeypatch, answer):
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    with saying(answer) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        with pytest.raises(UserError, match="nothing is lost") as error:
            tracking.sync(store, patience=1)
        assert time.monotonic() - started < 20
        assert "\n" not in str(error.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.sync(store)["runs"] == 5


@pytest.mark.slow
def test_a_slow_server_is_left_and_gets_the_rest_later(store, monkeypatch, tmp_path):
    """One second for each call; then the server is stopped in the middle, and goes on."""
    server = small_runs.with_database(Store(tmp_path / "server"), store.root / "mlflow.db")
    argv, _ = tracking.ui_command(server, free_port())
    port = int(argv[argv.index("--port") + 1])
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    with serving(argv, f"http://127.0.0.1:{port}"):
        with delayed(port, 1.0) as late:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"http://127.0.0.1:{late}")
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises(UserError, match=SLOW):
                    tracking.sync(store, patience=3)
                assert time.monotonic() - started < 3 + 5 + 5
            monkeypatch.setattr(mlflow_store, "PATIENCE", 1.0)
            with pytest.raises(UserError, match=SLOW):
                tracking.ui_command(store)
        with delayed(port, 0) as quick:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{quick}")
            assert address != f"http://127.0.0.1:{quick}"
            tracking.sync(store)
            assert tracking.sync(store) == NOTHING
            assert curve(store) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
            assert (len(runs_of(store, "cell")), runs_of(store, "superseded")) == (4, {})
            small_runs.add_reconstruction(store, 16)
            pid = int(subprocess.run(["fuser", f"{port}/tcp"], capture_output=True, text=True).stdout.split()[0])
            os.kill(pid, signal.SIGSTOP)
            try:
                with pytest.raises(UserError, match=SLOW):
                    tracking.sync(store, patience=2)
            finally:
                os.kill(pid, signal.SIGCONT)
            assert tracking.sync(store)["runs"] <= 1
            assert len(runs_of(store, "cell")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("answer", [None, ANSWERS["500"]], ids=["nothing", "500"])
def test_a_job_waits_for_its_sender_a_bounded_time(store, monkeypatch, answer):
    """As long as it has for its last try and not more, however long the server says nothing."""
    with saying(answer) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with live.beside(store, [small_runs.id_of("train", 8)], every=0.1, patience=2):
            time.sleep(2)
            ended = time.monotonic()
        assert time.monotonic() - ended < 2 + 2


def test_another_sender_is_not_awaited_for_ever(store):
    words = "import sys; from pathlib import Path; from tokenbridge.store.artifacts import Store\n"
    words += f"with Store(Path({str(store.root)!r})).lock('mlflow'): print('mine', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "mine\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(UserError, match="another process has been sending to MLflow for 1 s; nothing is lost"):
            tracking.sync(store, patience=1)
    finally:
        holder.send_signal(signal.SIGCONT)
        holder.communicate()
    assert tracking.sync(store)["runs"] == 5


@pytest.mark.slow
def test_a_schema_that_nobody_knows_is_one_line(store):
    """In a process of its own: MLflow keeps what it has opened."""
    with closing(sqlite3.connect(store.root / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    done = subprocess.run(
        [sys.executable, "-m", "tokenbridge", "sync", "--runs", str(store.root)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "(Detected out-of-date database schema (found version ffffffffffff, but expected " in done.stderr
    assert f"delete {store.root}/mlflow.db and run `tokenbridge sync`" in done.stderr
    assert done.stderr.count("\n") == 1
