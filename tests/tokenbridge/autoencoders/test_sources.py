"""A source of autoencoders is declared once; what a config may name, ids, planning and loading follow from it."""

import subprocess
import sys

import pytest
import torch

from experiments import reconstructions
from experiments.pipeline import Cell
from experiments.presets import DIGITS
from experiments.runner import run_cells
from tests.helpers.machine import ROOT
from tokenbridge.autoencoders import sources
from tokenbridge.autoencoders.frozen import FrozenAutoencoder, build
from tokenbridge.autoencoders.sources import SOURCES, Source, autoencoder_of, source_of, weights_of
from tokenbridge.config import Autoencoder, Runtime, UserError
from tokenbridge.data.latents import Latents
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import Store


class Toy(Source):
    """Random weights."""

    name = "toy"

    @classmethod
    def recognizes(cls, path):
        return path.name == "toy"

    def settings(self):
        blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
        channels = {"in_channels": 1, "out_channels": 1, "latent_channels": 3}
        return channels | blocks | {"block_out_channels": (4,), "norm_num_groups": 2, "scaling_factor": 0.5}

    def fingerprint(self):
        return 64 * "7"

    def load(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(self.settings()).eval().requires_grad_(False)
        return FrozenAutoencoder(model, self.settings()["scaling_factor"])


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "toy", Toy)
    words = ["autoencoder.source=toy", "autoencoder.channels=3", "autoencoder.stride=1", "data.image_size=4"]
    return override(DIGITS, [*words, "latents.scale=autoencoder"])


def test_a_source_takes_one_declaration(toy, tmp_path):
    cell = Cell("toy", toy, ("reconstruct",))
    latents = next(stage for stage in cell.stages() if stage.kind.name == "latents")
    assert latents.about()["reads"]["autoencoder"] == 64 * "7"
    assert latents.id != Cell("digits", DIGITS).stages()[0].id
    run_cells(Store(tmp_path), [cell], Runtime(threads=1, bars=False), "tests")
    store = Latents(tmp_path / "stages" / latents.id)
    assert store.scale == 0.5
    assert store.read("train", slice(None)).shape == (1198, 6, 4, 4)
    assert weights_of(toy, {}) == 64 * "7"
    assert autoencoder_of(toy, {}, "cpu").channels == 3


def test_a_command_that_takes_a_path_finds_its_source(toy):
    cells = reconstructions.cells("digits", None, "somewhere/toy", {"levels": [8], "range": [5]}, ["data.image_size=4"])
    assert {cell.config.autoencoder.source for cell in cells} == {"toy"}


def test_its_settings_are_checked_when_ids_are_asked_for(toy):
    with pytest.raises(UserError, match=r"autoencoder\.channels=4 must be 3, that of None"):
        Cell("wrong", override(toy, ["autoencoder.channels=4"])).stages()


def test_trained_tokens_take_its_architecture(toy):
    config = override(toy, ["quantizer.kind=vq", "latents.scale=auto", "autoencoder.channels=5"])
    tokenizer = Cell("toy", config, ("reconstruct",)).stages()[0]
    assert tokenizer.about()["reads"]["architecture"]["latent_channels"] == 5


def test_an_unknown_source_is_refused_with_those_that_there_are(toy):
    config = override(DIGITS, ["autoencoder.source=dcae"])
    with pytest.raises(UserError, match=r"dcae must be one of digits, fashion, trained, diffusers, ldm, toy"):
        Cell("unknown", config).stages()


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if not source.takes_path])
def test_a_path_that_no_source_reads_is_refused(name):
    with pytest.raises(UserError, match=r"autoencoder\.path=x needs autoencoder\.source=diffusers or ldm"):
        source_of(Autoencoder(source=name, path="x"))


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_is_in_the_guide(name):
    assert name in (ROOT / "tokenbridge" / "README.md").read_text()


def test_planning_trained_tokens_needs_no_torch():
    plan = (
        "from experiments.pipeline import Cell; from experiments.presets import DIGITS; import sys;"
        "from tokenbridge.overrides import override;"
        "Cell('x', override(DIGITS, ['quantizer.kind=vq']), ('score',)).stages(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", plan], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
