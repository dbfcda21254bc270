"""One rule for names of sweeps, reports, searches and cells, in all commands, before anything runs or is written."""

import pytest

from tokenbridge.config import UserError
from tokenbridge.store.runs import require_name

BAD = [
    "../../x",
    "a/b",
    "/tmp/x",
    "",
    ".",
    "..",
    ".hidden",
    "-x",
    "a b",
    "a\nb",
    "x" * 101,
    "all",
    "code",
    "jobs.jsonl",
]
AXIS = ("--axis", "quantizer.levels=8,16")
COMMANDS = {
    "grid": ("grid", *AXIS, "--name"),
    "grid-try": ("grid", *AXIS, "--try", "--name"),
    "grid-dry-run": ("grid", *AXIS, "--dry-run", "--name"),
    "grid-slurm": ("grid", *AXIS, "--on", "slurm", "--cluster", "local-slurm", "--name"),
    "demo": ("demo", "--name"),
    "run": ("run", "digits", "--name"),
    "report-tables": ("report", "2a", "--name"),
    "report-pivot": ("report", "--rows", "quantizer.levels", "--name"),
}
READING = {"status": ("status", "--"), "report": ("report", "--"), "retry": ("retry", "--"), "cancel": ("cancel", "--")}


def require_refusal(done, folder):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "must be letters, digits and . _ = -" in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["../../x", "a/b", "", "x" * 101, "code"])
def test_a_name_that_leaves_its_folder_is_refused(call, tmp_path, command, name):
    require_refusal(call(*COMMANDS[command], name, cwd=tmp_path), tmp_path)


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("name", ["../../x", "a/b"])
def test_reading_has_the_same_rule(call, tmp_path, command, name):
    require_refusal(call(*READING[command], name, cwd=tmp_path), tmp_path)


@pytest.mark.parametrize("name", BAD)
def test_the_rule(name):
    with pytest.raises(UserError, match="at most 100 bytes") as error:
        require_name(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x", "2c-b08", "größe_1.5=a", "x" * 100])
def test_names_that_may_be(name):
    require_name(name)
