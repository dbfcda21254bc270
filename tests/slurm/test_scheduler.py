"""Reading what Slurm's programs print: text of a real Slurm 22.05. On a real cluster: tests/cluster."""

import pytest

from slurm import scheduler
from slurm.scheduler import COLUMNS, Task, parse_history, parse_queue, said, seconds
from tokenbridge.config import UserError

SQUEUE = [
    "125|CANCELLED|JobHeldUser||1795613420|1795613422|1795613422|5:00|0|0|(null)|/r/sweeps/a/jobs/1/.s.sh",
    "120_1|FAILED|NonZeroExitCode|127.0.0.1|1795613420|1795613426|1795613432|5:00|256|0|(null)|(null)",
    "122|FAILED|JobLaunchFailure|127.0.0.2|1795613420|1795613420|1795613420|5:00|9|0|(null)|(null)",
    "124|RUNNING|None|127.0.0.[3-4]|1795613422|1795613428|1795613728|5:00|0|1|(null)|(null)",
    "135_3|PENDING|Dependency||1795613549|N/A|N/A|1-02:00:00|0|0|afterok:1_5(unfulfilled)|(null)",
    "138|PENDING|ReqNodeNotAvail, UnavailableNodes:127.0.0.4||1795613549|N/A|N/A|UNLIMITED|0|0|(null)|(null)",
]
SACCT = """\
125|CANCELLED by 1000|JobHeldUser|None assigned|1795613420|1795613422|1795613422|5|0:0|sbatch /sweeps/a/jobs/1/.s.sh
126|CANCELLED by 0|DependencyNeverSatisfied|None assigned|1795613420|1795613422|1795613423|5|0:0|s /s.sh
124|REQUEUED|None|127.0.0.3|1795613420|1795613420|1795613422|5|0:0|sbatch /sweeps/a/jobs/1/.s.sh
120_1|FAILED|JobArrayTaskLimit|127.0.0.1|1795613420|1795613426|1795613432|5|1:0|sbatch /sweeps/a/jobs/1/.s.sh
136|PENDING|None|None assigned|1795613549|Unknown|Unknown||0:0|sbatch /sweeps/a/jobs/1/.s.sh
"""


def test_queue_as_squeue_prints_it():
    rows = [zip(line.split("|"), COLUMNS.values(), strict=True) for line in SQUEUE]
    found = parse_queue("\n".join("".join(cell.ljust(width) for cell, width in row) for row in rows))
    assert list(found) == ["125", "120_1", "122", "124", "135_3", "138"]
    assert (found["120_1"].state, found["120_1"].exit, found["122"].exit) == ("FAILED", "1:0", "0:9")
    assert (found["124"].node, found["124"].reason, found["124"].restarts) == ("127.0.0.[3-4]", "", 1)
    assert (found["124"].started, found["124"].ended, found["124"].limit) == (1795613428, 1795613728, 300)
    assert (found["135_3"].started, found["135_3"].limit) == (None, 26 * 3600)
    assert found["135_3"].dependency == "afterok:1_5(unfulfilled)"
    assert (found["138"].reason, found["138"].limit) == ("ReqNodeNotAvail, UnavailableNodes:127.0.0.4", None)
    assert [task.live for task in found.values()] == [False, False, False, True, True, True]
    assert [found[job].is_of("sweeps/a/jobs/1") for job in ("125", "122")] == [True, False]
    assert not found["125"].is_of("sweeps/a/jobs/11")


def test_a_script_may_have_any_path():
    """Of a name that is no ASCII squeue counts the bytes; what it cuts tells nothing, and lines may break."""
    row = dict(zip(COLUMNS, SQUEUE[3].split("|"), strict=True))
    text = "".join(row[name].ljust(width) for name, width in COLUMNS.items() if name != "Command")
    long = f"/{'x' * 600}/sweeps/a/jobs/1/.s.sh"[: COLUMNS["Command"]]
    for path, ours in (("/rüns/sweeps/a/jobs/1/.s.sh", True), ("/a\n12 b/.s.sh", False), (long, True)):
        found = parse_queue(text + path.ljust(COLUMNS["Command"]) + "\n")
        assert list(found) == ["124"]
        assert found["124"].is_of("sweeps/a/jobs/1") == ours


