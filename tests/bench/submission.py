"""What a sweep costs beyond plain submitit: `python -m tests.bench.submission` on a cluster that SLURM_CONF names.

Twelve cells that each lack one short stage (a quantizer), as a sweep and as one submitit array of the same calls, in
turn; seconds from the submission to the last result. Shares the machine with whatever else runs: look at the ratio.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

from submitit import AutoExecutor

from experiments.grid.request import Request
from experiments.pipeline import Cell, graph
from experiments.presets import THREADS, preset
from experiments.runner import run_cells, run_stage
from slurm import resources, rounds
from tokenbridge.config import Runtime
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store

CELLS = 12
RUNTIME = Runtime(threads=THREADS["digits"], bars=False)


def prepared(folder: Path) -> Store:
    """A store that has the latents, so that every cell lacks one stage."""
    store = Store(folder / "runs")
    with contextlib.redirect_stdout(io.StringIO()):
        run_cells(store, [Cell("latents", preset("digits"), ("latents",))], RUNTIME, "bench")
    return store


def cells() -> list[Cell]:
    base = preset("digits")
    return [Cell(f"b{levels}", override(base, {"quantizer.levels": levels}), ("quantizer",)) for levels in range(4, 16)]


def last_result(store: Store, ids: list[str]) -> float:
    while not all(store.finished(id) for id in ids):
        time.sleep(0.05)
    return time.monotonic()


def ours(store: Store) -> float:
    stages = graph(cells())
    start = time.monotonic()
    sweep = rounds.new(store, Request(name="bench", tables=("1a",)), "local-slurm", RUNTIME, "bench")
    rounds.hand_over(store, sweep, rounds.Round(cells()))
    return last_result(store, [id for id, stage in stages.items() if stage.kind.name == "quantizer"]) - start


def plain(store: Store) -> float:
    stages = [stage for stage in graph(cells()).values() if stage.kind.name == "quantizer"]
    start = time.monotonic()
    executor = AutoExecutor(folder=store.root / "plain", cluster="slurm")
    executor.update_parameters(**resources.read("local-slurm").of("quantizer").parameters())
    executor.map_array(lambda stage: run_stage(store, stage, RUNTIME), stages)
    return last_result(store, [stage.id for stage in stages]) - start


def main(rounds_of: int) -> None:
    for number in range(rounds_of):
        seconds = {}
        for name, way in (("plain", plain), ("sweep", ours)):
            with tempfile.TemporaryDirectory(dir=Path.cwd(), ignore_cleanup_errors=True) as folder:
                seconds[name] = way(prepared(Path(folder)))
                time.sleep(5)  # the job that ends the sweep
        more = seconds["sweep"] - seconds["plain"]
        print(f"{number}: {CELLS} cells: array {seconds['plain']:.1f} s, sweep {seconds['sweep']:.1f} s, {more:+.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
