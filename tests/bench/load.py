"""Seconds to load 10,000 runs as one frame: python -m tests.bench.load.

The bound is 15 s. The runs are copies of one that the project sent, each with its own ids, name, settings and metrics:
about 70 settings, 40 metrics and 40 tags. Another count, and MLflow's own client beside it:
python -m tests.bench.load 1000 --client
"""

import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from experiments.tracking import sync as tracking
from tests.helpers import report_numbers as synthetic_numbers
from tests.helpers import runs as small_runs
from tokenbridge.store.artifacts import Store, read_json, write_json
from tokenbridge.store.runs import write_metrics


def first_cell(store: Store) -> None:
    """A cell whose stages left as many numbers as ours do."""
    small_runs.add_reconstruction(store, 8)
    id = small_runs.add_generation(store, 8, steps=3)
    config = small_runs.config_of(8)
    numbers = synthetic_numbers.of_quantizer(config) | synthetic_numbers.of_images(config)
    numbers |= synthetic_numbers.of_generation(config, 0) | synthetic_numbers.of_time(config, one_token=True)
    numbers |= {f"sample/count_{digit}": 7.0 for digit in range(10)}
    path = store.root / "cells" / f"{id}.json"
    cell = read_json(path)
    for kind in ("reconstruct", "likelihood", "speed"):
        cell["stages"][kind] = small_runs.stage(store, kind, 8)
    write_json(path, cell)
    for kind, stage in cell["stages"].items():
        metrics = {key.partition("/")[2]: value for key, value in numbers.items() if key.startswith(f"{kind}/")}
        if metrics:
            protocol = json.loads(numbers.get(f"protocol.{kind}", '{"images": 10}'))
            write_metrics(store.folder(stage), metrics, protocol)


def make(root: Path, count: int) -> str:
    """A store of so many cells; returns its address."""
    store = Store(root)
    first_cell(store)
    uri = tracking.ensure_store(store)
    tracking.sync(store)
    with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        copy_runs(connection, count)
    return uri


def copy_runs(connection: sqlite3.Connection, count: int) -> None:
    """So many runs in all, by inserting what MLflow wrote for the first, changed as another cell would change it."""
    draw = random.Random(0)
    (original,) = connection.execute(
        "SELECT run_uuid FROM tags WHERE key = 'kind' AND value = 'cell' ORDER BY rowid DESC"
    ).fetchone()

    def rows(table: str) -> list[dict[str, Any]]:
        cursor = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (original,))
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    found = {table: rows(table) for table in ("runs", "params", "tags", "latest_metrics")}
    for table, originals in found.items():
        names = list(originals[0])
        marks = ", ".join("?" * len(names))
        columns = ", ".join(f'"{name}"' for name in names)

        def copies(originals: list[dict[str, Any]] = originals) -> Any:
            for number in range(1, count):
                id = f"{number * 0x9E3779B97F4A7C15 % 2**64:032x}"
                for row in originals:
                    yield tuple((row | changed(row, number, draw) | {"run_uuid": id}).values())

        connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", copies())


def changed(row: dict[str, Any], number: int, draw: random.Random) -> dict[str, Any]:
    """What differs in this row of a copy."""
    if "start_time" in row:
        return {"start_time": row["start_time"] + number, "name": f"b{number:05d}"}
    if "step" in row:
        return {"value": row["value"] + draw.random()}
    key, value = row["key"], row["value"]
    if key == "cell" or key.startswith("stage."):
        return {"value": value[:-6] + f"{number if key != 'stage.latents' else 0:06d}"}
    values = {"name": f"b{number:05d}", "quantizer.levels": str(2 + number % 64), "train.seed": str(number % 5)}
    return {"value": values.get(key, value)}


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """Time, and the processor's: other programs take nothing of the latter."""
    start, before = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - before


def main() -> None:
    from analysis.frame import load
    from analysis.frame import mlflow as tracked

    words = [word for word in sys.argv[1:] if word != "--client"]
    count = int(words[0]) if words else 10_000
    with tempfile.TemporaryDirectory() as name:
        uri = make(Path(name), count)
        load.frame(None, uri, [])  # imports
        direct = seconds(lambda: load.frame(None, uri))
        print(f"{count:,} runs from SQLite  {direct[0]:.2f} s (bound 15), processor {direct[1]:.2f} s", flush=True)
        if "--client" in sys.argv:
            slow = seconds(lambda: tracked._from_client(uri))
            print(
                f"MLflow's client  {slow[0]:.1f} s, processor {slow[1]:.1f} s: {slow[1] / direct[1]:.0f} times as slow"
            )


if __name__ == "__main__":
    main()
