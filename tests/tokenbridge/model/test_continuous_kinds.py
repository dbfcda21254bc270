"""What each kind of continuous head has of its own, against definitions and other libraries."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from tests.helpers.generators import CHANNELS, HOW, WIDTH, head_of, inputs, normals, with_values
from tokenbridge.config import Head, Sample
from tokenbridge.model.heads import build_head
from tokenbridge.model.heads.diffusion import spaced, steps_back

MIXTURES = [{"covariance": "diagonal"}, {"covariance": "full"}]


def test_spacing():
    assert spaced(1) == [0]
    assert spaced(3) == [0, 500, 999]  # 499.5 rounds to even
    assert spaced(1000) == list(range(1000))
    for count in (2, 7, 100, 999):
        assert (spaced(count)[0], spaced(count)[-1], len(set(spaced(count)))) == (0, 999, count)


@pytest.mark.parametrize("count", [3, 7, 100, 1000])
def test_steps_are_the_posterior_of_the_cosine_schedule(count):
    """Bayes: q(x_s | x_t, x) from q(x_t | x_s) and q(x_s | x), with the signal from the schedule's definition."""
    at = np.arange(1001) / 1000
    cosine = np.cos((at + 0.008) / 1.008 * np.pi / 2) ** 2
    signal = np.cumprod(np.maximum(cosine[1:] / cosine[:-1], 0.001))[spaced(count)]  # no β over 0.999
    before = np.append(1.0, signal[:-1])
    alpha = signal / before
    steps = steps_back(count)
    np.testing.assert_allclose([step.signal for step in steps], np.sqrt(signal), rtol=1e-8)
    np.testing.assert_allclose([step.noise for step in steps], np.sqrt(1 - signal), rtol=1e-8)
    np.testing.assert_allclose([step.high for step in steps], np.log(1 - alpha), rtol=1e-8)
    precision = alpha[1:] / (1 - alpha[1:]) + 1 / (1 - before[1:])
    pull = np.sqrt(before[1:]) / (1 - before[1:]) / precision
    hold = np.sqrt(alpha[1:]) / (1 - alpha[1:]) / precision
    np.testing.assert_allclose([step.pull for step in steps[1:]], pull, rtol=1e-8)
    np.testing.assert_allclose([step.hold for step in steps[1:]], hold, rtol=1e-8)
    np.testing.assert_allclose([step.low for step in steps[1:]], -np.log(precision), rtol=1e-8)
    assert (steps[0].pull, steps[0].hold, steps[0].low) == (pytest.approx(1), 0, steps[1].low)


def test_time_steps_are_uniform_in_the_first_normal():
    head, z, target = head_of("diffusion"), normals(37, WIDTH), normals(37, CHANNELS, seed=2)
    noise = normals(37, 3, 1 + CHANNELS, seed=3)
    noise[:5, 0, 0] = torch.tensor([-9.0, -3.2, 0.0, 3.2, 9.0])
    step = torch.from_numpy(np.minimum(np.floor(1000 * stats.norm.cdf(noise[..., 0].double())), 999)).long()
    assert step[:5, 0].tolist() == [0, 0, 500, 999, 999]
    each = [head.loss_at(z, target, step[:, i], noise[:, i, 1:]) for i in range(3)]
    torch.testing.assert_close(head.loss(z, target, noise), sum(each) / 3)


@torch.no_grad()
def test_the_last_step_counts_the_bits_of_a_bin():
    """At time step 0 the bound is minus log2 of the probability within 1/255 of the value, open-ended beyond ±0.999."""
    head, z, noise = head_of("diffusion"), normals(9, WIDTH), normals(9, CHANNELS, seed=3)
    target = torch.linspace(-1.3, 1.3, 45).view(9, CHANNELS)
    step = steps_back(1000)[0]
    noisy = step.signal * target + step.noise * noise
    estimate, fraction = head.net(noisy, torch.zeros(9), z).double().chunk(2, dim=-1)
    mean = (noisy - step.noise * estimate) / step.signal
    deviation = (0.5 * (step.low + (fraction + 1) / 2 * (step.high - step.low))).exp()
    normal, x = stats.norm(mean.numpy(), deviation.numpy()), target.double().numpy()
    above = np.where(x > 0.999, 1, normal.cdf(x + 1 / 255))
    below = np.where(x < -0.999, 0, normal.cdf(x - 1 / 255))
    bits = -np.log2(np.maximum(above - below, 1e-12))
    expected = ((estimate - noise) ** 2).sum(1) + torch.from_numpy(bits).sum(1)
    loss = head.loss_at(z, target, torch.zeros(9, dtype=torch.int64), noise)
    torch.testing.assert_close(loss.double(), expected, atol=0, rtol=0.02)  # the released Φ is an approximation


def test_the_bound_trains_the_variance_alone():
    """Gradients of the noise estimate are those of the squared error."""
    head, z, noise = head_of("diffusion"), normals(29, WIDTH), normals(29, CHANNELS, seed=3)
    step, target = torch.arange(29) * 34, normals(29, CHANNELS, seed=2)
    signal, share = head.table[step][:, :2, None].unbind(1)
    bias = head.net.output.bias
    (gradient,) = torch.autograd.grad(head.loss_at(z, target, step, noise).sum(), bias)
    estimate = head.net(signal * target + share * noise, step, z)[:, :CHANNELS]
    (squared,) = torch.autograd.grad(((estimate - noise) ** 2).sum(), bias)
    torch.testing.assert_close(gradient[:CHANNELS], squared[:CHANNELS])
    assert float(gradient[CHANNELS:].abs().min()) > 0


