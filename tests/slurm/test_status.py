"""Every state that a stage can be in, from real records and what Slurm was seen to say of its jobs."""

import getpass
import json
import os

import pytest

from experiments.progress import training
from slurm import scheduler, status
from slurm import sweep as records
from slurm.scheduler import Task
from slurm.status import stage_states
from tests.helpers.sweeps import Small
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import JOURNAL

LIMIT = "time limit; raise time, or signal_seconds to have a checkpoint before it, in the file of resources"


@pytest.fixture
def small(tmp_path):
    made = Small(Store(tmp_path))
    made.submit()
    made.finish(made.id("latents"), made.id("quantizer"), made.id("quantizer", 2))
    return made


def states(small, tasks=None, past=None, stages=None):
    """tasks: by stage id, None without Slurm."""
    named = None if tasks is None else {small.jobs[id]: task for id, task in tasks.items()}
    stages = stages or status.with_last(small.sweep)
    gone = {small.jobs[id]: task for id, task in (past or {}).items()}
    asked = []

    def accounting(jobs):
        asked.extend(jobs)
        return {job: task for job, task in gone.items() if job in jobs}

    found = stage_states(small.store, stages, records.jobs_by_stage(small.store), named, accounting)
    assert set(asked) >= set(gone)
    return found


def one(small, id, task=None, past=None):
    """The state of one stage; all others are in the queue."""
    others = {other: Task("PENDING", "Priority") for other in small.jobs}
    del others[id]
    found = states(small, others | ({id: task} if task else {}), {id: past} if past else {})[id]
    assert found.job == (small.jobs[id] if found.word not in ("finished", "waiting") or id == small.sweep.last else "")
    return found.word, found.detail


def test_a_sweep_under_way(small):
    """Running, in line, blocked by what runs, and nothing else asked of anybody."""
    train, other = small.id("train"), small.id("train", 2)
    small.say(train, "started")
    small.train(train, 45, 100)
    tasks = {id: Task("PENDING", "Dependency") for id in small.jobs}
    tasks |= {train: Task("RUNNING"), other: Task("PENDING", "Resources")}
    found = states(small, tasks)
    assert found[small.id("latents")].word == "finished"
    assert found[train].word == "running"
    at = found[train].at
    assert at is not None
    assert (at.step, at.steps, at.seconds) == (45, 100, pytest.approx(55))
    assert (found[other].word, found[other].detail) == ("queued", "Resources")
    score = found[small.id("score", 1)]
    assert (score.word, score.cause) == ("blocked", train)
    assert score.detail == "by train of 2a-b000-t0 (running)"
    assert found[small.sweep.last].word == "blocked"


def test_the_folder_wins(small):
    """Whatever the job said and whatever Slurm thinks: the stage is there."""
    train = small.id("train")
    small.say(train, "started", "failed")
    small.finish(train)
    for task in (None, Task("RUNNING"), Task("FAILED")):
        assert one(small, train, task) == ("finished", "")


def test_requeued_after_a_checkpoint(small):
    train = small.id("train")
    small.say(train, "started", "stopped")
    small.train(train, 30)
    assert one(small, train, Task("COMPLETING")) == ("requeued", "stopping, checkpoint written")
    assert one(small, train, Task("PENDING", "BeginTime")) == ("requeued", "BeginTime")
    small.say(train, "started")
    assert one(small, train, Task("RUNNING"))[0] == "running"
    # Slurm requeues by itself after a preemption, and the job had no time to say so
    assert one(small, train, Task("PENDING", "BeginTime"))[0] == "requeued"
    other = small.id("train", 2)  # nor even to say that it began
    assert one(small, other, Task("PENDING", "BeginTime", restarts=1))[0] == "requeued"


def test_a_dead_node_is_no_failure_while_slurm_has_the_job(small):
    train = small.id("train")
    small.say(train, "started")
    assert one(small, train, Task("NODE_FAIL", returning=True)) == ("requeued", "its node failed")
    assert one(small, train, Task("NODE_FAIL")) == ("failed", "node failure")
    assert one(small, train, None, Task("NODE_FAIL")) == ("failed", "node failure")


