"""`tokenbridge speed`: table 5, and what the project claims about speed, measured as ratios inside one run.

All rows are measured together, their heads in turn, and each leaves a stage of its own. What this machine has measured
is shown again; `again`, another device, processor, number of threads or torch measures anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from experiments import paper
from experiments.paper import plan as plan_file
from experiments.pipeline import Cell, Stage, record
from experiments.presets import preset
from tokenbridge.config import RunConfig, Runtime
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store, writable
from tokenbridge.store.runs import EXPERIMENT, Measured, read_metrics, write_metrics

PRESET, PLAN = "imagenet256-L", "speed"
OURS = "autoregressive 1024×4"
GRAPH_MS, COMPILED_TIMES = 3, 3
"""aims on a GPU: ms per token at batch 1 in a CUDA graph; whole images compiled in bfloat16 against eager"""

Metrics = dict[str, dict[str, float]]


def cells(base: RunConfig, rows: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Cell]:
    """The cells of table 5 by label.

    Args:
        base: the configuration that the rows change.
        rows: other rows than the table's, label -> settings.
    """
    table = paper.TABLE_5
    rows = rows or {cell.label: table.overrides(cell, base) for cell in table.rows}
    return {label: Cell(f"5-{label}", override(base, values), ("speed",)) for label, values in rows.items()}


def preset_cells() -> dict[str, Cell]:
    """The cells of table 5 at the paper's sizes."""
    # the order of the channels changes no time, and a stage's id holds it
    return cells(override(preset(PRESET), {"head.order": "stored"}))


def run(
    store: Store, runtime: Runtime, wanted: Mapping[str, Cell], quick: bool = False, again: bool = False
) -> Metrics:
    """Metrics of each row, as stored where this machine measured them with this effort, else measured now.

    Args:
        wanted: cells by the label of their row.
        quick: measure once, one token at a time.
        again: measure anew in any case.
    """
    from tokenbridge.devices import pick_device
    from tokenbridge.speed import measurement as speed  # torch

    device = pick_device(runtime)
    effort = speed.QUICK if quick else speed.usual(device)
    configs = {label: cell.config for label, cell in wanted.items()}
    stages = {label: cell.stages()[0] for label, cell in wanted.items()}
    with speed.one_thread(device, runtime):
        protocols = {label: speed.protocol(c, device, effort, len(configs)) for label, c in configs.items()}
        stored = {label: _stored(store, stage) for label, stage in stages.items()}
        if not again and all(known and known.protocol == protocols[label] for label, known in stored.items()):
            return {label: known.metrics for label, known in stored.items() if known}
        record(store, list(wanted.values()), EXPERIMENT)
        with writable(store.root), ExitStack() as stack:
            out = {
                label: stack.enter_context(store.writing(stage.id, stage.about(), anew=True))
                for label, stage in stages.items()
            }
            metrics = speed.measure(configs, device, effort)
            for label, folder in out.items():
                assert folder is not None, "it is made anew"
                write_metrics(folder, metrics[label], protocols[label])
    return metrics


def _stored(store: Store, stage: Stage) -> Measured | None:
    return read_metrics(store.folder(stage.id)) if store.finished(stage.id) else None


def table_lines(rows: Metrics) -> list[str]:
    """The table as text: milliseconds per row, with half the interquartile range."""
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics if not name.endswith("_spread")))
    lines = [f"{'':<24}" + "".join(f"{name:>24}" for name in names)]
    for label, metrics in rows.items():
        lines.append(f"{label:<24}" + "".join(f"{_value(metrics, name):>24}" for name in names))
    return lines


def _value(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "–"
    spread = f" ± {metrics[f'{name}_spread']:.2f}" if f"{name}_spread" in metrics else ""
    return f"{metrics[name]:.2f}{spread}"


def claims(rows: Metrics) -> list[str]:
    """One line per claim, with its target; where it was not measured, with the reason."""
    ours = rows.get(OURS, {})
    lines = []
    for positions, target in ((1, 2.5), (64, 6.5)):
        name = f"{OURS}, {positions} at once: cache against recomputing"
        lines.append(_ratio(name, ours, f"token_ms_{positions}", ours, f"recomputing_ms_{positions}", target))
    for label, target in (("diffusion 1024×3", 2), ("diffusion 1280×8", 6)):
        rival, name = rows.get(label, {}), f"{OURS} against {label}, 100 steps"
        # released samplers compute a network's modulations in each step; ours computes those of all in one product
        for way, metric in (("released", "stepwise_ms_1"), ("our", "token_ms_1")):
            lines.append(_ratio(f"{name}, {way} sampler", ours, "token_ms_1", rival, metric, target))
    return [*lines, *_on_a_gpu(ours)]


def _ratio(name: str, ours: Mapping[str, float], mine: str, rival: Mapping[str, float], its: str, target: float) -> str:
    from tokenbridge.speed.comparisons import Comparison

    if mine not in ours or its not in rival:
        return f"{name}: not measured (target {target:g}); --quick leaves it out"
    return Comparison(name, ours[mine] / 1000, rival[its] / 1000, target).line()


def _on_a_gpu(ours: Mapping[str, float]) -> list[str]:
    graph = f"{OURS}, one token in a CUDA graph, at most {GRAPH_MS} ms"
    whole = "image, compiled in bfloat16 against eager float32"
    if "graph_ms_1" not in ours:
        return [f"{name}: not measured: needs a GPU" for name in (graph, f"{whole} (target {COMPILED_TIMES})")]
    took, least = ours["graph_ms_1"], ours["least_ms_1"]
    missed = ": missed" if took > GRAPH_MS else ""
    return [
        f"{graph}{missed}: {took:.2f} ms; reading the weights alone takes {least:.2f} ms",
        _ratio(whole, ours, "image_compiled_ms", ours, "image_ms", COMPILED_TIMES),
    ]


def plan(store: Store, wanted: Mapping[str, Cell]) -> None:
    """Write runs/plans/speed.json, from which `tokenbridge report speed` makes the table.

    Args:
        store: the runs folder.
        wanted: the table's cells by label.
    """
    content = {
        "name": PLAN,
        "title": "Time for one image token",
        "preset": PRESET,
        "base": preset(PRESET).model_dump(mode="json"),
        "tables": [paper.TABLE_5.id],
        "rows": plan_rows(wanted),
    }
    plan_file.write(store.root, content)


def plan_rows(wanted: Mapping[str, Cell]) -> Sequence[dict[str, str]]:
    """The rows of a report's plan that these cells fill."""
    return [{"table": paper.TABLE_5.id, "label": label, "cell": cell.id} for label, cell in wanted.items()]
