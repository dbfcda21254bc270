"""tb.run and tb.grid: their examples, and that they are the commands."""

import doctest
import subprocess
import sys

import pytest

import analysis
import tokenbridge as tb
from experiments.cli import library
from experiments.pipeline import Cell
from tests.conftest import TINY
from tests.helpers.machine import ROOT
from tokenbridge.config import RunConfig, UserError
from tokenbridge.overrides import typed_settings


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(library)
    assert found.attempted > 0
    assert found.failed == 0
    frame = analysis.runs("runs")
    assert set(frame["name"]) == {"digits-levels8", "t0.8", "t1.0"}
    assert analysis.describe(frame).loc["score/fd_digits", "better"] == "lower"
    assert (tmp_path / "runs" / "plans" / "short.json").exists()
    assert "2 of 2 stages done" in capsys.readouterr().err, "the latents are there already"


def test_a_finished_run_is_found_again_and_draws(finished, tmp_path, monkeypatch):
    store, cell = finished
    monkeypatch.chdir(tmp_path)
    done = tb.run("digits", name="tiny", runs=store.root, **typed_settings(TINY, RunConfig))
    assert done.config == cell.config
    assert done.sample([3, 4]).shape == (2, 1, 16, 16)
    assert done.metrics == tb.load(store.root, "tiny").metrics


@pytest.mark.parametrize(
    "given",
    [
        {"train": {"epochs": 3}, "quantizer": {"levels": 8}},
        {"train.epochs": 3, "quantizer.levels": 8},
        {"preset": "digits", "name": "mine", "train": {"epochs": 3}, "quantizer.levels": 8},
    ],
)
def test_settings_stand_by_section_or_by_dotted_name(given):
    config = library._base(given, {}).config
    assert (config.train.epochs, config.quantizer.levels) == (3, 8)
    assert config == library._base("digits", {key: given[key] for key in given if key not in ("preset", "name")}).config


def test_numbers_of_numpy_and_paths_are_settings():
    import numpy as np

    given = {"train.epochs": np.int64(7), "data.path": ROOT, "score.weights": None, "head.order": np.arange(8)}
    config = library._base("small", given).config
    assert (config.train.epochs, config.data.path, config.score.weights) == (7, str(ROOT), None)
    assert config.head.order == tuple(range(8))


def test_a_file_of_settings_is_a_base(tmp_path):
    (tmp_path / "mine.toml").write_text('preset = "digits"\n[quantizer]\nlevels = 8\n')
    assert (
        library._base(tmp_path / "mine.toml", {"train.epochs": 5}).config
        == library._base("digits", {"quantizer.levels": 8, "train.epochs": 5}).config
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tb.run("digit"), r"digit is no preset; did you mean digits\?"),
        (lambda: tb.run("digits", epochs=3), "epochs is no setting; did you mean train.epochs"),
        (lambda: tb.run("digits", train=3), "train is a section, not a setting"),
        (lambda: tb.run("digits", train={"epochs": -1}), "train.epochs=-1 must be > 0|train.epochs=-1 must be >= "),
        (lambda: tb.run("digits", name="a b"), "name=a b must be letters"),
        (lambda: tb.run({"preset": 3}), "preset=3 must be text"),
        (lambda: tb.run("digits", only="scores"), "scores is no stage"),
        (lambda: tb.grid({"quantizer.level": [8]}), "did you mean quantizer.levels"),
        (lambda: tb.grid({"quantizer.levels": []}), "axis quantizer.levels has no value"),
        (lambda: tb.grid({"quantizer.levels": 8}), r"axis quantizer.levels=8 must be a list of values; write \[8\]"),
        (lambda: tb.grid({"head.kind": "flow"}), r"axis head.kind='flow' must be a list of values; write \['flow'\]"),
        (lambda: tb.grid(["quantizer.levels"]), "must be settings with their values"),
        (lambda: tb.grid({"quantizer.levels": [8]}, seeds=0), "seeds=0 must be a whole number from 1 to 1,000"),
        (lambda: tb.run("digits", jobs=0), "jobs=0 must be a whole number of at least 1"),
        (lambda: tb.run({1: 2}), "1 must be the name of a setting"),
        (lambda: tb.grid({}), "a grid needs tables, axes or one of ablation"),
        (lambda: tb.grid("abla"), "abla"),
        (
            lambda: tb.grid("2a", rows="2a:flow"),
            "--row=2a:flow must fit a row of the tables asked for, as TABLE:ROW; give one of 2a:parallel; ",
        ),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call()
    assert not any(tmp_path.iterdir())


def test_axes_are_those_of_the_command():
    from experiments.axes import Axis, parse, text

    for values in ([8, 16], [True, False], ["autoregressive", "flow"], [(0, 1), (1, 0)]):
        key = {int: "quantizer.levels", bool: "latents.flip", str: "head.kind", tuple: "head.order"}[type(values[0])]
        read = parse(text(Axis(key, tuple(values)))).values
        assert [*map(_listed, read)] == [*map(_listed, values)]


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


def test_a_cell_of_the_command_has_the_same_id(tiny):
    from experiments.cli.common import cell_of
    from experiments.presets import base

    assert cell_of(base("digits"), TINY, (), None).id == Cell("tiny", tiny).id


def test_it_is_found_before_a_folder_of_its_name(tmp_path):
    """A folder called experiments where one works stands first on Python's path."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("")
    code = "import tokenbridge as tb; print(tb.run.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("experiments.cli.library\n", "")
