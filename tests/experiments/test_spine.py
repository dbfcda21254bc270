"""From the command to the maths: few frames of ours, so that a reader (or a traceback) is there in a moment."""

import sys
from pathlib import Path

import pytest

from experiments.tracking import sync as tracking
from tests.conftest import SHORT
from tests.helpers.machine import ROOT
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads.autoregressive import AutoregressiveHead

MOST = 7
"""frames of ours that may lie above the maths"""


def our_frames():
    """Functions of the packages that led to the caller's caller, the outermost first."""
    frames, frame = [], sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if any(path.is_relative_to(ROOT / package) for package in ("tokenbridge", "experiments")):
            frames.append(f"{path.relative_to(ROOT)}:{frame.f_code.co_name}")
        frame = frame.f_back
    return frames[::-1]


@pytest.fixture
def led(call, with_latents, tmp_path, monkeypatch):
    """By the name of what was reached, the frames that led there in `tokenbridge run digits`."""
    led = {}

    def spy(owner, name):
        original = getattr(owner, name)

        def spying(*arguments, **named):
            led.setdefault(name, our_frames())
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, spying)

    spy(AutoregressiveHead, "loss")
    spy(Generator, "sample")
    monkeypatch.setattr(tracking, "sync", lambda *_: {})
    with_latents(tmp_path / "runs")
    done = call("run", "digits", *SHORT, "sample.images=3", "--only", "sample", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return led


def test_few_frames_lead_from_the_command_to_the_loss_and_to_the_sampling_loop(led):
    for frames in led.values():
        assert frames[:2] == ["experiments/cli/main.py:main", "experiments/cli/main.py:run"]
        assert len(frames) <= MOST, frames
    assert led["sample"][-1] == "tokenbridge/stages/sample.py:run"
    assert led["loss"][-1] == "tokenbridge/model/generator.py:forward"
