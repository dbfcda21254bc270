"""Questions and orders to Slurm. The only module that calls its programs; one call a question, however many jobs.

Seen on Slurm 22.05 with slurm/cluster.sh, and relied on:

- A pending task of an array takes a dependency of its own: `scontrol update JobId=2_4 Dependency=afterok:1_4`. A list
  of 5,000 ids (39 KB) is taken in 0.1 s. Many updates go to one scontrol as lines: 4 ms each, not 10.
- afterok waits through requeues, a task's own included. Failed, timed out or cancelled means never satisfied: with
  --kill-on-invalid-dep=yes, or kill_invalid_depend in slurm.conf, the dependent is cancelled within 2 s; without either
  it pends for ever with the reason DependencyNeverSatisfied, also after the failed job is forgotten.
- An id that slurmctld does not know counts as satisfied, whatever became of it: MinJobAge seconds after its end, 300
  unless told, a failed job holds nobody back. A stage looks for its inputs itself.
- A task cancelled while it waits in its array leaves no trace, neither in squeue nor in sacct, so what waits for it
  starts. Once an update or hold has named the task, even with an empty dependency, it has a record of its own: its end
  is seen and cancels what waits for it.
- When a node dies, squeue shows its jobs as PENDING at once; sacct says NODE_FAIL for 2 s. So squeue is right first.
- With MaxJobCount jobs in its hands (10,000 unless told) slurmctld takes no more, and sbatch waits without an end.
- squeue --states=all knows ended jobs for MinJobAge seconds, so it does without accounting; 9,000 jobs take 0.1 s.
- Times of jobs are slurmctld's. Slurm's programs run with any clock, even a day apart, but sacct leaves out what began
  later than this machine's now: it gets an end of its own. `scontrol show config` tells slurmctld's now.
- A cluster that was set up anew counts from 1 again. A job's script, which squeue tells as Command and sacct within
  SubmitLine, is in the folder of its submission and tells whose it is; a requeue keeps both.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from tokenbridge.config import UserError

AT_ONCE = 500
"""ids in one command line"""
NEVER = "2100-01-01"
_JOB = re.compile(r"\d+(_\d+)?")


def unavailable() -> str | None:
    """Say in one line why Slurm does not answer; None where it does."""
    if missing := [program for program in ("sbatch", "squeue", "scontrol") if shutil.which(program) is None]:
        return f"{', '.join(missing)} not found on PATH: this machine has no Slurm client"
    try:
        _ask("sinfo", "--noheader", "--format=%R", timeout=15)
    except UserError as error:
        return str(error)
    return None


def queue(jobs: Iterable[str] | None = None, users: Iterable[str] = ()) -> dict[str, Task]:
    """Ask squeue for jobs that wait, run or ended within MinJobAge seconds.

    Args:
        jobs: ids to keep, all by default. squeue is asked for all and filtered: a thousand ids make too long a command
            line, and one unknown id among them is an error.
        users: whose jobs, by default this user's.

    Returns:
        Tasks by job id.
    """
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    whose = ",".join(sorted({*users} or {getpass.getuser()}))
    text = _ask("squeue", f"--user={whose}", "--array", "--noheader", "--states=all", f"--Format={columns}")
    return _with_returning(_wanted(parse_queue(text), jobs))


def history(jobs: Iterable[str]) -> dict[str, Task]:
    """Ask accounting for the last attempt of these jobs; tasks by job id, none without accounting."""
    jobs, tasks = list(jobs), {}
    arrays = sorted({_checked(job).split("_")[0] for job in jobs}, key=int)
    for start in range(0, len(arrays), AT_ONCE):
        # given ids and no start time, sacct looks at all times
        words = [f"--jobs={','.join(arrays[start : start + AT_ONCE])}", f"--format={RECORD}", f"--endtime={NEVER}"]
        try:
            text = _ask("sacct", "--allocations", "--parsable2", "--noheader", *words)
        except UserError as error:
            if "accounting storage is disabled" in str(error):
                return {}
            raise
        tasks |= parse_history(text)
    return _with_returning(_wanted(tasks, jobs))


def partitions() -> str:
    """Ask sinfo for partitions: a line for each kind of node with name, state, limit, nodes, CPUs, MB, resources.

    The default one ends in *; `seconds` reads a limit, and numbers of uneven nodes end in +.
    """
    return _ask("sinfo", "--noheader", "--format=%P|%a|%l|%D|%c|%m|%G")


def default_account() -> str:
    """The account that this user's jobs are charged to; empty where there are none, or no accounting."""
    user = f"name={getpass.getuser()}"
    try:
        said = _ask("sacctmgr", "--noheader", "--parsable2", "list", "user", user, "format=DefaultAccount")
    except UserError:  # also without accounting, and where one must not ask
        return ""
    return next((line.strip() for line in said.splitlines() if line.strip()), "")


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that have ended are passed over.

    Tasks of submitit ignore SIGTERM: they end when Slurm kills them, KillWait later.
    """
    jobs = [_checked(job) for job in jobs]
    if tasks := "".join(f"hold {job}\n" for job in jobs if "_" in job):
        with suppress(UserError):  # those that run or have ended cannot be held; the others get records of their own
            _ask("scontrol", stdin=tasks)
    for start in range(0, len(jobs), AT_ONCE):
        _ask("scancel", *jobs[start : start + AT_ONCE])


def depend(waits: Mapping[str, Iterable[str]], on: Literal["afterok", "afterany"] = "afterok") -> None:
    """Let each pending job or array task start once all jobs that it waits for have completed, or at once for none.

    With `afterany` once they have ended, however that was.

    This replaces what was there before. Name every task of an array, also with nothing, so that each has its own
    record. Hold the jobs meanwhile (sbatch --hold, then release), or they may have started.
    """
    lines = []
    for job, others in waits.items():
        ids = ":".join(_checked(other) for other in others)
        lines.append(f"update JobId={_checked(job)} Dependency={ids and f'{on}:{ids}'}\n")
    if lines:
        _ask("scontrol", stdin="".join(lines))


def release(jobs: Iterable[str]) -> None:
    """Let held jobs start; an array's id stands for all of its tasks."""
    if lines := "".join(f"release {_checked(job)}\n" for job in jobs):
        _ask("scontrol", stdin=lines)


