"""Progress: bars in a terminal, lines in a log."""

import os
import pty
import re
import subprocess
import sys

from experiments.progress import Bars
from tests.helpers.machine import ROOT
from tests.helpers.runs import id_of, journal
from tokenbridge.store.artifacts import PARTIAL, PROGRESS, Store, write_json

SHOWN = """
import sys, time
from pathlib import Path
from experiments.progress import Bars
from tokenbridge.store.artifacts import Store
with Bars(Store(Path(sys.argv[1])), 100.0) as bars:
    bars.show({sys.argv[2]: "train of a cell"}, 60.0, 2)
    print("a line")
    time.sleep(0.3)
print("the end")
"""


def training(folder):
    """A training at step 30 of 100."""
    id = id_of("train", "bars")
    work = folder / "stages" / f"{id}{PARTIAL}"
    work.mkdir(parents=True)
    journal(work, range(31))
    write_json(work / PROGRESS, {"steps": 100})
    return id


def in_a_terminal(*words):
    """What a program writes to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    done = subprocess.Popen([sys.executable, *words], stdout=follower, stderr=follower, cwd=ROOT, env=environment)
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 65536):
            said += chunk
    except OSError:  # its end, on Linux
        pass
    os.close(leader)
    assert done.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())


def test_bars_tell_the_time_left_and_go_when_they_end(tmp_path):
    id = training(tmp_path)
    said = in_a_terminal("-c", SHOWN, tmp_path, id)
    assert re.search(r"all stages +━.* about 30 s left", said), "60 s of work, two stages at a time"
    assert re.search(r"train of a cell ━.* left, loss 0\.0\d\d", said)
    assert said.count("a line") == 1
    assert said.rstrip().endswith("the end")


def test_bars_follow_a_training(tmp_path):
    id = training(tmp_path)
    bars = Bars(Store(tmp_path), 10.0)
    bars.show({id: "train"}, 4.0, 1)
    (task,) = [each for each in bars.progress.tasks if each.description == "train"]
    assert (task.completed, task.total) == (30, 100)
    (whole,) = [each for each in bars.progress.tasks if each.description == "all stages"]
    assert whole.completed == 6.0
    bars.show({}, 0.0, 1)
    assert [each.description for each in bars.progress.tasks] == ["all stages"]
    assert bars.progress.tasks[0].completed == 10.0
