"""The records of a sweep: read back as written, by several processes at once, whole after a kill."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from slurm import sweep as module
from slurm.sweep import CellStages, Job, Sweep
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store

SWEEP = Sweep(
    name="mine",
    request={"tables": ["2a"]},
    cells={"a": CellStages("first", {"latents": "latents-1", "train": "train-2"})},
    cluster="example",
    code="sweeps/code/1",
    command="tokenbridge grid 2a",
    submitted=5.0,
)


def job(stage: str, number: int) -> Job:
    return Job(stage, f"{number}", "mine", "sweeps/mine/jobs/1", 0.0)


def test_a_sweep_reads_back(tmp_path):
    store = Store(tmp_path)
    module.write(store, SWEEP)
    assert module.read(store, "mine") == SWEEP
    assert SWEEP.stages == {"latents-1": "latents", "train-2": "train"}
    assert module.names(store) == ["mine"]
    with pytest.raises(UserError, match=r"yours is no sweep; there is mine"):
        module.read(store, "yours")
    (tmp_path / "sweeps" / "mine" / "sweep.json").write_text('{"cells": {}, "submitted": 1}')
    with pytest.raises(UserError, match="is no sweep"):
        module.read(store, "mine")


def _register(root):
    for number in range(50):
        module.register(Store(root), [job("train-2", number), job("latents-1", number)])


def test_several_processes_write_at_once(tmp_path):
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(_register, [tmp_path] * 3))
    assert {stage: len(found) for stage, found in module.jobs(Store(tmp_path)).items()} == {
        "train-2": 150,
        "latents-1": 150,
    }


def test_a_line_that_a_kill_has_cut_harms_no_other(tmp_path):
    store = Store(tmp_path)
    module.note(store, "train-2", "started", {"job": "7"})
    path = tmp_path / "sweeps" / "events" / "train-2.jsonl"
    path.write_text(path.read_text() + '{"event": "stop')
    module.note(store, "train-2", "finished", {"job": "7"})
    assert [event["event"] for event in module.events(store, "train-2")] == ["started", "finished"]
    assert module.events(store, "train-3") == []


def test_results_that_came_too_late_are_listed(tmp_path):
    store = Store(tmp_path)
    assert module.discarded(store) == []
    for event in ("started", "discarded", "discarded"):
        module.note(store, "train-2", event, {"job": "7"})
    assert module.discarded(store) == ["train-2", "train-2"]
    assert len(module.events(store, "train-2")) == 3