@torch.no_grad()
def test_a_clean_value_is_held_within_its_limit_unless_as_released():
    z, noise = inputs(head_of("diffusion"), 31)
    ours, released = (head_of("diffusion", start=start).sample(z, noise, HOW) for start in ("trained", "released"))
    assert float(ours.abs().max()) <= 5
    assert float(released.abs().max()) > 5


@torch.no_grad()
def test_midpoint_converges_faster_than_euler():
    head = head_of("flow")
    head.net.time[0].weight.zero_()  # random weights of fast sinusoids need thousands of steps
    z, noise = inputs(head, 31)
    exact = head.sample(z, noise, Sample(head_steps=1000, solver="midpoint"))
    error = {
        (solver, steps): float((head.sample(z, noise, Sample(head_steps=steps, solver=solver)) - exact).abs().mean())
        for solver in ("euler", "midpoint")
        for steps in (25, 100)
    }
    assert error["midpoint", 25] < error["euler", 25] / 3
    assert 2.5 < error["euler", 25] / error["euler", 100] < 6  # first order: 4
    assert 8 < error["midpoint", 25] / error["midpoint", 100] < 32  # second order: 16


@torch.no_grad()
def test_a_flow_of_constant_velocity():
    head = head_of("flow")
    head.net.output.weight.zero_()
    z, noise = inputs(head, 31)
    for solver in ("euler", "midpoint"):
        drawn = head.sample(z, noise, Sample(head_steps=3, solver=solver, temperature=0.5))
        torch.testing.assert_close(drawn, 0.5 * noise[:, 0] + head.net.output.bias)
    loss_noise = normals(31, 3, 1 + CHANNELS, seed=3)
    velocity = drawn[:, None] - loss_noise[..., 1:]
    expected = ((head.net.output.bias - velocity) ** 2).sum(-1).mean(1)
    torch.testing.assert_close(head.loss(z, drawn, loss_noise), expected)


@torch.no_grad()
@pytest.mark.parametrize("settings", MIXTURES)
def test_density_against_torch(settings):
    head, z, x = head_of("mixture", **settings), normals(53, WIDTH), normals(53, CHANNELS, seed=2)
    log_weights, means, deviations, factors = head.mixture(z)
    lower = torch.eye(CHANNELS) / deviations[..., None]
    if factors is not None:
        lower = lower @ (torch.eye(CHANNELS) + factors)
        assert float(factors.abs().max()) > 0.1
    each = MultivariateNormal(means, precision_matrix=lower.transpose(-1, -2) @ lower)
    expected = MixtureSameFamily(Categorical(logits=log_weights), each).log_prob(x)
    torch.testing.assert_close(head.log_prob(z, x), expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(head.loss(z, x), -head.log_prob(z, x))


@torch.no_grad()
@pytest.mark.parametrize("settings", MIXTURES)
def test_density_integrates_to_one_and_draws_follow_it(settings):
    head, cell, fine, n = head_of("mixture", channels=2, **settings), 1.0, 20, 40_000
    side = torch.arange(-10, 10, cell / fine) + cell / fine / 2
    points = torch.cartesian_prod(side, side)
    density = head.log_prob(normals(1, WIDTH).expand(len(points), -1), points).exp() * (cell / fine) ** 2
    assert float(density.sum()) == pytest.approx(1, abs=1e-3)
    expected = density.view(20, fine, 20, fine).sum((1, 3)).flatten()
    drawn = head.sample(normals(1, WIDTH).expand(n, -1), normals(n, 3, seed=1), HOW)
    index = (drawn + 10).div(cell).floor().clamp(0, 19).long()
    counts = torch.bincount(index[:, 0] * 20 + index[:, 1], minlength=400)
    spread = (expected * (1 - expected) / n).sqrt() + 1 / n
    assert float(((counts / n - expected) / spread).abs().max()) < 5
    moments = (points * density[:, None]).sum(0), (points.prod(1) * density).sum()
    torch.testing.assert_close(drawn.mean(0), moments[0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.prod(1).mean(), moments[1], atol=0.1, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("settings", MIXTURES)
def test_temperature_narrows_the_components(settings):
    head = head_of("mixture", **settings)
    z, noise = inputs(head, 53)
    mixture = head.mixture(z)
    likely = mixture.means[torch.arange(53), mixture.log_weights.argmax(-1)]
    assert torch.equal(head.sample(z, noise, with_values(temperature=0.0)), likely)
    at = {t: head.sample(z, noise, with_values(temperature=t)) for t in (1e-6, 0.5, 1.0)}
    torch.testing.assert_close(at[0.5] - at[1e-6], 0.5 * (at[1.0] - at[1e-6]), atol=1e-4, rtol=0)
    assert bool(((mixture.means - at[1e-6][:, None]).abs().amax(-1).amin(-1) < 1e-4).all())


@torch.no_grad()
def test_a_new_mixture_has_components_apart_with_unit_deviations():
    torch.manual_seed(0)
    head = build_head(Head(kind="mixture", width=22, depth=2, heads=2, components=7), WIDTH, CHANNELS, (), ())
    mixture = head.mixture(normals(3, WIDTH))
    torch.testing.assert_close(mixture.log_weights.exp(), torch.full((3, 7), 1 / 7))
    torch.testing.assert_close(mixture.deviations, torch.ones(3, 7, CHANNELS))
    assert float(torch.cdist(mixture.means[0], mixture.means[0]).add(torch.eye(7)).min()) > 0.3
