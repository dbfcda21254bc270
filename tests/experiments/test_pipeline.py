import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import runner
from experiments.pipeline import GENERATION, RECONSTRUCTION, Cell, graph, wanted_of
from experiments.presets import DIGITS, preset
from experiments.progress import training_line
from experiments.runner import run_cells, run_stage
from tests.helpers.machine import ROOT
from tests.helpers.runs import journal
from tokenbridge.config import CONTINUOUS, RunConfig, Runtime, UserError
from tokenbridge.overrides import differing, flatten, override, unread
from tokenbridge.stages import STAGES
from tokenbridge.stages.sample import run as sample_run
from tokenbridge.store.artifacts import PROGRESS, Store, write_json


def names(cells):
    return sorted(stage.kind.name for stage in graph(cells).values())


def test_one_cell_runs_through_every_stage(finished):
    store, cell = finished
    stages = {stage.kind.name: stage for stage in cell.stages()}
    assert set(stages) == {"latents", "quantizer", "reconstruct", "train", "likelihood", "sample", "score"}
    for kind, stage in stages.items():
        manifest = store.manifest(stage.id)
        assert manifest["inputs"] == {needed: stages[needed].id for needed in STAGES[kind].needs if needed in stages}
        if kind != "latents":
            metrics = json.loads((store.folder(stage.id) / "metrics.json").read_text())
            assert metrics["protocol"], f"{kind}: a number carries its protocol"
            assert all(np.isfinite(value) for value in metrics["metrics"].values())
    record = json.loads((store.root / "cells" / f"{cell.id}.json").read_text())
    assert record["stages"] == {kind: stage.id for kind, stage in stages.items()}


def test_a_second_run_does_nothing(finished, capsys):
    store, cell = finished
    before = {path: path.stat().st_mtime_ns for path in store.root.glob("stages/*")}
    run_cells(store, [cell], Runtime(threads=1), "tests")
    assert {path: path.stat().st_mtime_ns for path in store.root.glob("stages/*")} == before
    assert capsys.readouterr().out == ""


def test_stages_are_shared(tiny):
    temperatures = [Cell(f"t{t}", override(tiny, {"sample.temperature": t}), GENERATION) for t in (0.8, 0.9, 1.0)]
    assert names(temperatures) == sorted(["latents", "quantizer", "train", "likelihood", *["sample", "score"] * 3])
    ranges = [Cell(f"r{r}", override(tiny, {"quantizer.range": r}), ("reconstruct",)) for r in (3.0, 4.0)]
    assert names(ranges) == ["latents", "quantizer", "quantizer", "reconstruct", "reconstruct"]
    continuous = [
        Cell(f"b{b}", override(tiny, {"quantizer.kind": "identity", "quantizer.levels": b}), ("reconstruct",))
        for b in (8, 16)
    ]
    assert names(continuous) == ["latents", "quantizer", "reconstruct"]


def test_each_kind_reads_only_what_changes_it(tiny):
    base = {stage.kind.name: stage.id for stage in Cell("x", tiny).stages()}

    def changed(assignment):
        other = {stage.kind.name: stage.id for stage in Cell("x", override(tiny, [assignment])).stages()}
        return {kind for kind in base if base[kind] != other[kind]}

    downstream = {"train", "likelihood", "sample", "score"}
    assert changed("sample.temperature=0.5") == {"sample", "score"}
    assert changed("score.reference=test") == {"score"}
    assert changed("head.depth=2") == downstream
    assert changed("quantizer.levels=32") == {"quantizer", "reconstruct"} | downstream
    assert changed("latents.scale=0.5") == set(base)
    assert changed("data.split_seed=1") == set(base)


class Sections:
    """A config with these sections alone; what it computes sees no other one either."""

    def __init__(self, config, sections):
        vars(self).update({section: getattr(config, section) for section in sections})

    def __getattr__(self, name):
        if name in RunConfig.model_fields:
            raise AttributeError(f"looks at {name}")
        return getattr(RunConfig, name).__get__(self)


