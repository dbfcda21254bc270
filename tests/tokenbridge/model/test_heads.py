"""One contract over all categorical heads; continuous ones are in test_continuous_heads.py. A case more a new head."""

import pytest
import torch

from tests.helpers.generators import shake
from tokenbridge.config import CATEGORICAL, Head, Sample
from tokenbridge.model.heads import build_head
from tokenbridge.model.heads.categorical import draw_class

WIDTH, ORDER = 13, (2, 0, 3, 1)
LEVELS = {"even": (5, 5, 5, 5), "uneven": (3, 5, 2, 4)}
CASES = [(kind, levels, group) for kind in CATEGORICAL for levels in LEVELS for group in (1, 2, 4)]
KINDS = [(kind, group) for kind in CATEGORICAL for group in (1, 2)]
HOW = Sample()


def head_of(kind, levels="even", group=1, **settings):
    config = Head(kind=kind, width=22, depth=2, heads=2, dropout=0, attention_dropout=0, group=group, **settings)
    return shake(build_head(config, WIDTH, 4, LEVELS[levels], ORDER))


def features(n, seed=0):
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def uniforms(n, head, seed=1):
    return torch.rand(n, *head.noise_shape(HOW), generator=torch.Generator().manual_seed(seed))


def every_token(levels):
    return torch.cartesian_prod(*(torch.arange(count) for count in LEVELS[levels]))


@pytest.mark.parametrize(("kind", "levels", "group"), CASES)
def test_shapes_and_ranges(kind, levels, group):
    head = head_of(kind, levels, group)
    tokens = head.sample(features(101), uniforms(101, head), HOW)
    assert tokens.shape == (101, 4)
    assert tokens.dtype == torch.int64
    assert bool((tokens >= 0).all())
    assert bool((tokens < torch.tensor(LEVELS[levels])).all())
    assert head.loss(features(101), tokens).shape == (101,)
    assert head.noise_shape(HOW) == (4 // group,)
    assert (head.kind, head.noise, head.loss_noise_shape) == (kind, "uniform", ())


@pytest.mark.parametrize(("kind", "levels", "group"), CASES)
def test_classes_are_the_levels_of_a_group(kind, levels, group):
    head, tokens = head_of(kind, levels, group), every_token(levels)
    classes = head.classes(tokens)
    assert torch.equal(head.tokens(classes), tokens)
    assert len(classes.unique(dim=0)) == len(tokens)
    assert bool((classes < (~head.invalid).sum(1)).all())
    assert int(classes.max()) == head.most - 1


@pytest.mark.parametrize(("kind", "levels", "group"), CASES)
def test_probabilities_of_all_tokens_sum_to_one(kind, levels, group):
    head, tokens = head_of(kind, levels, group), every_token(levels)
    total = head.log_prob(features(1).expand(len(tokens), -1), tokens).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "levels", "group"), CASES)
def test_draws_follow_the_probabilities(kind, levels, group):
    head, tokens, n = head_of(kind, levels, group), every_token(levels), 40_000
    expected = head.log_prob(features(1).expand(len(tokens), -1), tokens).exp()
    drawn = head.sample(features(1).expand(n, -1), uniforms(n, head), HOW)
    index = torch.zeros(n, dtype=torch.int64)
    for channel, count in enumerate(LEVELS[levels]):
        index = index * count + drawn[:, channel]
    counts = torch.bincount(index, minlength=len(tokens))
    spread = (expected * (1 - expected) / n).sqrt() + 1 / n
    assert float(((counts / n - expected) / spread).abs().max()) < 5


@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_loss_is_minus_log_prob_and_has_gradients_everywhere(kind, group):
    head = head_of(kind, group=group)
    tokens = head.sample(features(7), uniforms(7, head), HOW)
    torch.testing.assert_close(head.loss(features(7), tokens), -head.log_prob(features(7), tokens))
    head.loss(features(7), tokens).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@torch.no_grad()
@pytest.mark.parametrize(("kind", "group"), KINDS)
@pytest.mark.parametrize("on", ["features", "logits"])
def test_one_position_does_not_depend_on_its_batch(kind, group, on):
    head, how = head_of(kind, group=group), Sample(guidance_on=on)
    z, free, noise = features(64), features(64, seed=2), uniforms(64, head)
    together = head.sample(z, noise, how, free, 2.0)
    parts = [head.sample(z[i : i + 7], noise[i : i + 7], how, free[i : i + 7], 2.0) for i in range(0, 64, 7)]
    assert torch.equal(together, torch.cat(parts))
    assert torch.equal(together[:1], head.sample(z[:1], noise[:1], how, free[:1], 2.0))


