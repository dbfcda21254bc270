"""The commands `tokenbridge grid` and `tokenbridge duel`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.axes import GRIDS
from experiments.cli.common import end_with, show_data
from experiments.cli.headline import headline, sheets
from experiments.cli.options import (
    DEFAULT_BATCH,
    DEFAULT_RUNS,
    DEMO_JOBS,
    MOST_SEEDS,
    Accumulate,
    Batch,
    CheckData,
    CheckpointSeconds,
    Device,
    Jobs,
    PresetOption,
    Runs,
    Threads,
    TrustWeights,
    complete_settings,
    complete_tables,
)
from experiments.paper import FIGURE_8, TABLES
from experiments.presets import ENDING
from tokenbridge.config import Runtime, UserError
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store
from tokenbridge.store.runs import EXPERIMENT

if TYPE_CHECKING:
    from experiments.grid.request import Grid, Request

PRESET = "digits"
"""base of grids and duels, unless another is asked for"""
PLACES = ("local", "slurm", "debug")


def choices() -> str:
    """What the command can run, for its help."""
    tables = [id for id, table in TABLES.items() if table.kind in ("reconstruction", "generation", "speed")]
    return (
        f"tables ({', '.join(tables)}, {FIGURE_8}), or a named grid ({', '.join(GRIDS)}); and the file of settings"
        " (.toml) that is their base"
    )


def grid(
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            help=choices(),
            metavar="[FILE] [TABLE|GRID]...",
            autocompletion=complete_tables,
        ),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            help="of a table only the rows whose TABLE:ROW fits, such as 'heads:continuous, *'; a table that none fits"
            " runs whole; repeatable",
        ),
    ] = None,
    axes: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            help="a setting and its values, such as quantizer.levels=16,32; repeatable",
            autocompletion=complete_settings,
        ),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="vary one axis at a time, the others as in the base; not the full product")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="setting of the base, such as train.epochs=100; repeatable",
            autocompletion=complete_settings,
        ),
    ] = None,
    preset: PresetOption = PRESET,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=1, max=MOST_SEEDS, help="training seeds of each row or cell (default: 3; 1 for axes alone)"
        ),
    ] = None,
    on: Annotated[
        str,
        typer.Option("--on", help="where stages run: local, slurm, or debug (here in turn, with tracebacks)"),
    ] = "local",
    cluster: Annotated[
        str, typer.Option("--cluster", help="with --on slurm: file of resources, or name in slurm/clusters")
    ] = "cluster.toml",
    yes: Annotated[bool, typer.Option("--yes", help="with --on slurm: submit without asking, however much")] = False,
    jobs: Jobs = DEMO_JOBS,
    threads: Threads = None,
    device: Device = "auto",
    batch: Batch = DEFAULT_BATCH,
    accumulate: Accumulate = 1,
    checkpoint_seconds: CheckpointSeconds = None,
    search_images: Annotated[
        int | None,
        typer.Option(
            "--search-images",
            min=50,
            max=1_000_000_000,
            help="images per point and training seed, where guidance is searched",
        ),
    ] = None,
    points: Annotated[
        str,
        typer.Option(
            "--points",
            help="guidance and temperature of tables: own (searched for each row), base (the base's, for all rows),"
            " or one point for all rows, such as 1.5,0.9",
        ),
    ] = "own",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would run, for how long, and run nothing")
    ] = False,
    until_settled: Annotated[
        bool,
        typer.Option("--until-settled", help="add seeds until the claims of these tables are settled, or --max-seeds"),
    ] = False,
    max_seeds: Annotated[
        int, typer.Option("--max-seeds", min=2, max=MOST_SEEDS, help="with --until-settled: seeds at most")
    ] = 12,
    first: Annotated[
        bool, typer.Option("--try", help="run the first cell only, here, and say what the rest would take")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", help="of the sweep and its report (default: that of the named grid or of the file, else grid)"
        ),
    ] = None,
    trust_weights: TrustWeights = False,
    check_data: CheckData = False,
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Run tables of the paper, or a grid over axes, or both; what is finished or shared runs once.

    Example: tokenbridge grid --axis quantizer.levels=16,32 --axis sample.temperature=0.9,1.0 --on slurm --dry-run
    """
    from experiments import presets
    from experiments.grid.request import Request

    require_one("grid")
    _require_place(on)
    words, preset = _tables(tables or (), preset)
    base = presets.base(preset)
    titled = words[0] if len(words) == 1 and words[0] in GRIDS else base.name if base.name != base.preset else "grid"
    request = Request(
        name=titled if name is None else name,
        preset=base.preset,
        tables=words,
        rows=tuple(rows or ()),
        axes=tuple(axes or ()),
        each=each,
        assignments=(*base.settings, *(assignments or ())),
        typed=(preset, *(assignments or ())),
        seeds=seeds,
        images=search_images,
        points=points,
    )
    if until_settled:
        from experiments.grid.looks import growing

        request = growing(request, max_seeds, on)
    how = {"device": device, "threads": threads or base.threads, "batch": batch, "accumulate": accumulate}
    more = {"checkpoint_seconds": checkpoint_seconds, "trust_weights": trust_weights}
    runtime = build(Runtime, how | more)
    store, asked, jobs = Store(runs), request.grid(), 1 if on == "debug" else jobs
    show_data(asked.base.data)
    if dry_run:
        _forecast(store, asked, jobs, cluster if on == "slurm" else None, runtime)
        return
    if first:
        _try(store, asked, jobs, runtime)
        return
    if until_settled:
        _until_settled(store, request, runtime, jobs)
        return
    _run(store, request, asked, runtime, jobs, on, cluster, yes)


