"""Bits per latent dimension against brute force: sums over tokens, SciPy's normal, integrals of the density."""

import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import integrate, stats

from tests.helpers.generators import CHANNELS, CLASSES, POSITIONS, config, generator, head_of, normals, shake
from tokenbridge.config import CATEGORICAL, Likelihood, Quantizer, Runtime, UserError
from tokenbridge.model.generator import Generator
from tokenbridge.model.heads.mixture import MixtureHead, log_interval
from tokenbridge.model.masking import mask_from_order
from tokenbridge.stages.likelihood import bits, reference_bins, run
from tokenbridge.stages.quantizer import FILE
from tokenbridge.tokenizers.scalar import ScalarQuantizer, fit

PER = POSITIONS * CHANNELS * math.log(2)
NORMAL = torch.tensor([[0.1, -0.2, 0.0, 0.3, 0.05], [1.1, 0.9, 1.0, 0.8, 1.2]])


def batch(n=5, seed=0):
    own = torch.Generator().manual_seed(seed)
    latents = torch.randn(n, POSITIONS, CHANNELS, generator=own)
    order = torch.stack([torch.randperm(POSITIONS, generator=own) for _ in range(n)])
    return latents, torch.arange(n) % CLASSES, order


def mixture_model(covariance="full"):
    c = config("mixture", components=3, covariance=covariance).model_copy(
        update={"quantizer": Quantizer(kind="identity", range=3)}
    )
    latents = torch.randn(400, CHANNELS, generator=torch.Generator().manual_seed(1))
    return c, shake(Generator(c, fit(c.quantizer, latents), tuple(range(CHANNELS))), scale=0.15)


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_bits_of_levels_by_brute_force(kind):
    """Probability of each token; over the width of its bin; times SciPy's normal restricted to the bin."""
    model, (latents, labels, order) = generator(kind), batch()
    latents = latents.clamp(*model.tokenizer.extremes)
    found = bits(model, latents, labels, order, NORMAL, {})
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, ScalarQuantizer)
    tokens, widths = tokenizer.encode(latents), tokenizer.bin_widths()
    (low, high), middles = tokenizer.extremes.double().numpy(), tokenizer.midpoints[0].double().numpy()
    nats = {name: torch.zeros(5, dtype=torch.float64) for name in found}
    for masked in range(POSITIONS, 0, -1):
        z = model.backbone(tokenizer.decode(tokens), mask_from_order(order, masked), labels)
        for i in range(5):
            at = order[i, masked - 1]
            mass = model.head.log_prob(z[i, at][None], tokens[i, at][None]).double().item()
            for name in nats:
                nats[name][i] += mass
            for c in range(CHANNELS):
                token, x = int(tokens[i, at, c]), float(latents[i, at, c])
                nats["bits_per_dim"][i] -= math.log(widths[c, token])
                ends = np.clip(np.concatenate([[-np.inf], middles, [np.inf]])[token : token + 2], low[c], high[c])
                normal = {"loc": float(NORMAL[0, c]), "scale": float(NORMAL[1, c])}
                share = np.diff(stats.norm.cdf(ends, **normal))[0]
                nats["bits_per_dim_normal"][i] += float(stats.norm.logpdf(x, **normal)) - math.log(share)
    assert nats.keys() == {"bits_per_dim", "token_bits_per_dim", "bits_per_dim_normal"}
    for name, value in nats.items():
        torch.testing.assert_close(found[name].double(), -value / PER, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_the_mass_of_a_channels_interval_is_the_integral_of_its_density(covariance):
    """p(x2 in an interval | x1) by numerical integration of the joint density over x2, and of x1 alone."""
    head = head_of("mixture", channels=2, covariance=covariance)
    assert isinstance(head, MixtureHead)
    mixture = head.mixture(normals(1, 13) * 3)
    x1, (a1, b1), (a2, b2) = 0.4, (-0.2, 0.9), (-1.3, 0.2)

    def density(first, second):
        with torch.no_grad():
            return math.exp(mixture.log_prob(torch.tensor([[first, second]], dtype=torch.float64)).item())

    def marginal(first):
        return integrate.quad(lambda second: density(first, second), -20, 20, points=(-2, 0, 2), limit=200)[0]

    first = integrate.quad(marginal, a1, b1, epsabs=1e-7)[0]
    second = integrate.quad(lambda value: density(x1, value), a2, b2)[0] / marginal(x1)
    x, low, high = (torch.tensor([pair]) for pair in ((x1, 0.0), (a1, a2), (b1, b2)))
    with torch.no_grad():
        assert mixture.log_mass(x, low, high).item() == pytest.approx(math.log(first * second), abs=1e-5)


def test_the_bins_of_a_reference_hold_all_of_the_mass():
    """The probabilities of all bins of a channel, given the same values before it, add up to 1."""
    c, model = mixture_model()
    bins = reference_bins(c.model_copy(update={"likelihood": Likelihood(bins=(7,))}), model)[7]
    assert isinstance(model.head, MixtureHead)
    z, x = normals(4, 14), normals(4, CHANNELS, seed=3)
    total = torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        mixture, ends = model.head.mixture(z), torch.stack(bins.ends_of(bins.encode(x)))
        for level in range(7):
            low, high = ends.clone()
            last = torch.full((4, 1), level)
            low[:, -1:], high[:, -1:] = (end[:, :1] for end in bins.ends_of(last.expand(-1, CHANNELS)))
            before = mixture.log_mass(x, ends[0].index_fill(1, torch.tensor(CHANNELS - 1), -torch.inf),
                                      ends[1].index_fill(1, torch.tensor(CHANNELS - 1), torch.inf))  # fmt: skip
            total += (mixture.log_mass(x, low, high) - before).exp()
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64))