def test_a_job_of_an_earlier_cluster_says_nothing_of_the_one_with_its_number(small):
    train = small.id("train")
    small.say(train, "started", submission="99")
    assert one(small, train, Task("PENDING", "Priority")) == ("queued", "Priority")
    lost = ("lost", "left the queue before it began; cancelled while it waited?")
    assert one(small, train, None, Task("FAILED", exit="1:0", script="sbatch /r/sweeps/small/jobs/99/.s.sh")) == lost
    small.say(train, "started", submission="100")
    failed = Task("FAILED", exit="0:9", script="sbatch /r/sweeps/small/jobs/100/.s.sh")
    assert one(small, train, None, failed) == ("failed", "ended without a word (FAILED, signal 9)")


def test_the_time_left_of_a_training_bears_a_wait_and_another_clock(small):
    """Of a step a second: an hour in the queue after step 30, then a node whose clock is a day behind."""
    train = small.id("train")
    for away in (3_600_000, 3_600_000 - 86_400_000):
        small.train(train, 45, 100)
        path = small.store.folder(f"{train}.partial") / JOURNAL
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        moved = [[key, value, time + away * (step > 30), step] for key, value, time, step in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in moved))
        at = training(small.store, train)
        assert at is not None
        assert at.seconds == pytest.approx(55)


def test_what_a_job_wrote_that_never_began(small):
    train = small.id("train")
    small.log(train, err="loading cuda\nmodule: cuda/13 not found\nsrun: error: task 0: Exited with exit code 1\n")
    for task in (Task("FAILED", exit="1:0"), None):
        assert one(small, train, task) == ("failed", "module: cuda/13 not found")
    assert one(small, train, Task("TIMEOUT")) == ("failed", LIMIT)


def test_a_failure_has_its_last_line(small):
    train = small.id("train")
    small.say(train, "started")
    small.say(train, "failed", error="loss=nan must be finite", traceback="Traceback ...")
    for task in (None, Task("FAILED"), Task("COMPLETING")):
        assert one(small, train, task) == ("failed", "loss=nan must be finite")
    assert states(small)[train].word == "failed"


@pytest.mark.parametrize(
    ("said", "past", "detail"),
    [
        (["started"], Task("OUT_OF_MEMORY"), "out of memory"),
        (["started"], Task("TIMEOUT"), LIMIT),
        (["started", "stopped"], Task("TIMEOUT"), "time limit; its checkpoint is kept"),
        (["started"], Task("FAILED", exit="0:9"), "ended without a word (FAILED, signal 9)"),
        ([], Task("TIMEOUT"), LIMIT),
        (["started"], None, "left the queue without a word"),
        (["started", "stopped"], None, "stopped with a checkpoint and did not come back to the queue"),
    ],
)
def test_deaths_without_a_last_word(small, said, past, detail):
    """As squeue tells it for a while, as accounting tells it, and without."""
    train = small.id("train")
    small.say(train, *said)
    assert one(small, train, None, past) == ("failed", detail)
    assert one(small, train, past) == ("failed", detail)


def test_a_job_that_wrote_nothing_had_no_shared_folder(small):
    train = small.id("train")
    failed = Task("FAILED", exit="1:0", node="n7")
    where = f"it wrote nothing into {small.store.root.resolve()}, which node n7 must share with this one"
    assert one(small, train, None, failed) == ("failed", where)
    log = records.jobs_by_stage(small.store)[train][-1].log(small.store, "err")
    log.parent.mkdir(parents=True)
    log.touch()
    assert one(small, train, None, failed) == ("failed", "ended without a word (FAILED, exit code 1)")


def test_lost(small):
    train = small.id("train")
    assert one(small, train) == ("lost", "left the queue before it began; cancelled while it waited?")
    assert one(small, train, None, Task("PENDING"))[0] == "lost"  # slurmctld lost its state, accounting did not
    small.say(train, "started")
    assert one(small, train, None, Task("COMPLETED")) == ("lost", "left no result, though Slurm calls it completed")
    small.say(train, "finished")
    assert one(small, train) == ("lost", "was finished, but its folder is gone")


