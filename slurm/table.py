"""Rows of states drawn as wide as a terminal: a column for each kind of stage, a mark for each state."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from experiments.runner import time_text
from slurm.status import State, Word

MARKS: dict[Word, str] = {
    "finished": "ok", "running": "run", "requeued": "req", "queued": "q", "blocked": ".", "waiting": "-",
    "failed": "FAIL", "cancelled": "canc", "lost": "LOST",
}  # fmt: skip
COLOURS: dict[Word, str] = {
    "finished": "32", "running": "33", "requeued": "33", "failed": "31", "cancelled": "31", "lost": "31",
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
class Row:
    label: str
    states: Mapping[str, State]
    single: bool = True
    """percent and a note are those of one cell"""


@dataclass
class Table:
    """Rows with one column a kind of stage."""

    kinds: Sequence[str]
    size: Size
    rows: list[Row] = field(default_factory=list)

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

    def _line(self, row: Row, name: int, widths: Mapping[str, int]) -> str:
        parts = [f"{shorten(row.label, name):<{name}}"]
        for kind, width in widths.items():
            state = row.states.get(kind)
            mark = mark_of(state, row.single) if state else ""
            parts.append(paint(f"{mark:<{width}}", state.word if state else None, self.size.colour))
        used = name + sum(width + 1 for width in widths.values())
        note = note_of(row.states.values()) if row.single else ""
        return f"{' '.join(parts)} {shorten(note, self.size.width - used - 1)}".rstrip()


def mark_of(state: State, single: bool) -> str:
    if single and state.word == "running" and state.at:
        return f"{100 * state.at.step // max(1, state.at.steps)}%"
    return MARKS[state.word]


def note_of(states: Iterable[State]) -> str:
    """What there is to say of the one stage of a cell that is under way."""
    for state in states:
        if state.word == "running" and state.at:
            return f"step {state.at.step}/{state.at.steps}, {time_text(state.at.seconds)} left"
        if state.word == "requeued":
            step = f"from step {state.at.step}" if state.at else ""
            return ", ".join(filter(None, (step, state.detail)))
    return ""


def paint(text: str, word: Word | None, colour: bool) -> str:
    return f"\033[{COLOURS[word]}m{text}\033[0m" if colour and word in COLOURS else text


def shorten(text: str, width: int) -> str:
    """The middle goes: names of cells differ at both ends."""
    if len(text) <= width:
        return text
    if width < 5:
        return text[: max(0, width)]
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[-tail:]}"


def clip(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."
