"""The command `tokenbridge`. Heavy libraries are imported where a command needs them, so that --help is instant."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from experiments.cli import INTERRUPTED, STOPPED
from experiments.cli.common import end_with, show_data, told
from experiments.cli.exchange import exchange
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
from experiments.cli.settings import settings
from experiments.cli.tools import tools
from experiments.cli.tune import tune
from slurm.commands import commands
from tokenbridge.config import Runtime
from tokenbridge.distributed import joined, require_one
from tokenbridge.overrides import build
from tokenbridge.signals import Interrupted
from tokenbridge.store.artifacts import Store, require_folder
from tokenbridge.store.runs import EXPERIMENT, require_name

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


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
        typer.Option("--only", help="last stage wanted: reconstruct, train, likelihood, sample or score; repeatable"),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="name of the run in MLflow")] = None,
    runs: Runs = DEFAULT_RUNS,
    jobs: Jobs = 1,
    threads: Threads = None,
    batch: Batch = DEFAULT_BATCH,
    accumulate: Accumulate = 1,
    device: Device = "auto",
    trust_weights: TrustWeights = False,
    check_data: CheckData = False,
    everything: Annotated[bool, typer.Option("--all", help="print every number at the end, not the headline")] = False,
) -> None:
    """Run one configuration through its stages, skipping what is finished, and log it to MLflow.

    Several processes share encoding, training and sampling: torchrun --nproc-per-node 2 -m experiments.cli run digits
    """
    from experiments import axes, pipeline, presets, runner
    from experiments.tracking import sync as tracking
    from tokenbridge.overrides import differing, override

    if name is not None:
        require_name(name)
    base = presets.base(preset)
    config = override(base.config, settings or ())
    wanted = tuple(only) if only else pipeline.wanted_of(config)
    cell = pipeline.Cell(name or axes.run_name(base.name, differing(config, base.config)), config, wanted)
    store = Store(runs)
    how = {"device": device, "threads": threads or base.threads, "batch": batch, "accumulate": accumulate}
    runtime = build(Runtime, how | {"trust_weights": trust_weights})
    with joined() as world:
        show_data(config.data)
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
app.add_typer(commands)


def main() -> None:
    """Entry point: what a user can mend is one line and exit code 2; anything else is a bug and keeps its traceback."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    command, code = typer.main.get_command(app), 0
    try:
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
