"""The recipes of containers: they parse, copy what is there, and say the same."""

import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.helpers.machine import ROOT, missing

DOCKER, APPTAINER = ROOT / "slurm" / "Dockerfile", ROOT / "slurm" / "tokenbridge.def"


def sections() -> dict[str, str]:
    """Of the definition file of Apptainer, its header first."""
    found, name = {"header": ""}, "header"
    for line in APPTAINER.read_text().splitlines(keepends=True):
        if line.startswith("%"):
            name = line.split()[0]
            assert name not in found
            found[name] = ""
        else:
            found[name] += line
    return found


def test_docker_s_linter_finds_nothing():
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        missing("needs hadolint, which has no package for this platform")
    done = subprocess.run([program, DOCKER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    wrong = subprocess.run([program, "-"], input="FROM python:3.11\nRUM pip\n", capture_output=True, text=True)
    assert "2:1 unexpected 'R'" in wrong.stdout + wrong.stderr


def test_apptainer_s_sections_are_known_and_shell():
    parts = sections()
    assert set(parts) == {"header", "%files", "%post", "%test", "%runscript"}
    keys = dict(line.split(": ") for line in parts["header"].splitlines() if line and not line.startswith("#"))
    assert keys == {"Bootstrap": "docker", "From": "python:3.11-slim-bookworm"}
    for name in ("%post", "%test", "%runscript"):
        done = subprocess.run([shutil.which("bash") or "bash", "-n"], input=parts[name], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_both_start_from_one_image_and_copy_what_the_package_is_made_of():
    assert "\nFROM python:3.11-slim-bookworm\n" in DOCKER.read_text()  # as Apptainer's above
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needs = {"requirements.lock", "pyproject.toml", about["project"]["readme"], *about["project"]["license-files"]}
    needs |= set(about["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = dict(line.split() for line in sections()["%files"].splitlines() if line.strip())
    assert copied == {name: f"/opt/tokenbridge/{name}" for name in needs}
    lines = [shlex.split(line) for line in DOCKER.read_text().splitlines() if line.startswith("COPY")]
    assert {name for line in lines for name in line[1:-1]} == needs
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == needs
    assert all((ROOT / name).exists() for name in needs)
