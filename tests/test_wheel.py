"""The wheel, installed apart from the checkout, in a folder of a user who has packages of our names."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import SHORT
from tests.helpers.machine import ROOT
from tests.helpers.server import answers, free_port
from tokenbridge.store.artifacts import Store

pytestmark = pytest.mark.slow
NAMES = ("experiments", "analysis", "slurm", "tests")
TRAINED = ["run", "digits", *SHORT, "--only", "train", "--device", "cpu"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run([sys.executable, *words], check=True)
    (path,) = folder.glob("tokenbridge-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the commands of an environment that has the wheel, and the libraries of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth, the checkout's, is not read
    words = ["-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, *words], check=True)
    return folder / "bin"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user's folder, the working folder now, whose packages of our names may not be imported."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the user’s own {name}')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return tmp_path


def done(*words: object, **environment: str) -> str:
    """What a command prints, which must end well and without a word on stderr of another package."""
    run = subprocess.run([*map(str, words)], capture_output=True, text=True, env=os.environ | environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "the user’s own" not in run.stderr
    return run.stdout


def test_it_holds_the_packages_whole_and_nothing_else(wheel):
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    ours = {path for path in listed.splitlines() if path.split("/")[0] in ("tokenbridge", *NAMES[:3])}
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    assert held == ours


def test_the_command_and_its_workers_take_our_packages(installed, home):
    """In processes of its own (--jobs), and with the working folder on the path."""
    assert "train-autoencoder" in done(installed / "tokenbridge", "--help", PYTHONPATH=".")
    said = done(installed / "tokenbridge", *TRAINED, "--jobs", "2", PYTHONPATH=".")
    assert "train/validation_loss" in said
    code = "import tokenbridge, experiments.axes, sys; print(tokenbridge.__file__)"
    assert str(installed.parent) in done(installed / "python", "-P", "-c", code)


def test_torchrun_takes_our_packages(installed, home):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tokenbridge"]
    assert "train/validation_loss" in done(installed / "python", *words, *TRAINED)
    (train,) = Path("runs/stages").glob("train-*")
    assert Store(Path("runs")).manifest(train.name)["processes"] == 2


def test_the_page_takes_our_packages(installed, home):
    """MLflow's server starts processes of its own."""
    port = free_port()
    words = ["ui", "--port", str(port), "--runs", "runs"]
    (home / "runs").mkdir()
    server = subprocess.Popen([installed / "tokenbridge", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert server.stderr is not None
    try:
        late = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{port}"):
            assert server.poll() is None, server.stderr.read()
            assert time.monotonic() < late
            time.sleep(0.2)
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "the user’s own" not in said.decode()


SENDER = """
from pathlib import Path
from experiments.tracking import live
from tokenbridge.store.artifacts import Store

with live.beside(Store(Path("runs")), ["train-0123456789ab"]):
    pass
"""


def test_the_sender_of_curves_takes_our_packages(installed, home):
    """Beside a training on Slurm; the block waits for its end."""
    done(installed / "python", "-P", "-c", SENDER, MLFLOW_TRACKING_URI="http://127.0.0.1:1")


def test_a_package_of_the_user_that_is_imported_already_is_named(installed, home):
    (home / "slurm" / "__init__.py").write_text("")
    code = "import slurm; from tokenbridge.packages import ours_first; ours_first()"
    run = subprocess.run([installed / "python", "-c", code], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == (
        f"tokenbridge.config.UserError: slurm is imported already from {home / 'slurm'}, which is not TokenBridge's; "
        "import tokenbridge's first, or rename that folder"
    )


def test_it_imports_where_signals_of_posix_are_missing(installed, home):
    """As on a platform without them."""
    code = (
        "import importlib, pkgutil, signal\n"
        "for name in ('SIGUSR1', 'SIGUSR2', 'SIGHUP', 'SIGALRM', 'setitimer'): delattr(signal, name)\n"
        "import tokenbridge, experiments, analysis\n"
        "for package in (tokenbridge, experiments, analysis):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "from tokenbridge.signals import SIGNALS; print([number.name for number in SIGNALS])"
    )
    assert done(installed / "python", "-P", "-c", code) == "['SIGINT', 'SIGTERM']\n"
