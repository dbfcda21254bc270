"""One contract over all continuous heads. A new head is one more case of CASES."""

import math

import pytest
import torch

from tests.helpers.generators import CHANNELS, HOW, WIDTH, head_of, inputs, normals, with_values
from tokenbridge.config import CONTINUOUS, HEAD_KINDS, Head, Sample
from tokenbridge.model.heads import build_head, residual

CASES = [
    ("diffusion", {}),
    ("diffusion", {"start": "released"}),
    ("flow", {}),
    ("mixture", {"covariance": "diagonal"}),
    ("mixture", {"covariance": "full"}),
]


def loss_of(head, n=53):
    return head.loss(normals(n, WIDTH), normals(n, CHANNELS, seed=2), normals(n, *head.loss_noise_shape, seed=3))


def assert_same(drawn, expected):
    """To 1e-5 of a token's largest value: an untrained diffusion head, sampled as released, draws thousands."""
    error = (drawn - expected).abs().amax(-1) / expected.abs().amax(-1).clamp(min=1)
    assert float(error.max()) < 1e-5


def test_each_kind_has_a_case():
    assert {kind for kind, _ in CASES} == set(CONTINUOUS)


@pytest.mark.parametrize(("kind", "settings"), CASES)
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_shapes(kind, settings, steps):
    head, how = head_of(kind, **settings), Sample(head_steps=steps)
    drawn = head.sample(*inputs(head, 11, how), how)
    assert drawn.shape == (11, CHANNELS)
    assert drawn.dtype == torch.float32
    assert bool(drawn.isfinite().all())
    assert loss_of(head, 11).shape == (11,)
    assert head.noise_shape(how) == {"diffusion": (steps + 1, 5), "flow": (1, 5), "mixture": (6,)}[kind]
    assert head.loss_noise_shape == (() if kind == "mixture" else (3, 6))
    assert (head.kind, head.noise) == (kind, "normal")


@torch.no_grad()
@pytest.mark.parametrize(("kind", "settings"), CASES)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_one_position_does_not_depend_on_its_batch(kind, settings, guidance):
    """But for rounding: products of another batch size sum in another order."""
    head, free = head_of(kind, **settings), normals(23, WIDTH, seed=4)
    z, noise = inputs(head, 23)
    unguided = guidance == 1
    together = head.sample(z, noise, HOW, None if unguided else free, guidance)
    for part in (slice(0, 1), slice(3, 10), slice(10, 23)):
        own = head.sample(z[part], noise[part], HOW, None if unguided else free[part], guidance)
        assert_same(own, together[part])
    target, loss_noise = normals(23, CHANNELS, seed=2), normals(23, *head.loss_noise_shape, seed=3)
    losses = head.loss(z, target, loss_noise)
    torch.testing.assert_close(head.loss(z[:1], target[:1], loss_noise[:1]), losses[:1], atol=0, rtol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_gradients_reach_every_weight(kind, settings):
    head = head_of(kind, **settings)
    loss_of(head).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_training_in_bfloat16_keeps_the_loss_in_float32(kind, settings):
    head = head_of(kind, **settings)
    exact = loss_of(head)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss_of(head)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.sum(), exact.sum(), atol=0, rtol=0.02)
    low.sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in head.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_temperature_zero_draws_nothing(kind, settings):
    """A diffusion head still starts from its first noise; the noise of its steps counts no more."""
    head, how = head_of(kind, **settings), with_values(temperature=0.0)
    z, noise = inputs(head, 31)
    other = normals(*noise.shape, seed=5)
    if kind == "diffusion":
        assert not torch.allclose(head.sample(z, other, how), head.sample(z, noise, how))
        other[:, 0] = noise[:, 0]
    assert torch.equal(head.sample(z, other, how), head.sample(z, noise, how))
    assert not torch.allclose(head.sample(z, other, HOW), head.sample(z, noise, HOW))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_guidance(kind, settings):
    """Weight 1 is unguided; on features it is a draw from mixed features; each place of guidance counts."""
    head, free = head_of(kind, **settings), normals(31, WIDTH, seed=4)
    z, noise = inputs(head, 31)
    plain, results = head.sample(z, noise, HOW), []
    for place in HEAD_KINDS[kind].guided:
        how = with_values(guidance_on=place)
        assert_same(head.sample(z, noise, how, free, 1.0), plain)
        results.append(head.sample(z, noise, how, free, 2.5))
        assert not torch.allclose(results[-1], plain, atol=0.1)
    assert torch.equal(results[-1], head.sample(free + 2.5 * (z - free), noise, HOW))  # features come last
    assert torch.equal(results[0], head.sample(z, noise, HOW, free, 2.5))  # the first is the head's own
    assert len(results) == 1 or not torch.allclose(results[0], results[1], atol=0.1)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_no_density_is_an_error(kind):
    with pytest.raises(NotImplementedError, match=f"a {kind} head has no exact likelihood"):
        head_of(kind).log_prob(normals(1, WIDTH), normals(1, CHANNELS))


@torch.no_grad()
@pytest.mark.parametrize("budget", [0, 10_000, 200_000, 2**26])
def test_modulations_of_many_times_at_once_change_nothing(budget, monkeypatch):
    """None, one, some and all times at once, against the network called at each time."""
    net, times, z, x = head_of("diffusion").net, torch.tensor([999, 444, 31, 2, 0]), normals(7, WIDTH), normals(7, 5)
    monkeypatch.setattr(residual, "MODULATION_BYTES", budget)
    at_once = [each(x) for each in net.at_each(z, times)]
    assert len(at_once) == len(times)
    for time, out in zip(times, at_once, strict=True):
        torch.testing.assert_close(out, net(x, time.expand(7), z), atol=1e-5, rtol=1e-5)


def draw_known(labels, own):
    """A bimodal channel, and one that follows it with a slope and shift of the label."""
    n = len(labels)
    mode = torch.randint(2, (n,), generator=own) * 2.0 - 1
    first = mode + 0.3 * torch.randn(n, generator=own)
    slope, shift = torch.tensor([[0.8, 0.0], [-0.8, 0.5]])[labels].unbind(1)
    return torch.stack([first, slope * first + shift + 0.4 * torch.randn(n, generator=own)], dim=1)


def summary(x):
    """Means, deviations, correlation, and the share between the two modes."""
    between = (x[:, 0].abs() < 0.5).float().mean()
    return torch.cat([x.mean(0), x.std(0), torch.corrcoef(x.T)[0, 1:], between[None]])


@pytest.mark.parametrize(("kind", "settings"), [case for case in CASES if "start" not in case[1]])
def test_learns_a_known_distribution(kind, settings):
    torch.manual_seed(0)
    head = build_head(Head(kind=kind, width=32, depth=2, heads=2, components=8, **settings), 2, 2, (), ())
    own, steps, rate = torch.Generator().manual_seed(0), 300, 6e-3
    optimizer = torch.optim.Adam(head.parameters(), rate, betas=(0.9, 0.99))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        labels = torch.randint(2, (128,), generator=own)
        noise = torch.randn(128, *head.loss_noise_shape, generator=own)
        loss = head.loss(torch.eye(2)[labels], draw_known(labels, own), noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    how = Sample(head_steps=30)
    for label in (0, 1):
        labels = torch.full((2000,), label)
        with torch.no_grad():
            drawn = head.sample(torch.eye(2)[labels], torch.randn(2000, *head.noise_shape(how), generator=own), how)
        known = summary(draw_known(labels.repeat(20), own))
        torch.testing.assert_close(summary(drawn), known, atol=0.12, rtol=0)
