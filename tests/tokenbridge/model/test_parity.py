"""The released TokenBridge model, reproduced: weights, inputs and outputs in tests/data came from running its code."""

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.machine import DATA
from tokenbridge.config import Autoencoder, Backbone, Data, Head, Quantizer, RunConfig, Sample
from tokenbridge.exchange.released import from_released
from tokenbridge.model.generator import Generator
from tokenbridge.tokenizers.scalar import fit

SAMPLE = Sample(images=3, iterations=5, temperature=0)


@pytest.fixture(scope="module")
def reference():
    return load_file(DATA / "tokenbridge_reference.safetensors")


@pytest.fixture(scope="module")
def model(reference):
    config = RunConfig(
        data=Data(source="folder", path="-", image_size=64, image_channels=3, classes=7),
        autoencoder=Autoencoder(source="diffusers", channels=16, stride=16),
        quantizer=Quantizer(levels=16, range=5, std_range=3),
        backbone=Backbone(width=32, encoder_depth=2, decoder_depth=2, heads=4, class_tokens=5),
        head=Head(width=48, depth=2, heads=4, start="released"),
        sample=SAMPLE,
    )
    quantizer = fit(config.quantizer, latents(reference).flatten(0, 1))
    model = Generator(config, quantizer, tuple(reference["channel_order"].tolist()))
    model.load_state_dict(from_released(load_file(DATA / "tokenbridge_weights.safetensors")))
    return model.eval()


def latents(reference):
    return reference["latents"].flatten(2).transpose(1, 2)


def in_order(tokens, reference):
    return tokens[..., reference["channel_order"]]


def test_quantizer(model, reference):
    quantizer = model.tokenizer
    tokens = quantizer.encode(latents(reference))
    assert torch.equal(tokens, reference["tokens"])
    torch.testing.assert_close(quantizer.centers[0] * 3 / 5, reference["centers"], atol=1e-6, rtol=0)
    torch.testing.assert_close(quantizer.decode(tokens), reference["dequantized"], atol=4e-6, rtol=0)


def test_features_logits_and_loss(model, reference):
    mask = reference["mask"].bool()
    z = model.backbone(reference["dequantized"], mask, reference["labels"])
    torch.testing.assert_close(z, reference["features"], atol=1e-4, rtol=0)
    target = reference["tokens"][mask]
    logits = model.head.logits(z[mask], in_order(target, reference))
    torch.testing.assert_close(logits, reference["logits_teacher_forced"], atol=1e-4, rtol=0)
    loss = model(latents(reference), reference["labels"], mask, torch.zeros(3, 16, 0))
    torch.testing.assert_close(loss.mean() / 16, reference["loss"][0], atol=1e-5, rtol=0)


def test_greedy_tokens_with_the_released_start(model, reference):
    z = reference["features"][reference["mask"].bool()]
    tokens = in_order(model.head.sample(z, torch.zeros(33, 16), SAMPLE), reference)
    assert torch.equal(tokens, reference["greedy_tokens_as_released"])
    assert torch.equal(model.head.draw_recomputing(z, torch.zeros(33, 16), SAMPLE), tokens)


@pytest.mark.parametrize("guidance", [1, 3])
def test_sampling(model, reference, guidance):
    how = SAMPLE.model_copy(update={"guidance": float(guidance)})
    noise = torch.zeros(3, 16, 16)
    tokens = model.sample(reference["labels"], reference["order"], noise, how)
    expected = reference[f"sample_cfg{guidance}"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.tokenizer.decode(tokens), expected, atol=1e-5, rtol=0)
