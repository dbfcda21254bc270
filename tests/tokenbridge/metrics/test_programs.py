"""Programs among the weights of scorers: known ones run, others are refused before anything runs."""

import dataclasses
import os
import shutil
import subprocess
import warnings

import pytest
import torch
from torch import nn

from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.runner import run_cells
from tests.conftest import TINY
from tests.helpers.scorers import HUB, write_clean, write_dinov2, write_inception
from tokenbridge.config import Runtime, Score, UserError
from tokenbridge.metrics import scorers
from tokenbridge.metrics.networks import load_extractor
from tokenbridge.metrics.programs import program_of
from tokenbridge.metrics.scorers import DINOV2_CODE, SCORERS, weights_of
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store


class Bomb:
    """On reading, makes a folder: what a pickle must not do."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Marks(nn.Module):
    """As TorchScript, makes a file when it is loaded."""

    def __init__(self, ran: str):
        super().__init__()
        self.ran = ran

    @torch.jit.export
    def __getstate__(self):
        return self.ran, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.ran = state[0]
        made = torch.from_file(self.ran, True, 3, dtype=torch.uint8)
        self.training = state[1] or bool(made.sum() > 0)  # what nobody reads is not done

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture
def ran(tmp_path):
    return tmp_path / "ran"


@pytest.fixture(params=["clean", "dinov2"])
def harmful(request, tmp_path, ran):
    """A score whose weights leave a file behind when they run."""
    name, folder = request.param, tmp_path / "weights"
    folder.mkdir()
    if name == "clean":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
            torch.jit.script(Marks(str(ran))).save(str(folder / SCORERS[name].file))
    else:
        write_dinov2(folder)
        (folder / DINOV2_CODE / "hubconf.py").write_text(f"import os; os.mkdir({str(ran)!r})\n{HUB}")
    return Score(features=name, weights=str(folder))


def test_unknown_code_does_not_run_unless_it_is_trusted(harmful, ran):
    (name,) = harmful.scorers
    with pytest.raises(UserError, match=r"SHA-256 [0-9a-f]{12} is none that is known; get it from https://.*--trust-w"):
        load_extractor(name, score=harmful)
    assert not ran.exists()
    if name == "clean":
        with pytest.raises(UserError, match="must be clean-fid's Inception"):  # it has no layers
            load_extractor(name, score=harmful, trusted=True)
    else:
        load_extractor(name, score=harmful, trusted=True)
    assert ran.exists()


def test_a_run_is_refused_before_it_begins(harmful, ran, tmp_path):
    changes = {"score.features": harmful.features, "score.weights": harmful.weights}
    cell = Cell("x", override(override(DIGITS, TINY), changes), ("score",))
    with pytest.raises(UserError, match="give --trust-weights"):
        run_cells(Store(tmp_path / "runs"), [cell], Runtime(threads=1), "tests")
    assert not ran.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["clean", "dinov2"])
def test_known_code_runs_without_a_word(name, tmp_path, monkeypatch):
    {"clean": write_clean, "dinov2": write_dinov2}[name](tmp_path)
    score = Score(features=name, weights=str(tmp_path))
    with pytest.raises(UserError, match="none that is known"):
        load_extractor(name, score=score)
    known = (program_of(score, name).hash,)
    monkeypatch.setitem(scorers.SCORERS, name, dataclasses.replace(SCORERS[name], programs=known))
    assert load_extractor(name, score=score) is not None


def test_the_hash_of_a_repository_is_what_sha256sum_says(tmp_path):
    """Independently: find hubconf.py dinov2 -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum."""
    write_dinov2(tmp_path)
    package = tmp_path / DINOV2_CODE / "dinov2" / "hub"
    package.mkdir(parents=True)
    (package / "utils.py").write_text("a = 1\n")
    (package.parent / "__init__.py").write_text("")
    recipe = "find hubconf.py dinov2 -name '*.py' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    said = subprocess.run(recipe, shell=True, cwd=tmp_path / DINOV2_CODE, capture_output=True, text=True).stdout
    assert program_of(Score(features="dinov2", weights=str(tmp_path)), "dinov2").hash == said.split()[0]


def test_what_lies_beside_the_code_does_not_run(tmp_path, ran):
    """The folder comes first in sys.path: a module called as one that the code imports would run instead."""
    write_dinov2(tmp_path)
    hub = tmp_path / DINOV2_CODE / "hubconf.py"
    hub.write_text(f"import tabnanny\n{hub.read_text()}")
    (tmp_path / DINOV2_CODE / "tabnanny.py").write_text(f"import os; os.mkdir({str(ran)!r})\n")
    load_extractor("dinov2", score=Score(features="dinov2", weights=str(tmp_path)), trusted=True)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_code_in_weights_does_not_run_even_where_their_program_is_trusted(name, tmp_path, ran):
    {"inception": write_inception, "dinov2": write_dinov2}[name](tmp_path)
    score = Score(features=name, weights=str(tmp_path))
    torch.save({"weight": Bomb(ran)}, weights_of(score, name))
    with pytest.raises(UserError, match="nothing of it was run"):
        load_extractor(name, score=score, trusted=True)
    assert not ran.exists()


def test_code_that_is_downloaded_does_not_run(tmp_path, monkeypatch, ran):
    write_dinov2(tmp_path)
    (tmp_path / DINOV2_CODE / "hubconf.py").write_text(f"import os; os.mkdir({str(ran)!r})\n{HUB}")
    (tmp_path / "server").mkdir()
    (tmp_path / DINOV2_CODE).rename(tmp_path / "server" / "dinov2-commit")
    shutil.make_archive(str(tmp_path / "code"), "zip", tmp_path / "server")
    home = tmp_path / "home" / "hub"
    home.mkdir(parents=True)
    shutil.move(tmp_path / "checkpoints", home)
    there = dataclasses.replace(SCORERS["dinov2"], code_source=(tmp_path / "code.zip").as_uri())
    monkeypatch.setitem(scorers.SCORERS, "dinov2", there)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match="none that is known"):
        load_extractor("dinov2", score=Score(features="dinov2"))
    assert (home / DINOV2_CODE / "hubconf.py").is_file()
    assert not list(home.glob("tmp*"))
    assert not ran.exists()


def test_weights_that_nobody_reads_are_refused():
    with pytest.raises(UserError, match=r"must be left out with score\.features=digits, whose weights ship"):
        override(DIGITS, {"score.weights": "."})
