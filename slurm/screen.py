"""A sweep on one screen: cells × stages, cells in the same state on one line, what fails or runs singly and first."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from experiments.progress import time_text
from slurm.status import BROKEN, EXIT_BROKEN, EXIT_FINISHED, LIVE, ORDER, State, SweepStatus, Word, columns
from slurm.sweep import Intent
from tokenbridge.store.runs import CellStages

MARKS: dict[Word, str] = {
    "finished": "ok", "running": "run", "requeued": "req", "queued": "q", "blocked": ".", "waiting": "-",
    "stuck": "HELD", "failed": "FAIL", "cancelled": "canc", "lost": "LOST",
}  # fmt: skip
COLOURS: dict[Word, str] = {
    "finished": "32", "running": "33", "requeued": "33", "stuck": "31", "failed": "31",
    "cancelled": "31", "lost": "31",
}  # fmt: skip
LEAST_NAME, LEAST_COLUMN = 21, 4


@dataclass(frozen=True)
class Size:
    width: int
    lines: int
    colour: bool = False

    @classmethod
    def of_terminal(cls) -> Size:
        width, lines = shutil.get_terminal_size((110, 50))
        return cls(width, lines, sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


@dataclass(frozen=True)
class StateRow:
    label: str
    states: Mapping[str, State]
    single: bool = True
    """one cell, so that percent and a note can be shown"""


@dataclass
class StateTable:
    """Rows of states with one column per kind of stage."""

    kinds: Sequence[str]
    size: Size
    rows: list[StateRow] = field(default_factory=list)

    def lines(self) -> list[str]:
        longest = max((len(row.label) for row in self.rows), default=0)
        room = self.size.width - LEAST_NAME
        column = max(LEAST_COLUMN, *(len(kind) for kind in self.kinds), 0)
        while column > LEAST_COLUMN and sum(self._width(kind, column) + 1 for kind in self.kinds) > room:
            column -= 1
        widths = {kind: self._width(kind, column) for kind in self.kinds}
        used = sum(widths.values()) + len(widths)
        name = max(LEAST_NAME, min(longest, self.size.width - used))
        heading = f"{'':<{name}} " + " ".join(f"{kind[:column]:<{widths[kind]}}" for kind in self.kinds)
        return [heading.rstrip(), *(self._line(row, name, widths) for row in self.rows)]

    @staticmethod
    def _width(kind: str, most: int) -> int:
        return max(LEAST_COLUMN, min(len(kind), most))

    def _line(self, row: StateRow, name: int, widths: Mapping[str, int]) -> str:
        parts = [f"{shorten(row.label, name):<{name}}"]
        for kind, width in widths.items():
            state = row.states.get(kind)
            mark = mark_of(state, row.single) if state else ""
            parts.append(paint(f"{mark:<{width}}", state.word if state else None, self.size.colour))
        used = name + sum(width + 1 for width in widths.values())
        note = note_of(row.states.values()) if row.single else ""
        return f"{' '.join(parts)} {shorten(note, self.size.width - used - 1)}".rstrip()


def mark_of(state: State, single: bool) -> str:
    """The few letters that stand for a state in the table.

    Args:
        state: of a stage.
        single: whether the line is of one cell: a running training then shows the percentage of its steps.
    """
    if single and state.word == "running" and state.at:
        return f"{100 * state.at.step // max(1, state.at.steps)}%"
    return MARKS[state.word]


def note_of(states: Iterable[State]) -> str:
    """The progress of the one stage of a cell that is under way, or why it is back in the queue."""
    for state in states:
        if state.word == "running" and state.at:
            return f"step {state.at.step}/{state.at.steps}, {time_text(state.at.seconds)} left"
        if state.word == "requeued":
            step = f"from step {state.at.step}" if state.at else ""
            return ", ".join(filter(None, (step, state.detail)))
    return ""


def paint(text: str, word: Word | None, colour: bool) -> str:
    """The text in its state's colour for a terminal, or as it is where there is none."""
    return f"\033[{COLOURS[word]}m{text}\033[0m" if colour and word in COLOURS else text


def shorten(text: str, width: int) -> str:
    """A text of at most `width` characters, without its middle: names of cells differ at both ends."""
    if len(text) <= width:
        return text
    if width < 5:
        return text[: max(0, width)]
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[-tail:]}"


def clip(text: str, width: int) -> str:
    """A text of at most `width` characters, without its end."""
    return text if len(text) <= width else f"{text[: width - 2]}.."


