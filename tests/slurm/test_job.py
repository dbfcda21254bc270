"""What a packed job does with its stages, in the process of a test: Slurm tells it nothing but its number."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from experiments.pipeline import Cell
from slurm import sweep
from slurm.job import InVain, StageJob, Worker, end
from tokenbridge.config import Runtime, UserError
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import JOURNAL, read_events, write_event

FOLDER = "sweeps/mine/jobs/1"
TOO_MANY = 65_000


@pytest.fixture
def store(with_latents, tmp_path, monkeypatch):
    made = with_latents(tmp_path / "runs")
    (made.root / FOLDER).mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(made.root / FOLDER))
    return made


@pytest.fixture
def stages(tiny, store):
    """Three quantizers, of which the second asks for more levels than there are latents."""
    base = {"quantizer.kind": "quantile", "quantizer.per": "channel"}
    cells = [Cell(f"b{n}", override(tiny, base | {"quantizer.levels": n}), ("quantizer",)) for n in (8, TOO_MANY, 4)]
    found = [cell.stages()[-1] for cell in cells]
    sweep.register(store, [of_job(stage.id) for stage in found])
    return found


def of_job(stage: str, number: str = "7") -> sweep.Job:
    return sweep.Job(stage, number, "mine", FOLDER, 0.0, packed=True)


def job(store: Store, stages, **settings) -> StageJob:
    return StageJob(store, stages, Runtime(threads=1, bars=False), packed=True, **settings)


def words(store: Store, stages) -> list[list[str]]:
    return [[said["event"] for said in read_events(store, stage.id)] for stage in stages]


def process(store: Store, stage) -> int:
    """That which wrote a stage, as its lock's file says."""
    return json.loads((store.root / "locks" / f"{stage.id}.lock").read_text())["pid"]


def test_a_stage_fails_alone_and_has_its_own_log(store, stages):
    job(store, stages)()
    assert words(store, stages) == [["started", "finished"], ["started", "failed"], ["started", "finished"]]
    assert [store.finished(stage.id) for stage in stages] == [True, False, True]
    log = of_job(stages[1].id).stage_log(store, "err")
    assert log == store.root / FOLDER / f"7_{stages[1].id}.err"
    assert log.read_text().startswith("Traceback (most recent call last)")
    assert "levels=65000 must be at most" in log.read_text()
    assert of_job(stages[2].id).stage_log(store, "err").read_text() == ""
    assert len({process(store, stage) for stage in stages}) == 1  # one start of Python for all
    before = words(store, stages)
    job(store, stages)()  # requeued by hand: it passes over what is finished, and what failed in it
    assert words(store, stages) == before


@pytest.mark.slow
def test_workers_run_stages_at_a_time(store, stages):
    first, _, second = stages
    job(store, [first, second], workers=2)()
    assert words(store, [first, second]) == [["started", "finished"]] * 2
    assert len({os.getpid(), process(store, first), process(store, second)}) == 3


@pytest.mark.slow
def test_a_cancelled_stage_is_stopped_and_one_beside_it_goes_on(tiny, store):
    def training(epochs: int):
        cell = Cell(str(epochs), override(tiny, {"train.epochs": epochs, "train.warmup_epochs": 0}), ("train",))
        return cell.stages()[-2:]

    (quantizer, endless), (_, other) = training(5000), training(5)
    sweep.register(store, [of_job(stage.id) for stage in (quantizer, endless, other)])

    def cancel() -> None:
        journal = store.folder(f"{endless.id}.partial") / JOURNAL
        while not (journal.exists() and words(store, [other])[0]):
            time.sleep(0.01)
        write_event(store, endless.id, "cancelled", {"job": "7", "submission": "1"})

    user = threading.Thread(target=cancel, daemon=True)
    user.start()
    job(store, [quantizer, endless, other], workers=2)()
    assert words(store, [endless, other]) == [["started", "cancelled", "stopped"], ["started", "finished"]]


def go_on(packed: StageJob, todo, workers: list[Worker]) -> None:
    """Run all that is left to do, as a job does."""
    try:
        while packed._begin(todo, workers):
            todo[:0] = packed._wait(workers)
    finally:
        end(workers)