@pytest.mark.parametrize(("kind", "group"), KINDS)
def test_temperature_zero_takes_the_most_likely_class(kind, group):
    head, cold = head_of(kind, group=group), Sample(temperature=0)
    greedy = head.sample(features(31), uniforms(31, head), cold)
    assert torch.equal(greedy, head.sample(features(31), uniforms(31, head, seed=5), cold))
    nearly = Sample(temperature=1e-7)  # far below the gap of any two logits
    assert torch.equal(greedy, head.sample(features(31), uniforms(31, head), nearly))
    assert torch.equal(greedy, head.sample(features(31), uniforms(31, head), Sample(top_k=1)))


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_each_step_has_its_own_temperature(kind):
    head, z = head_of(kind), features(31)
    mixed = head.sample(z, uniforms(31, head), Sample(temperature=(0, 1, 1, 1)))
    cold, warm = (head.sample(z, uniforms(31, head), Sample(temperature=t)) for t in (0, 1))
    assert torch.equal(mixed[:, ORDER[0]], cold[:, ORDER[0]])
    if kind == "parallel":
        assert torch.equal(mixed[:, ORDER[1]], warm[:, ORDER[1]])
    assert not torch.equal(mixed, cold)


@pytest.mark.parametrize(("kind", "group"), KINDS)
@pytest.mark.parametrize("levels", LEVELS)
def test_guidance_mixes_features_or_logits(kind, group, levels):
    head, z, free = head_of(kind, levels, group), features(31), features(31, seed=2)
    noise, on_logits = uniforms(31, head), Sample(guidance_on="logits")
    mixed = head.sample(z, noise, HOW, free, 2.5)
    assert torch.equal(mixed, head.sample(free + 2.5 * (z - free), noise, HOW))
    assert torch.equal(head.sample(z, noise, HOW, free, 1.0), head.sample(free + (z - free), noise, HOW))
    guided = head.sample(z, noise, on_logits, free, 2.5)
    assert bool((guided < torch.tensor(LEVELS[levels])).all())
    assert not torch.equal(guided, mixed)
    first = [head.logits(x, head.classes(guided))[:, 0] for x in (z, free)]  # the first step knows no other channel
    by_hand = (first[1] + 2.5 * (first[0] - first[1])).masked_fill(head.invalid[0], -torch.inf)
    assert torch.equal(head.classes(guided)[:, 0], draw_class(by_hand, noise[:, 0], HOW, 0))


def test_parallel_channels_are_independent_and_autoregressive_ones_are_not():
    z, classes = features(17), torch.zeros(17, 4, dtype=torch.int64)
    changed = classes.clone()
    changed[:, 0] = 3
    for kind, depends in (("parallel", False), ("autoregressive", True)):
        head = head_of(kind)
        a, b = (head.logits(z, target) for target in (classes, changed))
        assert torch.equal(a[:, 0], b[:, 0])
        assert (not torch.equal(a[:, 1:], b[:, 1:])) == depends


@torch.no_grad()
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("start", ["trained", "released"])
def test_the_cache_changes_nothing(start, group):
    head, how = head_of("autoregressive", "uneven", group, start=start), Sample(temperature=0.9)
    z, noise = features(53), uniforms(53, head)
    assert torch.equal(head.draw(z, noise, how, None, 1.0), head.draw_recomputing(z, noise, how))


def test_sampling_step_by_step_sees_what_training_sees():
    """Levels drawn greedily are the argmax of the teacher-forced logits of those same levels."""
    head = head_of("autoregressive")
    tokens = head.draw(features(29), uniforms(29, head), Sample(temperature=0), None, 1.0)
    assert torch.equal(head.logits(features(29), tokens).argmax(-1), tokens)


def test_the_released_start_differs():
    cold = Sample(temperature=0)
    tokens = [
        head.sample(features(53), uniforms(53, head), cold)
        for head in (head_of("autoregressive", start=start) for start in ("trained", "released"))
    ]
    assert not torch.equal(*tokens)


def test_inverse_cdf():
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(4, -1)
    assert draw_class(logits, torch.tensor([0.0, 0.15, 0.31, 0.9999999]), HOW).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        (Sample(top_k=1), [2]),
        (Sample(top_k=2), [1, 2]),
        (Sample(top_k=9), [0, 1, 2]),
        (Sample(top_p=0.69), [2]),
        (Sample(top_p=0.71), [1, 2]),
        (Sample(top_p=0.91), [0, 1, 2]),
        (Sample(top_k=2, top_p=0.5), [2]),
    ],
)
def test_top_k_and_top_p_cut_the_tail(how, kept):
    uniform = torch.arange(1000) / 1000
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(1000, -1)
    drawn = draw_class(logits, uniform, how)
    assert drawn.unique().tolist() == kept
    expected = torch.tensor([0.1, 0.2, 0.7])[kept]
    shares = torch.bincount(drawn, minlength=3)[kept] / 1000
    torch.testing.assert_close(shares, expected / expected.sum(), atol=2e-3, rtol=0)
