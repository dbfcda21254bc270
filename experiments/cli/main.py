"""The command `tokenbridge`. Heavy libraries are imported where a command needs them, so that --help is instant."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.completion import shell_complete
from typer.core import TyperGroup

from experiments.cli import INTERRUPTED, STOPPED
from experiments.cli.common import cell_of, end_with, show_data, told
from experiments.cli.exchange import exchange, samples
from experiments.cli.grid import duel, grid
from experiments.cli.headline import every_number, headline, sheets
from experiments.cli.init import init
from experiments.cli.networks import networks
from experiments.cli.options import (
    DEFAULT_BATCH,
    DEFAULT_REPORTS,
    DEFAULT_RUNS,
    DEMO_JOBS,
    Accumulate,
    Batch,
    CheckData,
    CheckpointSeconds,
    Device,
    Jobs,
    Preset,
    Reports,
    Runs,
    RunsThere,
    Seeds,
    Settings,
    Threads,
    TrustWeights,
)
from experiments.cli.report import publish, report
from experiments.cli.rows import refresh
from experiments.cli.score import score
from experiments.cli.settings import config, settings
from experiments.cli.tools import tools
from experiments.cli.tune import tune
from slurm.commands import commands
from tokenbridge.config import Runtime
from tokenbridge.distributed import joined, require_one
from tokenbridge.overrides import build
from tokenbridge.signals import Interrupted
from tokenbridge.store.artifacts import Store, require_folder
from tokenbridge.store.runs import EXPERIMENT

GROUPS = {
    "Begin": ("doctor", "demo", "init", "settings", "config", "plan"),
    "Autoencoders, classifiers and released weights": ("train-autoencoder", "train-classifier", "import"),
    "Run": ("run", "grid", "tune", "duel", "reconstruct", "speed"),
    "See what came out": ("report", "score", "samples", "ui", "sync", "export", "stats", "verify-latents"),
    "Sweeps, here and on a cluster": ("status", "sweeps", "logs", "retry", "cancel", "cluster"),
}
"""commands by what one wants to do, in the order of the help"""
COMPLETE = "_TOKENBRIDGE_COMPLETE"
"""by which a shell asks for completions"""


class Commands(TyperGroup):
    """Lists commands in GROUPS, each with the whole first paragraph of its help, at any width."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        named = {name for names in GROUPS.values() for name in names}
        for title, names in {**GROUPS, "More": tuple(name for name in self.commands if name not in named)}.items():
            there = [(name, self.commands[name].help or "") for name in names if name in self.commands]
            if there:
                with formatter.section(title):
                    formatter.write_dl([(name, " ".join(text.split("\n\n")[0].split())) for name, text in there])


app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on Python's path
        return "(not installed)"


def _version(wanted: bool) -> None:
    if wanted:
        versions = [f"{name} {_installed(name)}" for name in ("tokenbridge", "torch")]
        print(", ".join([*versions, f"Python {platform.python_version()}"]))
        raise typer.Exit