@pytest.mark.parametrize("kind", [kind for kind in STAGES.values() if kind.sections], ids=lambda kind: kind.name)
@pytest.mark.parametrize("quantizer", ["gaussian", "identity", "fsq", "vq"])
def test_a_kind_looks_at_its_sections_only(tiny, kind, quantizer):
    """Its id is made once for equal sections: looking at another one would give two stages one id."""
    config = override(tiny, {"quantizer.kind": quantizer, "quantizer.levels": 4})
    alone = Sections(config, kind.sections)
    if not kind.refusal(config):
        assert kind.reads(alone) == kind.reads(config)


def test_an_impossible_cell_is_refused_before_anything_runs(tiny, tmp_path):
    cells = [
        Cell("good", tiny, ("quantizer",)),
        Cell("bad", override(tiny, {"quantizer.kind": "identity"}), ("score",)),
    ]
    with pytest.raises(UserError, match="choose a quantizer"):
        run_cells(Store(tmp_path / "runs"), cells, Runtime(threads=1), "tests")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_at_a_time_and_a_failure_stops_only_what_needs_it(tiny, tmp_path, capfd):
    store = Store(tmp_path)
    # 65,000 levels a channel are more than the 23,008 values of one
    broken = {"quantizer.kind": "quantile", "quantizer.levels": 65_000, "quantizer.per": "channel"}
    cells = [
        Cell("good", override(tiny, {"quantizer.kind": "quantile", "quantizer.levels": 5}), ("reconstruct",)),
        Cell("broken", override(tiny, broken), ("reconstruct",)),
        Cell("uniform", override(tiny, {"quantizer.kind": "uniform"}), ("quantizer",)),
    ]
    with pytest.raises(
        UserError,
        match=r"broken.*: levels=65000 must be at most \d+, the number of distinct values.*; 1 stages that need it",
    ):
        run_cells(store, cells, Runtime(), "tests", jobs=2)
    done = [stage.kind.name for stage in graph(cells).values() if store.finished(stage.id)]
    assert sorted(done) == ["latents", "quantizer", "quantizer", "reconstruct"]
    assert not list(store.root.glob("stages/*.partial"))
    assert "left" in capfd.readouterr().out


def number_here(folder: Path) -> int:
    """The number of this worker, once two are there: one would do the work of both."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    return runner._numbered


@pytest.mark.slow
def test_workers_are_numbered(tmp_path):
    """By which they take GPUs in turn."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, initializer=runner._start_worker, initargs=(spawn.Value("i", 0),)) as pool:
        assert sorted(pool.map(number_here, [tmp_path] * 2)) == [0, 1]


@pytest.fixture
def two_trainings(tmp_path):
    """A run that trains two heads in two processes, begun."""
    script = (
        "import sys; from pathlib import Path;"
        "from experiments.pipeline import Cell; from experiments.presets import DIGITS;"
        "from experiments.runner import run_cells; from tests.conftest import TINY;"
        "from tokenbridge.store.artifacts import Store; from tokenbridge.config import CONTINUOUS, Runtime;"
        "from tokenbridge.overrides import override;"
        "\nif __name__ == '__main__':"
        "\n tiny = override(DIGITS, [*TINY, 'train.epochs=500'])"
        "\n cells = [Cell(k, override(tiny, {'head.kind': k}), ('train',)) for k in ('autoregressive', 'parallel')]"
        "\n run_cells(Store(Path(sys.argv[1])), cells, Runtime(), 'tests', jobs=2)"
    )
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "script.py", tmp_path / "runs"]
    process = subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.PIPE)
    while len(list(tmp_path.glob("runs/stages/*.partial/metrics.jsonl"))) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    yield process
    process.kill()
    process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_in_several_processes_stops_with_checkpoints_and_leaves_no_process(two_trainings, tmp_path, number):
    """Even where the signal was only for the process that gives work to the others."""
    process = two_trainings
    process.send_signal(number)
    assert process.wait() == {signal.SIGTERM: 128 + signal.SIGTERM}.get(number, -number)
    for _ in range(600):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a worker lives on")
    assert len(list(tmp_path.glob("runs/stages/*.partial/checkpoint.pt"))) == 2


