"""A new head is one declaration in HEAD_KINDS: everything else follows from it."""

import math

import numpy as np
import pytest
from torch import nn

from experiments.pipeline import Cell, wanted_of
from experiments.runner import run_cells
from tokenbridge.config import HEAD_KINDS, HeadKind, Runtime, UserError
from tokenbridge.model.heads import build_head
from tokenbridge.model.heads.contract import Head
from tokenbridge.overrides import override
from tokenbridge.store.artifacts import read_json

TOY = HeadKind(f"{__name__}.ToyHead", "values", ("features",), density=True, reads=("components",))


class ToyHead(Head):
    """One normal distribution of unit deviation per channel."""

    noise = "normal"

    def __init__(self, c, width, channels):
        super().__init__(c)
        self.channels, self.mean = channels, nn.Linear(width, channels)

    def noise_shape(self, how):
        return (self.channels,)

    def log_prob(self, z, target):
        away = target - self.mean(z).float()
        return -0.5 * (away**2 + math.log(2 * math.pi)).sum(-1)

    def sample(self, z, noise, how, unconditional=None, guidance=1.0):
        z, _ = self.mixed(z, how, unconditional, guidance)
        return self.mean(z).float() + how.temperature * noise


@pytest.fixture
def toy(tiny, monkeypatch):
    monkeypatch.setitem(HEAD_KINDS, "toy", TOY)
    return override(tiny, {"head.kind": "toy", "quantizer.kind": "identity"})


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_each_declaration_names_a_class(kind, tiny):
    config = override(tiny, {"head.kind": kind})
    levels = () if config.head.continuous else (3,) * 5
    head = build_head(config.head, 16, 5, levels, tuple(range(5)))
    assert (head.kind, f"{type(head).__module__}.{type(head).__name__}") == (kind, HEAD_KINDS[kind].code)


def test_a_declared_head_trains_samples_and_is_scored(toy, tmp_path, with_latents):
    store = with_latents(tmp_path)
    cell = Cell("toy", toy, wanted_of(toy))
    run_cells(store, [cell], Runtime(threads=1), "tests")
    folders = {stage.kind.name: store.folder(stage.id) for stage in cell.stages()}
    assert np.load(folders["sample"] / "tokens.npy").dtype == np.float32
    assert read_json(folders["likelihood"] / "metrics.json")["metrics"]["bits_per_dim"] > 0
    assert read_json(folders["score"] / "metrics.json")["metrics"]["fd_digits"] > 0


def test_its_id_reads_the_settings_that_it_declares(toy):
    def id(**changes):
        cell = Cell("toy", override(toy, {f"head.{name}": value for name, value in changes.items()}))
        return next(stage.id for stage in cell.stages() if stage.kind.name == "train")

    assert id(components=7) != id()
    assert id(multiplier=7, heads=4) == id()


def test_it_is_refused_with_the_wrong_tokens_and_the_wrong_guidance(toy):
    with pytest.raises(UserError, match=r"quantizer\.kind=gaussian.*toy|toy.*quantizer\.kind=gaussian"):
        override(toy, {"quantizer.kind": "gaussian"}).require_pair()
    with pytest.raises(UserError, match=r"sample\.guidance_on=logits must be one of .*with head\.kind=toy"):
        override(toy, {"sample.guidance_on": "logits"})