def test_history_as_sacct_prints_it():
    found = parse_history(SACCT)
    assert [(task.state, task.reason) for task in found.values()] == [
        ("CANCELLED", "by uid 1000"),
        ("CANCELLED", "DependencyNeverSatisfied"),
        ("PENDING", ""),
        ("FAILED", ""),
        ("PENDING", ""),
    ]
    assert (found["120_1"].exit, found["120_1"].limit, found["120_1"].ended) == ("1:0", 300, 1795613432)
    assert (found["125"].node, found["136"].started, found["136"].limit) == ("", None, None)
    assert [found["125"].is_of(f"sweeps/a/jobs/{number}") for number in (1, 2)] == [True, False]
    lines = "7|FAILED||127.0.0.1|1|2|3|5|1:0|sbatch --wrap=echo | cat\n8 times\n"
    assert list(parse_history(lines)) == ["7"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified",
        ),
        ("sbatch: error: Invalid --time specification\n", "Invalid --time specification"),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
         "Unable to contact slurm controller (connect failure)"),
        ("Job has already finished for job 121", "Job has already finished for job 121"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_slurm_said_is_one_line(text, line):
    assert said(text) == line


def test_time_limits_in_every_form_of_slurm():
    forms = {"90": 5400, "30:00": 1800, "2:00:00": 7200, "1-2": 93600, "1-12:30": 131400, "1-12:00:05": 129605}
    assert {form: seconds(form) for form in forms} == forms
    assert [seconds(text) for text in ("UNLIMITED", "NOT_SET", "1:2:3:4", "1d", "-5", "")] == [None] * 6


def test_without_slurm_each_question_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch, squeue, scontrol not found on PATH" in (scheduler.unavailable() or "")
    with pytest.raises(UserError, match="squeue not found on PATH"):
        scheduler.queue()


@pytest.mark.parametrize(
    ("state", "reason", "remedy"),
    [
        ("PENDING", "JobHeldUser", "release"),
        ("PENDING", "launch failed requeued held", "release"),
        ("PENDING", "launch_failed_requeued_held", "release"),
        ("PENDING", "job requeued in held state", "release"),
        ("REQUEUE_HOLD", "BeginTime", "release"),
        ("PENDING", "JobHeldAdmin", "administrator"),
        ("PENDING", "PartitionTimeLimit", "resubmit"),
        ("PENDING", "PartitionConfig", "resubmit"),
        ("PENDING", "QOSMaxWallDurationPerJobLimit", "resubmit"),
        ("PENDING", "AssocMaxGRESPerNode", "resubmit"),
        ("PENDING", "QOSMinGRES", "resubmit"),
        # what may end by itself
        ("PENDING", "", None),
        ("PENDING", "Resources", None),
        ("PENDING", "Dependency", None),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:127.0.0.4", None),
        ("PENDING", "PartitionDown", None),
        ("PENDING", "QOSMaxJobsPerUserLimit", None),
        ("PENDING", "AssocGrpCpuLimit", None),
        ("CANCELLED", "JobHeldUser", None),
        ("RUNNING", "", None),
    ],
)
def test_what_never_starts_by_itself(state, reason, remedy):
    assert Task(state, reason).remedy == remedy


def test_the_submission_of_a_job():
    assert Task("PENDING", script="/home/ada/runs/sweeps/mine/jobs/1-2/.s.sh").submission == "sweeps/mine/jobs/1-2"
    for other in ("", "/home/ada/run.sh", "/home/ada/jobs/sweeps/x/y/run.sh", "sbatch"):
        assert Task("PENDING", script=other).submission == ""