LEGEND: dict[Word, str] = {
    "finished": "finished", "running": "running, or 45% done", "requeued": "requeued", "queued": "queued",
    "blocked": "waits for its inputs", "stuck": "never starts by itself", "waiting": "not submitted",
    "failed": "failed", "cancelled": "cancelled", "lost": "lost",
}  # fmt: skip
SINGLY: tuple[Word, ...] = ("failed", "lost", "running", "requeued")
LEAST_ROWS, MOST_PROBLEMS = 6, 4
HERE = "nothing of it runs now; the same `tokenbridge grid` command goes on with what is missing"
ENDINGS = {EXIT_FINISHED: "finished", EXIT_BROKEN: "broken"}


def lines(status: SweepStatus, left: tuple[float, int] | None, size: Size, everything: bool = False) -> list[str]:
    """The whole screen.

    Args:
        status: of the sweep.
        left: seconds and jobs at a time, as status.seconds_left gives them.
        size: of the terminal, in characters.
        everything: a line for each cell, however many.
    """
    head = [part for line in header(status, left) for part in wrapped(line, size.width)]
    foot = [part for line in (legend(status), *problems(status)) for part in wrapped(line, size.width)]
    room = max(LEAST_ROWS, size.lines - len(head) - len(foot) - 3)  # a blank line, the heading, the prompt
    rows = single_rows(status) if everything else grouped_rows(status, room)
    table = StateTable(columns(status.sweep), size, rows).lines()
    return [*head, "", *table, *foot]


def wrapped(text: str, width: int) -> list[str]:
    """At most three lines: the message of an error may be long."""
    return textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False, max_lines=3, placeholder=" ..")


def header(status: SweepStatus, left: tuple[float, int] | None) -> list[str]:
    """The lines above the table: what the sweep is, where its cells and stages stand, and what a reader must know.

    Args:
        status: of the sweep.
        left: seconds and jobs at a time, as status.seconds_left gives them.
    """
    sweep = status.sweep
    about = [f"{'on this machine, begun' if sweep.local else 'submitted'} {stamp(sweep.submitted)}"]
    if sweep.rounds > 1:
        about.append(f"round {sweep.round} of {sweep.rounds}")
    if left:
        what = "stage" if sweep.local else "job"
        about.append(f"about {time_text(left[0])} left with {count(left[1], what)} at a time")
    lines = [
        f"{sweep.name}: {count(len(sweep.cells), 'cell')}: {_counts(status.cells)}",
        f"{count(sum(status.counts.values()), 'stage')}: {_counts(status.counts)}",
        "; ".join(about),
    ]
    reasons: dict[str, int] = {}
    for state in status.states.values():
        if state.word == "queued" and state.detail:
            reasons[state.detail] = reasons.get(state.detail, 0) + 1
    if reasons:
        lines.append("queued because of " + ", ".join(f"{reason} ({number})" for reason, number in reasons.items()))
    if status.last.word in LIVE and not status.counts.keys() & {*LIVE}:
        lines.append(f"the job that ends the round is {status.last.word}: it submits the next one, or fills MLflow")
    lines += [cut_off_line(intent) for intent in status.cut_off]
    if status.discarded:
        lines.append(f"{count(status.discarded, 'result')} came twice and the later discarded: Slurm ran the job twice")
    if status.silent:
        lines.append(f"by folders and what the jobs said, without Slurm: {status.silent}")
    return lines


def _counts(counts: Mapping[Word, int]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in ("finished", *ORDER[:-1]) if counts.get(word)) or "none"


def legend(status: SweepStatus) -> str:
    used = {state.word for id, state in status.states.items() if id != status.sweep.last}
    words = dict(LEGEND)
    if status.sweep.local:
        words["waiting"] = "not run"
    return "  ".join(f"{MARKS[word]} {text}" for word, text in words.items() if word in used)


def single_rows(status: SweepStatus) -> list[StateRow]:
    return [StateRow(cell.name, status.of(cell)) for cell in status.sweep.cells.values()]


