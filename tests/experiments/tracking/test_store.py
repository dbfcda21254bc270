from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import pytest

from experiments.tracking import store as mlflow_store
from experiments.tracking import sync as tracking
from tests.helpers import runs as small_runs
from tests.helpers import senders
from tests.helpers.processes import CONTEXT
from tests.helpers.runs import NOTHING, curve, runs_of
from tests.helpers.server import free_port, serving
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, digest

MAIN = ("score/fd_pixels", "reconstruct/psnr", "quantizer/mse")
"""of the paper's tables, with features of another network; not what the stages count beside them"""


@pytest.fixture
def store(tmp_path, template) -> Store:
    return Store(shutil.copytree(template, tmp_path / "runs"))


def test_the_uri_is_the_users_or_a_file_in_the_store(tmp_path, monkeypatch):
    assert tracking.tracking_uri(Store(tmp_path / "a b")) == f"sqlite:///{tmp_path}/a b/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert tracking.tracking_uri(Store(tmp_path)) == "http://somewhere:5000"


def test_an_outage_is_one_line_and_loses_nothing(store, monkeypatch):
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        start = time.monotonic()
        with pytest.raises(
            UserError, match=r"MLflow at http://127.0.0.1:\d+ takes no data .*`tokenbridge sync`"
        ) as caught:
            tracking.sync(store)
    assert time.monotonic() - start < 20
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "refused" in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.sync(store)["runs"] == 5


def test_a_file_store_and_a_damaged_file_are_refused_in_one_line(store, monkeypatch, tmp_path):
    (store.root / "mlflow.db").write_bytes(b"this is no database, it is a sentence" * 100)
    with pytest.raises(UserError, match=r"MLflow at sqlite:.*file is not a database"):
        tracking.sync(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    with pytest.raises(UserError, match="mlruns takes no data"):
        tracking.sync(store)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["emptied", "cut", "a folder", "another database"])
def test_a_damaged_file_is_made_again_when_it_is_deleted(store, damage):
    """The remedy is followed: all that the stages left is sent anew, once."""
    sent = tracking.sync(store)
    small_runs.add_reconstruction(store, 16)
    path = store.root / "mlflow.db"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "another database":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE x (a)")
    else:
        path.write_bytes(content[: len(content) // 3] if damage == "cut" else b"")
    for _ in range(2):
        with pytest.raises(UserError, match=r"nothing is lost: delete .*mlflow\.db and run `tokenbridge sync`, which"):
            tracking.sync(store)
    path.rmdir() if damage == "a folder" else path.unlink()
    assert f"sent {sent['runs'] + 1} runs" in synced(store)
    assert synced(store) == "MLflow was up to date\n"


def synced(store: Store) -> str:
    """What `tokenbridge sync` says in a process of its own: MLflow keeps a deleted file open."""
    command = [sys.executable, "-m", "experiments.cli", "sync", "--runs", str(store.root)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_a_copied_runs_folder_does_not_write_into_the_old_one(store, tmp_path):
    tracking.sync(store)
    shutil.copytree(store.root, tmp_path / "copy")
    small_runs.add_reconstruction(Store(tmp_path / "copy"), 16)
    with pytest.raises(UserError, match=r"copy/mlflow.db keeps its artifacts in .*runs/mlflow-artifacts.*delete that"):
        tracking.sync(Store(tmp_path / "copy"))
    (tmp_path / "copy" / "mlflow.db").unlink()
    assert "sent 6 runs" in synced(Store(tmp_path / "copy"))
    assert synced(Store(tmp_path / "copy")) == "MLflow was up to date\n"


@pytest.mark.parametrize(
    "content", ["[]", "null", "7", '{"a": []}', '{"a": {"records": []}}', '{"a": {"runs": 3}}', ""]
)
def test_a_damaged_memory_is_no_memory(store, content):
    tracking.sync(store)
    key = digest(tracking.tracking_uri(store))
    (store.root / "tracking.json").write_text(content.replace('"a"', f'"{key}"'))
    assert tracking.sync(store) | {"artifacts": 0} == NOTHING  # MLflow is asked, which holds all numbers
    assert tracking.sync(store) == NOTHING
    assert key in json.loads((store.root / "tracking.json").read_text())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    for use in (tracking.sync, tracking.ensure_store):
        with pytest.raises(UserError, match=r"runs.* cannot be written .*--runs"):
            use(Store(tmp_path / "runs"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 8])
def test_processes_at_once_on_an_empty_store(tmp_path, number):
    """Each makes the store and sends everything; MLflow alone leaves a broken file behind in this case."""
    store = small_runs.make_runs(tmp_path / "runs", levels=(4, 8))
    (store.root / "mlflow.db.partial").write_bytes(b"left by a kill in the middle of making it")
    ready, log = CONTEXT.Barrier(number), tmp_path / "log"
    started = [senders.start(log, senders.all_at_once, store.root, ready) for _ in range(number)]
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * number, log.read_text()
    assert list(sorted(runs_of(store, "cell"))) == ["1a-b004", "1a-b008", "2a-g1.5"]
    assert curve(store) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert tracking.sync(store) == NOTHING


def test_the_page_opens_on_our_runs(store):
    tracking.sync(store)
    experiment = runs_of(store, "cell")["1a-b004"].info.experiment_id
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv, urls = tracking.ui_command(store, port)
    url = urls.pop("")
    assert urls == {}
    assert f"sqlite:///{store.root}/mlflow.db" in argv
    assert str(port) not in argv
    assert url.startswith(f"http://127.0.0.1:{argv[argv.index('--port') + 1]}/#/experiments/{experiment}/runs?")
    tags = mlflow_store.client(tracking.tracking_uri(store)).get_experiment(experiment).tags
    key = url.split("viewStateShareKey=")[1]
    view = json.loads(json.loads(tags[f"mlflow.sharedViewState.{key}"])["state"])
    assert view["searchFilter"] == "tags.kind = 'cell'"
    main, *others = (f"tags.`{key}`" for key in MAIN)
    columns = view["selectedColumns"]
    assert (columns[0], columns[-2:]) == (main, others)
    assert "params.`quantizer.levels`" in columns[1:-2]


@pytest.mark.slow
def test_a_real_server_serves_the_page_takes_runs_and_may_go_away(store, monkeypatch, tmp_path):
    server = small_runs.with_database(Store(tmp_path / "server"), store.root / "mlflow.db")
    argv, urls = tracking.ui_command(server, free_port())
    address = urls[""].split("/#")[0]
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    with serving(argv, address):
        with urllib.request.urlopen(f"{address}/", timeout=10) as page:
            assert b"<html" in page.read()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert tracking.sync(store)["runs"] == 5
        assert tracking.sync(store) == NOTHING
        assert tracking.ui_command(store) == ([], urls)
    small_runs.add_reconstruction(store, 16)
    with pytest.raises(UserError, match="nothing is lost"):
        tracking.sync(store)
    with serving(argv, address):
        assert tracking.sync(store)["runs"] == 1
        assert len(runs_of(store, "cell")) == 5