def _tables(words: Sequence[str], preset: str) -> tuple[tuple[str, ...], str]:
    """The words without a file of settings, and the base: that file, where one is among them."""
    files = [word for word in words if word.endswith(ENDING)]
    bases = files + [preset] * (preset != PRESET)
    if len(bases) > 1:
        raise UserError(f"{' and '.join(bases)} are {len(bases)} bases, and a grid has one; leave the others out")
    return tuple(word for word in words if word not in files), (*bases, PRESET)[0]


def _until_settled(store: Store, request: Request, runtime: Runtime, jobs: int) -> None:
    """Run the grid with the seeds of each look, until no claim is open."""
    from experiments.grid import run as run_grid

    for number, seeds in enumerate(request.looks, 1):
        asked = request.model_copy(update={"seeds": seeds}).grid()
        end_with(run_grid.run(store, asked, runtime, jobs))
        settled, count = _claims(store, request.name)
        print(
            f"look {number} of {len(request.looks)}, {seeds} seeds: {settled} of {count} claims settled",
            flush=True,
        )
        if settled == count:
            break
    print(f"report: tokenbridge report {request.name}")


def _claims(store: Store, name: str) -> tuple[int, int]:
    """How many claims of a grid are settled by its finished stages, and how many there are."""
    from analysis.frame.load import source_from_stages
    from analysis.tables.compare import comparisons
    from experiments.paper import plan as plan_file

    plan = plan_file.read(plan_file.file(store.root, name))
    claims = [
        each for each in comparisons(source_from_stages(store.root, plan)).verdicts.values() if each.family == "claim"
    ]
    return sum(each.shown for each in claims), len(claims)


