"""Speed: what is timed gives equal results, every number is there with its protocol; no test has a time limit."""

import json
import time

import pytest
import torch

from experiments import speed as table
from experiments.cli import tools
from experiments.pipeline import Cell
from experiments.presets import DIGITS, PRESETS
from experiments.runner import run_cells
from experiments.tracking.records import find_records
from tests.helpers import generators as small
from tokenbridge.config import CATEGORICAL, HEAD_KINDS, Runtime, Sample, UserError
from tokenbridge.overrides import override
from tokenbridge.speed import heads, models, timing
from tokenbridge.speed import measurement as speed
from tokenbridge.speed.comparisons import encoding
from tokenbridge.speed.heads import least_ms, weights_read
from tokenbridge.store.artifacts import Store

CPU = torch.device("cpu")
TINY = {"sample.head_steps": 3, "sample.guidance": 2, "head.components": 2, "head.multiplier": 2}


def config(kind="autoregressive", **more):
    tokens = {} if kind in CATEGORICAL else {"quantizer.kind": "identity"}
    return override(small.config(kind), TINY | tokens | more)


def shaken(kind):
    c = config(kind)
    return c, small.shake(heads.random_head(c, CPU), scale=0.1)


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("positions", [1, 11])
def test_slower_ways_draw_the_same_tokens(kind, positions):
    c, head = shaken(kind)
    ways, (z, noise) = heads.draws_of(head, c), heads.inputs(head, c, positions, CPU)
    slower = {"autoregressive": "recomputing", "diffusion": "stepwise", "flow": "stepwise"}.get(kind)
    assert set(ways) == {"token", slower} - {None}
    with torch.inference_mode():
        drawn = {name: way(z, noise) for name, way in ways.items()}
    assert drawn["token"].shape == (positions, small.CHANNELS)
    for tokens in drawn.values():
        torch.testing.assert_close(tokens, drawn["token"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_no_weight_of_a_random_head_is_left_out_of_the_draw(kind):
    """Gates that start at zero are opened: with them shut, a draw would not depend on the blocks."""
    c = config(kind)
    head = heads.random_head(c, CPU)
    assert all(bool(parameter.any()) for parameter in head.parameters() if parameter.dim() > 1)


def test_ways_take_turns_and_the_first_turn_does_not_count():
    calls = []
    ways = {name: lambda name=name: calls.append(name) or name.upper() for name in "ab"}
    turns = timing.take_turns(ways, 3, CPU)
    assert calls == list("abababab")
    assert [len(seconds) for seconds in turns.seconds.values()] == [3, 3]
    assert turns.results == {"a": "A", "b": "B"}


def test_both_ways_of_a_comparison_agree():
    """compare() asserts equal results before it times; small sizes, no time limit."""
    assert [comparison.ratio > 0 for comparison in encoding(values=20_011)] == [True, True]


def test_bandwidth_is_timed_on_2_gb_of_a_gpu_and_less_of_a_cpu():
    assert timing.matrix_megabytes(torch.device("cuda")) == 2048
    assert timing.matrix_megabytes(CPU) == 256
    assert timing.reading_rate(CPU, megabytes=2) > 0


def test_what_takes_seconds_is_timed_once(monkeypatch):
    monkeypatch.setattr(timing, "SLOW_SECONDS", 0.0)
    turns = timing.take_turns({"a": lambda: None}, 3, CPU)
    assert len(turns.seconds["a"]) == 1
    assert turns.seconds["a"][0] > 0


def test_a_slow_first_turn_beside_the_cpu_is_warming_up(monkeypatch):
    """A GPU compiles and loads its kernels in it: that time is in no measurement."""
    monkeypatch.setattr(timing, "SLOW_SECONDS", 0.02)
    beside, calls = torch.device("meta"), []

    def compiled():
        calls.append(0)
        time.sleep(0.05 if len(calls) == 1 else 0)

    turns = timing.take_turns({"compiled": compiled, "slow": lambda: time.sleep(0.03)}, 3, beside)
    assert [len(turns.seconds[way]) for way in ("compiled", "slow")] == [3, 1]
    assert max(turns.seconds["compiled"]) < 0.02


def test_summary_is_median_and_half_the_interquartile_range():
    assert timing.summary("x", [0.001, 0.002, 0.003, 0.004, 1.0], per=2) == pytest.approx({"x": 1.5, "x_spread": 0.5})
    assert timing.summary("x", [0.002]) == {"x": 2.0}


def test_metrics_of_several_configs():
    configs = {kind: config(kind) for kind in HEAD_KINDS}
    found = speed.measure(configs, CPU, speed.Effort(2, batches=(1, 7), slower=(1, 3)))
    assert list(found) == list(HEAD_KINDS)
    for kind, metrics in found.items():
        assert all(value > 0 for name, value in metrics.items() if not name.endswith("_spread")), metrics
        assert all(value >= 0 for value in metrics.values())
        expected = {"token_ms_1", "token_ms_7", "image_ms"}
        expected |= {"autoregressive": {"recomputing_ms_1", "token_ms_3", "recomputing_ms_3"}}.get(kind, set())
        expected |= {"stepwise_ms_1"} if kind in ("diffusion", "flow") else set()
        spreads = {f"{name}_spread" for name in expected}
        assert set(metrics) == expected | spreads | {"train_images_per_second"}


@pytest.mark.parametrize(
    "tokens",
    [
        {"quantizer.kind": "vq", "quantizer.levels": 31},
        {"quantizer.kind": "fsq", "quantizer.levels": (3, 5, 3, 7, 5)},
        {"quantizer.kind": "rvq", "quantizer.levels": (31, 7)},
        {"quantizer.kind": "lfq", "quantizer.levels": 2},
        {"quantizer.kind": "bsq", "quantizer.levels": 2},
        {"quantizer.kind": "lloyd-max", "quantizer.per": "channel"},
    ],
)
def test_a_model_on_any_tokens(tokens):
    c = config(**tokens)
    model = models.random_model(c, CPU)
    assert model.tokenizer.levels == c.token_levels
    assert models.measure_model(c, CPU, 1)["train_images_per_second"] > 0


def test_sampling_times_what_the_config_says():
    """Guided, as many images as said, all positions drawn."""
    c = config()
    tokens = models.sampling(models.random_model(c, CPU), c, CPU)()
    assert tokens.shape == (models.IMAGES, small.POSITIONS, small.CHANNELS)
    other = override(c, {"sample.guidance": 1})
    assert not torch.equal(tokens, models.sampling(models.random_model(other, CPU), other, CPU)())


def test_large_models_are_left_to_a_gpu():
    assert models.reason_to_leave_out(DIGITS, CPU) == ""
    large = PRESETS["imagenet256-B"]
    assert "need a GPU" in speed.protocol(large, CPU, speed.QUICK)["left_out"]
    assert models.reason_to_leave_out(large, torch.device("cuda")) == ""


def test_the_stage_runs_on_one_thread_and_says_on_what(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        store, cell = Store(tmp_path), Cell("tiny", config(), ("speed",))
        run_cells(store, [cell], Runtime(), "tests")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    (stage,) = cell.stages()
    content = json.loads((store.folder(stage.id) / "metrics.json").read_text())
    assert content["metrics"]["token_ms_256"] > 0
    protocol = content["protocol"]
    assert (protocol["device"], protocol["threads"], protocol["torch"]) == ("cpu", 1, torch.__version__)
    assert protocol["weights"] == "random"
    assert "left_out" not in protocol


def test_speed_reads_no_artifact_and_is_shared_by_seeds():
    def id(**changes):
        cell = Cell("x", config(**changes), ("speed",))
        return [stage.id for stage in cell.stages()]

    assert len(id()) == 1
    same = [{"train.seed": 1}, {"sample.guidance": 3}, {"sample.temperature": 0.5}, {"train.epochs": 9}]
    assert all(id(**changes) == id() for changes in same)
    others = [{"head.depth": 1}, {"sample.iterations": 5}, {"sample.guidance": 1}, {"quantizer.levels": 8}]
    assert all(id(**changes) != id() for changes in others)


ROWS = {
    table.OURS: {"head.kind": "autoregressive"},
    "diffusion 1024×3": {"head.kind": "diffusion", "quantizer.kind": "identity"},
}


@pytest.fixture
def measured(tmp_path):
    store, cells = Store(tmp_path), table.cells(config(), ROWS)
    return store, cells, table.run(store, Runtime(threads=1), cells, quick=True)


def test_rows_are_measured_together_and_shown_again(measured):
    store, cells, found = measured
    assert list(found) == list(ROWS)
    assert table.run(store, Runtime(threads=1), cells, quick=True) == found
    anew = table.run(store, Runtime(threads=1), cells, quick=True, again=True)
    assert anew != found
    path = store.folder(cells[table.OURS].stages()[0].id) / "metrics.json"
    stored = json.loads(path.read_text())
    assert stored["metrics"] == anew[table.OURS]
    assert stored["protocol"]["measured_together"] == 2
    stored["protocol"]["processor"] = "another"
    path.write_text(json.dumps(stored))
    manifest = json.loads((path.parent / "manifest.json").read_text())
    del manifest["checksums"]  # as of a stage that was made before there were any
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    assert table.run(store, Runtime(threads=1), cells, quick=True) != anew


def test_tracking_and_a_report_find_the_rows(measured):
    store, cells, found = measured
    records = {record.name: record.content() for record in find_records(store, None)}
    assert set(records) == {f"5-{label}" for label in ROWS}
    content = records[f"5-{table.OURS}"]
    assert content.status == "FINISHED"
    assert content.metrics["speed/token_ms_1"] == found[table.OURS]["token_ms_1"]
    table.plan(store, cells)
    plan = json.loads((store.root / "plans" / "speed.json").read_text())
    assert {(row["table"], row["label"]) for row in plan["rows"]} == {("5", label) for label in ROWS}
    assert {row["cell"] for row in plan["rows"]} == {path.stem for path in store.root.glob("cells/*.json")}


def test_table_5_can_be_measured():
    for cell in table.cells(PRESETS[table.PRESET]).values():
        cell.config.require_pair()
        assert cell.config.backbone.width == 1024
        assert cell.config.autoencoder.channels == 16


def test_claims_are_one_line_each_with_target(measured):
    _, _, found = measured
    lines = "\n".join([*table.table_lines(found), *table.claims(found)])
    assert "token_ms_1" in lines
    assert "64 at once: cache against recomputing: not measured (target 6.5)" in lines
    assert lines.count("not measured: needs a GPU") == 2
    made = {
        table.OURS: {"token_ms_1": 10.0, "recomputing_ms_1": 26.0, "token_ms_64": 10.0, "recomputing_ms_64": 64.0},
        "diffusion 1024×3": {"token_ms_1": 11.0, "stepwise_ms_1": 22.0},
    }
    one, many, stepwise, product, *_ = table.claims(made)
    assert one.endswith("10.0 ms against 26.0 ms, 2.6 times as fast (target 2.5)")
    assert many.endswith("6.4 times as fast (target 6.5: missed)")
    assert stepwise.endswith("2.2 times as fast (target 2)")
    assert product.endswith("1.1 times as fast (target 2: missed)")


def test_claims_of_a_gpu():
    made = {table.OURS: {"graph_ms_1": 3.5, "least_ms_1": 1.25, "image_compiled_ms": 100.0, "image_ms": 310.0}}
    graph, whole = table.claims(made)[-2:]
    assert graph.endswith("at most 3 ms: missed: 3.50 ms; reading the weights alone takes 1.25 ms")
    assert whole.endswith("3.1 times as fast (target 3)")


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="device=gpu is no device; use auto, cpu or cuda"):
        tools.speed(quick=True, runs=tmp_path / "runs", device="gpu")
    assert not (tmp_path / "runs").exists()


def test_weights_that_a_token_reads_are_counted():
    """Against the parameters of every layer, counted as it is called."""
    c, head = shaken("autoregressive")
    read = [head.out_weight.numel() + head.out_bias.numel()]
    for layer in (module for module in head.modules() if not list(module.children()) and module is not head.norm):
        own = sum(parameter.numel() for parameter in layer.parameters())
        if layer is not head.embedding:  # of which one row is read
            layer.register_forward_hook(lambda *_, own=own: read.append(own))
    head.sample(*heads.inputs(head, c, 1, CPU), Sample())
    assert weights_read(head) == 4 * sum(read)
    assert least_ms(head, 4e3 * sum(read)) == pytest.approx(1.0)


@pytest.mark.slow
def test_compiled_blocks_sample_the_same():
    c = config()
    model = models.random_model(c, CPU)
    expected = models.sampling(model, c, CPU)()
    model.backbone.compile_blocks()
    assert torch.equal(models.sampling(model, c, CPU)(), expected)
    assert models.sampling(model, c, CPU, torch.bfloat16)().shape == expected.shape