def grouped_rows(status: SweepStatus, room: int) -> list[StateRow]:
    """A line for each group of cells in equal states, singly where there is room.

    Args:
        status: of the sweep.
        room: at most so many lines.
    """
    groups: dict[tuple[tuple[str, str], ...], list[CellStages]] = {}
    for cell in status.sweep.cells.values():
        key = tuple((kind, state.word) for kind, state in sorted(status.of(cell).items()))
        groups.setdefault(key, []).append(cell)
    ordered = sorted(groups.values(), key=lambda cells: ORDER.index(status.word(cells[0])))
    dropped = ordered[room - 1 :] if len(ordered) > room else []
    ordered = ordered[: len(ordered) - len(dropped)]
    spare = room - len(ordered) - bool(dropped)
    rows: list[StateRow] = []
    for cells in ordered:
        word = status.word(cells[0])
        share = (spare + 1) // 2 if word in BROKEN else spare  # what runs is to be seen as well
        singly = len(cells) if len(cells) <= share + 1 else share
        singly = singly if word in SINGLY or len(cells) == 1 else 0
        rows += [StateRow(cell.name, status.of(cell)) for cell in cells[:singly]]
        if rest := cells[singly:]:
            label = f"{len(rest)} {'more' if singly else 'cells'} {word}"
            rows.append(StateRow(label, status.of(rest[0]), single=False))
        spare -= max(0, singly - (not rest))
    if dropped:
        number = sum(len(cells) for cells in dropped)
        rows.append(StateRow(f"{number} more cells in {len(dropped)} other states; --all lists them", {}, single=False))
    return rows


def problems(status: SweepStatus) -> list[str]:
    """Each cause once: which stage, how many cells miss it, the last line, how to see more."""
    causes: dict[tuple[str, ...], list[str]] = {}
    for id in status.broken((*BROKEN, "stuck")):
        state = status.states[id]
        kind = "" if state.word in ("cancelled", "stuck") else status.stages[id].kind
        if not state.cause:
            causes.setdefault((kind, state.word, state.detail), []).append(id)
    lines: list[str] = []
    shown = sorted(causes.items(), key=lambda item: ORDER.index(status.states[item[1][0]].word))
    for (_, word, detail), ids in shown[:MOST_PROBLEMS]:
        more = f" and {count(len(ids) - 1, 'more stage')}" if ids[1:] else ""
        lines.append(f"{word}: {status.stages[ids[0]]}{more}{_missing(status, ids)}: {detail}")
        if word not in ("cancelled", "stuck"):
            stage = status.stages[ids[0]]
            target = ids[0] if stage.kind == "next" else f"{shlex.quote(stage.cell)} --stage {stage.kind}"
            lines.append(f"    tokenbridge logs {target} --sweep {status.sweep.name}")
    if shown[MOST_PROBLEMS:]:
        lines.append(f"and {count(len(shown) - MOST_PROBLEMS, 'more cause')}; --json lists all")
    return lines + remedies(status)


def remedies(status: SweepStatus) -> list[str]:
    """What to do about all that goes on by no other way, a line each."""
    name, lines = status.sweep.name, list[str]()
    if status.sweep.local:
        return [HERE] if status.exit_code == EXIT_BROKEN else []
    if status.stuck("release"):
        lines.append(f"tokenbridge retry {name} releases what is held")
    if status.stuck("resubmit"):
        lines.append(f"change {status.sweep.cluster} and tokenbridge retry {name} submits again what cannot start")
    if admin := status.stuck("administrator"):
        jobs = ",".join(dict.fromkeys((state.behind or state.job).partition("_")[0] for state in admin.values()))
        lines.append(f"only an administrator of Slurm can release what one holds: scontrol release {jobs}")
    if status.broken():
        lines.append(f"tokenbridge retry {name} submits again what failed, was cancelled or is lost")
    return lines


def cut_off_line(intent: Intent) -> str:
    """That a submission was cut off, and what mends it."""
    by = "" if intent.user == getpass.getuser() else f" by {intent.user}, who must mend it,"
    return (
        f"a submission{by} was cut off at {stamp(intent.time)} and may have left held jobs;"
        f" tokenbridge retry {intent.sweep} releases or cancels them"
    )


def _missing(status: SweepStatus, ids: Sequence[str]) -> str:
    missed = set(ids)
    number = sum(not missed.isdisjoint(cell.stages.values()) for cell in status.sweep.cells.values())
    return f" ({count(number, 'cell')})" if number > 1 else ""


def sweeps_table(statuses: Sequence[SweepStatus], width: int) -> list[str]:
    """A line for each sweep, of at most `width` characters, under a heading."""
    rows = [("sweep", "submitted", "cells", "state", "command")]
    for status in statuses:
        state = ENDINGS.get(status.exit_code, "under way")
        if broken := sum(status.cells[word] for word in (*BROKEN, "stuck")):
            state += f", {broken} broken"
        cells = f"{status.cells['finished']}/{len(status.sweep.cells)}"
        state = "not finished" if status.sweep.local and status.exit_code == EXIT_BROKEN else state
        command = "on this machine" if status.sweep.local else status.sweep.command
        rows.append((status.sweep.name, stamp(status.sweep.submitted), cells, state, command))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [clip("  ".join((*map(str.ljust, row[:4], widths), row[4])).rstrip(), width) for row in rows]


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
