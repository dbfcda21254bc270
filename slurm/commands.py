"""Commands on sweeps: status, sweeps, logs, retry, cancel."""

from __future__ import annotations

import getpass
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli import INTERRUPTED
from experiments.cli.common import show_json
from experiments.cli.options import DEFAULT_RUNS, PATH, Json, Runs, complete_plans, complete_sweeps, path_of
from experiments.tracking.memory import FILE
from slurm import local, remains, resources, scheduler, screen, survey
from slurm import logs as attempts
from slurm.remains import cut_off
from slurm.screen import count
from slurm.status import EXIT_UNDER_WAY, LIVE, State, SweepStatus, ask, look, looks, seconds_left
from slurm.sweep import Job, amount, jobs_by_stage
from tokenbridge.config import UserError
from tokenbridge.store.artifacts import Store, new_file, writable, write_atomic
from tokenbridge.store.runs import Sweep, is_sweep, read_sweep, recorded_cells, sweep_names, write_event

commands = typer.Typer()
cluster = typer.Typer(help="The file of resources of a cluster; a Slurm on this machine.")
commands.add_typer(cluster, name="cluster")

WATCH_SECONDS = 5.0
SCRIPT = Path(__file__).parent / "cluster.sh"
CLEAR = "\033[H\033[2J"

SweepName = Annotated[
    str,
    typer.Argument(help="name of the sweep, see `tokenbridge sweeps`", metavar="SWEEP", autocompletion=complete_sweeps),
]