def test_a_worker_that_is_stopped_as_its_stage_ends_takes_no_other(store, stages):
    first, _, second = stages
    packed, todo, workers = job(store, stages), [first, second], list[Worker]()
    assert packed._begin(todo, workers)
    assert todo == [second]
    until = time.monotonic() + 60
    while words(store, [first]) != [["started", "finished"]]:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.2)  # the worker has told its end, and nobody has read that
    workers[0].stop()
    go_on(packed, todo, workers)
    assert words(store, [second]) == [["started", "finished"]]
    assert process(store, first) != process(store, second)


def test_a_stage_is_run_by_another_worker_where_an_idle_one_has_died(store, stages):
    first, _, second = stages
    packed, todo, workers = job(store, stages), [first], list[Worker]()
    assert packed._begin(todo, workers)
    (worker,) = workers
    while worker.stage:
        packed._wait(workers)
    assert worker.process.pid
    os.kill(worker.process.pid, signal.SIGKILL)
    go_on(packed, [second], workers)
    assert words(store, [first, second]) == [["started", "finished"]] * 2
    assert process(store, first) != process(store, second)


def test_a_stage_fails_where_a_new_worker_dies_before_it_begins(store, stages):
    """Another might die as well, and so without an end."""
    packed, workers = job(store, stages), list[Worker]()
    assert packed._begin([stages[0]], workers)
    assert workers[0].process.pid
    os.kill(workers[0].process.pid, signal.SIGKILL)
    go_on(packed, [], workers)
    assert words(store, stages[:1]) == [["failed"]]


def test_what_was_cancelled_or_has_a_newer_job_has_no_turn(store, stages):
    write_event(store, stages[0].id, "cancelled", {"job": "7", "submission": "1"})
    write_event(store, stages[0].id, "stopped", {"job": "7", "submission": "1"})  # on its way out
    sweep.register(store, [of_job(stages[1].id, "9")])
    write_event(store, stages[2].id, "failed", {"job": "7", "submission": "0"})  # of an earlier cluster
    job(store, stages)()
    assert words(store, stages) == [["cancelled", "stopped"], [], ["failed", "started", "finished"]]


def test_without_inputs_no_stage_begins_and_the_job_says_why(store, stages):
    (latents,) = store.root.glob("stages/latents-*")
    latents.rename(store.root / "elsewhere")
    with pytest.raises(UserError, match=rf"latents {latents.name} is not finished in .*; tokenbridge retry makes it"):
        job(store, stages)()
    assert words(store, stages) == [[], [], []]


def at_its_limit(job: StageJob, stage) -> StageJob:
    """The job that goes on after the time limit of one that has begun nothing but this stage."""
    job._start, job._before, job._now = time.monotonic(), job._kept(), (stage,)
    after = job.checkpoint().function
    assert isinstance(after, StageJob)
    return after


@pytest.mark.slow
def test_a_stage_that_its_limit_always_stops_is_given_up_and_the_next_have_their_turn(store, stages):
    _, _, short = stages
    later = at_its_limit(at_its_limit(job(store, [short, stages[0]], limited=0.0), short), short)
    assert later.given_up == (short.id,)
    later()
    assert words(store, [short, stages[0]]) == [["started", "failed"], ["started", "finished"]]
    (failed,) = [said for said in read_events(store, short.id) if said["event"] == "failed"]
    assert failed["error"] == (
        "time limit reached 2 times in turn with nothing to go on from: quantizer begins anew each time; raise time"
        " for it in the file of resources, then tokenbridge retry"
    )


def test_a_finished_stage_is_something_to_go_on_from(store, stages):
    first, _, second = stages
    once = at_its_limit(job(store, [first, second], limited=0.0), first)
    assert once.vain == 1
    once._start, once._before, once._now = time.monotonic(), once._kept(), (first,)
    once.run(first)
    assert once.checkpoint().function.vain == 0


def test_a_single_stage_fails_at_once(store, stages):
    alone = StageJob(store, stages[:1], Runtime(threads=1, bars=False), limited=0.0, vain=1)
    with pytest.raises(InVain, match="time limit reached 2 times"):
        at_its_limit(alone, stages[0])


def test_the_log_of_the_whole_job_is_shown_until_its_stage_begins(store, stages):
    assert of_job(stages[0].id).stage_log(store, "out") == Path(store.root / FOLDER / "7_0_log.out")
