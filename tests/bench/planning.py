"""How long planning takes: from the request to the lines of a dry run. Prints seconds; run it as a script.

python tests/bench/planning.py
"""

import subprocess
import sys
import tempfile
import time

AXES = {
    "quantizer.levels": (4, 8, 12, 16, 20, 24, 32, 48, 64, 96),
    "train.learning_rate": (1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3),
    "sample.temperature": (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15),
    "sample.guidance": (1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0),
}


def dry_run(axes: int) -> float:
    """Seconds of `tokenbridge grid --dry-run` over so many of the axes, as a process of its own, imports included."""
    words = []
    for key, values in list(AXES.items())[:axes]:
        words += ["--axis", f"{key}={','.join(map(str, values))}"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "experiments.cli.main",
            "grid",
            *words,
            "--dry-run",
            "--runs",
            f"{folder}/runs",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.monotonic() - start
    assert f"{10**axes} cells of axes" in done.stdout, done.stdout
    return seconds


if __name__ == "__main__":
    for axes in (1, 3, 4):
        print(f"{10**axes:>6,} cells: {dry_run(axes):.1f} s", flush=True)
