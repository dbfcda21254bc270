"""Bad words on the command line: one line (value, rule, remedy), exit code 2, nothing left behind, before any work."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.images import make_images
from tests.helpers.machine import ROOT

REFUSED = [
    ("run digits --jobs 0", "--jobs=0 must be >= 1; see tokenbridge run --help"),
    ("run digits --jobs x", "--jobs=x must be a whole number; see tokenbridge run --help"),
    ("run digits --nope", "no such option: --nope"),
    ("run digits --only", "option '--only' requires an argument"),
    ("run digits --runs=", "--runs= must name a file or folder; see tokenbridge run --help"),
    ("run digits --device gpu", "device=gpu is no device; use auto, cpu or cuda"),
    ("run digits --device cuda:99", "device=cuda:99 is not there"),
    ("run digits data.source=folder", "data.source=folder must come with data.path"),
    ("run digits train.batch=1199", "train.batch=1199 must be at most 1198, the number of training images; lower it"),
    ("run digits quantizer.range=1e-300", "quantizer.range=1e-300 must be >= 1e-06"),
    ("run", "missing argument 'FILE|PRESET'; see tokenbridge run --help"),
    ("runn digits", "no such command 'runn'. Did you mean 'run'?"),
    ("grid --axis train.batch=32,1199", "train.batch=1199 must be at most 1198"),
    ("grid --axis quantizer.levels=8,16 --device gpu", "device=gpu is no device"),
    ("plan digits --tflops inf", "--tflops=inf must be <= 1,000,000"),
    ("plan digits --utilization nan", "--utilization=nan must be "),
    ("train-autoencoder --device gpu", "device=gpu is no device"),
    ("train-autoencoder --device cuda:99", "device=cuda:99 is not there"),
    ("ui --port 99999", "--port=99999 must be <= 65,535"),
    ("sync --runs typo", "typo is no folder of runs; correct --runs"),
    ("ui --runs typo", "typo is no folder of runs"),
    ("verify-latents --runs typo", "typo is no folder of runs"),
    ("settings a b", "got unexpected extra argument(s) (b); see tokenbridge settings --help"),
    ("report --metric", "option '--metric' requires an argument"),
    ("grid --axis quantizer.levels=8,16 --seeds 99999999999999999999", "--seeds=99999999999999999999 must be <= 1,000"),
    ("train-autoencoder images --size 10000000", "--size=10000000 must be <= 65,536"),
    (
        "train-classifier images --name a\x1bb --epochs 1",
        r"name='a\x1bb' must be printable text of 1 to 100",
    ),
    ("stats images/c0 --out x.npz --features digits,own", "--features=digits,own must be one scorer"),
    (f"init images --out {'x' * 300}.toml", "File name too long; mend that, or give another path"),
    (f"run digits --runs {'x' * 300}", "File name too long"),
    ("reconstruct one/c0", "the train split holds 1 images and must hold 2 at least for the scale of latents"),
    ("score images --reference images/c0 --features digits --device gpu", "device=gpu is no device"),
    ("score one/c0 --reference images/c0 --features digits", "one/c0 holds 1 images and must hold 4 at least"),
    # /proc is there and lets nobody make a file or folder
    ("run digits --runs /proc/x", "/proc/x cannot be written"),
    ("grid --axis quantizer.levels=8,16 --runs /proc/x", "/proc/x cannot be written"),
    ("demo --runs /proc/x", "/proc/x cannot be written"),
    (
        "demo --reports /proc/x",
        "/proc/x cannot be written (No such file or directory)",
    ),
    ("reconstruct digits --reports /proc/x", "choose another folder with --reports"),
    (
        "reconstruct digits --out /proc/x",
        "choose another folder with --out",
    ),
    (
        "init images --out /proc/x.toml",
        "choose another folder with --out",
    ),
    ("stats images --out /proc/x.npz --features digits", "cannot be written (No such file or directory)"),
    ("stats images --out new/images.toml/x.npz --features nope", "score.features=nope must be one or several of"),
    ("train-classifier images --out /proc/x", "/proc/x cannot be written"),
    ("train-autoencoder images --out new/one/two --stride 3", "--stride 3 must be a power of two"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_one_line_before_any_work(call, tmp_path, words, said):
    if "images" in words:
        make_images(tmp_path / "images", each=12)
    if "one/c0" in words:
        make_images(tmp_path / "one", classes=1, each=1)
    before = sorted(tmp_path.rglob("*"))
    done = call(*words.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("tokenbridge: ")
    assert said in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_no_words_are_the_help(call, tmp_path):
    done = call(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train-autoencoder" in done.stdout


@pytest.mark.slow
def test_ctrl_c_is_one_line_while_libraries_are_imported_and_later(tmp_path):
    """To the process group, as a terminal sends it."""
    for wait in ("", "train: batch"):
        words = ["run", "digits", "--only", "train", "--runs", tmp_path / "runs"]
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenbridge", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        while not process.stdout.readline().count(wait) if wait else not _imports(process.pid):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130
        assert said == "tokenbridge: stopped; what is finished stays, and the same command goes on\n"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_no_empty_folder(tmp_path, number, code):
    make_images(tmp_path / "images", each=12)
    words = ["train-classifier", "images", "--epochs", "100000", "--out", "new/classifier"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tokenbridge", *words], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "new").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert said.splitlines()[-1] == "tokenbridge: stopped; what is finished stays, and the same command goes on"
    assert not (tmp_path / "new").exists()


def _imports(pid):
    """Whether the process has come to its imports: pydantic's library is among what it has mapped."""
    time.sleep(0.01)
    with open(f"/proc/{pid}/maps") as maps:
        return "pydantic_core" in maps.read()


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m tokenbridge settings | head -1", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