def test_cancelled_by_whom(small):
    train = small.id("train")
    me = getpass.getuser()
    assert one(small, train, None, Task("CANCELLED", f"by uid {os.getuid()}")) == ("cancelled", f"by {me}")
    assert one(small, train, None, Task("CANCELLED", "by uid 4123456")) == ("cancelled", "by user 4123456")
    small.say(train, "started")
    assert one(small, train, None, Task("CANCELLED")) == ("cancelled", "by a user")
    found = states(small, {train: Task("CANCELLED")}, {train: Task("CANCELLED", "by uid 4123456")})[train]
    assert found.detail == "by user 4123456"  # squeue does not tell by whom
    small.say(train, "cancelled", by="ada")
    assert one(small, train) == ("cancelled", "by ada")


@pytest.mark.parametrize("accounting", [True, False])
def test_a_failure_cancels_what_needs_it_and_no_other(small, accounting):
    train = small.id("train")
    small.say(train, "started")
    small.say(train, "failed", error="no")
    needing = [small.id("likelihood"), *(small.id(kind, n) for kind in ("sample", "score") for n in (0, 1))]
    tasks = {id: Task("PENDING", "Priority") for id in small.jobs if id not in needing and id != train}
    tasks[small.id("sample")] = Task("PENDING", "DependencyNeverSatisfied")
    past = {small.id("likelihood"): Task("CANCELLED", "DependencyNeverSatisfied")} if accounting else {}
    found = states(small, tasks, past)
    assert {id for id, state in found.items() if state.word == "cancelled"} == set(needing)
    assert {found[id].detail for id in needing} == {"train of 2a-b000-t0 failed"}
    assert {found[id].cause for id in needing} == {train}
    assert found[small.sweep.last].word == "queued"


def under_way(small, tasks):
    found = states(small, tasks)
    return status.SweepStatus(small.sweep, status.with_last(small.sweep), found, "", 0)


def test_what_never_starts_by_itself_is_stuck_and_not_under_way(small):
    """And what it blocks is not under way either: only somebody's hand ends that."""
    train = small.id("train")
    small.finish(small.id("reconstruct"), small.id("reconstruct", 2))
    reasons = {id: Task("PENDING", "Dependency") for id in small.jobs}
    for word, remedy in (("JobHeldUser", "release"), ("JobHeldAdmin", "administrator"), ("BadConstraints", "resubmit")):
        found = under_way(small, reasons | {train: Task("PENDING", word), small.id("train", 2): Task("PENDING", word)})
        assert found.states[train].word == "stuck"
        assert word in found.states[train].detail
        assert found.states[small.id("score")].word == "blocked"
        assert set(found.stuck(remedy)) == {train, small.id("train", 2)}
        assert found.exit_code == status.EXIT_BROKEN
    found = under_way(small, reasons | {train: Task("PENDING", "JobHeldUser"), small.id("train", 2): Task("RUNNING")})
    assert found.exit_code == status.EXIT_UNDER_WAY
    assert found.lacking() == []


def test_what_waits_for_the_held_job_of_a_finished_stage_is_stuck(small):
    """As a slurmctld leaves it that was killed between the start of a job and its next save: seen in the soak."""
    quantizer = small.id("quantizer")
    waiting = {id: Task("PENDING", "Dependency") for id in small.jobs}
    found = under_way(small, waiting | {quantizer: Task("PENDING", "JobHeldUser")})
    assert found.states[quantizer].word == "finished"
    train = found.states[small.id("train")]
    job = small.jobs[quantizer]
    assert (train.word, train.job, train.behind) == ("stuck", small.jobs[small.id("train")], job)
    assert train.detail == (
        f"waits for job {job} of a finished stage, held by a user, or since slurmctld forgot its release (JobHeldUser)"
    )
    assert {state.behind for state in found.stuck("release").values()} == {job}
    assert found.states[small.id("train", 2)].word == "queued"


def test_a_submission_is_named_where_it_was_cut_off(small):
    train = small.id("train")
    intent = records.Intent("small", f"sweeps/small/jobs/{100}", "tokenbridge grid", 1.0)
    records.begin(small.store, intent)
    assert one(small, train, Task("PENDING", "JobHeldUser")) == ("stuck", "held, because its submission was cut off")
    with small.store.lock("submission"):  # it is under way
        assert one(small, train, Task("PENDING", "JobHeldUser")) == ("queued", "JobHeldUser")