def requeue(job: str) -> None:
    """Let a job that runs go back to the queue. UserError where it is on its way there, has ended or is unknown."""
    _ask("scontrol", "requeue", _checked(job))


def array_limit() -> int:
    """Largest number of tasks of an array (MaxArraySize, which is one more than the largest index)."""
    return int(_config().get("MaxArraySize", 1001))


def most_jobs() -> int:
    """Number of jobs that slurmctld holds at a time (MaxJobCount)."""
    return int(_config().get("MaxJobCount", 10_000))


@cache
def _config() -> dict[str, str]:
    pairs = (line.partition("=") for line in _ask("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _ask(*words: str, stdin: str | None = None, timeout: float = 120) -> str:
    """Run a program of Slurm and return its output; UserError with its own words where it fails or does not answer."""
    environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}  # no time zones, no change of the clock
    try:
        done = subprocess.run(
            words, input=stdin or "", capture_output=True, text=True, errors="replace", timeout=timeout, env=environment
        )
    except FileNotFoundError:
        raise UserError(f"{words[0]} not found on PATH; run this where Slurm is installed") from None
    except subprocess.TimeoutExpired as error:
        last = error.stderr.decode() if isinstance(error.stderr, bytes) else error.stderr or ""
        raise UserError(f"{words[0]} has not answered for {timeout:g} s: {said(last) or 'no message'}") from None
    if done.returncode:
        raise UserError(f"{words[0]} refused: {said(done.stderr) or f'exit code {done.returncode}'}")
    return done.stdout


def _checked(job: str) -> str:
    if not _JOB.fullmatch(job):
        raise UserError(f"{job!r} is no job of Slurm; it must be a number, or number_task in an array")
    return job


def _with_returning(tasks: dict[str, Task]) -> dict[str, Task]:
    """Tasks with `returning` where it is so, by slurmctld's clock, which ended them."""
    if any(task.state in RETURNING for task in tasks.values()):
        now = int(_ask("scontrol", "show", "config").partition("as of ")[2].split()[0])
        for job, task in tasks.items():
            if task.state in RETURNING and now - (task.ended or 0) < RETURNING_SECONDS:
                tasks[job] = replace(task, returning=True)
    return tasks


def _wanted(tasks: dict[str, Task], jobs: Iterable[str] | None) -> dict[str, Task]:
    return tasks if jobs is None else {job: tasks[job] for job in jobs if job in tasks}


WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
Remedy = Literal["release", "administrator", "resubmit"]
HELD = {
    "JobHeldUser": "held by a user, or since slurmctld forgot its release",
    "launch failed requeued held": "Slurm could not start it on its node, and holds it",
    "job requeued in held state": "requeued and held",
    "JobHoldMaxRequeue": "requeued more often than this Slurm allows, and held",
}
"""reasons that last until somebody releases the job, which its owner may"""
UNFIT = (
    "BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "InvalidAccount", "InvalidQOS",
    "AccountNotAllowed", "QOSNotAllowed", "DependencyNeverSatisfied", "ReservationDeleted", "DeadLine",
    "MaxMemPerLimit",
)  # fmt: skip
"""reasons that last while the job asks for what it asks. All others, such as Resources, ReqNodeNotAvail or
PartitionDown, and limits of all jobs together, may end by themselves."""
_UNFIT_BY_LIMIT = re.compile(r"(QOS|Assoc)(Max\w+Per(Job|Node)(Limit)?|Min\w+)")
RETURNING_SECONDS = 30.0
RETURNING = {"NODE_FAIL": "its node failed", "BOOT_FAIL": "its node failed", "PREEMPTED": "preempted"}
"""what Slurm calls a job for the seconds before it is in the queue again"""
_LIMIT = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


@dataclass(frozen=True)
class Task:
    """One job or array task as Slurm describes it."""

    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY, CANCELLED, PREEMPTED ..."""
    reason: str = ""
    """why it waits or ended: Priority, DependencyNeverSatisfied, NonZeroExitCode, by uid 1000 ..."""
    node: str = ""
    """nodes as Slurm writes them: n[1-3]"""
    submitted: float | None = None
    """seconds since 1970, as started and ended"""
    started: float | None = None
    """of the last attempt; of a waiting job, when Slurm expects it"""
    ended: float | None = None
    """of a running job, when its time limit ends it"""
    limit: float | None = None
    """seconds; None without a limit"""
    exit: str = ""
    """exit code:signal of an ended job, such as 1:0 or 0:9"""
    restarts: int = 0
    """accounting does not tell"""
    dependency: str = ""
    """afterok:120_4(unfulfilled),..., cut after 96 characters"""
    script: str = ""
    """path of its script, from accounting the command line that submitted it; empty where Slurm does not tell"""
    returning: bool = False
    """it has just lost its node, and will be in the queue again in a moment"""

    @property
    def submission(self) -> str:
        """Folder of the submission that it is of, below a runs folder; empty where it is of none or nobody tells."""
        parts = self.script.rsplit("/", 5)
        return "/".join(parts[1:5]) if len(parts) == 6 and (parts[1], parts[3]) == ("sweeps", "jobs") else ""

    @property
    def remedy(self) -> Remedy | None:
        """What a job needs that waits and never starts by itself; None for all others."""
        reason = self.reason.replace("_", " ")  # as squeue writes some of them, by its version and format
        if not self.waiting or not reason:
            return None
        if reason in HELD or self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
            return "release"
        if reason == "JobHeldAdmin":
            return "administrator"
        return "resubmit" if self.reason in UNFIT or _UNFIT_BY_LIMIT.fullmatch(self.reason) else None

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def running(self) -> bool:
        """True while it has its nodes or is just leaving them."""
        return self.state in RUNNING

    @property
    def live(self) -> bool:
        """True until it has ended for good."""
        return self.waiting or self.running

    @property
    def over(self) -> bool:
        """True where a job that Slurm still lists has ended for good and will not come back to the queue."""
        return not (self.live or self.returning)

    def is_of(self, submission: str) -> bool:
        """Whether it may be of this submission, by its folder below the runs folder: sweeps/NAME/jobs/TIME."""
        return not self.script or f"/{submission}/" in self.script

    @property
    def ending(self) -> str:
        """How the job ended: `FAILED, exit code 1` or `FAILED, signal 9`."""
        code, _, number = self.exit.partition(":")
        if number not in ("", "0"):
            return f"{self.state}, signal {number}"
        return self.state if code in ("", "0") else f"{self.state}, exit code {code}"

    @property
    def canceller(self) -> str:
        """Who cancelled the job, such as `by anna`."""
        user = self.reason.removeprefix("by uid ")
        if not user.isdigit():
            return "by a user"
        import pwd

        try:
            return f"by {pwd.getpwuid(int(user)).pw_name}"
        except KeyError:
            return f"by user {user}"


COLUMNS = {
    "JobArrayID": 24, "State": 16, "Reason": 48, "NodeList": 48, "SubmitTime": 12, "StartTime": 12, "EndTime": 12,
    "TimeLimit": 16, "exit_code": 8, "RestartCnt": 8, "Dependency": 96, "Command": 512,
}  # fmt: skip
"""Command is the last: squeue counts bytes, and a path may have others than ASCII"""
RECORD = "JobID,State,Reason,NodeList,Submit,Start,End,TimelimitRaw,ExitCode,SubmitLine"


def parse_queue(text: str) -> dict[str, Task]:
    """Read squeue's table of COLUMNS, each column as wide as given there; tasks by job id."""
    tasks = {}
    for line in text.split("\n"):
        cells, start = {}, 0
        for name, width in COLUMNS.items():
            cells[name], start = line[start : start + width].strip(), start + width
        if not _JOB.fullmatch(cells["JobArrayID"]):
            continue  # the rest of a script's path with a line break
        cut = len(cells["Command"].encode()) >= COLUMNS["Command"]
        status = int(cells["exit_code"] or 0)
        reason, dependency = cells["Reason"], cells["Dependency"]
        tasks[cells["JobArrayID"]] = Task(
            state=cells["State"],
            reason="" if reason == "None" else reason,
            node=cells["NodeList"],
            submitted=_time(cells["SubmitTime"]),
            started=_time(cells["StartTime"]),
            ended=_time(cells["EndTime"]),
            limit=seconds(cells["TimeLimit"]),
            exit=f"{status >> 8}:{status & 127}",  # as wait() gives it
            restarts=int(cells["RestartCnt"] or 0),
            dependency="" if dependency == "(null)" else dependency,
            script="" if cut else cells["Command"],
        )
    return tasks


def parse_history(text: str) -> dict[str, Task]:
    """Read sacct's lines of RECORD, separated by bars; tasks by job id.

    A requeued job that has not started again is one that waits.
    """
    tasks = {}
    for line in text.split("\n"):
        if line.count("|") < 9:
            continue  # more of a command line, which may have several
        job, state, reason, node, submitted, started, ended, minutes, code, script = line.split("|", 9)
        state, _, who = state.partition(" ")  # CANCELLED by 1000
        if who and reason != "DependencyNeverSatisfied":
            reason = who.replace("by", "by uid")
        elif not who:
            reason = ""  # why it had waited once, which stays there
        tasks[job] = Task(
            state="PENDING" if state == "REQUEUED" else state,
            reason=reason,
            node="" if node == "None assigned" else node,
            submitted=_time(submitted),
            started=_time(started),
            ended=_time(ended),
            limit=float(minutes) * 60 if minutes.isdigit() else None,
            exit=code,
            script=script,
        )
    return tasks


def seconds(limit: str) -> float | None:
    """Seconds of a time limit in one of Slurm's forms, else None.

    The forms are 90 (minutes), 30:00, 2:00:00, 1-12, 1-12:00 and 1-12:00:00.
    """
    if not _LIMIT.fullmatch(limit):
        return None
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash:
        parts = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    hours, minutes, more = (*parts, 0, 0)[:3]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + more)


def said(text: str) -> str:
    """The complaint of a program of Slurm as one line: its last two different lines without their prefixes."""
    lines = [re.sub(r"^(\w+: |slurm_\w+ )?((error|fatal): )?", "", line.strip()) for line in text.splitlines()]
    return "; ".join(list(dict.fromkeys(line for line in lines if line))[-2:])


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() else None