@pytest.mark.slow
def test_a_killed_process_of_several_is_told_in_one_line(two_trainings, tmp_path):
    """As the kernel kills one where memory is short."""
    children = Path(f"/proc/{two_trainings.pid}/task/{two_trainings.pid}/children").read_text().split()
    worker = next(pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    said = two_trainings.stderr.read().decode()
    assert two_trainings.wait() == 1
    (line,) = (line for line in said.splitlines() if line.startswith("tokenbridge.config.UserError: train of "))
    assert "a process of --jobs was killed, most often for want of memory" in line
    assert list(tmp_path.glob("runs/stages/*.partial/checkpoint.pt"))  # of the other one


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_images_are_the_same_whatever_the_batch(finished, tiny, tmp_path, batch):
    """Image i depends on (checkpoint, config, i) alone: equal tokens; pixels may round differently by one."""
    store, cell = finished
    stage = next(stage for stage in cell.stages() if stage.kind.name == "sample")
    inputs = {kind: store.folder(id) for kind, id in stage.inputs}
    sample_run(tiny, inputs, tmp_path, Runtime(threads=1, batch=batch))
    folder = store.folder(stage.id)
    assert np.array_equal(np.load(tmp_path / "tokens.npy"), np.load(folder / "tokens.npy"))
    a, b = (np.load(where / "samples.npy").astype(int) for where in (tmp_path, folder))
    assert a.shape == (71, 1, 16, 16)
    assert np.abs(a - b).max() <= 1
    assert np.array_equal(np.load(tmp_path / "labels.npy"), np.arange(71) % 10)


def test_fewer_images_are_the_first_of_more(finished, tiny, tmp_path):
    store, cell = finished
    stage = next(stage for stage in cell.stages() if stage.kind.name == "sample")
    sample_run(
        override(tiny, ["sample.images=5"]),
        {kind: store.folder(id) for kind, id in stage.inputs},
        tmp_path,
        Runtime(threads=1),
    )
    assert np.array_equal(np.load(tmp_path / "tokens.npy"), np.load(store.folder(stage.id) / "tokens.npy")[:5])


def test_progress_of_a_training_is_told_while_its_files_are_there(tmp_path):
    store, work = Store(tmp_path), tmp_path / "stages" / "train-1.partial"
    work.mkdir(parents=True)
    assert training_line(store, "train-1") is None
    points = [["loss", 2.0, 1000, 10], ["validation_loss", 9.0, 1500, 10], ["loss", 1.5, 3000, 20]]
    (work / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    assert training_line(store, "train-1") is None
    (work / PROGRESS).write_text('{"steps": 50}')
    assert training_line(store, "train-1") == "step 20/50, loss 1.500, about 6 s to go"


OTHERS = {
    "quantizer.levels": 3, "quantizer.range": 4.0, "quantizer.std_range": 2.5, "quantizer.edges": "truncated",
    "quantizer.per": "channel", "quantizer.epochs": 7, "quantizer.seed": 5, "head.width": 24, "head.heads": 1,
    "head.depth": 3, "head.order": "reverse", "head.group": 2, "head.multiplier": 3, "head.components": 5,
    "head.covariance": "full", "head.dropout": 0.3, "backbone.width": 24, "train.epochs": 77,
}  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "head", "wanted"),
    [
        ("gaussian", "autoregressive", GENERATION),
        ("identity", "flow", ("sample", "score")),
        ("identity", "mixture", GENERATION),
        ("fsq", "parallel", ("sample", "score")),
        ("gaussian", "autoregressive", RECONSTRUCTION),
        ("identity", "autoregressive", RECONSTRUCTION),
    ],
)
def test_settings_that_nothing_reads_are_those_that_change_no_stage(tiny, tokens, head, wanted):
    settings = {"quantizer.kind": tokens, "quantizer.levels": 4, "head.kind": head}
    config = override(tiny, settings)
    cell = Cell("", config, wanted)
    left_out = unread(flatten(config.model_dump()), [stage.kind.name for stage in cell.stages()])
    ids = [stage.id for stage in cell.stages()]
    for key, value in OTHERS.items():
        changed = [stage.id for stage in Cell("", override(config, {key: value}), wanted).stages()]
        assert (key in left_out) == (changed == ids), key