def test_what_was_never_submitted_waits(small):
    new = Small(small.store, 2, "more", first=10)
    found = states(small, {}, stages=status.with_last(new.sweep))
    assert found[new.id("latents")].word == "finished"
    assert found[new.id("train")].word == "waiting"


def test_a_retry_counts_and_a_job_in_the_queue_counts_more(small):
    train = small.id("train")
    small.say(train, "started", "failed")
    small.submit(200, [train])
    assert one(small, train, Task("PENDING", "Priority")) == ("queued", "Priority")
    old = {"103_0": Task("RUNNING")}
    found = stage_states(small.store, status.with_last(small.sweep), records.jobs_by_stage(small.store), old)
    assert found[train].job == "103_0"


def test_without_slurm_the_jobs_words_do(small):
    train, other = small.id("train"), small.id("train", 2)
    small.say(train, "started")
    found = states(small)
    assert [found[id].word for id in (train, other, small.id("score"))] == ["running", "queued", "blocked"]
    small.say(train, "stopped")
    small.say(other, "started", "failed")
    found = states(small)
    assert [found[id].word for id in (train, other)] == ["requeued", "failed"]
    assert (found[small.id("score", 2)].word, found[small.id("score", 2)].cause) == ("cancelled", other)


@pytest.fixture
def packed(tmp_path):
    """Four cells with two trainings in one job; latents and quantizers are there."""
    made = Small(Store(tmp_path))
    made.submit(pack=2)
    made.finish(made.id("latents"), made.id("quantizer"), made.id("quantizer", 2))
    return made


def of_packed(small, tasks, past=None):
    """States by the kind and the number of a cell; tasks by job, of kinds that are not told all wait."""
    waiting = {job: Task("PENDING", "Dependency") for job in small.jobs.values()}
    stages, jobs = status.with_last(small.sweep), records.jobs_by_stage(small.store)
    found = stage_states(small.store, stages, jobs, waiting | tasks, lambda jobs: past or {})
    return lambda kind, number=0: (found[small.id(kind, number)].word, found[small.id(kind, number)].detail)


def test_the_stages_of_a_running_job_have_states_of_their_own(packed):
    train, other = packed.id("train"), packed.id("train", 2)
    assert packed.jobs[train] == packed.jobs[other]
    running = {packed.jobs[train]: Task("RUNNING")}
    packed.say(train, "started")
    at = of_packed(packed, running)
    assert (at("train"), at("train", 2)) == (("running", ""), ("queued", "earlier stages of its job"))
    assert at("sample", 2) == ("blocked", "by train of 2a-b001-t0 (queued)")
    packed.say(train, "failed", error="loss=nan")
    packed.say(other, "started")
    at = of_packed(packed, running)
    assert (at("train"), at("train", 2)) == (("failed", "loss=nan"), ("running", ""))
    assert (at("sample"), at("score")) == (("cancelled", "train of 2a-b000-t0 failed"),) * 2
    assert at("sample", 2) == ("blocked", "by train of 2a-b001-t0 (running)")
    packed.finish(other)  # though the job of both failed trainings' samples is in the queue: it passes over them
    assert of_packed(packed, {})("sample", 2) == ("queued", "Dependency")


def test_a_requeued_job_goes_on_with_the_stage_that_ran(packed):
    train, other = packed.id("train"), packed.id("train", 2)
    packed.say(train, "started", "stopped")
    at = of_packed(packed, {packed.jobs[train]: Task("PENDING", "BeginTime", restarts=1)})
    assert (at("train"), at("train", 2)) == (("requeued", "BeginTime"), ("queued", "BeginTime"))
    packed.say(train, "started", "failed", error="no")
    packed.say(other, "started")
    at = of_packed(packed, {packed.jobs[train]: Task("PENDING", "BeginTime", restarts=2)})
    assert (at("train"), at("train", 2)) == (("failed", "no"), ("requeued", "BeginTime"))