def test_a_density_made_constant_in_many_bins_is_the_density():
    """Constant within finer and finer bins a density goes to itself; the probability of a finer bin is smaller."""
    c, model = mixture_model()
    latents, labels, order = batch(40)
    latents = latents.clamp(*model.tokenizer.extremes)
    c = c.model_copy(update={"likelihood": Likelihood(bins=(4, 32, 600))})
    found = bits(model, latents, labels, order, NORMAL, reference_bins(c, model))
    density, fine = found["bits_per_dim"], found["bits_per_dim_b600"]
    # but where a value lies at an extreme, beyond which the last bin reaches
    assert (fine - density).abs().median() < 2e-3
    few, more, many = (found[f"token_bits_per_dim_b{levels}"] for levels in (4, 32, 600))
    assert bool((few < more).all() & (more < many).all())
    torch.testing.assert_close(density, -model.log_prob(latents, labels, order).double() / PER, atol=1e-6, rtol=1e-5)


def test_levels_have_no_reference():
    assert reference_bins(config(), generator()) == {}


def test_intervals_far_out_keep_their_digits():
    """Against SciPy's log of the upper tail, where 1 − Φ would be 0; and against the difference in the middle."""
    low, high = torch.tensor([9.0, -0.3, -torch.inf, -12.0]), torch.tensor([torch.inf, 0.5, torch.inf, -11.0])
    expected = [
        stats.norm.logsf(9.0),
        math.log(stats.norm.cdf(0.5) - stats.norm.cdf(-0.3)),
        0.0,
        stats.norm.logcdf(-11.0) + math.log1p(-math.exp(stats.norm.logcdf(-12.0) - stats.norm.logcdf(-11.0))),
    ]
    np.testing.assert_allclose(log_interval(low, high).numpy(), expected, rtol=1e-7, atol=1e-12)


def test_a_channel_of_one_value_is_refused_where_its_bits_would_be_infinite(finished, tiny, tmp_path):
    stage = next(stage for stage in finished[1].stages() if stage.kind.name == "likelihood")
    inputs = {kind: finished[0].folder(id) for kind, id in stage.inputs}
    inputs["quantizer"] = shutil.copytree(inputs["quantizer"], tmp_path / "quantizer")
    (inputs["quantizer"] / "manifest.json").unlink()
    state = load_file(path := inputs["quantizer"] / FILE)
    state["extremes"][1, 3] = state["extremes"][0, 3]
    save_file(state, path)
    with pytest.raises(UserError, match="channel 3 of the latents has one value in all training images"):
        run(tiny, inputs, tmp_path, Runtime(threads=1))
