"""What Slurm's programs print, read: jobs of squeue and sacct, time limits, complaints."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
RETURNING_SECONDS = 30.0
RETURNING = {"NODE_FAIL": "its node failed", "BOOT_FAIL": "its node failed", "PREEMPTED": "preempted"}
"""what Slurm calls a job for the seconds before it is in the queue again"""
_LIMIT = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


@dataclass(frozen=True)
class Task:
    """What Slurm says of one job or array task."""

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

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def running(self) -> bool:
        """Has its nodes, or is just leaving them."""
        return self.state in RUNNING

    @property
    def live(self) -> bool:
        """Has not ended for good."""
        return self.waiting or self.running

    @property
    def over(self) -> bool:
        """Whether a job that Slurm still lists has ended for good: it may be about to come back to the queue."""
        returns = self.state in RETURNING and time.time() - (self.ended or 0) < RETURNING_SECONDS
        return not (self.live or returns)

    @property
    def ending(self) -> str:
        """FAILED, exit code 1 or FAILED, signal 9."""
        code, _, number = self.exit.partition(":")
        if number not in ("", "0"):
            return f"{self.state}, signal {number}"
        return self.state if code in ("", "0") else f"{self.state}, exit code {code}"

    @property
    def canceller(self) -> str:
        """Of a cancelled job: by anna."""
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
    "TimeLimit": 16, "exit_code": 8, "RestartCnt": 8, "Dependency": 96,
}  # fmt: skip
RECORD = "JobID,State,Reason,NodeList,Submit,Start,End,TimelimitRaw,ExitCode"


def parse_queue(text: str) -> dict[str, Task]:
    """squeue's table of COLUMNS, each as wide as told."""
    found = {}
    for line in text.splitlines():
        cells, start = {}, 0
        for name, width in COLUMNS.items():
            cells[name], start = line[start : start + width].strip(), start + width
        status = int(cells["exit_code"] or 0)
        reason, dependency = cells["Reason"], cells["Dependency"]
        found[cells["JobArrayID"]] = Task(
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
        )
    return found


def parse_history(text: str) -> dict[str, Task]:
    """sacct's lines of RECORD between bars. A requeued job that has not started again is one that waits."""
    found = {}
    for line in text.splitlines():
        job, state, reason, node, submitted, started, ended, minutes, code = line.split("|")
        state, _, who = state.partition(" ")  # CANCELLED by 1000
        if who and reason != "DependencyNeverSatisfied":
            reason = who.replace("by", "by uid")
        elif not who:
            reason = ""  # why it had waited once, which stays there
        found[job] = Task(
            state="PENDING" if state == "REQUEUED" else state,
            reason=reason,
            node="" if node == "None assigned" else node,
            submitted=_time(submitted),
            started=_time(started),
            ended=_time(ended),
            limit=float(minutes) * 60 if minutes.isdigit() else None,
            exit=code,
        )
    return found


def seconds(limit: str) -> float | None:
    """Of a time limit in one of Slurm's forms: 90 (minutes), 30:00, 2:00:00, 1-12, 1-12:00, 1-12:00:00; else None."""
    if not _LIMIT.fullmatch(limit):
        return None
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash:
        parts = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    hours, minutes, more = (*parts, 0, 0)[:3]
    return float(((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + more)


def said(text: str) -> str:
    """What a program of Slurm complained of, as one line: its last two different lines without their prefixes."""
    lines = [re.sub(r"^(\w+: |slurm_\w+ )?((error|fatal): )?", "", line.strip()) for line in text.splitlines()]
    return "; ".join(list(dict.fromkeys(line for line in lines if line))[-2:])


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() else None
