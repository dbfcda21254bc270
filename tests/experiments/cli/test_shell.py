"""The command as a shell has it: its version, its help at any width, completion, settings as a file, JSON."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError

import pytest
import typer

from experiments.cli import main
from experiments.cli.main import GROUPS, app
from experiments.cli.settings import config_text
from experiments.pipeline import Cell
from experiments.presets import PRESETS, base, from_text
from tests.helpers.machine import REPORTS, ROOT
from tokenbridge.overrides import differing, override, settings


def test_the_version(call, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    done = call("--version", cwd=tmp_path)
    assert done.stdout.startswith(f"tokenbridge {project['version']}, torch ")
    assert done.returncode == 0


def test_the_version_of_a_checkout_that_is_not_installed(monkeypatch, capsys):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(main, "version", missing)
    with pytest.raises(typer.Exit):
        main._version(True)
    assert capsys.readouterr().out.startswith("tokenbridge (not installed), torch (not installed), Python 3.")


@pytest.mark.parametrize("width", [60, 80])
def test_help_names_each_command_once_with_its_whole_description(call, tmp_path, monkeypatch, width):
    from typer.main import get_command

    monkeypatch.setenv("COLUMNS", str(width))
    said = call("--help", cwd=tmp_path).stdout
    assert max(map(len, said.splitlines())) <= width
    commands = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    whole = "".join(said.split())  # a line may end at a hyphen
    for name, command in commands.items():
        assert "".join([name, *(command.help or "").split("\n\n")[0].split()]) in whole
        assert len(re.findall(rf"^  {name} ", said, re.M)) == 1
    assert all(f"\n{title}:\n" in said for title in GROUPS)


def complete(words, folder):
    """What bash itself offers behind the last word, by the script that --show-completion prints."""
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin" / "tokenbridge"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tokenbridge "$@"\n')
    command.chmod(0o755)
    script = f"""
        eval "$(tokenbridge --show-completion bash)"
        COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
        _tokenbridge_completion tokenbridge
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {"PYTHONPATH": str(ROOT), "PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_bash_completes_commands_presets_settings_and_names(tmp_path):
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / "runs" / "plans").mkdir(parents=True)
    (tmp_path / "runs" / "plans" / "first.json").write_text("{}")
    assert complete(["tokenbridge", "rep"], tmp_path) == ["report"]
    assert complete(["tokenbridge", "run", "m"], tmp_path) == ["mine.toml"]
    assert complete(["tokenbridge", "run", "digits", "quantizer.l"], tmp_path) == ["quantizer.levels="]
    assert complete(["tokenbridge", "report", "f"], tmp_path) == ["first"]
    assert complete(["tokenbridge", "grid", "abl"], tmp_path) == ["ablation"]


