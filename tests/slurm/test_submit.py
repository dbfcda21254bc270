"""Arrays of stages, what each waits for, and the snapshot of the code: no Slurm is asked."""

import json
import shutil
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path

from experiments.axes import Axis
from experiments.grid.request import Request
from experiments.grid.search import WIDENINGS
from experiments.pipeline import graph
from slurm import resources, snapshot, submit
from tests.helpers.machine import ROOT
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store


def stages():
    grid = Request(name="x", axes=("quantizer.levels=8,64", "sample.temperature=0.9,1.0")).grid()
    assert grid.axes == (Axis("quantizer.levels", (8, 64)), Axis("sample.temperature", (0.9, 1.0)))
    return graph(grid.first()[0])


def test_an_array_a_kind_inputs_before_what_needs_them():
    found = submit.arrays_of(stages().values(), resources.read("local-slurm"), 3)
    sizes = [(array.kind, len(array.jobs)) for array in found]
    assert sizes == [
        ("latents", 1), ("quantizer", 2), ("train", 2), ("likelihood", 2), ("sample", 3), ("sample", 1), ("score", 3),
        ("score", 1),
    ]  # fmt: skip
    before = set[str]()
    for array in found:
        assert all(id in before for stage in array.stages for _, id in stage.inputs)
        before |= {stage.id for stage in array.stages}


def packed(folder: Path, text: str) -> list[tuple[str, list[list[str]]]]:
    """Arrays as the kinds of the stages of each of their jobs."""
    (folder / "own.toml").write_text(text)
    arrays = submit.arrays_of(stages().values(), resources.read(folder / "own.toml"))
    return [(array.kind, [[stage.kind.name for stage in job] for job in array.jobs]) for array in arrays]


def test_packed_jobs_hold_stages_of_a_kind_and_samples_their_scores(tmp_path):
    pair = ["sample", "score"]
    assert packed(tmp_path, "[all]\npack = 3\n[train]\npack = 1") == [
        ("latents", [["latents"]]), ("quantizer", [["quantizer"] * 2]), ("train", [["train"], ["train"]]),
        ("likelihood", [["likelihood"] * 2]), ("sample", [[*pair, *pair, *pair], pair]),
    ]  # fmt: skip
    # a score that asks for something else than its sample has a job of its own
    apart = packed(tmp_path, "[all]\npack = 3\n[score]\ncpus = 2")
    assert apart[-2:] == [("sample", [["sample"] * 3, ["sample"]]), ("score", [["score"] * 3, ["score"]])]
    assert packed(tmp_path, "[score]\npack = 4")[-2:] == [("sample", [["sample"]] * 4), ("score", [["score"] * 4])]


def test_each_score_follows_its_own_sample(tmp_path):
    (tmp_path / "own.toml").write_text("[all]\npack = 4")
    for array in submit.arrays_of(stages().values(), resources.read(tmp_path / "own.toml")):
        for before, stage in chain(*map(pairwise, array.jobs)):
            if stage.kind.name == "score":
                assert dict(stage.inputs)["sample"] == before.id


def test_a_stage_waits_for_its_own_inputs_and_for_no_other():
    jobs = {id: str(number) for number, id in enumerate(stages())}
    for stage in stages().values():
        assert submit.awaited_jobs([stage], jobs) == [jobs[id] for _, id in stage.inputs]
    assert submit.awaited_jobs(stages().values(), dict.fromkeys(jobs, "5")) == ["5"]
    assert submit.awaited_jobs(stages().values(), {}) == []
    assert submit.whole_arrays(["7_0", "7_1", "8", "7_2"]) == ["7", "8"]


def test_a_request_at_one_point_is_the_same_from_json_and_has_no_round_for_a_choice():
    for tables, points, rounds in (
        (("2c",), "own", 2 + WIDENINGS),
        (("2c",), "1.5,0.9", 1),
        (("2a", "figure-8"), "base", 2),
    ):
        asked = Request(name="x", tables=tables, points=points, seeds=1)
        again = build(Request, json.loads(json.dumps(asked.model_dump(mode="json")))).grid()
        assert again == asked.grid()
        assert again.rounds == rounds
        # at one point all that a table shows is in the first round
        scored = {cell.id for cell in again.first()[0] if "score" in cell.wanted}
        assert {row.cell.id for row in again.rows} <= scored or points == "own"


def test_around_a_stage_is_what_it_needs_and_what_needs_it():
    found = stages()
    (quantizer, _) = [id for id in found if id.startswith("quantizer-")]
    kinds = [stage.kind.name for stage in submit.related([quantizer], found).values()]
    assert sorted(kinds) == ["latents", "likelihood", "quantizer", "sample", "sample", "score", "score", "train"]
    assert submit.related(["train-0"], found) == {}


def test_a_job_says_that_its_code_is_gone_and_the_next_submission_puts_it_back(tmp_path):
    store = Store(tmp_path / "it's $(touch no) a folder")
    code = store.root / snapshot.take(store)
    lines = "\n".join([*snapshot.setup(code, "mine"), "python -c 'import slurm; print(slurm.__file__)'"])

    def job() -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        return subprocess.run(["bash", "-c", lines], capture_output=True, text=True, cwd=ROOT, env={"PATH": path})

    assert job().stdout.strip() == str(code / "slurm" / "__init__.py")
    (code / "slurm" / "__init__.py").unlink()
    (code / "slurm" / "job.py").unlink()
    done = job()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"{code}, the code that this job was submitted with, is gone; tokenbridge retry mine copies it again\n"
    )
    assert snapshot.take(store) == str(code.relative_to(store.root))
    assert (code / "slurm" / "job.py").read_bytes() == (ROOT / "slurm" / "job.py").read_bytes()
    assert job().returncode == 0
    shutil.rmtree(code)
    assert job().returncode == 1


def test_the_snapshot_runs_and_knows_its_commit(tmp_path):
    store = Store(tmp_path)
    code = snapshot.take(store)
    assert snapshot.take(store) == code
    folder = tmp_path / code
    assert json.loads((folder / "snapshot.json").read_text()).keys() == {"commit", "dirty"}
    ask = "import tokenbridge, slurm.snapshot as s; from tokenbridge.store.artifacts import Store; print(s.ROOT)"
    ask += f"; print(s.take(Store(__import__('pathlib').Path({str(tmp_path)!r}))))"
    env = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == [str(folder), code]  # a snapshot of a snapshot is the same one