@commands.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(
            help="name of the sweep or grid (default: the latest)", metavar="SWEEP", autocompletion=complete_plans
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="look again every 5 s until it is over")] = False,
    everything: Annotated[bool, typer.Option("--all", help="a line for each cell, however many")] = False,
    as_json: Json = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Show where each cell of a sweep stands; then bring MLflow up to date.

    Exit code: 0 all finished; 1 nothing goes on by itself and something failed, was cancelled, is lost (its job ended
    without a word) or stuck in the queue; 3 still under way.
    """
    store = Store(runs)
    sweep = _sweep(store, name)
    others = [intent for intent in cut_off(store) if intent.sweep != sweep.name]
    try:
        while True:
            state = look(store, sweep)
            over = not watch or state.exit_code != EXIT_UNDER_WAY
            if as_json and over:
                show_json(state.json())
            elif not as_json:
                _print(store, state, everything, watch)
                print("".join(f"{intent.sweep}: {screen.cut_off_line(intent)}\n" for intent in others), end="")
            if over:
                break
            time.sleep(WATCH_SECONDS)
            sweep = _sweep(store, sweep.name)  # the next round may have come
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if not as_json:
        _track(store, state)
    raise typer.Exit(state.exit_code)


@cluster.command("up")
def cluster_up(
    folder: Annotated[Path, typer.Argument(help="of the cluster: short, for sockets are in it", parser=path_of)],
    nodes: Annotated[int, typer.Option("--nodes", min=1)] = 4,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="of each node")] = 2,
) -> None:
    """Start a real Slurm on this machine, to try things on: eval "$(tokenbridge cluster up /tmp/lab)"."""
    os.execvp("bash", ["bash", str(SCRIPT), "up", str(folder), str(nodes), str(cpus)])


@cluster.command("down")
def cluster_down(folder: Annotated[Path, typer.Argument(help="of the cluster", parser=path_of)]) -> None:
    """Stop a Slurm that `cluster up` started, with its jobs."""
    os.execvp("bash", ["bash", str(SCRIPT), "down", str(folder)])


@cluster.command("example")
def cluster_example() -> None:
    """Print a cluster file in which each line is explained."""
    print((resources.SHIPPED / "example.toml").read_text(), end="")


@cluster.command("init")
def cluster_init(
    partition: Annotated[
        str | None, typer.Option("--partition", help="for all jobs (default: Slurm's, or that with GPUs)")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="for all jobs (default: Slurm's of yours)")] = None,
    out: Annotated[Path, typer.Option("--out", help="the file, ending in .toml", **PATH)] = Path(resources.DEFAULT),
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
) -> None:
    """Ask Slurm for partitions, limits, GPUs and account, and write the cluster file that `grid --on slurm` takes."""
    if out.suffix != ".toml":
        raise UserError(f"--out {out} must end in .toml")
    if out.exists() and not (force and out.is_file()):
        raise UserError(f"{out} is there already; give --force to write over it, or --out another name")
    if reason := scheduler.unavailable():
        raise UserError(reason)
    found = survey.parse(scheduler.partitions())
    text = survey.text_of(found, partition, scheduler.default_account() if account is None else account)
    resources.from_text(text, out)
    with new_file(out, "--out"):
        write_atomic(out, text.encode())
    print("\n".join(map(str, found)))
    print(f"{out} has resources that fit; next: tokenbridge grid ablation --on slurm --cluster {out} --dry-run")


def _sweep(store: Store, name: str | None) -> Sweep:
    if name is None:
        names = sweep_names(store)
        if not names and (left := cut_off(store)):
            name = left[-1].sweep
        elif not names and (here := local.sweeps(store)):
            return here[-1]
        elif not names:
            raise UserError(f"there is no grid in {store.root}; tokenbridge grid runs one, here or with --on slurm")
        else:
            name = names[-1]
    if not is_sweep(store, name) and (grid := local.find(store, name)):
        return grid
    return _read(store, name)


def _read(store: Store, name: str) -> Sweep:
    """The record of a sweep of Slurm.

    UserError says so where its first submission was cut off before there was one, and where it runs on this machine.
    """
    if not is_sweep(store, name) and (left := [intent for intent in cut_off(store) if intent.sweep == name]):
        raise UserError(
            f"{name} is not recorded: its submission was cut off at {screen.stamp(left[-1].time)} and may have left"
            f" held jobs; the same command goes on: {left[-1].command}"
        )
    if not is_sweep(store, name) and local.find(store, name):
        raise UserError(
            f"{name} runs on this machine and not on Slurm: its `tokenbridge grid` command goes on with what is"
            " missing, and Ctrl-C ends it"
        )
    return read_sweep(store, name)


def _print(store: Store, state: SweepStatus, everything: bool, watch: bool) -> None:
    size = screen.Size.of_terminal()
    text = "\n".join(screen.lines(state, seconds_left(store, state), size, everything))
    before = CLEAR if watch and sys.stdout.isatty() else ""
    print(f"{before}{text}" + ("\n" if watch and not before else ""), flush=True)


def _track(store: Store, state: SweepStatus) -> None:
    """Send MLflow what has come since; whatever keeps it from that is one line and no failure."""
    if not _news(store):
        return
    from experiments.tracking import sync as tracking

    try:
        tracking.catch_up(store, recorded_cells(store, state.sweep))
    except (UserError, KeyboardInterrupt) as error:
        print(f"MLflow is not up to date: {error or 'stopped; `tokenbridge sync` goes on'}", file=sys.stderr)


def _news(store: Store) -> bool:
    """Whether a stage began or ended since MLflow was filled, and nobody else is filling it now."""
    try:
        changed = (store.root / "stages").stat().st_mtime
        memory = store.root / FILE
        if not os.access(store.root, os.W_OK) or (memory.exists() and memory.stat().st_mtime >= changed):
            return False
        with store.lock("mlflow", wait=False) as free:
            return free
    except (OSError, UserError):
        return False


@commands.command()
def sweeps(as_json: Json = False, runs: Runs = DEFAULT_RUNS) -> None:
    """List the sweeps of Slurm and the grids of this machine, the oldest first: finished cells, and the command."""
    store = Store(runs)
    stored = sorted([*_all(store), *local.sweeps(store)], key=lambda sweep: sweep.submitted)
    if as_json:
        left = [asdict(intent) for intent in cut_off(store)]
        show_json({"sweeps": [state.summary() for state in looks(store, stored)], "cut_off": left})
        return
    if not stored:
        print(f"no sweep in {store.root}")
    for intent in cut_off(store):
        print(f"{intent.sweep}: {screen.cut_off_line(intent)}")
    if not stored:
        return
    states = looks(store, stored)
    print("\n".join(screen.sweeps_table(states, screen.Size.of_terminal().width)))
    if silent := next((state.silent for state in states if state.silent), ""):
        print(f"by folders and what the jobs said, without Slurm: {silent}")


@commands.command()
def logs(
    target: Annotated[
        str, typer.Argument(help="name of a cell or a part of it, or id of a stage or job", metavar="CELL|STAGE|JOB")
    ],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="show what is added, until the job has ended")] = False,
    name: Annotated[
        str | None, typer.Option("--sweep", help="sweep of the cell (default: the latest that has it)")
    ] = None,
    kind: Annotated[str | None, typer.Option("--stage", help="which stage of the cell, such as train")] = None,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Show the end of what a job wrote, and its traceback.

    Of a cell: the newest job of the stage that failed, else of the one that runs, else of the last that ended.
    """
    store = Store(runs)
    attempt = attempts.find(store, target, name, kind)
    try:
        read = attempts.show(store, attempt, _write)
        if follow:
            attempts.follow(store, attempt, read, _write)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@commands.command()