@app.callback()
def options(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """Latents of image autoencoders as tokens, and generators of them on equal terms: from images to a report.

    `tokenbridge COMMAND --help` has every option; experiments/README.md lists examples of all commands.
    """


@app.command()
def demo(
    settings: Settings = None,
    runs: Runs = DEFAULT_RUNS,
    reports: Reports = DEFAULT_REPORTS,
    jobs: Jobs = DEMO_JOBS,
    device: Device = "auto",
    seeds: Seeds = 1,
    name: Annotated[str, typer.Option("--name", help="name of the report")] = "demo",
) -> None:
    """Tables 1a, 1b and 2a and their figures on the shipped digits: from images to a report, in minutes."""
    from experiments import presets
    from experiments.grid import run as run_grid
    from experiments.grid.request import Request

    require_one("demo")
    store = Store(runs)
    runtime = build(Runtime, {"device": device, "threads": presets.THREADS["digits"]})
    request = Request(name=name, tables=("1a", "1b", "2a"), seeds=seeds, assignments=tuple(settings or ()))
    asked = request.grid()
    require_folder(reports / name, "--reports")
    end_with(run_grid.run(store, asked, runtime, jobs))
    print(f"report: {publish(store, name, reports)}")
    print(f"MLflow: tokenbridge ui --runs {shlex.quote(str(runs))}")


app.command()(init)
app.command()(settings)
app.command()(config)
app.command()(grid)
app.command()(duel)
app.command()(tune)
app.command()(score)


@app.command()
def run(
    preset: Preset,
    settings: Settings = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="last stage wanted: reconstruct, train, likelihood, sample, score, speed or another; repeatable",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="name of the run in MLflow")] = None,
    runs: Runs = DEFAULT_RUNS,
    jobs: Jobs = 1,
    threads: Threads = None,
    batch: Batch = DEFAULT_BATCH,
    accumulate: Accumulate = 1,
    checkpoint_seconds: CheckpointSeconds = None,
    device: Device = "auto",
    trust_weights: TrustWeights = False,
    check_data: CheckData = False,
    everything: Annotated[bool, typer.Option("--all", help="print every number at the end, not the headline")] = False,
) -> None:
    """Run one configuration through its stages, skipping what is finished, and log it to MLflow.

    Several processes share encoding, training and sampling: torchrun --nproc-per-node 2 -m tokenbridge run digits
    """
    from experiments import presets, runner
    from experiments.tracking import sync as tracking

    base, store = presets.base(preset), Store(runs)
    cell = cell_of(base, settings or (), only or (), name)
    how = {"device": device, "threads": threads or base.threads, "batch": batch, "accumulate": accumulate}
    more = {"checkpoint_seconds": checkpoint_seconds, "trust_weights": trust_weights}
    runtime = build(Runtime, how | more)
    with joined() as world:
        show_data(cell.config.data)
        runner.raise_first(runner.attempt_cells(store, [cell], runtime, EXPERIMENT, jobs))
    if not world.main:
        return
    for line in (*(every_number if everything else headline)(store, cell), *sheets(store, cell)):
        print(line)
    tracking.sync(store, [cell.id])
    print(f"cell {cell.id}, artifacts in {runs / 'stages'}; MLflow: tokenbridge ui --runs {shlex.quote(str(runs))}")


app.command()(report)


@app.command()
def sync(runs: RunsThere = DEFAULT_RUNS) -> None:
    """Bring MLflow up to date with what the stages left; twice sends nothing twice.

    It waits up to two minutes for each answer, where other commands leave a slow server after one minute in all.
    """
    from experiments.tracking import sync as tracking

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # and once again
    errors = refresh(Store(runs))
    counts = tracking.sync(Store(runs), patience=None, unreadable=errors)
    sent = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    print(f"sent {sent}" if sent else "MLflow was up to date")
    if errors:  # which keep nothing else back
        tracking.raise_first(errors)


@app.command()
def ui(
    runs: RunsThere = DEFAULT_RUNS,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: a free one")] = 5000,
) -> None:
    """Open MLflow's page on the runs."""
    from experiments.tracking import sync as tracking

    for error in refresh(Store(runs)):  # what is there can be looked at all the same
        print(f"tokenbridge: {error}", file=sys.stderr, flush=True)
    raise typer.Exit(tracking.ui(Store(runs), port))


app.add_typer(tools)
app.add_typer(networks)
app.add_typer(exchange)
app.add_typer(samples, name="samples")
app.add_typer(commands)


def main() -> None:
    """Entry point: what a user can mend is one line and exit code 2; anything else is a bug and keeps its traceback."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    command, code = typer.main.get_command(app), 0
    try:
        if asked := os.environ.get(COMPLETE):
            raise SystemExit(shell_complete(command, {}, "tokenbridge", COMPLETE, asked))
        # as Typer's own main, whose usage block and silence on Ctrl-C say less
        with command.make_context("tokenbridge", sys.argv[1:] or ["--help"]) as context:
            command.invoke(context)
        print(end="", flush=True)  # while an error of it can still be told
    except typer.Exit as ended:
        code = ended.exit_code
    except (typer.Abort, EOFError):
        print("tokenbridge: stopped, as the question had no answer; --yes answers it", file=sys.stderr)
        code = 1
    except (KeyboardInterrupt, Interrupted) as stop:
        print(STOPPED, file=sys.stderr)
        code = 128 + stop.number if isinstance(stop, Interrupted) else INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is for nobody
        code = 1
    except Exception as error:
        if not (line := told(error)):
            raise
        print(f"tokenbridge: {line}", file=sys.stderr)
        code = 2
    raise SystemExit(code) from None
