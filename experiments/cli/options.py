"""Options that several commands take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenbridge.config import UserError


def path_of(text: str | Path) -> Path:
    """The path that a word names."""
    if not str(text):  # Path makes it the folder that one is in
        raise ValueError("must name a file or folder")
    return Path(text)


def _there(runs: Path) -> Path:
    if not os.path.isdir(runs):  # noqa: PTH112 - pathlib raises where a name is too long
        raise UserError(f"{runs} is no folder of runs; correct --runs, or let tokenbridge run make it")
    return runs


def complete_bases(incomplete: str) -> list[str]:
    """Presets, and files of settings that are here."""
    from experiments.presets import ENDING, PRESETS

    files = sorted(str(path) for path in Path().glob(f"*{ENDING}"))
    return [name for name in (*PRESETS, *files) if name.startswith(incomplete)]


def complete_settings(incomplete: str) -> list[str]:
    """Settings with `=` behind them; behind that, the words that a setting may be."""
    from tokenbridge.config import RunConfig
    from tokenbridge.overrides import choices, settings

    key, equals, _ = incomplete.partition("=")
    words = [f"{key}={word}" for word in choices(key)] if equals else [f"{key}=" for key in settings(RunConfig)]
    return [word for word in words if word.startswith(incomplete)]


def complete_tables(incomplete: str) -> list[str]:
    """Tables and named grids, and files of settings that are here."""
    from experiments.axes import GRIDS
    from experiments.paper import TABLES
    from experiments.presets import ENDING

    files = sorted(str(path) for path in Path().glob(f"*{ENDING}"))
    return [name for name in (*TABLES, *GRIDS, *files) if name.startswith(incomplete)]


def complete_plans(context: typer.Context, incomplete: str) -> list[str]:
    """Reports and grids of the runs folder."""
    from experiments.paper.plan import names

    return [name for name in names(_runs_of(context)) if name.startswith(incomplete)]


def complete_sweeps(context: typer.Context, incomplete: str) -> list[str]:
    """Sweeps of the runs folder."""
    from tokenbridge.store.artifacts import Store
    from tokenbridge.store.runs import sweep_names

    return [name for name in sweep_names(Store(_runs_of(context))) if name.startswith(incomplete)]


def _runs_of(context: typer.Context) -> Path:
    return Path(context.params.get("runs") or os.environ.get("TOKENBRIDGE_RUNS") or DEFAULT_RUNS)


MOST_SEEDS = 1000
PATH: Any = {"parser": path_of, "metavar": "<path>"}
"""of an option that names a file or folder"""
RUNS: Any = {"envvar": "TOKENBRIDGE_RUNS", "help": "folder of all artifacts", **PATH}
Runs = Annotated[Path, typer.Option("--runs", **RUNS)]
RunsThere = Annotated[Path, typer.Option("--runs", callback=_there, **RUNS)]
"""of a command that has nothing to look at in a new folder"""
Reports = Annotated[Path, typer.Option("--reports", help="folder of all reports", **PATH)]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="stages at a time on this machine")]
TrainedOut = Annotated[Path, typer.Option("--out", help="folder for the weights and their card", **PATH)]
Seeds = Annotated[int, typer.Option("--seeds", min=1, max=MOST_SEEDS, help="training seeds per row")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads of a stage (default: the preset's, else its share)")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="images at once when encoding, sampling and scoring")]
Accumulate = Annotated[
    int, typer.Option("--accumulate", min=1, help="micro-batches of a training step: less memory, the same losses")
]
CheckpointSeconds = Annotated[
    float | None,
    typer.Option(
        "--checkpoint-seconds",
        min=0,
        help="from one checkpoint of a training to the next (default: as many as keep their cost at 3 % of the time)",
    ),
]
TrustWeights = Annotated[
    bool,
    typer.Option("--trust-weights", help="run code in score.weights that is not known, of clean, clip or dinov2"),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda")]
PRESETS_HELP = (
    "a file of settings (.toml, see init); or digits, fashion, small, imagenet256-B, -L or -H, each also"
    " -released, imagenet256-mar-B, -L or -H"
)
Preset = Annotated[str, typer.Argument(help=PRESETS_HELP, metavar="FILE|PRESET", autocompletion=complete_bases)]
PresetOption = Annotated[
    str,
    typer.Option(
        "--preset", help="base: a preset, or a file of settings (.toml, see init)", autocompletion=complete_bases
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        help="settings such as quantizer.levels=32", metavar="[KEY=VALUE]...", autocompletion=complete_settings
    ),
]


def _check_data(wanted: bool) -> bool:
    if wanted:
        from tokenbridge.data import contents

        contents.check_all()
    return wanted


CheckData = Annotated[
    bool,
    typer.Option("--check-data", callback=_check_data, help="read images in folders again, whatever their times say"),
]

Json = Annotated[bool, typer.Option("--json", help="one JSON document, for programs; progress goes to stderr")]
DEFAULT_RUNS, DEFAULT_REPORTS, DEFAULT_TRAINED = Path("runs"), Path("reports"), Path("trained")
DEFAULT_BATCH = 256
DEMO_JOBS = min(4, os.cpu_count() or 1)
