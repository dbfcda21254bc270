from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from experiments import doctor
from tokenbridge.config import Runtime
from tokenbridge.store.artifacts import Store


def test_this_machine_has_what_is_needed_and_each_line_says_so(tmp_path):
    found = doctor.checks(Store(tmp_path / "runs"), Runtime())
    names = [
        "python",
        "torch",
        "device",
        "torchvision",
        "weights",
        "runs folder",
        "free disk",
        "MLflow",
        "Slurm",
        "git",
    ]
    assert list(dict.fromkeys(check.name for check in found)) == names
    for check in found:
        assert check.ok is not False, check
        assert check.detail
        assert "\n" not in str(check)
        assert (check.ok is True) == str(check).startswith("ok")
    assert doctor.exit_status(found) == 0
    assert not (tmp_path / "runs").exists()  # looking leaves nothing


def test_only_what_is_needed_fails():
    there, optional, needed = (doctor.Check("x", ok, "y", "do z") for ok in (True, None, False))
    assert doctor.exit_status([there, optional]) == 0
    assert doctor.exit_status([there, needed, optional]) == 1
    assert [str(check).endswith("; do z") for check in (there, optional, needed)] == [False, True, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_device_that_is_not_there(tmp_path):
    found = doctor.checks(Store(tmp_path / "runs"), Runtime(device="cuda"))
    assert [check.detail for check in found if check.ok is False] == [
        "device=cuda is not there (torch sees no GPU); use device=cpu or auto"
    ]


def test_weights_are_compared_with_their_hash(tmp_path):
    assert [check.ok for check in doctor.weights(tmp_path)] == [False]
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    about = tmp_path / "a.json"
    assert "unreadable" in doctor.weights(tmp_path)[0].detail
    about.write_text(json.dumps({"sha256": hashlib.sha256(b"weights").hexdigest()}))
    assert [(check.ok, check.detail.endswith("as shipped")) for check in doctor.weights(tmp_path)] == [(True, True)]
    (tmp_path / "a.safetensors").write_bytes(b"weightz")
    damaged = doctor.weights(tmp_path)[0]
    assert (damaged.ok, damaged.remedy) == (False, "the file is damaged: reinstall tokenbridge")
    about.write_text("{}")
    assert "nothing to compare with" in doctor.weights(tmp_path)[0].detail


def test_a_runs_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    check = doctor.runs_folder(tmp_path / "file" / "runs")
    assert (check.ok, check.remedy) == (False, "choose another folder with --runs")
    assert doctor.runs_folder(tmp_path / "new" / "runs").detail.endswith("can be written, made at the first run")


def test_the_mlflow_file(tmp_path):
    store = Store(tmp_path)
    assert doctor.mlflow(store).detail.endswith("made at the first run")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE runs (lifecycle_stage TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [("active",), ("active",), ("deleted",)])
        connection.commit()
    assert doctor.mlflow(store).detail.endswith("2 runs")
    (tmp_path / "mlflow.db").write_text("no database at all" * 100)
    check = doctor.mlflow(store)
    assert check.ok is False
    assert "delete mlflow.db and run `tokenbridge sync`" in check.remedy


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("status", "ok"), [(200, True), (401, True), (500, False), (None, False)])
def test_the_mlflow_server(tmp_path, monkeypatch, status, ok):
    server = HTTPServer(("127.0.0.1", 0), type("Now", (Answer,), {"status": status}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.handle_request)
    if status is None:
        server.server_close()
    else:
        thread.start()
    check = doctor.mlflow(Store(tmp_path))
    if status is not None:
        thread.join()
        server.server_close()
    assert check.ok is ok, check
    assert "secret" not in str(check)
    assert re.search(r"answers|does not answer", check.detail)


def write_program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_slurm_is_optional_and_asked_whether_it_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.slurm().ok is None
    assert doctor.slurm().detail == "sbatch and sinfo not on the PATH"
    write_program(tmp_path, "sbatch", "exit 0")
    write_program(tmp_path, "sinfo", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    assert (doctor.slurm().ok, "Unable to contact" in doctor.slurm().detail) == (None, True)
    write_program(tmp_path, "sinfo", "echo 'debug* up 4'; echo 'gpu up 2'")  # as sinfo prints "%P %a %D"
    there = "partitions: debug* (4 nodes, up), gpu (2 nodes, up)"
    write_program(tmp_path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert (doctor.slurm().ok, doctor.slurm().detail.startswith(f"{there}; no accounting: ")) == (True, True)
    write_program(tmp_path, "sacct", "exit 0")
    assert doctor.slurm() == doctor.Check("Slurm", True, there)


@pytest.mark.skipif(shutil.which("sinfo") is None and not os.environ.get("CI"), reason="no Slurm here")
def test_a_real_slurm_is_read():
    assert doctor.slurm().detail.startswith(("partitions: ", "sinfo failed"))
