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
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache

from slurm.answers import COLUMNS, RECORD, Task, parse_history, parse_queue, said
from tokenbridge.config import UserError

AT_ONCE = 500
"""ids in one command line"""
_JOB = re.compile(r"\d+(_\d+)?")


def unavailable() -> str | None:
    """None when Slurm answers, else in one line why not."""
    if missing := [program for program in ("sbatch", "squeue", "scontrol") if shutil.which(program) is None]:
        return f"{', '.join(missing)} not found on PATH: this machine has no Slurm client"
    try:
        _ask("sinfo", "--noheader", "--format=%R", timeout=15)
    except UserError as error:
        return str(error)
    return None


def queue(jobs: Iterable[str] | None = None, users: Iterable[str] = ()) -> dict[str, Task]:
    """Jobs of these users (this one, unless told) that wait, run or ended within MinJobAge seconds, by id.

    jobs: only these. Always asks for all and filters: a thousand ids make too long a command line, and one unknown
    among them an error.
    """
    columns = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    whose = ",".join(sorted({*users} or {getpass.getuser()}))
    text = _ask("squeue", f"--user={whose}", "--array", "--noheader", "--states=all", f"--Format={columns}")
    return _wanted(parse_queue(text), jobs)


def history(jobs: Iterable[str]) -> dict[str, Task]:
    """What accounting knows of jobs, by id: their last attempt. Empty without accounting."""
    jobs, found = list(jobs), {}
    arrays = sorted({_checked(job).split("_")[0] for job in jobs}, key=int)
    for start in range(0, len(arrays), AT_ONCE):
        # given ids and no start time, sacct looks at all times
        words = [f"--jobs={','.join(arrays[start : start + AT_ONCE])}", f"--format={RECORD}"]
        try:
            text = _ask("sacct", "--allocations", "--parsable2", "--noheader", *words)
        except UserError as error:
            if "accounting storage is disabled" in str(error):
                return {}
            raise
        found |= parse_history(text)
    return _wanted(found, jobs)


def cancel(jobs: Iterable[str]) -> None:
    """Ended jobs are passed over. Tasks of submitit ignore SIGTERM: they end when Slurm kills them, KillWait later."""
    jobs = [_checked(job) for job in jobs]
    if tasks := "".join(f"hold {job}\n" for job in jobs if "_" in job):
        with suppress(UserError):  # those that run or have ended cannot be held; the others get records of their own
            _ask("scontrol", stdin=tasks)
    for start in range(0, len(jobs), AT_ONCE):
        _ask("scancel", *jobs[start : start + AT_ONCE])


def depend(waits: Mapping[str, Iterable[str]]) -> None:
    """Each pending job or array task starts once all that it waits for have completed; nothing means at once.

    Replaces what was there before. Name every task of an array, also with nothing, so that each has its own record.
    Hold the jobs meanwhile (sbatch --hold, then release), or they may have started.
    """
    lines = []
    for job, others in waits.items():
        ids = ":".join(_checked(other) for other in others)
        lines.append(f"update JobId={_checked(job)} Dependency={ids and 'afterok:' + ids}\n")
    if lines:
        _ask("scontrol", stdin="".join(lines))


def release(jobs: Iterable[str]) -> None:
    """Lets held jobs start; of an array all tasks, even when only one is named."""
    if whole := dict.fromkeys(_checked(job).split("_")[0] for job in jobs):
        _ask("scontrol", stdin="".join(f"release {job}\n" for job in whole))


def array_limit() -> int:
    """Most tasks of an array (MaxArraySize, which is one more than the largest index)."""
    return int(_config().get("MaxArraySize", 1001))


def most_jobs() -> int:
    """Jobs that slurmctld holds at a time (MaxJobCount)."""
    return int(_config().get("MaxJobCount", 10_000))


@cache
def _config() -> dict[str, str]:
    pairs = (line.partition("=") for line in _ask("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _ask(*words: str, stdin: str | None = None, timeout: float = 120) -> str:
    """Standard output. UserError with the program's own words when it fails or does not answer."""
    environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}  # no time zones, no change of the clock
    try:
        done = subprocess.run(
            words, input=stdin or "", capture_output=True, text=True, timeout=timeout, env=environment
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


def _wanted(found: dict[str, Task], jobs: Iterable[str] | None) -> dict[str, Task]:
    return found if jobs is None else {job: found[job] for job in jobs if job in found}