def test_completion_imports_no_torch():
    code = (
        "import sys; from experiments.cli import options as o; import experiments.cli.main;"
        "found = o.complete_bases('d'), o.complete_settings('quantizer.kind=l'), o.complete_tables('2a');"
        "assert 'torch' not in sys.modules; assert 'pandas' not in sys.modules; print(*map(list, found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "['digits'] ['quantizer.kind=lloyd-max', 'quantizer.kind=lfq'] ['2a']\n", done.stderr


WORDS = ["quantizer.levels=8", "head.order=[1,0,2,3,4,5,6,7]", "train.learning_rate=1e-5", 'data.name=Zürich "x"']


def test_a_printed_configuration_runs_the_same_stages(call, tmp_path):
    done = call("config", "digits", *WORDS, cwd=tmp_path)
    again = from_text(done.stdout, tmp_path / "mine.toml")
    wanted = override(base("digits").config, WORDS)
    assert again.config == wanted
    assert [stage.id for stage in Cell("a", again.config).stages()] == [
        stage.id for stage in Cell("b", wanted).stages()
    ]
    assert (again.preset, again.threads) == ("digits", 1)
    marked = {line.partition(" = ")[0] for line in done.stdout.splitlines() if "  # digits: " in line}
    assert marked == {"levels", "order", "learning_rate", "name"}
    assert "levels = 8  # digits: 16" in done.stdout.splitlines()


def test_the_file_names_every_setting_of_every_preset(tmp_path):
    for name in PRESETS:
        content = tomllib.loads(text := config_text(base(name), ()))
        assert {f"{a}.{key}" for a, inside in content.items() if isinstance(inside, dict) for key in inside} == {
            *settings(base(name).config)
        }
        changed = differing(from_text(text, tmp_path / "x.toml").config, base(name).config)
        assert changed.keys() <= {"data.path", "data.test_path", "autoencoder.path"}, "paths are absolute"


def test_a_printed_file_of_settings_is_that_file_s(call, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "mine.toml").write_text('preset = "small"\n[data]\npath = "images"\n[train]\nepochs = 7\n')
    done = call("config", "mine.toml", "sample.images=60", cwd=tmp_path)
    elsewhere = from_text(done.stdout, tmp_path / "other" / "mine.toml")
    assert elsewhere.config.data.path == str(tmp_path / "images")
    assert (elsewhere.config.train.epochs, elsewhere.config.sample.images) == (7, 60)
    assert "epochs = 7  # small: 20" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["digit"], "digit is no preset; did you mean digits?"),
        (["digits", "quantizer.level=8"], "quantizer.level is no setting; did you mean quantizer.levels?"),
        (["nowhere.toml"], "nowhere.toml must be a file of settings, and is none"),
    ],
)
def test_what_is_no_configuration(call, tmp_path, words, line):
    done = call("config", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert line in done.stderr


@pytest.mark.slow
def test_a_plan_as_json_has_the_numbers_of_its_lines(call, tmp_path):
    words = ("plan", "imagenet256-L", "--devices", "8")
    found, said = json.loads(call(*words, "--json", cwd=tmp_path).stdout), call(*words, cwd=tmp_path).stdout
    assert found["parameters"]["generator"] == 486_889_472
    assert f"{found['parameters']['backbone']:,}" in said
    assert f"{found['training']['steps']:,} steps" in said
    assert f"{found['device_seconds']['training'] / 3600:,.2f} device-hours" in said
    assert found["memory"]["bytes"] == sum(found["memory"]["of_which"].values())


@pytest.mark.usefixtures("no_figures")
def test_a_report_as_json_is_one_document_with_the_numbers_of_its_tables(call, tmp_path):
    shutil.copytree(REPORTS / "ablation" / "source", tmp_path / "reports" / "ablation" / "source")
    done = call("report", "ablation", "--json", cwd=tmp_path)
    (found,) = json.loads(done.stdout)["reports"]
    assert found["name"] == "ablation"
    assert found["page"] == "reports/ablation/index.html"
    tables = {table["id"]: table["rows"] for table in found["tables"]}
    compared = 0
    for id, rows in tables.items():
        path = REPORTS / "ablation" / "tables" / f"{id if id.startswith('table-') else 'table-' + id}.csv"
        lines = list(csv.DictReader(io.StringIO(path.read_text())))
        for row, line in zip(rows, lines, strict=True):
            assert row.keys() == line.keys()
            for key, field in line.items():
                same = row[key] is None if field == "" else str(row[key]) == field or row[key] == float(field)
                assert same, (key, field, row[key])
                compared += isinstance(row[key], float)
    assert compared > 100
    one = [f"--where={word}" for word in ("quantizer.range=5", "head.depth=1", "sample.temperature=0.9")]
    pivoted = ("report", "ablation", "--rows", "quantizer.levels", *one, "--json")
    table = json.loads(call(*pivoted, cwd=tmp_path).stdout)["table"]
    assert [row["quantizer.levels"] for row in table["rows"]] == [8, 64]
    refused = call(*pivoted, "--out", "x.csv", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")


def test_no_sweep_is_an_empty_list(call, tmp_path):
    assert json.loads(call("sweeps", "--json", cwd=tmp_path).stdout) == {"sweeps": [], "cut_off": []}


def test_json_of_a_path_that_is_not_utf_8_is_read_again_as_it_was():
    code = r"from experiments.cli.common import show_json; show_json({'command': ['score', 'caf\udce9']})"
    strict = {"PYTHONIOENCODING": "utf-8:strict", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=strict)
    assert json.loads(done.stdout) == {"command": ["score", "caf\udce9"]}, done.stderr
