"""One contract over all heads. A new head is one more case of CASES."""

import pytest
import torch

from tests.small import shake
from tokenbridge.config import Head
from tokenbridge.heads import HEADS, build_head
from tokenbridge.heads.categorical import draw_level

WIDTH, ORDER = 13, (2, 0, 3, 1)
LEVELS = {"even": (5, 5, 5, 5), "uneven": (3, 5, 2, 4)}
CASES = [(kind, levels) for kind in HEADS for levels in LEVELS]


def head_of(kind, levels="even", **settings):
    config = Head(kind=kind, width=22, depth=2, heads=2, dropout=0, attention_dropout=0, **settings)
    return shake(build_head(config, WIDTH, LEVELS[levels], ORDER))


def features(n, seed=0):
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def uniforms(n, seed=1):
    return torch.rand(n, len(ORDER), generator=torch.Generator().manual_seed(seed))


def every_token(levels):
    return torch.cartesian_prod(*(torch.arange(count) for count in LEVELS[levels]))


@pytest.mark.parametrize(("kind", "levels"), CASES)
def test_shapes_and_ranges(kind, levels):
    head = head_of(kind, levels)
    tokens = head.sample(features(101), uniforms(101))
    assert tokens.shape == (101, 4)
    assert tokens.dtype == torch.int64
    assert bool((tokens >= 0).all())
    assert bool((tokens < torch.tensor(LEVELS[levels])).all())
    assert head.loss(features(101), tokens).shape == (101,)
    assert head.noise_shape == (4,)
    assert (head.noise, head.guidance_on) == ("uniform", "features")


@pytest.mark.parametrize(("kind", "levels"), CASES)
def test_probabilities_of_all_tokens_sum_to_one(kind, levels):
    head, tokens = head_of(kind, levels), every_token(levels)
    total = head.log_prob(features(1).expand(len(tokens), -1), tokens).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "levels"), CASES)
def test_draws_follow_the_probabilities(kind, levels):
    head, tokens, n = head_of(kind, levels), every_token(levels), 40_000
    expected = head.log_prob(features(1).expand(len(tokens), -1), tokens).exp()
    drawn = head.sample(features(1).expand(n, -1), uniforms(n))
    index = torch.zeros(n, dtype=torch.int64)
    for channel, count in enumerate(LEVELS[levels]):
        index = index * count + drawn[:, channel]
    counts = torch.bincount(index, minlength=len(tokens))
    spread = (expected * (1 - expected) / n).sqrt() + 1 / n
    assert float(((counts / n - expected) / spread).abs().max()) < 5


@pytest.mark.parametrize("kind", HEADS)
def test_loss_is_minus_log_prob_and_has_gradients_everywhere(kind):
    head = head_of(kind)
    tokens = head.sample(features(7), uniforms(7))
    torch.testing.assert_close(head.loss(features(7), tokens), -head.log_prob(features(7), tokens))
    head.loss(features(7), tokens).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("kind", HEADS)
def test_one_position_does_not_depend_on_its_batch(kind):
    head = head_of(kind)
    z, noise = features(64), uniforms(64)
    together = head.sample(z, noise)
    assert torch.equal(together, torch.cat([head.sample(z[i : i + 7], noise[i : i + 7]) for i in range(0, 64, 7)]))
    assert torch.equal(together[:1], head.sample(z[:1], noise[:1]))


@pytest.mark.parametrize("kind", HEADS)
def test_temperature_zero_takes_the_most_likely_level(kind):
    head = head_of(kind)
    greedy = head.sample(features(31), uniforms(31), temperature=0)
    assert torch.equal(greedy, head.sample(features(31), uniforms(31, seed=5), temperature=0))
    assert torch.equal(greedy, head.sample(features(31), uniforms(31), temperature=1e-4))


@pytest.mark.parametrize("kind", HEADS)
def test_guidance_mixes_features(kind):
    head, z, free, noise = head_of(kind), features(31), features(31, seed=2), uniforms(31)
    mixed = head.sample(z, noise, 1.0, free, 2.5)
    assert torch.equal(mixed, head.sample(free + 2.5 * (z - free), noise))
    assert torch.equal(head.sample(z, noise, 1.0, free, 1.0), head.sample(free + (z - free), noise))


def test_parallel_channels_are_independent_and_autoregressive_ones_are_not():
    z, tokens = features(17), torch.zeros(17, 4, dtype=torch.int64)
    changed = tokens.clone()
    changed[:, ORDER[0]] = 3
    for kind, depends in (("parallel", False), ("autoregressive", True)):
        head = head_of(kind)
        a, b = (head.logits(z, target[:, list(ORDER)]) for target in (tokens, changed))
        assert torch.equal(a[:, 0], b[:, 0])
        assert (not torch.equal(a[:, 1:], b[:, 1:])) == depends


@pytest.mark.parametrize("start", ["trained", "released"])
def test_the_cache_changes_nothing(start):
    head = head_of("autoregressive", "uneven", start=start)
    z, noise = features(53), uniforms(53)
    assert torch.equal(head.draw(z, noise, 0.9), head.draw_recomputing(z, noise, 0.9))


def test_sampling_step_by_step_sees_what_training_sees():
    """Levels drawn greedily are the argmax of the teacher-forced logits of those same levels."""
    head = head_of("autoregressive")
    tokens = head.draw(features(29), uniforms(29), 0)
    assert torch.equal(head.logits(features(29), tokens).argmax(-1), tokens)


def test_the_released_start_differs():
    trained, released = head_of("autoregressive"), head_of("autoregressive", start="released")
    assert not torch.equal(trained.draw(features(53), uniforms(53), 0), released.draw(features(53), uniforms(53), 0))


def test_inverse_cdf():
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(4, -1)
    assert draw_level(logits, torch.tensor([0.0, 0.15, 0.31, 0.9999999]), 1.0).tolist() == [0, 1, 2, 2]
