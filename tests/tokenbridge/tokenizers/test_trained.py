"""Trained tokenizers: one contract, equal to vector-quantize-pytorch's own; the same seed trains the same weights."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from experiments.presets import DIGITS
from tests.conftest import TINY
from tokenbridge.autoencoders.frozen import to_bytes, to_signed
from tokenbridge.autoencoders.sources import autoencoder_of
from tokenbridge.autoencoders.train import Budget
from tokenbridge.config import Data, RunConfig, UserError
from tokenbridge.data import images as data
from tokenbridge.overrides import override
from tokenbridge.stages.tokenizer import train_tokenizer
from tokenbridge.tokenizers import load as load_tokenizer
from tokenbridge.tokenizers.scalar import code_usage, diagnostics
from tokenbridge.tokenizers.trained import TRAINED, EvenQuantizer, VectorQuantizer, finish, rounded_from

SETTINGS = {
    "vq": ["autoencoder.channels=5", "quantizer.levels=31"],
    "rvq": ["autoencoder.channels=5", "quantizer.levels=[31,17,7]"],
    "fsq": ["autoencoder.channels=3", "quantizer.levels=[4,3,7]"],
    "lfq": ["autoencoder.channels=5", "quantizer.levels=2"],
    "bsq": ["autoencoder.channels=5", "quantizer.levels=2"],
}
CODEBOOKS = ("vq", "rvq")
CPU, SCALE = torch.device("cpu"), 0.7


def config_of(kind: str, *others: str) -> RunConfig:
    return override(DIGITS, [*TINY, *SETTINGS[kind], f"quantizer.kind={kind}", "quantizer.epochs=1", *others])


def few(count: int) -> data.ArrayImages:
    pixels, labels = data.stack(data.load(Data(), "train"))
    return data.ArrayImages(pixels[:count], labels[:count])


@pytest.fixture(scope="module", params=SETTINGS)
def trained(request, tmp_path_factory):
    """(config, the trained module, the folder that its stage would leave, images) after two steps."""
    config, folder = config_of(request.param), tmp_path_factory.mktemp(request.param)
    model = train_tokenizer(config, few(38), Budget(2, 19), CPU)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / TRAINED)
    return config, model, folder, torch.from_numpy(few(53).pixels)


@pytest.fixture(scope="module")
def tokenized(trained):
    """(config, tokenizer, unit latents (B, L, E) as the pipeline makes them)"""
    config, model, folder, images = trained
    moments = autoencoder_of(config, {"tokenizer": folder}, CPU).moments(images).clone()
    mean, log_variance = moments.flatten(2).transpose(1, 2).chunk(2, dim=-1)
    assert bool((log_variance == -30).all()), "a draw from the posterior is its mean"
    latents = mean * SCALE
    extremes = torch.stack([latents.flatten(0, 1).amin(0), latents.flatten(0, 1).amax(0)])
    return config, finish(config, model.state_dict(), SCALE, extremes), latents


def library(config, model, z):
    """What vector-quantize-pytorch itself makes of z (B, E, h, w): indices (B, L, C) and codes (B, L, E)."""
    quantizer = model.quantizer.eval()
    if config.quantizer.kind == "rvq":
        with torch.inference_mode():
            codes, numbers, _ = quantizer(z.flatten(2).transpose(1, 2))
        return numbers, codes
    with torch.inference_mode():
        codes, numbers = quantizer(z)[:2]
    numbers = numbers.flatten(1)
    if config.quantizer.kind == "vq":
        indices = numbers[..., None]
    elif config.quantizer.kind == "fsq":
        indices = model.quantizer.indices_to_level_indices(numbers)
    else:
        indices = (numbers[..., None] & model.quantizer.mask != 0).long()
    return indices.long(), codes.flatten(2).transpose(1, 2)


def test_token_contract(tokenized):
    config, tokenizer, latents = tokenized
    tokens = tokenizer.encode(latents)
    kind = config.quantizer.kind
    assert isinstance(tokenizer, VectorQuantizer if kind in CODEBOOKS else EvenQuantizer)
    assert tokenizer.levels == config.token_levels
    assert tokenizer.embedding_width == config.autoencoder.channels
    assert tokenizer.channels == {"vq": 1, "rvq": 3}.get(kind, config.autoencoder.channels)
    assert tokens.dtype == tokenizer.dtype == torch.int64
    assert tokens.shape == (53, 16, tokenizer.channels)
    assert kind in CODEBOOKS or latents.abs().max() <= SCALE * 1.01, "latents are bounded as their codes"
    extreme = tokenizer.encode(torch.cat([latents * 50, latents * -50]))
    for found in (tokens, extreme):
        assert int(found.min()) >= 0
        assert bool((found.flatten(0, 1).amax(0) < torch.tensor(tokenizer.levels)).all())
    decoded = tokenizer.decode(tokens)
    assert (decoded.shape, decoded.dtype) == (latents.shape, torch.float32)
    if kind != "rvq":
        assert torch.equal(tokenizer.encode(decoded), tokens), "a code's values are their own nearest"
    if kind == "bsq":
        torch.testing.assert_close(decoded.norm(dim=-1), torch.full(decoded.shape[:2], SCALE))
    one = tokenizer.encode(latents[3, 5])
    assert torch.equal(one, tokens[3, 5]), "a token does not depend on its neighbours"


@pytest.mark.parametrize("trained", ["rvq"], indirect=True)
def test_residuals_are_quantized_in_turn(tokenized):
    """Against a loop over latents and codes."""
    _, tokenizer, latents = tokenized
    books = np.split(tokenizer.codes.numpy().astype(float), np.cumsum(tokenizer.levels)[:-1])
    assert [len(book) for book in books] == [31, 17, 7]
    for x in latents[:3].flatten(0, 1).numpy().astype(float):
        left, tokens = x, []
        for book in books:
            tokens.append(int(((left - book) ** 2).sum(1).argmin()))
            left = left - book[tokens[-1]]
        found = tokenizer.encode(torch.from_numpy(x).float())
        assert found.tolist() == tokens
        np.testing.assert_allclose(tokenizer.decode(found).numpy(), x - left, atol=1e-5)
    coarse = tokenizer.codes[:31][tokenizer.encode(latents)[..., 0]]
    assert (tokenizer.decode(tokenizer.encode(latents)) - latents).square().mean() < (coarse - latents).square().mean()


@pytest.mark.parametrize("trained", [kind for kind in SETTINGS if kind != "rvq"], indirect=True)
def test_every_code_comes_back(tokenized):
    """Of RVQ a sum of codes may have other tokens, as its codes are taken in turn."""
    _, tokenizer, _ = tokenized
    every = torch.cartesian_prod(*(torch.arange(levels) for levels in tokenizer.levels)).reshape(-1, tokenizer.channels)
    decoded = tokenizer.decode(every)
    assert torch.equal(tokenizer.decode(tokenizer.encode(decoded)), decoded)


def test_equal_to_the_library(trained, tokenized):
    config, model, _, images = trained
    _, tokenizer, latents = tokenized
    with torch.inference_mode():
        z = model.body.encode(to_signed(images)).latent_dist.mean
    indices, codes = library(config, model, z)
    tokens = tokenizer.encode(latents)
    assert torch.equal(tokens, indices)
    torch.testing.assert_close(tokenizer.decode(tokens) / SCALE, codes, atol=1e-6, rtol=1e-6)
    least = 1 if config.quantizer.kind == "bsq" else 3  # two steps hardly turn a latent
    assert len(torch.unique(indices.flatten(0, 1), dim=0)) > least, "the comparison sees several codes"


def test_equal_to_the_library_far_out(trained, tokenized):
    """Latents as long training may leave them: every level of every channel is met."""
    config, model, _, _ = trained
    tokenizer = tokenized[1]
    z = torch.randn(61, config.autoencoder.channels, 4, 4, generator=torch.Generator().manual_seed(1)) * 3
    indices, codes = library(config, model, z)
    tokens = tokenizer.encode(rounded_from(config)(z).flatten(2).transpose(1, 2) * SCALE)
    assert torch.equal(tokens, indices)
    torch.testing.assert_close(tokenizer.decode(tokens) / SCALE, codes, atol=1e-6, rtol=1e-6)
    if config.quantizer.kind not in CODEBOOKS:
        seen = [len(torch.unique(indices[..., channel])) for channel in range(len(config.token_levels))]
        assert tuple(seen) == config.token_levels


def test_state_and_decoding_survive_their_files(trained, tokenized, tmp_path):
    config, model, folder, images = trained
    _, tokenizer, latents = tokenized
    save_file(tokenizer.state_dict(), tmp_path / "quantizer.safetensors")
    again = load_tokenizer(tmp_path)
    tokens = tokenizer.encode(latents)
    assert type(again) is type(tokenizer)
    assert torch.equal(again.encode(latents), tokens)
    assert torch.equal(again.decode(tokens), tokenizer.decode(tokens))
    with torch.inference_mode():
        expected = to_bytes(model(to_signed(images))[0])
    grid = (tokenizer.decode(tokens) / SCALE).transpose(1, 2).unflatten(2, (4, 4))
    decoded = autoencoder_of(config, {"tokenizer": folder}, CPU).decode(grid)
    assert (decoded.int() - expected.int()).abs().max() <= 1


def test_diagnostics_of_a_codebook(tokenized):
    config, tokenizer, latents = tokenized
    flat = latents.flatten(0, 1)
    report = diagnostics(tokenizer, flat)
    tokens = tokenizer.encode(flat).numpy()
    entropies, missing = [], []
    for channel, levels in enumerate(config.token_levels):
        share = np.bincount(tokens[:, channel], minlength=levels) / len(tokens)
        entropies.append(-sum(p * math.log2(p) for p in share if p > 0))
        missing.append(int((share == 0).sum()))
    assert report["entropy_bits"] == pytest.approx(np.mean(entropies))
    assert report["unused_levels"] == pytest.approx(np.mean(missing))
    assert report["used_codes"] == len({tuple(row) for row in tokens}) / math.prod(config.token_levels)
    assert report["mse"] == pytest.approx(float((tokenizer.decode(tokenizer.encode(flat)) - flat).square().mean()))
    assert not [key for key in report if key.startswith("limit_")], "theory of scalar quantizers says nothing here"
    with pytest.raises(UserError, match="no bits per dimension"):
        tokenizer.log_volume(tokenizer.encode(flat))


def test_code_usage():
    tokens = torch.tensor([[0, 1], [0, 1], [1, 0], [1, 0], [2, 2], [2, 2], [0, 0], [0, 0]])
    assert code_usage(tokens, (3, 3)) == pytest.approx({"used_codes": 4 / 9, "perplexity": 4.0})


@pytest.mark.parametrize("kind", SETTINGS)
def test_same_seed_same_weights(kind):
    first, again, other = (
        train_tokenizer(config_of(kind, f"quantizer.seed={seed}"), few(22), Budget(2, 11), CPU).state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["body.encoder.conv_in.weight"], other["body.encoder.conv_in.weight"])


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_tokenizer(config_of("vq"), few(11), Budget(1, 11), CPU)
    assert torch.equal(torch.get_rng_state(), before)