def duel(
    rows: Annotated[
        list[str],
        typer.Argument(
            help="two rows of tables, such as 'heads:B=16, autoregressive'; or heads:post-training, heads:trained,"
            " heads:continuous: the row of these tokens that finished searches found best",
            metavar="[FILE] TABLE:ROW TABLE:ROW",
        ),
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="setting of the base, such as train.epochs=100; repeatable",
            autocompletion=complete_settings,
        ),
    ] = None,
    preset: PresetOption = PRESET,
    seeds: Annotated[int, typer.Option("--seeds", min=2, max=MOST_SEEDS, help="fresh training seeds of each row")] = 10,
    search_seeds: Annotated[
        int, typer.Option("--search-seeds", min=1, max=100, help="other training seeds, with which points are searched")
    ] = 3,
    on: Annotated[str, typer.Option("--on", help="where stages run: local, slurm, or debug")] = "local",
    cluster: Annotated[str, typer.Option("--cluster", help="as for grid")] = "cluster.toml",
    yes: Annotated[bool, typer.Option("--yes", help="as for grid")] = False,
    jobs: Jobs = DEMO_JOBS,
    threads: Threads = None,
    device: Device = "auto",
    batch: Batch = DEFAULT_BATCH,
    trust_weights: TrustWeights = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would run, for how long, and run nothing")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="of the sweep and its report")] = "duel",
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Two rows against each other: points chosen by search, fresh training seeds that no search used, one paired test.

    Example: tokenbridge duel heads:post-training heads:continuous --seeds 10
    """
    from experiments import presets
    from experiments.grid.duel import row_key
    from experiments.grid.request import Request
    from tokenbridge.overrides import override

    require_one("duel")
    _require_place(on)
    words, preset = _tables(rows, preset)
    store, base = Store(runs), presets.base(preset)
    how = {"device": device, "threads": threads or base.threads, "batch": batch}
    runtime = build(Runtime, how | {"trust_weights": trust_weights})
    changes = (*base.settings, *(assignments or ()))
    keys = tuple(row_key(store, override(base.config, assignments or ()), word, search_seeds) for word in words)
    request = Request(
        name=name,
        preset=base.preset,
        assignments=changes,
        typed=(preset, *(assignments or ())),
        seeds=seeds,
        duel=keys,
        search_seeds=search_seeds,
    )
    asked, jobs = request.grid(), 1 if on == "debug" else jobs
    print(f"{asked.about}: {seeds} training seeds of each, from {asked.rows[0].cell.config.train.seed} on", flush=True)
    if dry_run:
        _forecast(store, asked, jobs, cluster if on == "slurm" else None, runtime)
        return
    _run(store, request, asked, runtime, jobs, on, cluster, yes)


def _require_place(on: str) -> None:
    if on not in PLACES:
        raise UserError(f"--on={on} must be one of {', '.join(PLACES)}")


def _run(
    store: Store, request: Request, asked: Grid, runtime: Runtime, jobs: int, on: str, cluster: str, yes: bool
) -> None:
    from experiments.grid import run as run_grid

    if on == "slurm":
        from slurm import launch

        launch.start(store, request, asked, cluster, runtime, shlex.join(["tokenbridge", *sys.argv[1:]]), yes)
        return
    failures = run_grid.run(store, asked, runtime, jobs)
    if failures and on == "debug":
        raise failures[0].error
    end_with(failures)
    print(f"report: tokenbridge report {request.name}")


def _forecast(store: Store, asked: Grid, jobs: int, cluster: str | None, runtime: Runtime) -> None:
    from experiments.grid.forecast import forecast
    from experiments.pipeline import graph
    from experiments.trained import require_trusted

    cells, ahead = asked.first()
    require_trusted(store, graph([*cells, *ahead]).values(), runtime)
    costs: list[str] = []
    if cluster is not None:
        from slurm import launch

        costs = list(launch.cost(store, asked, cluster).lines)
    print("\n".join([*forecast(store, asked, jobs), *costs]))


def _try(store: Store, asked: Grid, jobs: int, runtime: Runtime) -> None:
    from experiments.grid.forecast import forecast
    from experiments.runner import attempt_cells

    end_with(attempt_cells(store, [asked.sample], runtime, EXPERIMENT, jobs))
    for line in (*headline(store, asked.sample), *sheets(store, asked.sample)):
        print(line)
    print("the whole grid, of which this cell is finished:", *forecast(store, asked, jobs), sep="\n")
