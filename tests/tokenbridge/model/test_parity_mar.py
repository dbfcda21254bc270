"""The released MAR model, reproduced: weights, inputs and outputs in tests/data came from running its code."""

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.machine import DATA
from tokenbridge.config import Autoencoder, Backbone, Data, Head, Quantizer, RunConfig, Sample, UserError
from tokenbridge.exchange.released import from_released
from tokenbridge.model.generator import Generator
from tokenbridge.tokenizers.scalar import IdentityQuantizer


def config(backbone, head, image_size, classes):
    return RunConfig(
        data=Data(source="folder", path="-", image_size=image_size, image_channels=3, classes=classes),
        autoencoder=Autoencoder(source="diffusers", channels=16, stride=16),
        quantizer=Quantizer(kind="identity"),
        backbone=backbone,
        head=Head(kind="diffusion", start="released", **head),
        sample=Sample(images=3, iterations=5, temperature=0.9, head_steps=10),
    )


@pytest.fixture(scope="module")
def reference():
    return load_file(DATA / "mar_reference.safetensors")


@pytest.fixture(scope="module")
def model():
    backbone = Backbone(width=32, encoder_depth=2, decoder_depth=2, heads=4, class_tokens=5)
    small = config(backbone, {"width": 48, "depth": 2}, 64, 7)
    model = Generator(small, IdentityQuantizer(torch.zeros(2, 16)), tuple(range(16)))
    model.load_state_dict(from_released(load_file(DATA / "mar_weights.safetensors")))
    return model.eval()


def masked(reference):
    """Features and clean tokens at the masked positions: (33, 32), (33, 16)."""
    mask = reference["mask"].bool()
    return reference["features"][mask], reference["latents"].flatten(2).transpose(1, 2)[mask]


@torch.no_grad()
def test_features(model, reference):
    latents = reference["latents"].flatten(2).transpose(1, 2)
    z = model.backbone(latents, reference["mask"].bool(), reference["labels"])
    torch.testing.assert_close(z, reference["features"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_network(model, reference):
    z, tokens = masked(reference)
    out = model.head.net(tokens, reference["net_t"], z)
    torch.testing.assert_close(out, reference["net_out"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_loss_of_each_position(model, reference):
    """The released loss is a mean over channels, ours a sum."""
    z, tokens = masked(reference)
    loss = model.head.loss_at(z, tokens, reference["net_t"], reference["train_noise"]) / 16
    torch.testing.assert_close(loss, reference["train_loss_per_position"], atol=0, rtol=1e-5)


@torch.no_grad()
def test_sample(model, reference):
    z, _ = masked(reference)
    drawn = model.head.sample(z, reference["sample_noise"].transpose(0, 1), Sample(head_steps=10, temperature=0.9))
    assert_relative(drawn, reference["sample"])


@torch.no_grad()
def test_guided_sample(model, reference):
    """The released sampler draws step noise for the unconditional half as well and throws that half away."""
    z, free = reference["guided_features"].chunk(2)
    noise = torch.cat([reference["guided_first_noise"][None], reference["guided_noise"][:, :33]]).transpose(0, 1)
    drawn = model.head.sample(z, noise, Sample(head_steps=10, temperature=0.95), free, 2.5)
    assert_relative(drawn, reference["guided_sample"][:33])


def assert_relative(drawn, expected):
    """By the largest value of a token: an untrained network's values are in the thousands."""
    error = (drawn - expected).abs().amax(-1) / expected.abs().amax(-1)
    assert float(error.max()) < 1e-5


def test_a_key_of_another_model_is_refused():
    weights = load_file(DATA / "mar_weights.safetensors")
    with pytest.raises(UserError, match=r"^diffloss\.net\.extra\.weight is no weight of a released"):
        from_released(weights | {"diffloss.net.extra.weight": torch.zeros(1)})
