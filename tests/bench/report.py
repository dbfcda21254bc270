"""Seconds to build the report of a grid of 100, 1,000 and 10,000 points: python -m tests.bench.report.

The goal is 30 s at 10,000. The points are copies of the committed ablation's, with numbers that scatter around theirs.
Other sizes: python -m tests.bench.report 300 3000
"""

import json
import random
import sys
import tempfile
from itertools import product
from pathlib import Path

import pandas as pd

from analysis.report.build import build
from tests.bench.load import seconds
from tests.helpers.machine import REPORTS

COUNTS, GOAL = (100, 1_000, 10_000), 30


AXES = ("quantizer.levels", "quantizer.range", "head.depth", "sample.temperature")
STEPS = ((2, 1), (2.5, 0.5), (1, 1), (0.5, 0.125))
"""first value of each axis and the step to its next"""
READ = {"quantizer": AXES[:2], "train": AXES[:3], "likelihood": AXES[:3], "sample": AXES, "score": AXES}
"""kind of stage -> the axes that it reads"""


def make(folder: Path, count: int) -> None:
    """The source of a grid of four axes with about so many points and one seed each."""
    committed = REPORTS / "ablation" / "source"
    frame = pd.read_csv(committed / "frame.csv", dtype=str, keep_default_na=False)
    plan = json.loads((committed / "plan.json").read_text())
    side = round(count ** (1 / len(AXES)))
    wide = [side] * (len(AXES) - 1) + [round(count / side ** (len(AXES) - 1))]
    values = [[first + step * i for i in range(n)] for (first, step), n in zip(STEPS, wide, strict=True)]
    draw = random.Random(0)
    rows, cells = [], []
    numbers = [column for column in frame.columns if "/" in column]
    for number, point in enumerate(product(*values)):
        at = dict(zip(AXES, point, strict=True))
        row = dict(frame.iloc[number % len(frame)]) | {"cell": f"{number:012x}", "name": f"p{number}", "run_id": ""}
        row |= {key: str(value) for key, value in at.items()}
        for kind, keys in READ.items():
            row[f"stage.{kind}"] = f"{kind}-{'-'.join(str(at[key]) for key in keys)}"
        for key in (key for key in row if key.startswith("protocol.") and row[key]):
            protocol = json.loads(row[key])
            protocol |= {name: at[axis] for axis in AXES for name in protocol if name.endswith(axis.rpartition(".")[2])}
            row[key] = json.dumps(protocol)
        row |= {key: str(float(row[key]) * (1 + 0.05 * draw.random())) for key in numbers if row[key]}
        rows.append(row)
        cells.append({"cell": row["cell"], "values": at, "seed": 0})
    plan["axes"] = [{"key": key, "values": each} for key, each in zip(AXES, values, strict=True)]
    plan["cells"] = cells
    (folder / "source").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "source" / "frame.csv", index=False)
    (folder / "source" / "plan.json").write_text(json.dumps(plan))
    (folder / "source" / "curves.csv").write_text("stage,key,step,value\n")


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or COUNTS
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "report"
            make(folder, count)
            taken, processor = seconds(lambda folder=folder: build(folder))
            goal = f" (goal {GOAL} s)" if count == COUNTS[-1] else ""
            print(f"{count:>6,} points  {taken:6.1f} s, processor {processor:6.1f} s{goal}", flush=True)


if __name__ == "__main__":
    main()