def retry(
    name: SweepName,
    only_failed: Annotated[
        bool, typer.Option("--failed", help="only what failed, not what was cancelled or is lost")
    ] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Submit again what failed, was cancelled or is lost, and what waits for it; release what is held.

    With the code and the file of resources as they are now. What is queued or runs is left alone, and what the queue
    never starts by itself is released or replaced.
    """
    store = Store(runs)
    mended = _mend(store, name)
    state = _asked(look(store, _read(store, name)))
    held = (
        []
        if only_failed
        else list(dict.fromkeys(stuck.behind or stuck.job for stuck in state.stuck("release").values()))
    )
    replaced = [] if only_failed else _replace(store, state)
    stages = state.broken(("failed",)) if only_failed else [*state.lacking(), *replaced]
    if held:
        scheduler.release(held)
        print(f"{name}: {count(len(held), 'held job')} released")
    if stages:
        from slurm import rounds

        jobs = rounds.resubmit(store, state.sweep, stages)
        print(f"{name}: {amount(job.job for job in jobs)} submitted for {count(len(stages), 'stage')}")
    if mended or held or stages:
        print(f"see tokenbridge status {name}")
    elif not state.stuck("administrator"):
        print(f"{name}: nothing to retry")
    if state.stuck("administrator"):
        print(f"{name}: {screen.remedies(state)[-1]}")


def _mend(store: Store, name: str, cancelled: bool = False) -> bool:
    """Mend what this user's submissions have left; whether there was anything of it."""
    left = [intent for intent in cut_off(store) if intent.sweep == name and intent.user == getpass.getuser()]
    if not left:
        _read(store, name)  # UserError for an unknown one
    if reason := scheduler.unavailable():
        raise UserError(reason)
    with writable(store.root), store.lock("submission"):
        lines = remains.mend(store, name if cancelled else "")
    if left and not lines:
        lines = [f"{name}: a submission was cut off and has left no job"]
    print("".join(f"{line}\n" for line in lines), end="")
    if left and not cancelled and not is_sweep(store, name):
        raise UserError(f"{name} is not recorded; the same command goes on: {left[-1].command}")
    return bool(lines)


def _replace(store: Store, state: SweepStatus) -> list[str]:
    """Cancel jobs that never start as they are asked for, and those that need them; ids of their stages."""
    gone = set(state.stuck("resubmit"))
    for id, stage in state.stages.items():
        if gone & {*stage.inputs} and stage.kind != "next":
            gone.add(id)
    ids = [id for id in gone if state.states[id].job and state.states[id].word in LIVE]
    _cancel(store, {id: state.states[id].job for id in ids})
    return ids


def _cancel(store: Store, stages: Mapping[str, str]) -> None:
    """Cancel stages, each with its job. A packed job goes on with its others: it stops what it runs of these by itself.

    One that waits, and holds nothing any more that could run, is cancelled as well.

    Args:
        store: the runs folder.
        stages: job by stage id, in the order in which jobs are to be cancelled.
    """
    registered, by = jobs_by_stage(store), getpass.getuser()
    own = [next(job for job in reversed(registered[id]) if job.job == stages[id]) for id in stages]
    for job in own:
        write_event(store, job.stage, "cancelled", {"job": job.job, "submission": Path(job.folder).name, "by": by})
    names = {job.sweep for job in own}
    packed = [jobs[-1] for jobs in registered.values() if jobs[-1].packed and jobs[-1].sweep in names]
    wanted = _wanted(store, packed) if packed else set[str]()
    idle = [job for job in packed if job.job not in wanted and job.user == by]
    tasks = ask(idle)[0] or {}
    waiting = [job.job for job in idle if job.job in tasks and tasks[job.job].waiting]
    ended = [job.job for job in own if not (job.packed and job.job in wanted)]
    scheduler.cancel(list(dict.fromkeys([*ended, *waiting])))


def _wanted(store: Store, packed: Sequence[Job]) -> set[str]:
    """Those of packed jobs that have something to run, now or when its inputs are there; jobs of recorded stages."""
    states = {id: state for looked in looks(store, _all(store)) for id, state in looked.states.items()}
    left = (job for job in packed if not store.finished(job.stage) and not job.done(store))
    return {job.job for job in left if job.stage not in states or states[job.stage].word in LIVE}


def _asked(state: SweepStatus) -> SweepStatus:
    if state.silent:
        raise UserError(state.silent)
    return state


@commands.command()
def cancel(
    name: SweepName,
    cell: Annotated[
        str | None, typer.Option("--cell", help="only the stages of this cell that no other cell has", metavar="CELL")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="cancel without asking")] = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Cancel the jobs of a sweep, or of one cell, except those that another sweep under way needs.

    Exit code: 0 cancelled, or nothing to cancel; 1 the answer was no.
    """
    store = Store(runs)
    if not cell and not is_sweep(store, name) and _mend(store, name, cancelled=True):
        return
    cancelled, kept, _ = _to_cancel(store, name, cell)
    for other, number in kept.items():
        print(f"kept: {number} that {other} needs")
    if not cancelled and (cell or not _mend(store, name, cancelled=True)):
        print(f"{name}: nothing to cancel")
    if not cancelled:
        return
    running = {state.job for state in cancelled.values() if state.word == "running"}
    waiting = {state.job for state in cancelled.values()} - running
    print(f"{name}: {count(len(running), 'job')} running, {len(waiting)} waiting")
    if not yes and not typer.confirm("cancel them?"):
        raise typer.Exit(1)
    if not cell:
        _mend(store, name, cancelled=True)
    with store.lock("submission"):
        cancelled, _, behind = _to_cancel(store, name, cell)  # more may have come, or ended, while we asked
        _cancel(store, {id: state.job for id, state in cancelled.items()})
        scheduler.release(behind)  # it finds its stage finished, and ends
    jobs = amount(state.job for state in cancelled.values())
    print(f"{name}: {jobs} cancelled; tokenbridge retry {name} submits them again")


def _to_cancel(store: Store, name: str, cell: str | None) -> tuple[dict[str, State], dict[str, str], set[str]]:
    """Stages to cancel, by id, the end of the round first, which would submit the next one.

    And by sweep, how many jobs are kept for it; and held jobs of finished stages that those to cancel wait for.
    """
    _read(store, name)  # UserError for an unknown one
    states = {state.sweep.name: _asked(state) for state in looks(store, _all(store))}
    mine = states.pop(name)
    wanted = mine.states if cell is None else attempts.alone(mine.sweep, cell)
    cancelled = {id: mine.states[id] for id in wanted if mine.states[id].job and mine.states[id].word in LIVE}
    kept: dict[str, str] = {}
    for other, state in states.items():
        alone = (state.word for id, state in state.states.items() if id not in mine.states)
        if not set(LIVE).isdisjoint(alone):  # a cancelled sweep has nothing of its own left
            shared = cancelled.keys() & state.states.keys()
            kept |= {other: amount(cancelled[id].job for id in shared)} if shared else {}
            cancelled = {id: state for id, state in cancelled.items() if id not in shared}
    order = sorted(cancelled, key=lambda id: id != mine.sweep.last)
    behind = {state.behind for state in cancelled.values() if state.behind and state.remedy == "release"}
    return {id: cancelled[id] for id in order}, kept, behind


def _all(store: Store) -> list[Sweep]:
    return [read_sweep(store, name) for name in sweep_names(store)]