def test_differing_settings_are_named(tiny):
    assert differing(override(tiny, ["quantizer.levels=8"]), tiny) == {"quantizer.levels": 8}


@pytest.mark.parametrize(
    "kind", [kind if kind == "diffusion" else pytest.param(kind, marks=pytest.mark.slow) for kind in CONTINUOUS]
)
def test_continuous_heads_from_latents_to_scores(tiny, tmp_path, with_latents, kind):
    store = with_latents(tmp_path)
    cell = Cell(kind, override(tiny, {"head.kind": kind, "quantizer.kind": "identity", "sample.head_steps": 3}))
    cell = replace(cell, wanted=wanted_of(cell.config))
    run_cells(store, [cell], Runtime(threads=1), "tests")
    stages = {stage.kind.name: store.folder(stage.id) for stage in cell.stages()}
    assert ("likelihood" in stages) == (kind == "mixture")
    tokens = np.load(stages["sample"] / "tokens.npy")
    assert (tokens.dtype, tokens.shape) == (np.float32, (71, 16, 8))
    assert np.isfinite(tokens).all()
    losses = [json.loads(line) for line in (stages["train"] / "metrics.jsonl").read_text().splitlines()]
    checked = [value for key, value, *_ in losses if key == "validation_loss"]
    assert checked[-1] < checked[0]


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_a_likelihood_that_does_not_exist_is_refused_before_anything_runs(tiny, tmp_path, kind):
    cell = Cell("x", override(tiny, {"head.kind": kind, "quantizer.kind": "identity"}), ("likelihood",))
    with pytest.raises(UserError, match=f"head.kind={kind} has a density that is not computed; ask for other stages"):
        run_cells(Store(tmp_path / "runs"), [cell], Runtime(threads=1), "tests")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("only", ["train", "likelihood", "sample", "score", "speed"])
@pytest.mark.parametrize(
    ("tokens", "head"), [("vq", "flow"), ("gaussian", "mixture"), ("identity", "parallel"), ("lfq", "diffusion")]
)
def test_a_pair_that_cannot_be_is_refused_before_anything_runs(call, tmp_path, only, tokens, head):
    """Whatever is asked for: also the trainings of a tokenizer that come before the head."""
    levels = ["quantizer.levels=2"] if tokens == "lfq" else []
    done = call("run", "digits", f"quantizer.kind={tokens}", f"head.kind={head}", *levels, "--only", only, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"quantizer.kind={tokens} cannot go with head.kind={head}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_tokens_alone_need_no_head_that_fits():
    config = override(preset("digits"), {"quantizer.kind": "identity"})
    assert [stage.kind.name for stage in Cell("x", config, ("reconstruct",)).stages()][-1] == "reconstruct"


def test_a_training_under_way_is_told_again_where_it_has_gone_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "TICK_SECONDS", 0.0)
    store, stage = Store(tmp_path), Cell("digits", DIGITS, ("train",)).stages()[-1]
    work = store.folder(f"{stage.id}.partial")
    work.mkdir(parents=True)
    write_json(work / PROGRESS, {"steps": 9})
    journal(work, range(4))
    progress = runner._Progress(store, {stage.id: stage}, 1)
    for _ in range(3):
        progress.tick([stage])
    journal(work, range(4, 6), before=4)
    progress.tick([stage])
    told = [line.split("step ")[1].partition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["3/9", "5/9"]


def test_images_that_change_before_a_stage_s_turn_are_not_kept_under_its_id(tmp_path):
    """In the process that planned it too, which knows their hash from then."""
    for name in "ab":
        for number in range(8):
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
            (folder := tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    words = ["data.source=folder", f"data.path={tmp_path / 'images'}", "data.classes=2", "data.validation_fraction=0"]
    cell = Cell("a", override(DIGITS, words), ("quantizer",))
    planned, store = cell.stages()[0], Store(tmp_path / "runs")
    for number in range(8):
        Image.new("L", (16, 16), 10 * number).save(tmp_path / "images" / "a" / f"{number}.png")
    with pytest.raises(UserError, match=f"have changed since it was planned as {planned.id}"):
        run_stage(store, planned, Runtime(threads=1, bars=False))
    assert not store.finished(planned.id)