def test_a_cancelled_stage_that_stops_afterwards_is_cancelled(packed):
    train, other = packed.id("train"), packed.id("train", 2)
    packed.say(train, "started")
    packed.say(train, "cancelled", by="ada")
    packed.say(train, "stopped")
    for task in (Task("COMPLETING"), Task("PENDING", "BeginTime", restarts=1), Task("RUNNING", restarts=1)):
        assert of_packed(packed, {packed.jobs[train]: task})("train") == ("cancelled", "by ada")
    packed.say(other, "started")
    assert of_packed(packed, {packed.jobs[train]: Task("RUNNING")})("train", 2) == ("running", "")


@pytest.mark.parametrize("how", ["OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL"])
def test_a_death_is_of_the_stage_that_ran_and_the_next_are_lost(packed, how):
    train = packed.id("train")
    job = packed.jobs[train]
    packed.say(train, "started")
    stages, jobs = status.with_last(packed.sweep), records.jobs_by_stage(packed.store)
    for tasks in ({job: Task(how)}, {}):
        found = stage_states(packed.store, stages, jobs, tasks, lambda _: {job: Task(how)})
        assert found[train].word == "failed"
        assert status.DEATHS[how] in found[train].detail
        other = found[packed.id("train", 2)]
        assert (other.word, other.detail) == ("lost", f"its job ended before its turn ({how})")
    packed.log(train, err="of the stage that died\n")
    assert records.jobs_by_stage(packed.store)[train][-1].last_words(packed.store) == ""


def test_a_packed_job_that_never_began_says_why_of_all(packed):
    train = packed.id("train")
    log = records.jobs_by_stage(packed.store)[train][-1].log(packed.store, "err")
    log.parent.mkdir(parents=True)
    log.write_text("module: cuda/13 not found\n")
    at = of_packed(packed, {packed.jobs[train]: Task("FAILED", exit="1:0")})
    assert (at("train"), at("train", 2)) == (("failed", "module: cuda/13 not found"),) * 2


@pytest.fixture
def away(monkeypatch, tmp_path):
    """A machine without Slurm."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scheduler.unavailable()


def test_exit_codes(small, away):
    def code():
        return status.look(small.store, small.sweep).exit_code

    assert code() == status.EXIT_UNDER_WAY
    everything = [id for id in small.jobs if id != small.sweep.last]
    small.finish(*everything)
    assert code() == status.EXIT_UNDER_WAY  # its last job has not written the plan
    small.say(small.sweep.last, "started", "finished")
    assert code() == status.EXIT_FINISHED
    small.say(small.sweep.last, "failed", error="no")
    assert code() == status.EXIT_BROKEN
    train = small.id("train")
    small.submit(200, [train, small.sweep.last])
    (small.store.folder(train) / "manifest.json").unlink()
    small.store.folder(train).rmdir()
    small.say(small.sweep.last, "started", "finished")
    small.say(train, "started", "failed")
    assert code() == status.EXIT_BROKEN


def test_time_left(small, away):
    """Finished stages say how long a kind takes, a training itself how far it is; jobs run at once."""
    look = status.look(small.store, small.sweep)
    assert status.seconds_left(small.store, look) is None  # nobody knows how long a training takes
    for kind in ("reconstruct", "likelihood", "sample", "score"):
        small.finish(small.id(kind), seconds=5)
    train, other = small.id("train"), small.id("train", 2)
    small.say(train, "started")
    small.train(train, 50, 100)
    look = status.look(small.store, small.sweep)
    # left: trainings 50 + 100, then one likelihood, reconstruct, 3 samples and 3 scores
    assert status.seconds_left(small.store, look) == (pytest.approx(150 + 8 * 5), 1)
    small.say(other, "started")
    small.train(other, 50, 100)
    look = status.look(small.store, small.sweep)
    assert status.seconds_left(small.store, look) == (pytest.approx(max(70, 60)), 2)


def test_double_executions_are_counted(small, away):
    train = small.id("train")
    small.say(train, "started", "started", "finished", "discarded")
    small.finish(train)
    assert status.look(small.store, small.sweep).discarded == 1


def test_many_sweeps_share_one_look(small, away):
    more = Small(small.store, 2, "more", first=2)
    found = status.looks(small.store, [small.sweep, more.sweep])
    assert found[0].states[small.id("train", 2)] == found[1].states[more.id("train")]
    assert set(found[1].states) == {*more.sweep.stages, more.sweep.last}
