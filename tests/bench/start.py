"""Processor time before a command or a stage works, beyond that of `import torch`: python -m tests.bench.start.

The goal is 1.5 s. A stage: all of the imports of one that runs as a job of its own, on the digits with a tiny model. A
command: the whole process, less torch where it imports torch. Processor's seconds: other programs take nothing of them.
"""

import json
import resource
import subprocess
import sys
import tempfile
from statistics import median

from tests.conftest import TINY
from tests.helpers.machine import ROOT

GOAL, ROUNDS = 1.5, 3
STAGES = ("latents", "quantizer", "reconstruct", "train", "likelihood", "sample", "score")
COMMANDS = (("--help",), ("settings",), ("run", "digits", *TINY), ("plan", "digits"), ("plan", "imagenet256-L"))
STAGE = """
import builtins, importlib, json, sys, time
from pathlib import Path
kind, root, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
inside, spent = [False], {"torch": 0.0, "own": 0.0}

def timed(real):
    def load(name, *rest, **more):
        if inside[0] or name in sys.modules and not (len(rest) > 2 and rest[2]):
            return real(name, *rest, **more)
        inside[0], start = True, time.process_time()
        try:
            return real(name, *rest, **more)
        finally:
            inside[0] = False
            spent["torch" if name == "torch" else "own"] += time.process_time() - start
    return load

builtins.__import__, importlib.import_module = timed(builtins.__import__), timed(importlib.import_module)
import torch
from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.runner import run_stage
from tokenbridge.config import Runtime
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store

stage = next(stage for stage in Cell("start", override(DIGITS, settings)).stages() if stage.kind.name == kind)
run_stage(Store(Path(root)), stage, Runtime(threads=1, bars=False))
print("spent", json.dumps(spent))
"""


def stage(kind: str, root: str) -> tuple[float, float]:
    """Seconds of torch's import and of all others."""
    command = [sys.executable, "-c", STAGE, kind, root, json.dumps(TINY)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    spent = json.loads(done.stdout.rpartition("spent ")[2])
    return spent["torch"], spent["own"]


def seconds(*words: str) -> float:
    """Median of the processor's seconds of Python with these arguments."""
    times = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(times)


def main() -> None:
    torch = seconds("-c", "import torch")
    print(f"{'import torch':<36} {torch:5.2f} s", flush=True)
    with tempfile.TemporaryDirectory() as root:
        for kind in STAGES:
            theirs, own = stage(kind, root)
            print(f"{'stage ' + kind:<36} {own:5.2f} s beyond torch's {theirs:.2f} s (goal {GOAL} s)", flush=True)
        for words in COMMANDS:
            given = [*words, "--runs", root] if words[0] == "run" else list(words)
            whole, name = seconds("-m", "tokenbridge", *given), " ".join(words[:2])
            imports = words[0] == "plan"
            what = " (all is there)" if words[0] == "run" else ""
            beyond = " beyond torch's" if imports else ""
            print(f"{name + what:<36} {whole - imports * torch:5.2f} s{beyond} (goal {GOAL} s)", flush=True)


if __name__ == "__main__":
    main()
