"""Commands beside the main flow: doctor, speed, plan, reconstructions, reference statistics."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.common import show_data, show_json
from experiments.cli.options import (
    DEFAULT_BATCH,
    DEFAULT_REPORTS,
    DEFAULT_RUNS,
    PATH,
    Accumulate,
    Batch,
    CheckData,
    Device,
    Jobs,
    Json,
    Preset,
    Reports,
    Runs,
    RunsThere,
    Settings,
    Threads,
    TrustWeights,
    path_of,
)
from experiments.cli.report import publish
from experiments.paper import plan as plan_file
from tokenbridge.config import Runtime, Score
from tokenbridge.distributed import require_one
from tokenbridge.overrides import build
from tokenbridge.store.artifacts import Store, new_file, new_folder, require_folder
from tokenbridge.store.runs import EXPERIMENT

tools = typer.Typer()


@tools.command()
def doctor(runs: Runs = DEFAULT_RUNS, device: Device = "auto") -> None:
    """Say what is there and what is missing, one line each, with the remedy."""
    from experiments.doctor import checks, exit_status

    results = checks(Store(runs), build(Runtime, {"device": device}))
    for check in results:
        print(check)
    raise typer.Exit(exit_status(results))


@tools.command()
def speed(
    quick: Annotated[bool, typer.Option("--quick", help="one round, one token at a time only: half a minute")] = False,
    again: Annotated[bool, typer.Option("--again", help="measure once more what was measured here")] = False,
    runs: Runs = DEFAULT_RUNS,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads")] = 1,
    device: Device = "auto",
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes", min=0.01, max=1e4, help="measure the device part by part for so long (1 with --size alone)"
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", help="part by part, of which model: small, B, L or H; unset: L on a GPU, else small"),
    ] = None,
    reports: Reports = DEFAULT_REPORTS,
) -> None:
    """Table 5 and the claims about speed, as ratios inside one run; with --minutes or --size, one device part by part.

    Table 5 takes at most three minutes on an idle core. Parts are saved to reports/speed as they are measured.
    """
    if minutes is not None or size is not None:
        from experiments import card

        taken = build(Runtime, {"device": device, "threads": threads})
        rows, report = card.run(taken, size, 1.0 if minutes is None else minutes, reports / "speed")
        print("\n".join([*card.lines(rows), f"report: {report}"]))
        raise typer.Exit(1 if any(row.why.startswith("failed") for row in rows) else 0)
    from experiments.speed import PLAN, claims, plan, preset_cells, run, table_lines
    from experiments.tracking import sync as tracking
    from tokenbridge.speed.comparisons import encoding

    store = Store(runs)
    runtime = build(Runtime, {"device": device, "threads": threads})
    rows = preset_cells()
    plan_file.require_room(runs, PLAN)
    times = run(store, runtime, rows, quick, again)
    print("\n".join([*table_lines(times), *claims(times)]))
    for comparison in encoding(1_000_000 if quick else 3_000_000, rounds=1 if quick else 3):
        print(comparison.line())
    plan(store, rows)
    tracking.sync(store, [cell.id for cell in rows.values()])


@tools.command()
def plan(
    preset: Preset,
    settings: Settings = None,
    devices: Annotated[int, typer.Option("--devices", min=1, max=1_000_000, help="that train together")] = 8,
    accumulate: Accumulate = 1,
    memory: Annotated[float, typer.Option("--memory", min=0.001, max=1e6, help="of a device, in GB (A100)")] = 80.0,
    tflops: Annotated[
        float, typer.Option("--tflops", min=0.001, max=1e6, help="a device's peak in bfloat16 (A100)")
    ] = 312.0,
    tflops_float32: Annotated[float, typer.Option("--tflops-float32", min=0.001, max=1e6, help="in float32")] = 19.5,
    utilization: Annotated[float, typer.Option("--utilization", min=0.001, max=1, help="share of the peak")] = 0.4,
    train_images: Annotated[
        int | None, typer.Option("--train-images", min=1, max=10**12, help="of a folder not here")
    ] = None,
    test_images: Annotated[int | None, typer.Option("--test-images", min=1, max=10**12)] = None,
    as_json: Json = False,
) -> None:
    """What a configuration takes before anything runs: parameters, latents, memory, operations, device-hours."""
    from experiments import presets
    from experiments.budget import Machine, estimate, lines
    from tokenbridge.overrides import override

    config = override(presets.base(preset).config, settings or ())
    machine = Machine(devices, tflops, tflops_float32, utilization, accumulate, memory)
    images = {"train": train_images, "test": test_images}
    if as_json:
        show_json(estimate(config, machine, images))
    else:
        print("\n".join(lines(config, machine, images)))


@tools.command("verify-latents")
def verify_latents(runs: RunsThere = DEFAULT_RUNS) -> None:
    """Compare all finished latents with the checksums that were written with them."""
    from tokenbridge.data.latents import verify

    for folder in sorted(path.parent for path in runs.glob("stages/latents-*/manifest.json")):
        print(f"{folder}: {verify(folder):,} images as they were written")


@tools.command()
def reconstruct(
    images: Annotated[
        str, typer.Argument(help="folder of images, with class folders or without; a file of settings; or digits")
    ],
    settings: Settings = None,
    autoencoder: Annotated[
        str, typer.Option("--autoencoder", help="digits, a diffusers folder or an LDM checkpoint (kl16.ckpt)")
    ] = "digits",
    levels: Annotated[str, typer.Option("--levels", help="decision levels, such as 8,16,32")] = "8,16,32,64",
    range: Annotated[str, typer.Option("--range", help="ranges, such as 3,5")] = "5",
    train: Annotated[
        str | None, typer.Option("--train", help="folder that scale and reference are of (default: IMAGES)")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="folder for the table, as Markdown and CSV", **PATH)] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="of the report (default: reconstruct; of a file of settings, NAME-reconstruct)"),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    reports: Reports = DEFAULT_REPORTS,
    jobs: Jobs = 1,
    threads: Threads = None,
    batch: Batch = DEFAULT_BATCH,
    device: Device = "auto",
    trust_weights: TrustWeights = False,
    check_data: CheckData = False,
) -> None:
    """Tables 1a and 1b on any images and autoencoder: what quantizing costs, for each number of levels and range."""
    from experiments import presets, reconstructions, runner
    from tokenbridge.overrides import value_of
    from tokenbridge.store.runs import require_name

    require_one("reconstruct")
    if name is None:
        name = f"{presets.base(images).name}-reconstruct" if images.endswith(presets.ENDING) else "reconstruct"
    require_name(name)
    threads = threads or presets.THREADS.get(images)
    grid = {
        "levels": [value_of(word) for word in levels.split(",")],
        "range": [value_of(word) for word in range.split(",")],
    }
    cells = reconstructions.cells(images, train, autoencoder, grid, settings or ())
    how = {"device": device, "threads": threads, "batch": batch, "trust_weights": trust_weights}
    store, runtime = Store(runs), build(Runtime, how)
    require_folder(reports / name, "--reports")
    plan_file.require_room(runs, name)
    with new_folder(out, "--out") if out else nullcontext():
        show_data(cells[0].config.data)
        if line := reconstructions.crop(cells[0].config):
            print(line, flush=True)
        runner.run_cells(store, cells, runtime, EXPERIMENT, jobs)
        rows = reconstructions.rows(store, cells)
        lines = [*reconstructions.markdown(rows), "", *reconstructions.remarks(store, cells)]
        print("\n".join(lines))
        if out is not None:
            reconstructions.write(out, lines, rows)
    reconstructions.write_plan(store, name, cells, shlex.join(["tokenbridge", *sys.argv[1:]]))
    print(f"report: {publish(store, name, reports)}")


@tools.command()
def stats(
    images: Annotated[
        Path, typer.Argument(help="folder of images, with or without sub-folders, or .npz with arr_0", parser=path_of)
    ],
    out: Annotated[Path, typer.Option("--out", help="FILE.npz, for score.reference", **PATH)],
    features: Annotated[str, typer.Option("--features", help="scorer: inception, clean, dinov2, clip")] = "inception",
    weights: Annotated[str, typer.Option("--weights", help="as score.weights")] = "",
    size: Annotated[int | None, typer.Option("--size", min=4, help="crop to it (ADM's centre crop)")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="images at once")] = 64,
    device: Device = "auto",
    trust_weights: TrustWeights = False,
) -> None:
    """Make a file of reference statistics (mu, sigma; Inception's also mu_s, sigma_s) of images."""
    from tokenbridge.metrics.reference import write_statistics

    score = build(Score, {"features": features} | ({"weights": weights} if weights else {}))
    runtime = build(Runtime, {"device": device, "batch": batch, "trust_weights": trust_weights})
    with new_file(out, "--out"):
        about = write_statistics(out, images, score, size, runtime)
    shown = f"{about['images']} images of {about['image_size']} pixels"
    print(f"{out}: {shown} by {about['features']} {about['weights'][:12]}; {shlex.quote(f'score.reference={out}')}")
