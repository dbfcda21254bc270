"""A sweep on one screen: cells × stages, cells in the same state on one line, what fails or runs singly and first."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence

from experiments.runner import time_text
from slurm.status import BROKEN, Word
from slurm.sweep import CellStages
from slurm.table import MARKS, Row, Size, Table, clip
from slurm.view import BROKE, ENDED, LIVE, ORDER, View, columns

LEGEND: dict[Word, str] = {
    "finished": "finished", "running": "running, or 45% done", "requeued": "requeued", "queued": "queued",
    "blocked": "waits for its inputs", "waiting": "not submitted", "failed": "failed", "cancelled": "cancelled",
    "lost": "lost",
}  # fmt: skip
SINGLY: tuple[Word, ...] = ("failed", "lost", "running", "requeued")
LEAST_ROWS, MOST_PROBLEMS = 6, 4
ENDINGS = {ENDED: "finished", BROKE: "broken"}


def lines(view: View, left: tuple[float, int] | None, size: Size, everything: bool = False) -> list[str]:
    """The whole screen. left: of view.seconds_left."""
    head = [part for line in header(view, left) for part in wrapped(line, size.width)]
    foot = [part for line in (legend(view), *problems(view)) for part in wrapped(line, size.width)]
    room = max(LEAST_ROWS, size.lines - len(head) - len(foot) - 3)  # a blank line, the heading, the prompt
    rows = single_rows(view) if everything else grouped_rows(view, room)
    table = Table(columns(view.sweep), size, rows).lines()
    return [*head, "", *table, *foot]


def wrapped(text: str, width: int) -> list[str]:
    """At most three lines: the message of an error may be long."""
    return textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False, max_lines=3, placeholder=" ..")


def header(view: View, left: tuple[float, int] | None) -> list[str]:
    sweep = view.sweep
    about = [f"submitted {stamp(sweep.submitted)}"]
    if sweep.rounds > 1:
        about.append(f"round {sweep.round} of {sweep.rounds}")
    if left:
        about.append(f"about {time_text(left[0])} left with {count(left[1], 'job')} at a time")
    found = [
        f"{sweep.name}: {count(len(sweep.cells), 'cell')}: {_counts(view.cells)}",
        f"{count(sum(view.counts.values()), 'stage')}: {_counts(view.counts)}",
        "; ".join(about),
    ]
    reasons: dict[str, int] = {}
    for state in view.states.values():
        if state.word == "queued" and state.detail:
            reasons[state.detail] = reasons.get(state.detail, 0) + 1
    if reasons:
        found.append("queued because of " + ", ".join(f"{reason} ({number})" for reason, number in reasons.items()))
    if view.last.word in LIVE and not view.counts.keys() & {*LIVE}:
        found.append(f"the job that ends the round is {view.last.word}: it submits the next one, or fills MLflow")
    if view.discarded:
        found.append(f"{count(view.discarded, 'result')} came twice and the later discarded: Slurm ran the job twice")
    if view.silent:
        found.append(f"by folders and what the jobs said, without Slurm: {view.silent}")
    return found


def _counts(counts: Mapping[Word, int]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in ("finished", *ORDER[:-1]) if counts.get(word)) or "none"


def legend(view: View) -> str:
    used = {state.word for id, state in view.states.items() if id != view.sweep.last}
    return "  ".join(f"{MARKS[word]} {text}" for word, text in LEGEND.items() if word in used)


def single_rows(view: View) -> list[Row]:
    return [Row(cell.name, view.of(cell)) for cell in view.sweep.cells.values()]


def grouped_rows(view: View, room: int) -> list[Row]:
    """At most so many rows: a line for each group of cells in equal states, singly where there is room."""
    groups: dict[tuple[tuple[str, str], ...], list[CellStages]] = {}
    for cell in view.sweep.cells.values():
        key = tuple((kind, state.word) for kind, state in sorted(view.of(cell).items()))
        groups.setdefault(key, []).append(cell)
    ordered = sorted(groups.values(), key=lambda cells: ORDER.index(view.word(cells[0])))
    dropped = ordered[room - 1 :] if len(ordered) > room else []
    ordered = ordered[: len(ordered) - len(dropped)]
    spare = room - len(ordered) - bool(dropped)
    rows: list[Row] = []
    for cells in ordered:
        word = view.word(cells[0])
        share = (spare + 1) // 2 if word in BROKEN else spare  # what runs is to be seen as well
        singly = len(cells) if len(cells) <= share + 1 else share
        singly = singly if word in SINGLY or len(cells) == 1 else 0
        rows += [Row(cell.name, view.of(cell)) for cell in cells[:singly]]
        if rest := cells[singly:]:
            label = f"{len(rest)} {'more' if singly else 'cells'} {word}"
            rows.append(Row(label, view.of(rest[0]), single=False))
        spare -= max(0, singly - (not rest))
    if dropped:
        number = sum(len(cells) for cells in dropped)
        rows.append(Row(f"{number} more cells in {len(dropped)} other states; --all lists them", {}, single=False))
    return rows


def problems(view: View) -> list[str]:
    """Each cause once: which stage, how many cells miss it, the last line, how to see more."""
    causes: dict[tuple[str, ...], list[str]] = {}
    for id in view.broken():
        state = view.states[id]
        kind = "" if state.word == "cancelled" else view.stages[id].kind
        if not state.cause:
            causes.setdefault((kind, state.word, state.detail), []).append(id)
    found: list[str] = []
    shown = sorted(causes.items(), key=lambda item: ORDER.index(view.states[item[1][0]].word))
    for (_, word, detail), ids in shown[:MOST_PROBLEMS]:
        more = f" and {count(len(ids) - 1, 'more stage')}" if ids[1:] else ""
        found.append(f"{word}: {view.stages[ids[0]]}{more}{_missing(view, ids)}: {detail}")
        if word != "cancelled":
            stage = view.stages[ids[0]]
            target = ids[0] if stage.kind == "next" else f"{shlex.quote(stage.cell)} --stage {stage.kind}"
            found.append(f"    tokenbridge logs {target} --sweep {view.sweep.name}")
    if shown[MOST_PROBLEMS:]:
        found.append(f"and {count(len(shown) - MOST_PROBLEMS, 'more cause')}; --json lists all")
    if found:
        found.append(f"tokenbridge retry {view.sweep.name} submits again what failed, was cancelled or is lost")
    return found


def _missing(view: View, ids: Sequence[str]) -> str:
    missed = set(ids)
    number = sum(not missed.isdisjoint(cell.stages.values()) for cell in view.sweep.cells.values())
    return f" ({count(number, 'cell')})" if number > 1 else ""


def sweeps_table(views: Sequence[View], width: int) -> list[str]:
    rows = [("sweep", "submitted", "cells", "state", "command")]
    for view in views:
        state = ENDINGS.get(view.exit_code, "under way")
        if broken := sum(view.cells[word] for word in BROKEN):
            state += f", {broken} broken"
        cells = f"{view.cells['finished']}/{len(view.sweep.cells)}"
        rows.append((view.sweep.name, stamp(view.sweep.submitted), cells, state, view.sweep.command))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [clip("  ".join((*map(str.ljust, row[:4], widths), row[4])).rstrip(), width) for row in rows]


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
