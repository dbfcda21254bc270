"""What a stage's job wrote: find it by cell, stage or job, show its end, follow it until the job has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm import status
from slurm.status import Word
from slurm.sweep import FINAL, Job, Stream, jobs_by_stage
from tokenbridge.config import UserError
from tokenbridge.overrides import near
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import CellStages, Sweep, read_events, read_sweep, sweep_names

LINES, BYTES = 100, 65_536
"""how much of the end of a file is shown"""
POLL_SECONDS, ASK_SECONDS = 0.5, 5.0
SHOWN_FIRST: tuple[Word, ...] = ("failed", "lost", "running", "requeued")
CLOSEST = 5

Write = Callable[[str], object]


@dataclass(frozen=True)
class Attempt:
    """A stage, and the job whose output is asked for; None where it has had none."""

    stage: str
    label: str
    state: str
    job: Job | None


def find(store: Store, target: str, name: str | None = None, kind: str | None = None) -> Attempt:
    """Find the newest job of a stage; of a cell, of its stage that failed, else that runs, else that ran last.

    Args:
        target: name of a cell or a part of it, or the id of a cell, a stage or a job.
        name: the sweep, by default the latest one that knows the target.
        kind: which stage of the cell.

    Raises:
        UserError: nothing is called so, or several cells are.
    """
    registered = jobs_by_stage(store)
    sweeps = [read_sweep(store, title) for title in ([name] if name else reversed(sweep_names(store)))]
    if job := None if target in registered else _of_number(store, registered, target):
        return Attempt(job.stage, _label(sweeps, job.stage), _word(store, sweeps, job.stage), job)
    for sweep in sweeps:
        if target in sweep.stages or target == sweep.last:
            return _newest(registered, sweeps, target, _word(store, [sweep], target))
        if cells := _cells(sweep, target):
            return _of_cell(store, sweep, _only(cells, target), kind, registered)
    names = [cell.name for sweep in sweeps for cell in sweep.cells.values()]
    close = near(target, names, CLOSEST)
    where = f"sweep {name}" if name else f"any sweep in {store.root}"
    remedy = f"did you mean {', '.join(close)}?" if close else "see `tokenbridge status --all`"
    raise UserError(f"{target} is no cell, stage or job of {where}; {remedy}")


def _of_number(store: Store, registered: dict[str, list[Job]], number: str) -> Job | None:
    """The job of a number; of a packed one the stage that failed, else that runs, else that ran last."""
    jobs = [job for attempts in registered.values() for job in attempts if job.job == number]
    words = {job: job.last_word(store).get("event") for job in jobs if job.folder == jobs[0].folder}
    first = [job for word in ("failed", "started", "stopped") for job in words if words[job] == word]
    began = [job for job in words if words[job]]
    return next(iter(first or began[-1:] or words), None)


def _cells(sweep: Sweep, target: str) -> list[CellStages]:
    """Cells that the target names: by id, by exact name, else by a part of the name."""
    if target in sweep.cells:
        return [sweep.cells[target]]
    cells = list(sweep.cells.values())
    return [cell for cell in cells if target == cell.name] or [cell for cell in cells if target in cell.name]


def alone(sweep: Sweep, target: str) -> list[str]:
    """Ids of the stages of the one cell that a name or a part of it means, without those that other cells have too.

    Raises:
        UserError: no cell of the sweep is called so, or several are.
    """
    cells = _cells(sweep, target)
    if not cells:
        close = near(target, [cell.name for cell in sweep.cells.values()], CLOSEST)
        remedy = f"did you mean {', '.join(close)}?" if close else f"see `tokenbridge status {sweep.name} --all`"
        raise UserError(f"--cell={target} is no cell of {sweep.name}; {remedy}")
    own = _only(cells, target)
    others = {id for cell in sweep.cells.values() if cell is not own for id in cell.stages.values()}
    return [id for id in own.stages.values() if id not in others]


def _only(cells: Sequence[CellStages], target: str) -> CellStages:
    if len(cells) == 1:
        return cells[0]
    names = [cell.name for cell in cells]
    more = f" and {len(names) - CLOSEST} more" if len(names) > CLOSEST else ""
    raise UserError(f"{target} is part of {len(names)} names ({', '.join(names[:CLOSEST])}{more}); give one of them")


def _of_cell(
    store: Store, sweep: Sweep, cell: CellStages, kind: str | None, registered: dict[str, list[Job]]
) -> Attempt:
    if kind is not None and kind not in cell.stages:
        raise UserError(f"--stage={kind} is no stage of {cell.name}; it has {', '.join(cell.stages)}")
    states = status.look(store, sweep).of(cell)
    if kind is None:
        submitted = [kind for kind, id in cell.stages.items() if id in registered] or list(cell.stages)
        first = [kind for word in SHOWN_FIRST for kind in submitted if states[kind].word == word]
        began = [kind for kind in submitted if states[kind].word == "finished"]
        kind = (first or began[-1:] or submitted)[0]
    state = states[kind]
    return _newest(registered, [sweep], cell.stages[kind], f"{state.word}{state.detail and f' ({state.detail})'}")


def _newest(registered: dict[str, list[Job]], sweeps: Sequence[Sweep], stage: str, state: str) -> Attempt:
    return Attempt(stage, _label(sweeps, stage), state, next(reversed(registered.get(stage, [])), None))


def _label(sweeps: Sequence[Sweep], stage: str) -> str:
    for sweep in sweeps:
        if planned := status.with_last(sweep).get(stage):
            return str(planned)
    return stage


def _word(store: Store, sweeps: Sequence[Sweep], stage: str) -> str:
    for sweep in sweeps:
        if stage in sweep.stages or stage == sweep.last:
            state = status.look(store, sweep).states[stage]
            return f"{state.word}{state.detail and f' ({state.detail})'}"
    return "of no sweep"


def show(store: Store, attempt: Attempt, write: Write) -> dict[Path, int]:
    """Write the end of the output and the errors of an attempt's job; returns how far each file was read.

    Args:
        store: the runs folder.
        attempt: of a stage; without a job yet there is nothing to read.
        write: takes text, such as that of a terminal.
    """
    job = attempt.job
    write(f"{attempt.label}: {attempt.state}; stage {attempt.stage}, {f'job {job.job}' if job else 'no job yet'}\n")
    if job is None:
        return {}
    read: dict[Path, int] = {}
    texts = ""
    for path in _files(store, job):
        text, read[path] = _end(path)
        texts += text
        write(f"==> {path} <==\n{text}")
    for said in read_events(store, attempt.stage):
        trace = said.get("traceback", "")
        if job.said(said) and trace and trace.strip().splitlines()[-1] not in texts:
            write(f"==> what the job said when it failed on {said.get('host')} <==\n{trace.rstrip()}\n")
    others = sorted((store.root / job.folder).glob(f"{job.job}_[1-9]*_log.err"))
    if others:
        write(f"other processes of the job: {', '.join(map(str, others))}\n")
    return read


def _files(store: Store, job: Job) -> list[Path]:
    streams: tuple[Stream, Stream] = ("out", "err")
    return [job.stage_log(store, stream) for stream in streams]


def _end(path: Path) -> tuple[str, int]:
    """The last lines of a file, of progress bars only their last state; and the size of the file in bytes."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "(nothing yet)\n", 0
    lines = [_plain(line) for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    left_out = f"(the last {LINES} lines)\n" if len(lines) > LINES or size > BYTES else ""
    return left_out + "".join(f"{line}\n" for line in lines[-LINES:]), size


def _plain(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


def follow(store: Store, attempt: Attempt, read: dict[Path, int], write: Write) -> None:
    """Write what is added to the files, like `tail -f`, until the job has ended.

    Args:
        store: the runs folder.
        attempt: of a stage; without a job yet this returns at once.
        read: how far each file was read, as `show` returns it; it is brought up to date.
        write: takes text, such as that of a terminal.
    """
    asked, over, named = 0.0, False, None
    while attempt.job is not None:
        if time.monotonic() - asked >= ASK_SECONDS:
            over, asked = ended(store, attempt), time.monotonic()
        for path in _files(store, attempt.job):
            try:
                with open(path, "rb") as file:
                    if os.fstat(file.fileno()).st_size < read.get(path, 0):
                        read[path] = 0  # begun anew
                    file.seek(read.get(path, 0))
                    added = file.read()
            except FileNotFoundError:
                continue
            if added:
                read[path] = read.get(path, 0) + len(added)
                write((f"==> {path} <==\n" if named not in (None, path) else "") + added.decode(errors="replace"))
                named = path
        if over:
            return
        time.sleep(POLL_SECONDS)


def ended(store: Store, attempt: Attempt) -> bool:
    """True where the job will write no more of the stage; a requeued one goes on."""
    if attempt.job is None or attempt.job.done(store):
        return True
    tasks, silent = status.ask([attempt.job])
    if not silent:
        task = (tasks or {}).get(attempt.job.job)
        return task is None or task.over
    return store.finished(attempt.stage) or attempt.job.last_word(store).get("event") in FINAL
