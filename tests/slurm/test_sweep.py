"""The jobs of sweeps: registered by several processes at once."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from slurm import remains, rounds
from slurm import sweep as module
from slurm.sweep import Intent, Job
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import Sweep, read_sweep, write_sweep


def job(stage: str, number: int) -> Job:
    return Job(stage, f"{number}", "mine", "sweeps/mine/jobs/1", 0.0)


def _register(root):
    for number in range(50):
        module.register(Store(root), [job("train-2", number), job("latents-1", number)])


def test_several_processes_write_at_once(tmp_path):
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(_register, [tmp_path] * 3))
    assert {stage: len(found) for stage, found in module.jobs_by_stage(Store(tmp_path)).items()} == {
        "train-2": 150,
        "latents-1": 150,
    }


def test_a_submission_is_unsettled_from_its_first_line_to_its_second(tmp_path):
    store = Store(tmp_path)
    assert module.unsettled(store) == []
    one, two = (Intent(name, f"sweeps/{name}/jobs/1", "tokenbridge grid", 1.0) for name in ("one", "two"))
    module.begin(store, one)
    module.begin(store, two)
    module.settle(store, one.folder)
    assert module.unsettled(store) == [two]
    with open(tmp_path / "sweeps" / "submissions.jsonl", "a") as file:
        file.write('{"sweep": "three", "fol')  # cut by a kill
    module.settle(store, two.folder)
    assert module.unsettled(store) == []


def test_a_submission_under_way_is_not_cut_off(tmp_path):
    store = Store(tmp_path)
    module.begin(store, Intent("one", "sweeps/one/jobs/1", "tokenbridge grid", 1.0))
    with store.lock("submission"):
        assert remains.cut_off(store) == []
    assert [intent.sweep for intent in remains.cut_off(store)] == ["one"]


def test_a_sweep_that_is_submitted_again_while_its_last_job_ends_is_not_lost(tmp_path, monkeypatch):
    """The last job fills MLflow, which may take minutes, and writes the sweep down as done after that."""
    store, axes = Store(tmp_path), "quantizer.levels=8,16"
    first, more = ({"name": "s", "preset": "digits", "axes": [each]} for each in (axes, f"{axes},32"))
    sweep = Sweep("s", first, {}, "c.toml", "code", "words", 1.0)
    ended = []
    monkeypatch.setattr(rounds.run_grid, "final", lambda *_: None)
    monkeypatch.setattr(rounds.run_grid, "write_plan", lambda *_: None)
    monkeypatch.setattr(rounds, "advance", lambda _, wanted: ended.append(wanted.request) or [])
    for meanwhile, done in ((first, True), (more, False)):
        write_sweep(store, sweep)
        again = replace(sweep, request=meanwhile)
        monkeypatch.setattr("experiments.tracking.sync.sync", lambda *_, again=again: write_sweep(store, again))
        assert rounds.end(store, "s", number=1) == []
        assert (read_sweep(store, "s").request, read_sweep(store, "s").done) == (meanwhile, done)
    assert ended == [more]  # whose end counted on this job
