"""Seconds to send 100, 1,000 and 10,000 runs to a new MLflow file: python -m tests.bench.sync.

The goal is 5 minutes at 10,000. The runs are cells with all stages that a generation has, about 70 settings, 40
metrics and 40 tags; ten share a training. Other sizes: python -m tests.bench.sync 300
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from experiments.tracking import sync as tracking
from tests.bench.load import first_cell, seconds
from tokenbridge.store.artifacts import MANIFEST, Store, read_json

COUNTS, SHARING = (100, 1_000, 10_000), 10
GOAL = 300
"""seconds for the last count"""


def make(root: Path, count: int) -> Store:
    """A runs folder of copies of one cell, each with its own settings, images and scores."""
    store = Store(root)
    first_cell(store)
    path = max(root.glob("cells/*.json"), key=lambda path: len(path.read_bytes()))
    cell = read_json(path)
    for other in root.glob("cells/*.json"):
        other.unlink()
    for number in range(count):
        new = json.loads(json.dumps(cell)) | {"id": f"{number:012x}", "names": [f"b{number:05d}"]}
        new["config"]["sample"]["seed"] = number
        own = {"score": number, "sample": number, "train": number // SHARING}
        for kind, key in own.items():
            new["stages"][kind] = f"{kind}-{key:012x}"
            if not (folder := store.folder(id := new["stages"][kind])).exists():
                shutil.copytree(store.folder(cell["stages"][kind]), folder)
                (folder / MANIFEST).write_text(json.dumps(read_json(folder / MANIFEST) | {"id": id}))
        (root / "cells" / f"{new['id']}.json").write_text(json.dumps(new))
    return store


def main() -> None:
    for count in [int(word) for word in sys.argv[1:]] or COUNTS:
        with tempfile.TemporaryDirectory() as name:
            store = make(Path(name), count)
            tracking.ensure_store(store)
            taken, processor = seconds(lambda store=store: tracking.sync(store))
            again, _ = seconds(lambda store=store: tracking.sync(store))
            goal = f" (goal {GOAL} s)" if count == COUNTS[-1] else ""
            print(
                f"{count:>6,} cells  {taken:6.1f} s, processor {processor:6.1f} s, {1000 * taken / count:.0f} ms each"
                f"{goal}; again {again:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
