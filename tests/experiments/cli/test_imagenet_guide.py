"""Every command of experiments/imagenet.md, on a small folder of images with small weights of the released formats."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.paper import TABLES
from tests.helpers import release as small_release
from tests.helpers import scorers as small_scorers
from tests.helpers.generators import arrays_of
from tests.helpers.machine import ROOT
from tests.helpers.release import DATA, SIZES

GUIDE = (ROOT / "experiments" / "imagenet.md").read_text()
SMALL = [*(word for word in SIZES if not word.startswith("sample.images")), "train.epochs=1", "train.warmup_epochs=0",
         "train.batch=4", "quantizer.levels=16"]  # fmt: skip
SIZE = [word for word in SIZES if word.startswith("data.image_size")]
SMALLER = {
    "sample.images=50000": "sample.images=14",
    "--nproc-per-node 8": "--nproc-per-node 2",
    "--size 256": "--size 64",
    "--accumulate 10": "--accumulate 2",
    "head -n 50": "head -n 2",
    "--levels 8,16,32,64": "--levels 8,64",
    "--range 2,3,4,5": "--range 3,5",
}
WRAPPER = f"""#!{sys.executable}
import os, sys
small, size = {SMALL!r}, {SIZE!r}
words = sys.argv[1:]
at = words.index("tokenbridge") + 1 if "tokenbridge" in words else 0
more = {{"run": small, "import": small, "plan": small, "reconstruct": size}}.get(words[at], [])
if words[at] == "grid":
    more = [part for word in small for part in ("--set", word)]
first = ["torch.distributed.run"] if at else ["tokenbridge"]
os.execv(sys.executable, [sys.executable, "-m", *first, *words, *more])
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The folder that the guide's first section describes, in small."""
    for split in ("train", "val"):
        small_release.images(tmp_path / "imagenet" / split, each=2)
    torch.save({"state_dict": load_file(DATA / "kl16_weights.safetensors")}, tmp_path / "kl16.ckpt")
    small_release.write(tmp_path).rename(tmp_path / "tokenbridge-L.pth")
    (tmp_path / "weights").mkdir()
    small_scorers.write_inception(tmp_path / "weights")
    root = np.random.default_rng(0).normal(size=(64, 2048))
    sigma = root.T @ root / 64 + np.eye(2048)
    np.savez(tmp_path / "adm_in256_stats.npz", mu=np.zeros(2048), sigma=(sigma + sigma.T) / 2)
    for name in ("tokenbridge", "torchrun"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(WRAPPER)
        path.chmod(0o755)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_guide(lab: Path) -> None:
    lines = "".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.S))
    assert lines.count("tokenbridge ") == 12
    for large, small in SMALLER.items():
        assert large in lines, large
        lines = lines.replace(large, small)
    (lab / "guide.sh").write_text(f"set -euo pipefail\n{lines}")
    places = {
        "PATH": f"{lab / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(["bash", "guide.sh"], cwd=lab, env=os.environ | places, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list(lab.glob("first50/*/*.png"))) == 14
    assert "rfid_tf" in next(lab.glob("tables/1b/*.md")).read_text()
    assert done.stdout.count("score/fid_tf ") == 2  # the released weights and those trained here
    assert arrays_of(lab / "tokenbridge-L.npz")["arr_0"].shape == (14, 64, 64, 3)
    assert arrays_of(lab / "val_stats.npz")["sigma"].shape == (2048, 2048)
    assert "images as they were written" in done.stdout


def test_published_numbers_are_those_of_the_tables() -> None:
    rows = {line.split("`")[1]: line for line in GUIDE.splitlines() if re.match(r"\| `(tokenbridge|mar)-[LH]` ", line)}
    assert len(rows) == 4
    for cell in TABLES["3"].rows:
        if cell.label.replace("TokenBridge", "tokenbridge").replace("MAR", "mar") in rows:
            fid, score, precision, recall = (float(cell.published[key]) for key in ("fid", "is", "precision", "recall"))
            line = rows.pop(cell.label.replace("TokenBridge", "tokenbridge").replace("MAR", "mar"))
            assert f"{fid:.2f} / {score:.1f} / {precision:.2f} / {recall:.2f}" in line
    assert not rows
    for id in ("1a", "1b"):
        for cell in (cell for cell in TABLES[id].rows if "rfid" in cell.published):
            assert f"{cell.published['rfid']:.2f} / {cell.published['is']:.1f}" in GUIDE, cell.label
